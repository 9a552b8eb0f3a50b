//! `protocol call` and `protocol serve`: requests and answers on a protocol of one's own.

use std::{collections::HashMap, io::Write};

use p2pd_api::v1::{
    CallProtocolRequest, HandleProtocolRequest, ProtocolAnswer, ProtocolCall, ServeProtocolRequest,
    protocol_answer::Outcome, protocol_service_client::ProtocolServiceClient, serve_protocol_request::Item,
    serve_protocol_response::Event,
};
use tokio::{
    io::AsyncReadExt,
    sync::{Semaphore, mpsc},
    task::AbortHandle,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    client,
    cmd::{
        context::Context,
        program::{AT_ONCE, Program},
    },
    error::{Exit, fail},
    output,
    signals::asked_to_stop,
};

/// Answers queued in front of the gRPC connection.
const AHEAD: usize = 4;
/// Largest answer in bytes, as in protocol.proto.
const MAX_ANSWER: usize = 1_000_000;

/// Asks a peer.
pub(super) async fn call(
    context: &Context,
    peer_id: String,
    protocols: Vec<String>,
    data: Option<String>,
) -> anyhow::Result<()> {
    let data = match data {
        Some(data) => data.into_bytes(),
        None => {
            let mut data = Vec::new();
            tokio::io::stdin().read_to_end(&mut data).await?;
            data
        }
    };
    let request = CallProtocolRequest { peer_id, protocols, data: data.into() };
    let mut client = ProtocolServiceClient::new(context.client.channel.clone());
    let asking = context.client.answer(client.call_protocol(request));
    let answer = tokio::select! {
        answer = asking => answer?,
        () = asked_to_stop() => return Err(fail(Exit::Interrupted, "")),
    };
    std::io::stdout().write_all(&answer.data)?;
    Ok(())
}

/// Answers with what a command prints.
pub(super) async fn serve(context: &Context, open: HandleProtocolRequest, command: &[String]) -> anyhow::Result<()> {
    let (program, protocol) = (Program::find(command)?, open.protocol.clone());
    let (said, requests) = mpsc::channel(AHEAD);
    said.send(ServeProtocolRequest { item: Some(Item::Open(open)) }).await?;
    let mut protocols = ProtocolServiceClient::new(context.client.channel.clone());
    let mut events = context.client.answer(protocols.serve_protocol(ReceiverStream::new(requests))).await?;
    let room = std::sync::Arc::new(Semaphore::new(AT_ONCE));
    let mut running: HashMap<u64, AbortHandle> = HashMap::new();
    loop {
        let event = tokio::select! {
            event = client::next(&mut events) => event?.event,
            () = asked_to_stop() => return Ok(()),
        };
        match event {
            Some(Event::Handling(_)) => output::say(format_args!("answering on {protocol}")),
            Some(Event::Call(call)) => {
                let (said, program, room) = (said.clone(), program.clone(), room.clone());
                running.retain(|_, call| !call.is_finished());
                let number = call.call_id;
                let answering = tokio::spawn(async move {
                    let _room = room.acquire().await;
                    let answer = ProtocolAnswer { call_id: call.call_id, outcome: Some(answer(&program, call).await) };
                    // The call may be over.
                    let _ = said.send(ServeProtocolRequest { item: Some(Item::Answer(answer)) }).await;
                });
                running.insert(number, answering.abort_handle());
            }
            // Dropping a running command ends it.
            Some(Event::Cancelled(number)) => {
                running.remove(&number).iter().for_each(AbortHandle::abort);
            }
            Some(Event::TooLarge(_)) | None => {}
        }
    }
}

async fn answer(program: &Program, call: ProtocolCall) -> Outcome {
    match program.run(&[("P2PD_SENDER", &call.peer_id)], &call.data).await {
        Ok(done) if done.stdout.len() > MAX_ANSWER => {
            let (name, bytes) = (&program.name, done.stdout.len());
            output::say(format_args!(
                "p2pctl: {name} printed {bytes} bytes, and an answer holds {MAX_ANSWER}; the call is refused"
            ));
            Outcome::Refused(true)
        }
        Ok(done) if done.status.success() => Outcome::Data(done.stdout.into()),
        Ok(done) => {
            output::say(format_args!("p2pctl: {} failed ({}); the call is refused", program.name, done.status));
            Outcome::Refused(true)
        }
        Err(error) => {
            output::say(format_args!("p2pctl: {}: {error}; the call is refused", program.name));
            Outcome::Refused(true)
        }
    }
}
