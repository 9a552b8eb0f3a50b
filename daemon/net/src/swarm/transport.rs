//! The ways to other peers: TCP and WebSocket with TLS or Noise and yamux, QUIC, names by DNS; each connection metered.

use std::{cell::Cell, error::Error, future::Future, io, sync::Arc, time::Duration};

use futures::{
    AsyncRead, AsyncWrite, FutureExt, TryFutureExt,
    future::{BoxFuture, Either},
};
use libp2p::{
    PeerId, Transport,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, timeout::TransportTimeout},
        upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo, Version},
    },
    identity::Keypair,
    noise, quic, relay, tcp, tls, websocket, yamux,
};
use libp2p_mplex as mplex;
use socket2::SockRef;

use crate::{
    NetError,
    peers::{connection_gater::SharedRules, dial_filter::Guarded, incompatible as unshared},
    swarm::{
        bandwidth::{Meter, Metered, Meters, YAMUX},
        dns::Names,
        early_end::Early,
        far_end::far_end,
        first_byte::Prompt,
    },
};

type Ways = Boxed<(PeerId, StreamMuxerBox)>;

/// Most bytes in one WebSocket frame. The library's default lets 14 unauthenticated bytes reserve 256 MiB.
const MAX_WEBSOCKET_FRAME: usize = 128 * 1024;
/// Longest that securing a connection may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// As they are negotiated.
const TLS: &str = "/tls/1.0.0";
const MPLEX: &str = "/mplex/6.7.0";
/// Streams of a connection with mplex, and frames that each may hold: 256 MiB in all where each has the largest size.
const MPLEX_STREAMS: usize = 32;
const MPLEX_FRAMES: usize = 8;

thread_local! {
    /// How the connection was secured that this thread has just secured: the muxer's upgrade is asked for in the same poll.
    static SECURED: Cell<&'static str> = const { Cell::new("") };
}

/// Streams of a connection that yamux keeps a window of 256 KiB for, out of 1 GiB. What three more would have is what all
/// windows together may grow by, so that none passes 1 MiB: js-libp2p sends frames as large as the window, and rust-yamux
/// drops a connection with a larger frame. Windows that do not grow cost a fifth of the rate of a stream on loopback.
const YAMUX_STREAMS: usize = 4096 - 3;

/// Bytes of a connection over TCP that the kernel takes before it has room to send them. QUIC takes turns between streams by itself.
const UNSENT: u32 = 32 << 10;

/// Bytes of a stream of QUIC that may wait for their reader.
const QUIC_STREAM: u32 = 1 << 20;

fn yamux() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(YAMUX_STREAMS);
    config
}

/// Without windows, what a stream holds that nobody reads is bounded by resetting it: so many frames, of at most 1 MiB each by
/// the protocol, and of some KiB as they are sent.
fn mplex() -> mplex::Config {
    let mut config = mplex::Config::default();
    config.set_max_num_streams(MPLEX_STREAMS).set_max_buffer_size(MPLEX_FRAMES);
    config.set_max_buffer_behaviour(mplex::MaxBufferBehaviour::ResetStream);
    config
}

/// Every transport as one; `circuits` are connections through relays.
pub(crate) fn build(
    keys: &Keypair,
    meters: &Meters,
    rules: &SharedRules,
    circuits: relay::client::Transport,
    mplex: bool,
) -> Result<Ways, NetError> {
    let setup = |e: &dyn Error| NetError::Setup(e.to_string());
    let tls = tls::Config::new(keys).map_err(|e| setup(&e))?;
    let noise = noise::Config::new(keys).map_err(|e| setup(&e))?;
    let socket = || {
        let tcp = tcp::tokio::Transport::new(tcp::Config::default().nodelay(true));
        Guarded::new(tcp, rules).map(|socket, point| Prompt::new(kept_short(socket), point.is_listener()))
    };
    let muxers = Muxers { yamux: yamux(), mplex: mplex.then(self::mplex) };
    let both = || Security { tls: Some(tls.clone()), noise: noise.clone() };
    let tcp = secure(socket(), both(), &muxers, meters);
    let circuits = secure(Guarded::new(circuits, rules), both(), &muxers, meters);
    let mut websocket = websocket::Config::new(Names::new(socket().boxed()));
    websocket.set_max_data_size(MAX_WEBSOCKET_FRAME);
    let websocket = secure(websocket, Security { tls: None, noise }, &muxers, meters);
    let meters = meters.clone();
    let mut quic = quic::Config::new(keys);
    // With the library's 15 MB for a connection and 10 for a stream, two streams that nobody reads would stop all others.
    quic.max_stream_data = QUIC_STREAM;
    quic.max_connection_data = quic.max_concurrent_stream_limit.saturating_mul(QUIC_STREAM);
    let quic = Guarded::new(quic::tokio::Transport::new(quic), rules).map(move |(peer, connection), point| {
        let meter = meters.open(peer, &far_end(&point), "tls");
        meter.muxer("quic");
        (peer, StreamMuxerBox::new(Metered::new(connection, meter)))
    });
    let all = tcp.or_transport(quic).map(|way, _| way.into_inner());
    let all = all.or_transport(websocket).map(|way, _| way.into_inner());
    // Before the others, which would take the address of a relay for that of the peer behind it.
    let all = circuits.or_transport(all).map(|way, _| way.into_inner());
    Ok(Names::new(all.boxed()).boxed())
}

