//! `topic sub`: messages as they come, or from the daemon's log.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use p2pd_api::{
    Reason, reason_of,
    v1::{
        Block, DropOldest, Durable, SubscribeRequest, TopicMessage, pub_sub_service_client::PubSubServiceClient,
        subscribe_request::Contract, subscribe_response::Event,
    },
};

use crate::{
    cli::Sub,
    cmd::context::Context,
    error::{Exit, fail},
    output::{self, Format, Tone},
};

pub(super) async fn run(context: &Context, flags: Sub) -> anyhow::Result<()> {
    let mut pubsub = PubSubServiceClient::new(context.client.channel.clone());
    let request = SubscribeRequest { topic: flags.topic.clone(), contract: contract(&flags)? };
    flags.resume.as_deref().map_or(Ok(()), can_keep)?;
    let begun = context.client.answer(pubsub.subscribe(request)).await;
    if let (Err(error), Some(path)) = (&begun, &flags.resume)
        && error.downcast_ref().and_then(reason_of) == Some(Reason::CursorExpired)
    {
        output::say(format_args!("p2pctl: the cursor is that of {}; remove it to begin anew", path.display()));
    }
    let mut messages = begun?;
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
            let fault = || fail(Exit::Usage, format!("{} holds no cursor; remove it to begin anew", path.display()));
            Ok(Some(text.trim().parse().map_err(|_| fault())?))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fail(Exit::Failed, format!("{}: {error}", path.display()))),
    }
}

/// The temporary file of a new cursor, which is renamed over the old one.
fn beside(path: &Path) -> PathBuf {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    beside.into()
}

/// Checks that the cursor can be written, before the daemon begins a log for this subscription.
fn can_keep(path: &Path) -> anyhow::Result<()> {
    let beside = beside(path);
    let written = std::fs::write(&beside, "").and_then(|()| std::fs::remove_file(&beside));
    written
        .map_err(|error| fail(Exit::Usage, format!("{}: {error}; choose a file that can be written", path.display())))
}

/// Keeps a cursor so that a crash leaves the old or the new one.
fn keep(path: &Path, cursor: u64) -> anyhow::Result<()> {
    let beside = beside(path);
    let written = std::fs::write(&beside, format!("{cursor}\n")).and_then(|()| std::fs::rename(&beside, path));
    written.map_err(|error| fail(Exit::Failed, format!("{}: {error}", path.display())))
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
