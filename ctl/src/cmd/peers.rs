//! `peers`.

use p2pd_api::v1::{
    ConnectRequest, DisconnectRequest, ListPeersRequest, ListRulesRequest, Peer, RemoveRuleRequest, Rule,
    SetRuleRequest, Verdict, peer_service_client::PeerServiceClient,
};
use tonic::transport::Channel;

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
        Some(PeersAction::Rules) => {
            let list = context.client.answer(peers.list_rules(ListRulesRequest {})).await?;
            output::list(context.format, ("ListRulesResponse", &list), ("Rule", &list.rules), rules_table)
        }
        Some(PeersAction::Allow { subject }) => rule(context, peers, subject, Verdict::Allow).await,
        Some(PeersAction::Deny { subject }) => rule(context, peers, subject, Verdict::Deny).await,
        Some(PeersAction::Unrule { subject }) => {
            let request = RemoveRuleRequest { subject: subject.clone() };
            let done = context.client.answer(peers.remove_rule(request)).await?;
            output::message(context.format, "RemoveRuleResponse", &done, |_| format!("no rule for {subject}"))
        }
    }
}

async fn rule(
    context: &Context,
    mut peers: PeerServiceClient<Channel>,
    subject: String,
    verdict: Verdict,
) -> anyhow::Result<()> {
    let rule = Rule { subject, verdict: verdict.into() };
    let done = context.client.answer(peers.set_rule(SetRuleRequest { rule: Some(rule.clone()) })).await?;
    output::message(context.format, "SetRuleResponse", &done, |_| format!("{} {}", word(&rule), rule.subject))
}

fn word(rule: &Rule) -> &'static str {
    if rule.verdict() == Verdict::Allow { "allow" } else { "deny" }
}

fn rules_table(rules: &[Rule]) -> String {
    output::rows(&["RULE", "SUBJECT"], rules.iter().map(|rule| vec![word(rule).into(), rule.subject.clone()]))
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
