//! `peers`.

use p2pd_api::v1::{ConnectRequest, DisconnectRequest, ListPeersRequest, Peer, peer_service_client::PeerServiceClient};

use super::Context;
use crate::{cli::PeersAction, output};

pub(super) async fn run(context: &Context, action: Option<PeersAction>) -> anyhow::Result<()> {
    let mut peers = PeerServiceClient::new(context.client.channel.clone());
    match action {
        None | Some(PeersAction::List) => {
            let list = context.client.answer(peers.list_peers(ListPeersRequest {})).await?;
            output::list(context.format, ("ListPeersResponse", &list), ("Peer", &list.peers), table)
        }
        Some(PeersAction::Connect { address }) => {
            let connected = context.client.answer(peers.connect(ConnectRequest { address })).await?;
            output::message(context.format, "ConnectResponse", &connected, |c| format!("connected to {}", c.peer_id))
        }
        Some(PeersAction::Disconnect { peer }) => {
            let peer_id = peer.clone();
            let done = context.client.answer(peers.disconnect(DisconnectRequest { peer_id })).await?;
            output::message(context.format, "DisconnectResponse", &done, |_| format!("disconnected from {peer}"))
        }
    }
}

fn table(peers: &[Peer]) -> String {
    let row = |peer: &Peer| {
        let rtt = if peer.rtt_us == 0 { "-".into() } else { format!("{:.1} ms", peer.rtt_us as f64 / 1000.0) };
        let first = peer.connections.first();
        let address = first.map(|c| c.address.clone()).unwrap_or_default();
        let direction = first.map_or("", |c| if c.inbound { "in" } else { "out" });
        vec![peer.peer_id.clone(), direction.into(), rtt, format!("{:.1}", peer.score), peer.agent.clone(), address]
    };
    output::rows(&["PEER", "DIRECTION", "RTT", "SCORE", "AGENT", "ADDRESS"], peers.iter().map(row))
}
