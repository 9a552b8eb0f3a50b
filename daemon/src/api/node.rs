//! `NodeService`.

use p2pd_api::v1::{
    self, GetInfoRequest, GetInfoResponse, GetStateRequest, GetStateResponse, GetStatisticsRequest,
    GetStatisticsResponse, NodeState, WatchEventsRequest, WatchEventsResponse, node_service_server::NodeService,
};
use p2pd_core::{
    id::PeerId,
    reachability::{self, OwnAddress, Witness},
};
use p2pd_net::{Relay, RelayState};
use p2pd_node::{
    events::{Events, Happened},
    peers::Peers,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    convert,
    reply::{self, Replies},
    status,
};
use crate::{
    VERSION,
    observe::{Health, InUse, State},
};

pub(super) struct Service {
    pub(super) health: Health,
    pub(super) peers: Peers,
    pub(super) events: Events,
    pub(super) stop: CancellationToken,
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn event(e: Happened) -> WatchEventsResponse {
    WatchEventsResponse { cursor: e.cursor, time_ms: e.time_ms, kind: e.kind, subject: e.subject }
}

fn relay(me: &PeerId, relay: Relay) -> v1::Relay {
    let (state, fault) = match relay.state {
        RelayState::Asked => (v1::RelayState::Asked, String::new()),
        RelayState::Reserved => (v1::RelayState::Reserved, String::new()),
        RelayState::Lost(why) => (v1::RelayState::Lost, why),
    };
    v1::Relay {
        peer_id: relay.peer.to_string(),
        state: state.into(),
        since_ms: relay.since.0,
        fault,
        max_time_ms: relay.max_time.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        max_bytes: relay.max_bytes.unwrap_or(0),
        addresses: relay.addresses.into_iter().map(|address| address.with_peer(me).to_string()).collect(),
    }
}

fn own_address(own: OwnAddress) -> v1::OwnAddress {
    let state = match own.state {
        reachability::State::Public => v1::AddressState::Public,
        reachability::State::Relayed => v1::AddressState::Relayed,
        reachability::State::Private => v1::AddressState::Private,
        reachability::State::Unknown => v1::AddressState::Unknown,
    };
    let (witness, peer, observers) = match own.witness {
        Witness::Operator => (v1::AddressWitness::Configuration, None, 0),
        Witness::Address => (v1::AddressWitness::Address, None, 0),
        Witness::Tester(peer) => (v1::AddressWitness::Tester, Some(peer), 0),
        Witness::Relay(relay) => (v1::AddressWitness::Relay, Some(relay), 0),
        Witness::Observers(count) => (v1::AddressWitness::Observers, None, count),
    };
    v1::OwnAddress {
        address: own.address.to_string(),
        state: state.into(),
        since_ms: own.since.0,
        witness: witness.into(),
        peer_id: peer.map_or_else(String::new, |peer| peer.to_string()),
        observers: count(observers),
        refused_by: own.refused_by.iter().map(ToString::to_string).collect(),
    }
}

fn in_use(InUse { used, most }: InUse) -> String {
    format!("{used} of {most} file descriptors are in use")
}

/// What is not as it should be, and what to do about it.
fn advice(state: &State) -> Vec<String> {
    let alone = if state.bootstrap_missing.is_empty() {
        "no peer is connected: give one with PeerService.Connect, or network.bootstrap in p2pd.toml"
    } else {
        "no peer is connected, nor was any of network.bootstrap reached; PeerService.Connect tries another"
    };
    let silent = "not every address of network.listen is listened on; the log says why";
    let cut_off = state.cut_off.map(|own| {
        format!(
            "a rule denies {own}, on which this daemon listens; PeerService.ListRules shows it, PeerService.RemoveRule ends it"
        )
    });
    let alone = (state.peers == 0).then(|| alone.to_owned());
    let silent = (state.listeners_missing > 0).then(|| silent.to_owned());
    let fallen = state.fallen.iter().map(|(name, fault)| format!("the tunnel of {name} does not stand: {fault}"));
    let clocks = state.clocks.advice();
    let storage = state.storage_fault.as_ref().map(|why| {
        format!("the disk, or what is on it, fails ({why}): have 12 MiB or more free on it, or see what is wrong with it; the daemon goes on by itself then")
    });
    let flood = state.flooded_by.as_ref().map(|peer| {
        format!(
            "the directory is full, most of it brought by {peer}, or by somebody behind it, as its own NodeService.GetState tells then; denying {peer} by PeerService.SetRule keeps it away, with all that comes through it"
        )
    });
    let mute = state.gossip_ended.iter().map(|peer| {
        format!("gossip with {peer} has ended, so it and this daemon miss each other's messages; it is connected anew with patience")
    });
    let descriptors = state.descriptors_short.map(|short| {
        format!(
            "{}: end programs that hold connections, or raise the limit (LimitNOFILE in `systemctl edit p2pd`, or `ulimit -n`)",
            in_use(short)
        )
    });
    storage
        .into_iter()
        .chain(descriptors)
        .chain(flood)
        .chain(cut_off)
        .chain(alone)
        .chain(silent)
        .chain(fallen)
        .chain(clocks)
        .chain(mute)
        .collect()
}

#[tonic::async_trait]
impl NodeService for Service {
    async fn get_info(&self, _: Request<GetInfoRequest>) -> Result<Response<GetInfoResponse>, Status> {
        let relays = self.peers.relays().await.map_err(status::of)?;
        let own_addresses = self.peers.own_addresses().await.map_err(status::of)?;
        Ok(Response::new(GetInfoResponse {
            peer_id: self.peers.me().to_string(),
            version: VERSION.into(),
            network: self.health.network().into(),
            addresses: convert::texts(&self.peers.addresses().await.map_err(status::of)?),
            started_ms: self.health.started.0,
            relays: relays.into_iter().map(|one| relay(self.peers.me(), one)).collect(),
            own_addresses: own_addresses.into_iter().map(own_address).collect(),
        }))
    }

