//! What a daemon says of where it can be reached.

use p2pd::app::Daemon;
use p2pd_api::v1::{
    GetInfoRequest, GetPeerRequest, GetStateRequest, Rule, SetRuleRequest, Verdict,
    node_service_client::NodeServiceClient,
};

use crate::support::{self, channel, id, list, open, peers, publish, setup, start, until};

/// A router's address, and its name.
const ANNOUNCED: [&str; 2] = ["/dns4/radio.example.org/tcp/4001", "/ip4/203.0.113.7/udp/4001/quic-v1"];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_announced_is_told_first_and_is_no_listener() {
    let mut behind_a_router = setup(&[]);
    behind_a_router.config.network.announce = ANNOUNCED.map(String::from).into();
    let a = Daemon::start(behind_a_router).await.unwrap();
    let b = start(&a.addresses[..1]).await;
    let own = id(&a);
    let mut node = NodeServiceClient::new(channel(&a).await);
    let info = node.get_info(GetInfoRequest {}).await.unwrap().into_inner();
    assert!(ANNOUNCED.iter().all(|address| info.addresses[..2].contains(&format!("{address}/p2p/{own}"))), "{info:?}");
    assert!(info.addresses.len() > 2 && !a.addresses.iter().any(|listening| listening.contains("203.0.113.7")));
    let known = until("what it says of itself", async || {
        let request = GetPeerRequest { peer_id: own.clone() };
        let peer = peers(&b).await.get_peer(request).await.ok()?.into_inner().peer?;
        Some(peer.addresses).filter(|all| !all.is_empty())
    })
    .await;
    assert!(ANNOUNCED.iter().all(|address| known.iter().any(|known| known.starts_with(address))), "{known:?}");
    let _publishing = publish(&a, open("town")).await.unwrap();
    let entry = until("the entry", async || list(&b).await.into_iter().next()).await;
    assert!(
        ANNOUNCED.iter().all(|address| entry.publisher_addresses[..2].iter().any(|told| told.starts_with(address))),
        "{entry:?}"
    );
    // A rule about it cuts nobody off, as one about a listener would.
    let rule = Rule { subject: "203.0.113.0/24".into(), verdict: Verdict::Deny.into() };
    support::peers(&a).await.set_rule(SetRuleRequest { rule: Some(rule) }).await.unwrap();
    let state = node.get_state(GetStateRequest {}).await.unwrap().into_inner();
    assert_eq!((state.advice.as_str(), state.listeners_missing), ("", 0));
}
