//! Peer ids as people write them: whole, as a CID, or by an end that only one known peer has, such as ..mv1eVMvL, which is
//! how tables show them.

use std::collections::BTreeSet;

use multibase::Base;
use p2pd_api::v1::{
    GetInfoRequest, ListClosedConnectionsRequest, ListPeersRequest, ListPinsRequest, ListRulesRequest,
    node_service_client::NodeServiceClient, peer_service_client::PeerServiceClient,
};

use super::{cid::Cid, context::Context};
use crate::error::{Exit, fail};

/// What the ids of one kind of key have in common.
struct Form {
    start: &'static str,
    length: usize,
}

/// Of Ed25519, secp256k1 and RSA keys.
const FORMS: [Form; 3] =
    [Form { start: "12D3KooW", length: 52 }, Form { start: "16Uiu2HA", length: 53 }, Form { start: "Qm", length: 46 }];

/// The whole id. `name` is the argument's name, for errors.
pub(super) async fn resolve(context: &Context, name: &str, text: &str) -> anyhow::Result<String> {
    match text.strip_prefix("..") {
        Some(end) => by_end(&known(context).await?, name, end),
        None => check(name, text),
    }
}

/// The same for an argument that may also be something else, such as an IP address, which is returned unchanged.
pub(super) async fn resolve_any(context: &Context, name: &str, text: &str) -> anyhow::Result<String> {
    let like_one = text.starts_with("..") || FORMS.iter().any(|form| text.starts_with(form.start));
    if like_one { resolve(context, name, text).await } else { Ok(text.into()) }
}

/// A multiaddr with the whole id, or an id alone. What is written with an end of an id is no multiaddr yet, and p2pctl takes none
/// apart otherwise, so that it has no type for them.
pub(super) async fn resolve_address(context: &Context, name: &str, text: &str) -> anyhow::Result<String> {
    match text.rsplit_once("/p2p/") {
        Some((address, id)) => Ok(format!("{address}/p2p/{}", resolve_any(context, name, id).await?)),
        None => resolve_any(context, name, text).await,
    }
}

/// `stream@publisher` with the whole id, or a stream alone.
pub(super) async fn resolve_stream(context: &Context, text: &str) -> anyhow::Result<String> {
    match text.split_once('@') {
        Some((stream, publisher)) => Ok(format!("{stream}@{}", resolve(context, "PUBLISHER", publisher).await?)),
        None => Ok(text.into()),
    }
}

/// Checks the form of a peer id. One that is written as a CID is returned in base58.
pub(super) fn check(name: &str, text: &str) -> anyhow::Result<String> {
    let fault = |fault: String| {
        let takes = "takes a peer id such as 12D3KooW..., or an end that only one known peer has, such as ..mv1eVMvL";
        Err(fail(Exit::Usage, format!("{name} `{text}`: {fault}{takes}")))
    };
    if let Some(id) = Cid::parse(text).and_then(|cid| cid.peer_id()) {
        return Ok(id);
    }
    let length = text.chars().count();
    let other_length = |form: &&Form| text.starts_with(form.start) && length != form.length;
    if let Some(Form { start, length: whole }) = FORMS.iter().find(other_length) {
        let how = if length < *whole { "cut off" } else { "too long" };
        return fault(format!("{how}: an id that begins with {start} has {whole} characters, this one {length}; "));
    }
    // RSA peer IDs (`Qm...`) are the shortest: 46 characters.
    if length < 46 || Base::Base58Btc.decode(text).is_err() {
        return fault(String::new());
    }
    Ok(text.into())
}

/// The only id with this end.
fn by_end(known: &BTreeSet<String>, name: &str, end: &str) -> anyhow::Result<String> {
    let mut fitting = known.iter().filter(|id| !end.is_empty() && id.ends_with(end));
    let fault = |exit, words: String| Err(fail(exit, format!("{name} `..{end}`: {words}")));
    match (fitting.next(), fitting.next()) {
        (Some(id), None) => Ok(id.clone()),
        (Some(one), Some(other)) => {
            let several = format!("several known peers have this end, such as {one} and {other}; give more of it");
            fault(Exit::Usage, several)
        }
        (None, _) => {
            let known = "none that is connected, or was lately, pinned, ruled, or publishes a stream";
            fault(Exit::NotFound, format!("no known peer has this end: {known}; give the whole id"))
        }
    }
}

/// Every peer whose id a table may show.
async fn known(context: &Context) -> anyhow::Result<BTreeSet<String>> {
    let (client, channel) = (&context.client, &context.client.channel);
    let mut peers = PeerServiceClient::new(channel.clone());
    let mut known = BTreeSet::new();
    known.insert(client.answer(NodeServiceClient::new(channel.clone()).get_info(GetInfoRequest {})).await?.peer_id);
    known.extend(client.answer(peers.list_peers(ListPeersRequest {})).await?.peers.into_iter().map(|p| p.peer_id));
    known.extend(client.answer(peers.list_pins(ListPinsRequest {})).await?.pins.into_iter().map(|p| p.peer_id));
    let closed = client.answer(peers.list_closed_connections(ListClosedConnectionsRequest {})).await?.connections;
    known.extend(closed.into_iter().map(|c| c.peer_id));
    let rules = client.answer(peers.list_rules(ListRulesRequest {})).await?.rules;
    known.extend(rules.into_iter().map(|r| r.subject).filter(|s| !s.contains(['.', ':', '/'])));
    known.extend(client.streams(String::new()).await?.into_iter().map(|s| s.publisher));
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_names_one_peer_or_says_why_not() {
        let known = ["12D3KooWAAAA1234", "12D3KooWBBBB1234"].map(String::from).into();
        assert_eq!(by_end(&known, "PEER", "A1234").unwrap(), "12D3KooWAAAA1234");
        let words = |end: &str| by_end(&known, "PEER", end).unwrap_err().to_string();
        assert!(words("1234").contains("several known peers") && words("1234").contains("12D3KooWBBBB1234"));
        assert!(words("9999").contains("no known peer") && words("").contains("no known peer"));
    }

    #[test]
    fn a_form_that_is_wrong_is_told_how() {
        let good = "12D3KooWGf5CLoGzVhGgr98wUUGZy2VkGj8JuavYd8odRFNRWYYX";
        assert_eq!(check("PEER", good).unwrap(), good);
        let words = |text: &str| check("PEER", text).unwrap_err().to_string();
        assert!(words("12D3KooWAqyv").contains("has 52 characters, this one 12"));
        assert!(words("12D3KooWAqyv...").contains("cut off"));
        assert!(words(&format!("{good}X")).contains("too long"));
        // 0, O, I and l are no digits of base58.
        for bad in ["", "foo", "0OIl0OIl0OIl0OIl0OIl0OIl0OIl0OIl0OIl0OIl0OIl0OIl0OIl"] {
            assert!(words(bad).starts_with(&format!("PEER `{bad}`: takes a peer id")), "{bad}");
        }
    }
}
