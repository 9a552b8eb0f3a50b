//! `pub` and `sub`.

use std::{
    io::{self, BufRead, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use p2pd_api::{
    Reason,
    v1::{
        Block, DropOldest, Durable, PublishManyRequest, PublishManyResponse, PublishRequest, PublishResponse,
        SubscribeRequest, TopicMessage, pub_sub_service_client::PubSubServiceClient, subscribe_request::Contract,
        subscribe_response::Event,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Context;
use crate::{
    cli::{Format, Pub, Sub},
    client,
    exit::fail,
    output::{self, Tone, count},
};

/// More than the largest message holds, bytes.
const TOO_LONG: u64 = (1 << 20) + 1;
/// How long to wait for the reader of standard input after the last answer. An orderly call ends after standard input did.
const READ_UP: Duration = Duration::from_secs(1);

pub(super) async fn publish(context: &Context, flags: Pub) -> anyhow::Result<()> {
    let Pub { topic, message, wait } = flags;
    let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    let request = move |data: Vec<u8>| PublishRequest { topic: topic.clone(), data: data.into(), wait_ms };
    let Some(message) = message else { return publish_lines(context, request).await };
    let mut pubsub = PubSubServiceClient::new(context.client.channel.clone());
    let sent = tokio::time::timeout(
        context.client.timeout.saturating_add(wait),
        pubsub.publish(request(message.into_bytes())),
    );
    let sent = sent.await.map_err(|_| fail(6, "no answer from the daemon"))??.into_inner();
    tell(context, &sent)
}

fn tell(context: &Context, sent: &PublishResponse) -> anyhow::Result<()> {
    output::message(context.format, "PublishResponse", sent, |PublishResponse { peers, behind }| {
        let slow = if *behind > 0 { format!(", {behind} too slowly, who may miss it") } else { String::new() };
        let follow = if *peers == 1 { "follows" } else { "follow" };
        format!("sent; {} {follow}{slow}", count(*peers, "connected peer"))
    })
}

/// Publishes each line of standard input. Reports a line that cannot be sent, and goes on with the next.
async fn publish_lines(
    context: &Context,
    request: impl Fn(Vec<u8>) -> PublishRequest + Send + 'static,
) -> anyhow::Result<()> {
    let (lines, requests) = mpsc::channel(64);
    let reading = tokio::task::spawn_blocking(move || -> io::Result<u64> {
        let (mut input, mut sent) = (io::stdin().lock(), 0);
        while let Some(line) = next_line(&mut input)? {
            if lines.blocking_send(PublishManyRequest { message: Some(request(line)) }).is_err() {
                break;
            }
            sent += 1;
        }
        Ok(sent)
    });
    let mut pubsub = PubSubServiceClient::new(context.client.channel.clone());
    let mut answers = context.client.answer(pubsub.publish_many(ReceiverStream::new(requests))).await?;
    let (mut answered, mut lost, mut wrong) = (0, 0, 0);
    while let Some(answer) = answers.message().await? {
        answered += 1;
        let refused = !answer.reason.is_empty();
        if refused {
            lost += 1;
            wrong += u64::from(answer.reason == Reason::FieldInvalid.as_str());
            let PublishManyResponse { number, error, reason, .. } = &answer;
            output::say(format_args!("p2pctl: line {} was not sent: {error} [{reason}]", number + 1));
        }
        if context.format != Format::Table {
            output::line(&output::to_json("PublishManyResponse", &answer, false)?)?;
        } else if !refused {
            tell(context, &PublishResponse { peers: answer.peers, behind: answer.behind })?;
        }
    }
    // If the daemon has ended the call, the reader still waits for the next line.
    let sent = tokio::time::timeout(READ_UP, reading).await.map_err(|_| client::closed())???;
    if answered < sent {
        return Err(client::closed());
    }
    match lost {
        0 => Ok(()),
        // The same codes as for a message given as an argument.
        _ => {
            let code = if wrong == lost { 2 } else { 7 };
            Err(fail(code, format!("{} {} not sent", count(lost, "line"), if lost == 1 { "was" } else { "were" })))
        }
    }
}

/// The next line, without its newline. A line too long for any message is cut where the daemon still refuses it.
fn next_line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    if input.by_ref().take(TOO_LONG).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else {
        input.skip_until(b'\n')?;
    }
    Ok(Some(line))
}

pub(super) async fn subscribe(context: &Context, flags: Sub) -> anyhow::Result<()> {
    let mut pubsub = PubSubServiceClient::new(context.client.channel.clone());
    let request = SubscribeRequest { topic: flags.topic.clone(), contract: contract(&flags)? };
    flags.resume.as_deref().map_or(Ok(()), can_keep)?;
    let mut messages = context.client.answer(pubsub.subscribe(request)).await?;
    let mut left = flags.count.unwrap_or(u64::MAX);
    while left > 0 {
        let response = output::watch(&mut messages).await?;
        if context.format != Format::Table {
            output::line(&output::to_json("SubscribeResponse", &response, false)?)?;
        }
        match response.event {
            Some(Event::Message(message)) => {
                left -= 1;
                if context.format == Format::Table {
                    line(&message)?;
                }
            }
            Some(Event::Gap(gap)) if gap.reason == "daemon-away" => {
                output::say(format_args!("p2pctl: the daemon was away; what was published meanwhile is not here"));
            }
            Some(Event::Gap(gap)) => {
                output::say(format_args!("p2pctl: messages {} to {} were lost: {}", gap.from, gap.to, gap.reason));
            }
            Some(Event::Subscribed(_)) | None => {}
        }
        if let Some(path) = &flags.resume {
            keep(path, response.cursor)?;
        }
    }
    Ok(())
}

fn contract(flags: &Sub) -> anyhow::Result<Option<Contract>> {
    let durable = |after, from_oldest| Some(Contract::Durable(Durable { after, from_oldest }));
    if flags.block {
        let max_wait_ms = u32::try_from(flags.max_wait.as_millis()).unwrap_or(u32::MAX);
        return Ok(Some(Contract::Block(Block { max_wait_ms })));
    }
    if let Some(max_messages) = flags.behind {
        return Ok(Some(Contract::DropOldest(DropOldest { max_messages })));
    }
    if let Some(path) = &flags.resume
        && let Some(cursor) = kept(path)?
    {
        return Ok(durable(Some(cursor), false));
    }
    let any = flags.durable || flags.from_oldest || flags.after.is_some() || flags.resume.is_some();
    Ok(if any { durable(flags.after, flags.from_oldest) } else { None })
}

/// The cursor in a file; `None` when there is no file yet.
fn kept(path: &Path) -> anyhow::Result<Option<u64>> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let fault = || fail(2, format!("{} holds no cursor; remove it to begin anew", path.display()));
            Ok(Some(text.trim().parse().map_err(|_| fault())?))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fail(1, format!("{}: {error}", path.display()))),
    }
}

