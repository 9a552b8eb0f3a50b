//! What others rely on, held against files in `tests/golden`: the API's shape, the command line, and what it prints.
//! `UPDATE_GOLDEN=1` writes the files anew.

use std::{
    fmt::Write,
    fs,
    path::Path,
    process::{Command, Output},
};

use crate::support::{Daemon, P2PCTL, Start, interrupt, p2pd};
use prost::Message;
use prost_types::{DescriptorProto, FieldDescriptorProto, FileDescriptorSet, field_descriptor_proto::Label};
use serde_json::Value;

fn compare(name: &str, now: &str) {
    let path = Path::new("../tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return fs::write(path, now).unwrap();
    }
    let before = fs::read_to_string(&path).unwrap_or_default();
    let line = before.lines().zip(now.lines()).position(|(a, b)| a != b).map_or(before.lines().count(), |n| n) + 1;
    assert!(before == now, "{name} has changed at line {line}; if that is meant: UPDATE_GOLDEN=1 ./x test\n{now}");
}

fn field(field: &FieldDescriptorProto) -> String {
    let label = match field.label() {
        Label::Repeated => "repeated ",
        _ if field.proto3_optional() => "optional ",
        _ => "",
    };
    let kind = if field.type_name().is_empty() {
        format!("{:?}", field.r#type()).to_lowercase()
    } else {
        field.type_name().trim_start_matches(".p2pd.v1.").to_owned()
    };
    format!("{label}{kind} {} = {}", field.name(), field.number())
}

fn message(out: &mut String, message: &DescriptorProto) {
    writeln!(out, "message {}", message.name()).unwrap();
    message.field.iter().for_each(|f| writeln!(out, "  {}", field(f)).unwrap());
}

#[test]
fn the_contract() {
    let set = FileDescriptorSet::decode(p2pd_api::v1::DESCRIPTORS).unwrap();
    let mut out = String::new();
    for file in set.file.iter().filter(|f| f.package() == "p2pd.v1") {
        let go_package = file.options.as_ref().map(|options| options.go_package());
        assert_eq!(go_package, Some("p2pd/v1;p2pdv1"), "{}", file.name());
        for service in &file.service {
            writeln!(out, "service {}", service.name()).unwrap();
            for method in &service.method {
                let stream = |yes: bool| if yes { "stream " } else { "" };
                let name = |full: &str| full.trim_start_matches(".p2pd.v1.").to_owned();
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                let role = p2pd_api::v1::role_of(&path).unwrap().as_str_name();
                writeln!(
                    out,
                    "  {}({}{}) returns ({}{}), {role}",
                    method.name(),
                    stream(method.client_streaming()),
                    name(method.input_type()),
                    stream(method.server_streaming()),
                    name(method.output_type())
                )
                .unwrap();
            }
        }
        for kind in &file.enum_type {
            writeln!(out, "enum {}", kind.name()).unwrap();
            kind.value.iter().for_each(|v| writeln!(out, "  {} = {}", v.name(), v.number()).unwrap());
        }
        file.message_type.iter().for_each(|m| message(&mut out, m));
    }
    writeln!(out, "reasons").unwrap();
    p2pd_api::Reason::ALL.iter().for_each(|r| writeln!(out, "  {}", r.as_str()).unwrap());
    compare("contract.txt", &out);
}

#[test]
fn the_command_lines() {
    let mut out = String::new();
    let mut help = |program: &Path, arguments: &[&str]| {
        let Output { stdout, .. } = Command::new(program).args(arguments).env("COLUMNS", "100").output().unwrap();
        let name = program.file_name().unwrap().to_string_lossy();
        writeln!(out, "$ {name} {}\n{}", arguments.join(" "), String::from_utf8(stdout).unwrap()).unwrap();
    };
    help(&p2pd(), &["--help"]);
    help(&p2pd(), &["run", "--help"]);
    help(Path::new(P2PCTL), &["--help"]);
    let commands = "peers streams publish-stream listen pub sub topics validate dht open handle call serve forward expose \
        events wait rpc stream protocol";
    for command in commands.split_whitespace() {
        help(Path::new(P2PCTL), &[command, "--help"]);
    }
    for command in ["pin", "connect", "deny", "ping", "show"] {
        help(Path::new(P2PCTL), &["peers", command, "--help"]);
    }
    // The nouns' verbs are their short forms above.
    for command in [["stream", "listen"], ["topic", "list"], ["topic", "set"], ["protocol", "open"]] {
        help(Path::new(P2PCTL), &[command[0], command[1], "--help"]);
    }
    compare("help.txt", &out);
}

/// Puts a word in place of what differs from run to run.
fn settle(value: &mut Value) {
    if let Value::Object(fields) = value {
        // Counted from the second heartbeat on.
        fields.remove("listeners");
    }
    match value {
        Value::Object(fields) => fields.iter_mut().for_each(|(name, value)| match name.as_str() {
            "publisher" | "peer_id" | "age_ms" | "groups_out" | "started_ms" | "metadata_json" => *value = "...".into(),
            "publisher_addresses" | "addresses" | "own_addresses" => *value = Value::Array(vec!["...".into()]),
            _ => settle(value),
        }),
        Value::Array(items) => items.iter_mut().for_each(settle),
        _ => {}
    }
}

#[test]
fn what_programs_read() {
    let place = tempfile::tempdir().unwrap();
    let a = Daemon::start(place.path(), "a", &[]);
    let show = ["publish-stream", "town", "--tone", "440", "--name", "Town radio", "--category", "news"];
    let mut publisher = a.ctl(&show).start();
    a.good(&["wait", "stream=town", "--timeout", "20s"]);
    let mut out = String::new();
    for arguments in [&["status"][..], &["streams"], &["peers"], &["version"], &["rpc", "p2pd.v1.NodeService/GetInfo"]]
    {
        let text = a.good(&[&["-o", "json"], arguments].concat());
        let mut value: Value = serde_json::from_str(&text).unwrap();
        settle(&mut value);
        writeln!(out, "$ p2pctl -o json {}\n{value:#}\n", arguments.join(" ")).unwrap();
    }
    interrupt(&publisher);
    publisher.wait().unwrap();
    compare("output.txt", &out);
}