/// Bounds what waits in the kernel, where nothing overtakes it.
fn kept_short(socket: tcp::tokio::TcpStream) -> tcp::tokio::TcpStream {
    if let Err(error) = SockRef::from(&socket.0).set_tcp_notsent_lowat(UNSENT) {
        tracing::debug!(%error, "what is not sent yet has no bound of its own");
    }
    socket
}

/// Secures connections and divides them into streams.
fn secure<T>(transport: T, security: Security, muxers: &Muxers, meters: &Meters) -> Ways
where
    T: Transport<Output: Socket, Error: Send + Sync, ListenerUpgrade: Send, Dial: Send> + Send + Unpin + 'static,
{
    let (meters, muxers, mplex) = (meters.clone(), muxers.clone(), muxers.mplex.is_some());
    let upgraded = transport
        .map(|socket, _| Early::new(socket))
        .upgrade(Version::V1Lazy)
        .authenticate(security)
        .multiplex_ext(move |peer, point| {
            let meter = meters.open(*peer, &far_end(point), SECURED.get());
            Streams { muxers, meter }
        })
        .map_err(move |error| unshared::told(error, mplex));
    TransportTimeout::new(upgraded, HANDSHAKE).map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer))).boxed()
}

/// What a connection is before it is secured, and after.
trait Socket: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Socket for T {}

/// Noise or TLS, as both sides can; notes which. Noise first: small messages cost it less.
#[derive(Clone)]
struct Security {
    tls: Option<tls::Config>,
    noise: noise::Config,
}

type TlsOrNoise<C> = Either<tls::TlsStream<C>, noise::Output<C>>;
type Secured<C> = Early<TlsOrNoise<C>>;

/// The library does not say what its errors come from.
fn of_tls(error: tls::UpgradeError) -> io::Error {
    match error {
        tls::UpgradeError::ServerUpgrade(cause) | tls::UpgradeError::ClientUpgrade(cause) => cause,
        other => io::Error::other(other),
    }
}

async fn noted<S, C, E: Error + Send + Sync + 'static>(
    handshake: impl Future<Output = Result<(PeerId, S), E>>,
    name: &'static str,
    either: fn(S) -> TlsOrNoise<C>,
    early: fn(TlsOrNoise<C>) -> Secured<C>,
) -> io::Result<(PeerId, Secured<C>)> {
    let (peer, stream) = handshake.await.map_err(io::Error::other)?;
    SECURED.set(name);
    Ok((peer, early(either(stream))))
}

impl UpgradeInfo for Security {
    type Info = &'static str;
    type InfoIter = std::iter::Chain<std::iter::Once<&'static str>, std::option::IntoIter<&'static str>>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.noise.protocol_info().chain(self.tls.as_ref().map(|_| TLS))
    }
}

impl<C: Socket> InboundConnectionUpgrade<C> for Security {
    type Output = (PeerId, Secured<C>);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_inbound(self, socket: C, name: &'static str) -> Self::Future {
        match self.tls.filter(|_| name == TLS) {
            Some(tls) => {
                noted(tls.upgrade_inbound(socket, name).map_err(of_tls), "tls", Either::Left, Early::new).boxed()
            }
            None => noted(self.noise.upgrade_inbound(socket, name), "noise", Either::Right, Early::new).boxed(),
        }
    }
}

impl<C: Socket> OutboundConnectionUpgrade<C> for Security {
    type Output = (PeerId, Secured<C>);
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_outbound(self, socket: C, name: &'static str) -> Self::Future {
        match self.tls.filter(|_| name == TLS) {
            Some(tls) => {
                noted(tls.upgrade_outbound(socket, name).map_err(of_tls), "tls", Either::Left, Early::late).boxed()
            }
            None => noted(self.noise.upgrade_outbound(socket, name), "noise", Either::Right, Early::late).boxed(),
        }
    }
}

/// Yamux, or mplex where a peer has nothing else.
#[derive(Clone)]
struct Muxers {
    yamux: yamux::Config,
    mplex: Option<mplex::Config>,
}