/// Where a cursor is written before it takes the place of the one before.
fn beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    beside.into()
}

/// Whether a cursor could be kept; asked before the daemon begins a log for it.
fn can_keep(path: &Path) -> anyhow::Result<()> {
    let beside = beside(path);
    let written = std::fs::write(&beside, "").and_then(|()| std::fs::remove_file(&beside));
    written.map_err(|error| fail(2, format!("{}: {error}; choose a file that can be written", path.display())))
}

/// Keeps a cursor so that a crash leaves the old or the new one.
fn keep(path: &Path, cursor: u64) -> anyhow::Result<()> {
    let beside = beside(path);
    let written = std::fs::write(&beside, format!("{cursor}\n")).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| fail(1, format!("{}: {error}", path.display())))
}

/// Writes a message as a line. On a terminal adds time and sender, and replaces characters that could control it.
fn line(message: &TopicMessage) -> io::Result<()> {
    if io::stdout().is_terminal() {
        let harmless = |c: char| if output::is_harmless(c) { c } else { char::REPLACEMENT_CHARACTER };
        let text: String = String::from_utf8_lossy(&message.data).chars().map(harmless).collect();
        let who = if message.sender.is_empty() { "unsigned".into() } else { output::short(&message.sender) };
        let head = format!("{}  {who:<10}", output::clock(message.received_ms));
        // Without the indent a second line could imitate another sender.
        let text = text.replace('\n', &format!("\n{:width$}", "", width = head.len() + 2));
        return output::show(&format!("{}  {text}", output::paint(Tone::Dim, head)));
    }
    let mut out = io::stdout().lock();
    out.write_all(&message.data)?;
    out.write_all(b"\n")?;
    out.flush()
}
