//! `doctor`: what is well, what is not, and what mends it. Where no daemon answers, it looks at what keeps one from running.

use std::{
    net::{SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use p2pd_api::{
    ConnectError,
    v1::{DiagnoseRequest, DiagnoseResponse, Finding, FindingLevel, node_service_client::NodeServiceClient},
};

use prost::Message;

use crate::{
    api_words::with_commands,
    client::Client,
    error::{Exit, fail, words},
    output::{self, Cell, Format, Tone, toned},
};

/// The configuration of the daemon that systemd starts.
const SYSTEM_CONFIG: &str = "/etc/p2pd/p2pd.toml";

pub(super) async fn run(socket: Option<PathBuf>, timeout: Duration, format: Format, probe: bool) -> anyhow::Result<()> {
    let mut found = match ask(socket, timeout, probe).await {
        Ok(found) => found,
        Err(error) => DiagnoseResponse { findings: without_daemon(&error) },
    };
    say_in_commands(&mut found.findings);
    show(format, "DiagnoseResponse", &found, &found.findings)?;
    match found.findings.iter().any(|finding| finding.level() == FindingLevel::Fail) {
        // The findings have said it.
        true => Err(fail(Exit::Failed, "")),
        false => Ok(()),
    }
}

/// Names commands where the findings name methods of the API.
pub(super) fn say_in_commands(findings: &mut [Finding]) {
    for finding in findings {
        finding.fact = with_commands(&finding.fact);
        finding.mend = with_commands(&finding.mend);
    }
}

/// Writes the findings of an answer.
pub(super) fn show<M: Message>(format: Format, name: &str, answer: &M, findings: &[Finding]) -> anyhow::Result<()> {
    match format {
        Format::Table => output::show(&table(findings))?,
        Format::Json => output::line(&output::to_json(name, answer, true)?)?,
        Format::Jsonl => {
            for finding in findings {
                output::line(&output::to_json("Finding", finding, false)?)?;
            }
        }
    }
    Ok(())
}

async fn ask(socket: Option<PathBuf>, timeout: Duration, probe: bool) -> anyhow::Result<DiagnoseResponse> {
    let client = Client::connect(socket, timeout).await?;
    let mut node = NodeServiceClient::new(client.channel.clone());
    client.answer(node.diagnose(DiagnoseRequest { probe })).await
}

fn table(findings: &[Finding]) -> String {
    let line = |finding: &Finding| {
        let (word, tone) = match finding.level() {
            FindingLevel::Ok | FindingLevel::Unspecified => ("ok", Tone::Good),
            FindingLevel::Warn => ("warn", Tone::Warning),
            FindingLevel::Fail => ("fail", Tone::Bad),
        };
        let mut text = format!("{}: {}", finding.check, finding.fact);
        if !finding.mend.is_empty() {
            text = format!("{text}\n{}", finding.mend);
        }
        let tone = if word == "ok" { Tone::Plain } else { tone };
        (word, toned(tone, text))
    };
    let items: Vec<(&str, Cell)> = findings.iter().map(line).collect();
    output::page(items)
}

fn found(check: &str, level: FindingLevel, fact: impl Into<String>, mend: impl Into<String>) -> Finding {
    Finding { check: check.into(), level: level.into(), fact: fact.into(), mend: mend.into() }
}

/// Why no daemon answers, as far as that is seen from outside.
fn without_daemon(error: &anyhow::Error) -> Vec<Finding> {
    let words = words(error);
    // What is wrong, and then what to do.
    let (fact, mend) = words.split_once(". ").unwrap_or((&words, ""));
    let mut all = vec![found("daemon", FindingLevel::Fail, fact, mend)];
    let is_absent = matches!(error.downcast_ref(), Some(ConnectError::Missing(..) | ConnectError::Stale(..)));
    if is_absent {
        all.extend(unit());
        match p2pd(&["config", "check"]) {
            Ok(good) => {
                all.push(found("config", FindingLevel::Ok, good.trim(), ""));
                all.extend(ports());
            }
            Err(fault) => all.push(fault),
        }
    }
    all
}

/// What systemd says of the daemon of this machine, in either of its units.
fn unit() -> Option<Finding> {
    let has_failed = |unit: &&str| {
        let asked = Command::new("systemctl").args(["is-failed", "--quiet", unit]).status();
        asked.is_ok_and(|status| status.success())
    };
    let unit = ["p2pd", "p2pd-bootnode"].into_iter().find(has_failed)?;
    let mend = format!("`journalctl -u {unit} -n 50` says why; `sudo systemctl restart {unit}` tries again");
    Some(found("unit", FindingLevel::Fail, format!("systemd has given up starting {unit}"), mend))
}

/// What p2pd says of its configuration: of P2PD_CONFIG, else the machine's, else the user's own.
fn p2pd(words: &[&str]) -> Result<String, Finding> {
    let mut command = Command::new("p2pd");
    command.args(words);
    if std::env::var_os("P2PD_CONFIG").is_none_or(|file| file.is_empty()) && Path::new(SYSTEM_CONFIG).exists() {
        command.env("P2PD_CONFIG", SYSTEM_CONFIG);
    }
    let output = command.output().map_err(|error| {
        let mend = "install it, or have it in PATH, so that its configuration and its ports can be looked at";
        found("config", FindingLevel::Warn, format!("p2pd is not found ({error})"), mend)
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let fault = String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("p2pd: ").to_owned();
    let mend = "mend what it names; P2PD_CONFIG names another file, and `p2pd config check` says whether that is good";
    Err(found("config", FindingLevel::Fail, fault, mend))
}

/// Whether the ports that a daemon would listen on are free.
fn ports() -> Vec<Finding> {
    let shown = p2pd(&["config", "show"]).unwrap_or_default();
    // The first list of this name is that of `[network]`; TOML writes a list of texts as JSON does.
    let listen = shown.lines().find_map(|line| line.strip_prefix("listen = "));
    let listen: Vec<String> = listen.and_then(|list| serde_json::from_str(list).ok()).unwrap_or_default();
    let ports: Vec<(bool, SocketAddr)> = listen.iter().filter_map(|address| port(address)).collect();
    let taken = |(udp, at): &(bool, SocketAddr)| {
        let bound = if *udp { UdpSocket::bind(at).map(drop) } else { TcpListener::bind(at).map(drop) };
        let error = bound.err().filter(|error| error.kind() == std::io::ErrorKind::AddrInUse)?;
        let (kind, flags) = if *udp { ("UDP", "-lnup") } else { ("TCP", "-lntp") };
        let port = at.port();
        let mend =
            format!("`sudo ss {flags} 'sport = :{port}'` names the program; or set network.listen to other ports");
        Some(found("ports", FindingLevel::Fail, format!("{kind} port {port} of network.listen: {error}"), mend))
    };
    let taken: Vec<_> = ports.iter().filter_map(taken).collect();
    if !taken.is_empty() {
        return taken;
    }
    let all: Vec<_> =
        ports.iter().map(|(udp, at)| format!("{} {}", if *udp { "UDP" } else { "TCP" }, at.port())).collect();
    vec![found("ports", FindingLevel::Ok, format!("free are {}", all.join(", ")), "")]
}

/// Whether UDP, and where, of a multiaddr that begins with an IP address and a port.
fn port(address: &str) -> Option<(bool, SocketAddr)> {
    let mut parts = address.split('/').skip(1);
    let (family, ip, kind, port) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?.parse().ok()?);
    let ip = if family.starts_with("ip") { ip.parse().ok()? } else { return None };
    // 0 is any that is free.
    ((kind == "tcp" || kind == "udp") && port != 0).then_some((kind == "udp", SocketAddr::new(ip, port)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_of_addresses() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (address, read) in [
            ("/ip4/0.0.0.0/tcp/4001", Some((false, at("0.0.0.0:4001")))),
            ("/ip6/::/udp/4001/quic-v1", Some((true, at("[::]:4001")))),
            ("/ip4/0.0.0.0/tcp/4002/ws", Some((false, at("0.0.0.0:4002")))),
            ("/ip4/127.0.0.1/tcp/0", None),
            ("/dns4/x/tcp/1", None),
            ("4001", None),
        ] {
            assert_eq!(port(address), read, "{address}");
        }
    }
}
