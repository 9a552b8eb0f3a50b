//! The gRPC API: it verifies the caller, converts, calls the node, converts. No decision of the domain is made here.

mod caller;
mod convert;
mod dht;
mod node;
mod peer;
mod protocol;
mod pubsub;
mod reply;
mod socket;
mod status;
mod stream;
mod turned_away;

use std::time::Duration;

use p2pd_api::{
    CALLS, MAX_FRAME, WINDOW, WINDOWS,
    v1::{
        DESCRIPTORS, dht_service_server::DhtServiceServer, node_service_server::NodeServiceServer,
        peer_service_server::PeerServiceServer, protocol_service_server::ProtocolServiceServer,
        pub_sub_service_server::PubSubServiceServer, stream_service_server::StreamServiceServer,
    },
};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

pub(crate) use socket::bind;

use crate::{config::Api, node::Node, paths::Paths, systemd::Probe};

/// What every service needs.
#[derive(Clone)]
struct Context {
    node: Node,
    stop: CancellationToken,
}

/// How long calls may take to end after a stop before their connections are cut.
const DRAIN: Duration = Duration::from_secs(3);
/// Largest request, in bytes.
const MAX_REQUEST: usize = 1 << 20;

/// Serves until `stop`; ends every stream first, so that none holds up the end.
pub(crate) async fn serve(
    listener: UnixListener,
    node: Node,
    config: Api,
    paths: Paths,
    probe: Probe,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let stream = stream::Service { live: node.live().clone(), stop: stop.clone() };
    let dht = dht::Service { dht: node.dht().clone(), stop: stop.clone() };
    let pubsub = pubsub::Service { pubsub: node.pubsub().clone(), tasks: node.tasks().clone(), stop: stop.clone() };
    let context = Context { node, stop: stop.clone() };
    let incoming =
        socket::accept(listener, caller::Admission::new(&paths), config.max_connections_per_user, probe, stop.clone());
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<DhtServiceServer<dht::Service>>().await;
    health.set_serving::<NodeServiceServer<node::Service>>().await;
    health.set_serving::<PeerServiceServer<peer::Service>>().await;
    health.set_serving::<ProtocolServiceServer<protocol::Service>>().await;
    health.set_serving::<PubSubServiceServer<pubsub::Service>>().await;
    health.set_serving::<StreamServiceServer<stream::Service>>().await;
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let server = Server::builder()
        .max_concurrent_streams(CALLS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOWS)
        .http2_max_header_list_size(8 * 1024)
        .max_frame_size(MAX_FRAME)
        .add_service(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(DhtServiceServer::new(dht))
        .add_service(NodeServiceServer::new(node::Service(context.clone())))
        .add_service(PeerServiceServer::new(peer::Service(context.clone())))
        .add_service(
            ProtocolServiceServer::new(protocol::Service(context.clone())).max_decoding_message_size(2 * MAX_REQUEST),
        )
        .add_service(PubSubServiceServer::new(pubsub).max_decoding_message_size(2 * MAX_REQUEST))
        .add_service(StreamServiceServer::new(stream).max_decoding_message_size(MAX_REQUEST))
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
