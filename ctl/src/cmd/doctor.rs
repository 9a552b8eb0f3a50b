//! `doctor`: what is well, what is not, and what mends it. Where no daemon answers, it looks at what keeps one from running.

use std::{
    net::{Ipv4Addr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use p2pd_api::{
    ConnectError,
    v1::{DiagnoseRequest, DiagnoseResponse, Finding, FindingLevel, node_service_client::NodeServiceClient},
};

use crate::{
    api_words::with_commands,
    client::Client,
    error::{Exit, fail, words},
    output::{self, Cell, Format, Tone, toned},
};

/// The configuration of the daemon that systemd starts.
const SYSTEM_CONFIG: &str = "/etc/p2pd/p2pd.toml";
/// The ports that a daemon listens on unless it is told otherwise.
const TCP: [u16; 2] = [4001, 4002];
const UDP: u16 = 4001;

pub(super) async fn run(socket: Option<PathBuf>, timeout: Duration, format: Format, probe: bool) -> anyhow::Result<()> {
    let mut found = match ask(socket, timeout, probe).await {
        Ok(found) => found,
        Err(error) => DiagnoseResponse { findings: without_daemon(&error) },
    };
    for finding in &mut found.findings {
        finding.fact = with_commands(&finding.fact);
        finding.mend = with_commands(&finding.mend);
    }
    match format {
        Format::Table => output::show(&table(&found.findings))?,
        Format::Json => output::line(&output::to_json("DiagnoseResponse", &found, true)?)?,
        Format::Jsonl => {
            for finding in &found.findings {
                output::line(&output::to_json("Finding", finding, false)?)?;
            }
        }
    }
    match found.findings.iter().any(|finding| finding.level() == FindingLevel::Fail) {
        // The findings have said it.
        true => Err(fail(Exit::Failed, "")),
        false => Ok(()),
    }
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
    let mut all = vec![found("daemon", FindingLevel::Fail, words(error), "")];
    let is_absent = matches!(error.downcast_ref(), Some(ConnectError::Missing(..) | ConnectError::Stale(..)));
    if is_absent {
        all.extend(unit());
        all.push(configuration());
        all.extend(ports());
    }
    all
}

/// What systemd says of the daemon of this machine.
fn unit() -> Option<Finding> {
    let state = Command::new("systemctl").args(["is-active", "p2pd"]).output().ok()?;
    let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
    (state == "failed").then(|| {
        let mend = "`journalctl -u p2pd -n 50` says why; `sudo systemctl restart p2pd` tries again";
        found("unit", FindingLevel::Fail, "systemd has given up starting p2pd", mend)
    })
}

/// Whether the configuration is good, as p2pd itself says.
fn configuration() -> Finding {
    let mut check = Command::new("p2pd");
    check.args(["config", "check"]);
    let set = std::env::var_os("P2PD_CONFIG").is_some();
    if !set && Path::new(SYSTEM_CONFIG).exists() {
        check.arg(SYSTEM_CONFIG);
    }
    match check.output() {
        Err(error) => found(
            "config",
            FindingLevel::Warn,
            format!("p2pd is not found ({error})"),
            "install it, or have it in PATH, so that its configuration can be looked at",
        ),
        Ok(output) if output.status.success() => {
            found("config", FindingLevel::Ok, String::from_utf8_lossy(&output.stdout).trim(), "")
        }
        Ok(output) => {
            let fault = String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("p2pd: ").to_owned();
            found("config", FindingLevel::Fail, fault, "mend the file; `p2pd config check` says whether it is good")
        }
    }
}

/// Whether the usual ports are free.
fn ports() -> Vec<Finding> {
    let any = Ipv4Addr::UNSPECIFIED;
    let tcp = TCP.into_iter().map(|port| (port, "TCP", TcpListener::bind((any, port)).map(drop)));
    let udp = std::iter::once((UDP, "UDP", UdpSocket::bind((any, UDP)).map(drop)));
    let taken = |(port, kind, bound): (u16, &str, std::io::Result<()>)| {
        let error = bound.err().filter(|error| error.kind() == std::io::ErrorKind::AddrInUse)?;
        let flags = if kind == "TCP" { "-lntp" } else { "-lnup" };
        let fact = format!("{kind} port {port}, on which p2pd listens unless told otherwise: {error}");
        let mend =
            format!("`sudo ss {flags} 'sport = :{port}'` names the program; or set network.listen to other ports");
        Some(found("ports", FindingLevel::Fail, fact, mend))
    };
    let taken: Vec<_> = tcp.chain(udp).filter_map(taken).collect();
    match taken.is_empty() {
        true => vec![found("ports", FindingLevel::Ok, "the usual ports are free", "")],
        false => taken,
    }
}
