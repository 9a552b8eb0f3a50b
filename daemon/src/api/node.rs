//! `NodeService`.

use p2pd_api::v1::{
    self, DiagnoseRequest, DiagnoseResponse, ExplainRequest, ExplainResponse, GetInfoRequest, GetInfoResponse,
    GetStateRequest, GetStateResponse, GetStatisticsRequest, GetStatisticsResponse, NodeState, WatchEventsRequest,
    WatchEventsResponse, explain_request, node_service_server::NodeService,
};
use p2pd_core::{
    id::{IdError, PeerId},
    reachability::{self, OwnAddress, Witness},
};
use p2pd_net::{Relay, RelayState};
use p2pd_node::{events::Events, peers::Peers};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{convert, events, reply::Replies, status};
use crate::{
    VERSION,
    observe::{self, Finding, Health, Level},
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

fn finding(finding: Finding) -> v1::Finding {
    let level = match finding.level {
        Level::Ok => v1::FindingLevel::Ok,
        Level::Warn => v1::FindingLevel::Warn,
        Level::Fail => v1::FindingLevel::Fail,
    };
    v1::Finding { check: finding.check.into(), level: level.into(), fact: finding.fact, mend: finding.mend }
}

#[tonic::async_trait]
impl NodeService for Service {
    async fn get_info(&self, _: Request<GetInfoRequest>) -> Result<Response<GetInfoResponse>, Status> {
        let relays = self.peers.relays().await.map_err(status::of)?;
        let own_addresses = self.peers.reached().await.map_err(status::of)?.addresses;
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
        let advice = if word == NodeState::Stopping { Vec::new() } else { observe::advice(&state) };
        Ok(Response::new(GetStateResponse {
            state: word.into(),
            advice: advice.join("\n"),
            listeners_missing: count(state.listeners_missing),
            bootstrap_faults: state.bootstrap_missing.iter().map(|missing| missing.why.clone()).collect(),
            bootstrap_missing: state.bootstrap_missing.into_iter().map(|missing| missing.address).collect(),
            clock_ahead_ms: state.clocks.ours,
            storage_fault: state.machine.storage_fault.unwrap_or_default(),
            flooded_by: state.flooded_by.map(|peer| peer.to_string()).unwrap_or_default(),
            gossip_ended: state.gossip_ended.iter().map(ToString::to_string).collect(),
            descriptors_short: state.machine.descriptors_short.map(observe::in_use).unwrap_or_default(),
        }))
    }

    async fn diagnose(&self, request: Request<DiagnoseRequest>) -> Result<Response<DiagnoseResponse>, Status> {
        let state = self.health.state().await.map_err(status::of)?;
        let mut found = observe::findings(&state);
        if request.into_inner().probe {
            found.extend(self.health.probe().await.map_err(status::of)?);
        }
        Ok(Response::new(DiagnoseResponse { findings: found.into_iter().map(finding).collect() }))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        use explain_request::Subject;
        let subject = request.into_inner().subject;
        let subject =
            subject.ok_or_else(|| status::field("subject", "takes a peer id, an address, a topic or a stream"))?;
        let found = match subject {
            Subject::PeerId(id) => self.health.explain_peer(&convert::peer_id(&id)?).await.map_err(status::of)?,
            Subject::Address(text) => self.health.explain_address(&text).await.map_err(status::of)?,
            Subject::Topic(name) => self.health.explain_topic(&name).await.map_err(status::of)?,
            Subject::Stream(text) => {
                let stream = text.parse().map_err(|error: IdError| status::field("stream", &error.to_string()))?;
                self.health.explain_stream(&stream).await.map_err(status::of)?
            }
        };
        Ok(Response::new(ExplainResponse { findings: found.into_iter().map(finding).collect() }))
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
        Ok(Response::new(events::watch(self.events.clone(), self.stop.clone(), request.into_inner()).await?))
    }
}
