//! The daemon's texts name methods and fields of the API. Here they become the commands and flags that do the same.

/// A method or field as the daemon writes it, and how it is said to people at a command line.
const WORDS: &[(&str, &str)] = &[
    ("HandleProtocolRequest.lease", "`--lease NAME`"),
    ("HandleProtocolRequest.share", "`--share`"),
    ("NodeService.GetState", "`p2pctl status`"),
    ("PeerService.Connect", "`p2pctl peers connect ADDRESS`"),
    ("PeerService.ListPeers", "`p2pctl -o json peers`"),
    ("PeerService.ListPins", "`p2pctl peers pins`"),
    ("PeerService.ListRules", "`p2pctl peers rules`"),
    ("PeerService.RemoveRule", "`p2pctl peers unrule`"),
    ("PeerService.SetRule", "`p2pctl peers allow` or `deny`"),
    ("BandwidthService.GetBandwidth", "`p2pctl bandwidth`"),
    ("BandwidthService.SetBandwidth", "`p2pctl bandwidth`"),
    ("DhtService.FindPeer", "`p2pctl dht find-peer`"),
    ("PeerService.ListClosedConnections", "`p2pctl peers closed`"),
    ("PubSubService.SetTopic", "`p2pctl topics set`"),
    ("PubSubService.ValidateTopic", "`p2pctl validate`"),
    ("PubSubService.ForgetTopic", "`p2pctl topics forget`"),
    ("PubSubService.ListTopics", "`p2pctl topics`"),
    ("PublishRequest.wait_ms", "wait_ms (`p2pctl pub --wait 1m`)"),
    ("StreamService.ListStreams", "`p2pctl streams`"),
    ("`from_oldest`", "--from-oldest (`from_oldest`)"),
    ("grpc.health.v1.Health", "`p2pctl wait ready`"),
];

/// A text of the daemon's with the commands that do what it says.
pub(crate) fn with_commands(text: &str) -> String {
    WORDS.iter().fold(text.to_owned(), |text, (api, ours)| text.replace(api, ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_one_of_the_api_and_none_is_part_of_another() {
        let pool = crate::output::pool().unwrap();
        for (word, _) in WORDS {
            let (owner, name) =
                word.trim_matches('`').rsplit_once('.').unwrap_or(("WatchEventsRequest", "from_oldest"));
            let owner = format!("p2pd.v1.{owner}");
            let method = pool.get_service_by_name(&owner).is_some_and(|it| it.methods().any(|m| m.name() == name));
            let field = pool.get_message_by_name(&owner).is_some_and(|it| it.get_field_by_name(name).is_some());
            assert!(method || field || *word == "grpc.health.v1.Health", "{word}");
            assert_eq!(WORDS.iter().filter(|(other, _)| other.contains(word)).count(), 1, "{word}");
        }
    }

    #[test]
    fn a_text_says_what_to_type() {
        let text = with_commands("a rule denies it; PeerService.ListRules lists them");
        assert_eq!(text, "a rule denies it; `p2pctl peers rules` lists them");
    }
}
