//! `explain`: what decides how it is with a peer, an address, a topic or a stream.

use p2pd_api::v1::{ExplainRequest, explain_request::Subject, node_service_client::NodeServiceClient};

use super::{context::Context, doctor, peer_id};
use crate::cli::Explain;

pub(super) async fn run(context: &Context, subject: Explain) -> anyhow::Result<()> {
    let subject = match subject {
        Explain::Peer { peer } => Subject::PeerId(peer_id::resolve(context, "PEER", &peer).await?),
        Explain::Address { address } => Subject::Address(peer_id::resolve_address(context, "ADDRESS", &address).await?),
        Explain::Topic { topic } => Subject::Topic(topic),
        Explain::Stream { stream } => Subject::Stream(peer_id::resolve_stream(context, &stream).await?),
    };
    let mut node = NodeServiceClient::new(context.client.channel.clone());
    let mut explained = context.client.answer(node.explain(ExplainRequest { subject: Some(subject) })).await?;
    doctor::say_in_commands(&mut explained.findings);
    doctor::show(context.format, "ExplainResponse", &explained, &explained.findings)
}
