//! `topic pub`: one message, or each line of standard input.

use std::{
    io::{self, BufRead, Read},
    time::Duration,
};

use p2pd_api::{
    Reason,
    v1::{
        PublishManyRequest, PublishManyResponse, PublishRequest, PublishResponse,
        pub_sub_service_client::PubSubServiceClient,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    api_words::with_commands,
    cli::Pub,
    cmd::context::Context,
    error::{Exit, closed, fail},
    output::{self, Format, count},
};

/// More than the largest message holds, bytes.
const TOO_LONG: u64 = (1 << 20) + 1;
/// How long to wait for the thread that reads standard input after the last answer. In order, it has ended before.
const READ_UP: Duration = Duration::from_secs(1);

pub(super) async fn run(context: &Context, flags: Pub) -> anyhow::Result<()> {
    let Pub { topic, message, wait } = flags;
    let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    let request = move |data: Vec<u8>| PublishRequest { topic: topic.clone(), data: data.into(), wait_ms };
    let Some(message) = message else { return publish_lines(context, request).await };
    let mut pubsub = PubSubServiceClient::new(context.client.channel.clone());
    let sent = tokio::time::timeout(
        context.client.timeout.saturating_add(wait),
        pubsub.publish(request(message.into_bytes())),
    );
    let sent = sent.await.map_err(|_| fail(Exit::TimedOut, "no answer from the daemon"))??.into_inner();
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
            let error = with_commands(error);
            output::say(format_args!("p2pctl: line {} was not sent: {error} [{reason}]", number + 1));
        }
        if context.format != Format::Table {
            output::line(&output::to_json("PublishManyResponse", &answer, false)?)?;
        } else if !refused {
            tell(context, &PublishResponse { peers: answer.peers, behind: answer.behind })?;
        }
    }
    // If the daemon has ended the call, the reader still waits for the next line.
    let sent = tokio::time::timeout(READ_UP, reading).await.map_err(|_| closed())???;
    if answered < sent {
        return Err(closed());
    }
    match lost {
        0 => Ok(()),
        // The same codes as for a message given as an argument.
        _ => {
            let code = if wrong == lost { Exit::Usage } else { Exit::Refused };
            Err(fail(code, format!("{} {} not sent", count(lost, "line"), if lost == 1 { "was" } else { "were" })))
        }
    }
}

/// The next line, without its newline. A line longer than any message is cut to `TOO_LONG` bytes, which the
/// daemon refuses.
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