/// A muxer with a meter.
#[derive(Clone)]
struct Streams {
    muxers: Muxers,
    meter: Arc<Meter>,
}

type Muxer<C> = Either<yamux::Muxer<C>, mplex::Multiplex<C>>;

impl Streams {
    /// The mplex that was agreed on under this name.
    fn mplex(&self, name: &str) -> Option<mplex::Config> {
        let mplex = self.muxers.mplex.clone().filter(|_| name == MPLEX);
        self.meter.muxer(if mplex.is_some() { "mplex" } else { YAMUX });
        mplex
    }
}

impl UpgradeInfo for Streams {
    type Info = &'static str;
    type InfoIter = std::iter::Chain<std::iter::Once<&'static str>, std::option::IntoIter<&'static str>>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.muxers.yamux.protocol_info().chain(self.muxers.mplex.as_ref().map(|_| MPLEX))
    }
}

impl<C: Socket> InboundConnectionUpgrade<C> for Streams {
    type Output = Metered<Muxer<C>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_inbound(self, socket: C, name: &'static str) -> Self::Future {
        let meter = self.meter.clone();
        match self.mplex(name) {
            Some(mplex) => {
                mplex.upgrade_inbound(socket, name).map_ok(|m| Metered::new(Either::Right(m), meter)).boxed()
            }
            None => {
                let yamux = self.muxers.yamux.upgrade_inbound(socket, name);
                yamux.map_ok(|muxer| Metered::new(Either::Left(muxer), meter)).boxed()
            }
        }
    }
}

impl<C: Socket> OutboundConnectionUpgrade<C> for Streams {
    type Output = Metered<Muxer<C>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Output>>;

    fn upgrade_outbound(self, socket: C, name: &'static str) -> Self::Future {
        let meter = self.meter.clone();
        match self.mplex(name) {
            Some(mplex) => {
                mplex.upgrade_outbound(socket, name).map_ok(|m| Metered::new(Either::Right(m), meter)).boxed()
            }
            None => {
                let yamux = self.muxers.yamux.upgrade_outbound(socket, name);
                yamux.map_ok(|muxer| Metered::new(Either::Left(muxer), meter)).boxed()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::{StreamExt, future};
    use libp2p::core::{
        Endpoint,
        muxing::StreamMuxerExt,
        transport::{DialOpts, ListenerId, PortUse, TransportEvent},
    };
    use tokio::sync::oneshot;

    use super::*;
    use crate::{streams::reserved::Reserved, swarm::shaping::Shaper};

    /// A peer that speaks TLS alone, as some of go-libp2p do.
    fn only_tls(keys: &Keypair) -> Ways {
        tcp::tokio::Transport::default()
            .upgrade(Version::V1)
            .authenticate(tls::Config::new(keys).unwrap())
            .multiplex(yamux())
            .boxed()
    }

    async fn meet(mut listener: Ways, mut dialer: Ways) -> (PeerId, PeerId) {
        listener.listen_on(ListenerId::next(), "/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let TransportEvent::NewAddress { listen_addr, .. } = listener.select_next_some().await else { panic!() };
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        let dial = dialer.dial(listen_addr, options).unwrap();
        let accept = async {
            loop {
                if let TransportEvent::Incoming { upgrade, .. } = listener.select_next_some().await {
                    return upgrade.await;
                }
            }
        };
        let (tell, dialed) = oneshot::channel();
        let dialing = tokio::spawn(async move {
            let (peer, mut muxer) = dial.await.unwrap();
            tell.send(peer).unwrap();
            // Negotiated lazily, the muxer is agreed on with its first bytes.
            future::poll_fn(|cx| muxer.poll_unpin(cx)).await
        });
        let both = future::join(accept, dialed);
        let (accepted, dialed) = tokio::time::timeout(Duration::from_secs(10), both).await.expect("a connection");
        dialing.abort();
        (accepted.unwrap().0, dialed.unwrap())
    }

    #[tokio::test]
    async fn peers_without_noise_are_met_both_ways() {
        let [us, them] = [(); 2].map(|()| Keypair::generate_ed25519());
        let ids = [&us, &them].map(|keys| keys.public().to_peer_id());
        let ours = || {
            let (circuits, _) = relay::client::new(us.public().to_peer_id());
            build(
                &us,
                &Meters::new(16, Reserved::default(), Shaper::unbounded()),
                &SharedRules::default(),
                circuits,
                false,
            )
            .unwrap()
        };
        assert_eq!(meet(ours(), only_tls(&them)).await, (ids[1], ids[0]));
        assert_eq!(meet(only_tls(&them), ours()).await, (ids[0], ids[1]));
    }
}
