//! The gRPC API: it verifies the caller, converts, calls the owners, converts. No decision of the domain is made here.

mod bandwidth;
mod caller;
mod convert;
mod dht;
mod events;
mod layer;
mod node;
mod peer;
mod protocol;
mod pubsub;
mod quota;
mod reply;
mod roles;
mod socket;
mod status;
mod stream;
mod turned_away;

use std::{convert::Infallible, time::Duration};

use p2pd_api::{
    CALLS, MAX_FRAME,
    v1::{
        DESCRIPTORS, bandwidth_service_server::BandwidthServiceServer, dht_service_server::DhtServiceServer,
        node_service_server::NodeServiceServer, peer_service_server::PeerServiceServer,
        protocol_service_server::ProtocolServiceServer, pub_sub_service_server::PubSubServiceServer,
        stream_service_server::StreamServiceServer,
    },
};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::{
    body::Body,
    codegen::{Service, http},
    server::NamedService,
    service::{Routes, RoutesBuilder},
    transport::Server,
};
use tonic_health::ServingStatus;

pub(crate) use socket::{SocketFile, bind};

use crate::{config::Api, owners::Owners, paths::Paths, systemd::Probe};

/// How long calls may take to end after a stop before their connections are cut.
const DRAIN: Duration = Duration::from_secs(3);
/// Largest request, in bytes.
const MAX_REQUEST: usize = 1 << 20;
/// Largest request of a service that carries no data of programs.
const SMALL_REQUEST: usize = 64 << 10;
/// Bytes of requests that a call may send before anybody reads them. The daemon holds so much of every call, whether or not there is room
/// for its message; answers have larger windows (`p2pd_api::WINDOW`).
const REQUEST_WINDOW: u32 = 256 << 10;
/// The same of all calls of a connection: a call that nobody reads leaves room for the others.
const REQUEST_WINDOWS: u32 = (CALLS + 1) * REQUEST_WINDOW;

/// The services as routes, and their names.
#[derive(Default)]
struct Services {
    routes: RoutesBuilder,
    names: Vec<&'static str>,
}

impl Services {
    fn add<S>(&mut self, service: S)
    where
        S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.routes.add_service(service);
        self.names.push(S::NAME);
    }
}

/// Each service of the contract: a new one is added here and nowhere else.
fn services(owners: Owners, stop: &CancellationToken) -> (Routes, Vec<&'static str>) {
    let Owners { tasks, events, peers, dht, pubsub, live, streams, health, shaper, .. } = owners;
    let stop = || stop.clone();
    let mut all = Services::default();
    let bandwidth = BandwidthServiceServer::new(bandwidth::Service { shaper });
    all.add(bandwidth.max_decoding_message_size(SMALL_REQUEST));
    let dht = DhtServiceServer::new(dht::Service { dht, stop: stop() });
    all.add(dht.max_decoding_message_size(SMALL_REQUEST));
    let node = NodeServiceServer::new(node::Service { health, peers: peers.clone(), events, stop: stop() });
    all.add(node.max_decoding_message_size(SMALL_REQUEST));
    let peer = peer::Service { peers, live: live.clone(), tasks: tasks.clone(), stop: stop() };
    all.add(PeerServiceServer::new(peer).max_decoding_message_size(SMALL_REQUEST));
    let protocol = ProtocolServiceServer::new(protocol::Service { streams, stop: stop() });
    all.add(protocol.max_decoding_message_size(2 * MAX_REQUEST));
    let pubsub = PubSubServiceServer::new(pubsub::Service { pubsub, tasks, stop: stop() });
    all.add(pubsub.max_decoding_message_size(2 * MAX_REQUEST));
    let stream = StreamServiceServer::new(stream::Service { live, stop: stop() });
    all.add(stream.max_decoding_message_size(MAX_REQUEST));
    (all.routes.routes(), all.names)
}

/// Serves until `stop`; ends every stream first, so that none holds up the end.
pub(crate) async fn serve(
    listener: UnixListener,
    owners: Owners,
    config: Api,
    paths: Paths,
    probe: Probe,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let admission = caller::Admission::new(&paths);
    let quota = quota::Quota::new(probe.clone());
    let incoming = socket::accept(listener, admission, config.max_connections_per_user, probe, stop.clone());
    let (routes, names) = services(owners, &stop);
    let (health, health_service) = tonic_health::server::health_reporter();
    for name in names {
        health.set_service_status(name, ServingStatus::Serving).await;
    }
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let server = Server::builder()
        .max_concurrent_streams(CALLS)
        .initial_stream_window_size(REQUEST_WINDOW)
        .initial_connection_window_size(REQUEST_WINDOWS)
        .http2_max_header_list_size(8 * 1024)
        .max_frame_size(MAX_FRAME)
        .layer(layer::Check(roles::check))
        .layer(layer::Check(move |request| quota.check(request)))
        .add_routes(routes)
        .add_service(health_service.max_decoding_message_size(SMALL_REQUEST))
        .add_service(reflection().build_v1()?.max_decoding_message_size(SMALL_REQUEST))
        .add_service(reflection().build_v1alpha()?.max_decoding_message_size(SMALL_REQUEST))
        .serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
    let drained = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = server => Ok(served?),
        () = drained => Ok(()),
    }
}