    async fn get_state(&self, _: Request<GetStateRequest>) -> Result<Response<GetStateResponse>, Status> {
        let state = self.health.state().await.map_err(status::of)?;
        let word = match state.peers {
            _ if self.stop.is_cancelled() => NodeState::Stopping,
            0 => NodeState::Alone,
            _ => NodeState::Connected,
        };
        let advice = if word == NodeState::Stopping { Vec::new() } else { advice(&state) };
        Ok(Response::new(GetStateResponse {
            state: word.into(),
            advice: advice.join("\n"),
            listeners_missing: count(state.listeners_missing),
            bootstrap_faults: state.bootstrap_missing.iter().map(|missing| missing.why.clone()).collect(),
            bootstrap_missing: state.bootstrap_missing.into_iter().map(|missing| missing.address).collect(),
            clock_ahead_ms: state.clocks.ours,
            storage_fault: state.storage_fault.unwrap_or_default(),
            flooded_by: state.flooded_by.map(|peer| peer.to_string()).unwrap_or_default(),
            gossip_ended: state.gossip_ended.iter().map(ToString::to_string).collect(),
            descriptors_short: state.descriptors_short.map(in_use).unwrap_or_default(),
        }))
    }

    async fn get_statistics(
        &self,
        _: Request<GetStatisticsRequest>,
    ) -> Result<Response<GetStatisticsResponse>, Status> {
        let statistics = self.health.statistics().await.map_err(status::of)?;
        Ok(Response::new(GetStatisticsResponse {
            peers: count(statistics.peers),
            streams: count(statistics.streams),
            publications: count(statistics.publications),
            listeners: count(statistics.listeners),
            groups_in: statistics.groups_in,
            groups_out: statistics.groups_out,
            dropped: statistics.dropped,
            too_large: statistics.too_large,
            gossip_ended: statistics.gossip_ended,
        }))
    }

    type WatchEventsStream = Replies<WatchEventsResponse>;

    async fn watch_events(
        &self,
        request: Request<WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let WatchEventsRequest { after, from_oldest } = request.into_inner();
        if from_oldest && after.is_some() {
            return Err(status::field("after", "must be unset where from_oldest is set"));
        }
        let past = from_oldest || after.is_some();
        let (kept, mut told) = self.events.watch(after, past).await.map_err(status::of)?;
        Ok(Response::new(reply::stream(self.stop.clone(), async move |out| {
            let mut last = after;
            for happened in kept {
                last = Some(happened.cursor);
                out.send(event(happened)).await?;
            }
            loop {
                match told.recv().await {
                    Ok(happened) if last.is_some_and(|n| happened.cursor <= n) => {}
                    Ok(happened) => out.send(event(happened)).await?,
                    Err(_) => return out.fail(status::lagged()).await,
                }
            }
        })))
    }
}

#[cfg(test)]
mod tests {
    use p2pd_core::clock::Judgement;

    use super::*;

    #[test]
    fn a_bad_day_has_its_lines_and_a_good_one_none() {
        let good = || State {
            peers: 1,
            cut_off: None,
            fallen: Vec::new(),
            listeners_missing: 0,
            bootstrap_missing: Vec::new(),
            clocks: Judgement::default(),
            flooded_by: None,
            gossip_ended: Vec::new(),
            storage_fault: None,
            descriptors_short: None,
        };
        assert!(advice(&good()).is_empty());
        let flooder = PeerId::from_ed25519(&[1; 32]);
        let bad = State {
            flooded_by: Some(flooder.clone()),
            storage_fault: Some("No space left".into()),
            descriptors_short: Some(InUse { used: 990, most: 1024 }),
            ..good()
        };
        let lines = advice(&bad);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(
            lines.iter().any(|line| line.contains(&format!("denying {flooder} by PeerService.SetRule"))),
            "{lines:?}"
        );
        assert!(lines.iter().any(|line| line.contains("No space left")), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("990 of 1024")), "{lines:?}");
    }
}
