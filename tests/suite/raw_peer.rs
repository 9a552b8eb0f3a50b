//! A peer that says whatever it is told to, over gossipsub streams of its own making: it signs as anybody, and keeps no rule of any
//! protocol. What others say to it, it throws away.

use std::{io, time::Duration};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, SwarmBuilder,
    futures::StreamExt,
    identify, identity,
    multiaddr::Protocol,
    noise, request_response,
    swarm::{NetworkBehaviour, SwarmEvent},
    tcp, yamux,
};
use prost::Message;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};

const GOSSIP: StreamProtocol = StreamProtocol::new("/meshsub/1.1.0");
/// For a connection.
const DEADLINE: Duration = Duration::from_secs(20);

/// An RPC of gossipsub, as its specification has it.
#[derive(Clone, PartialEq, Message)]
pub struct Rpc {
    #[prost(message, repeated, tag = "1")]
    pub subscriptions: Vec<Subscription>,
    #[prost(message, repeated, tag = "2")]
    pub publish: Vec<Published>,
    #[prost(message, optional, tag = "3")]
    pub control: Option<Control>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Subscription {
    #[prost(bool, tag = "1")]
    pub subscribe: bool,
    #[prost(string, tag = "2")]
    pub topic: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct Published {
    #[prost(bytes = "vec", tag = "1")]
    pub from: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub data: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub number: Vec<u8>,
    #[prost(string, tag = "4")]
    pub topic: String,
    #[prost(bytes = "vec", tag = "5")]
    pub signature: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Control {
    #[prost(message, repeated, tag = "1")]
    pub have: Vec<Have>,
    #[prost(message, repeated, tag = "2")]
    pub want: Vec<Want>,
    #[prost(message, repeated, tag = "3")]
    pub graft: Vec<Graft>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Have {
    #[prost(string, tag = "1")]
    pub topic: String,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub ids: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Want {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub ids: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Graft {
    #[prost(string, tag = "1")]
    pub topic: String,
}

impl Rpc {
    /// That these topics are followed.
    pub fn follow(topics: &[&str]) -> Self {
        let follow = |topic: &&str| Subscription { subscribe: true, topic: (*topic).to_owned() };
        Rpc { subscriptions: topics.iter().map(follow).collect(), ..Rpc::default() }
    }

    /// That it is taken into the meshes of these topics.
    pub fn graft(topics: &[&str]) -> Self {
        let graft = topics.iter().map(|topic| Graft { topic: (*topic).to_owned() }).collect();
        Rpc { control: Some(Control { graft, ..Control::default() }), ..Rpc::default() }
    }

    /// Messages that were signed elsewhere.
    pub fn publish(publish: Vec<Published>) -> Self {
        Rpc { publish, ..Rpc::default() }
    }
}

/// Somebody who exists by signing.
pub struct Signer(identity::Keypair);

impl Signer {
    pub fn invent() -> Self {
        Signer(identity::Keypair::generate_ed25519())
    }

    pub fn id(&self) -> PeerId {
        self.0.public().to_peer_id()
    }

    /// A message of this signer; no two have the same number.
    pub fn sign(&self, topic: &str, number: u64, data: impl Into<Vec<u8>>) -> Published {
        let (from, number) = (self.id().to_bytes(), number.to_be_bytes().to_vec());
        let mut message = Published { from, data: data.into(), number, topic: topic.into(), signature: Vec::new() };
        let signed = [b"libp2p-pubsub:", &message.encode_to_vec()[..]].concat();
        message.signature = self.0.sign(&signed).unwrap();
        message
    }
}

/// Carries what is said over one stream for as long as there is something.
#[derive(Clone)]
struct Stream;

impl request_response::Codec for Stream {
    type Protocol = StreamProtocol;
    type Request = mpsc::Receiver<Rpc>;
    type Response = ();

    async fn read_request<T: AsyncRead + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
    ) -> io::Result<mpsc::Receiver<Rpc>> {
        let mut thrown_away = [0; 65_536];
        while io.read(&mut thrown_away).await? > 0 {}
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    async fn read_response<T: AsyncRead + Unpin + Send>(&mut self, _: &StreamProtocol, _: &mut T) -> io::Result<()> {
        Ok(())
    }

    async fn write_request<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        io: &mut T,
        mut rpcs: mpsc::Receiver<Rpc>,
    ) -> io::Result<()> {
        while let Some(rpc) = rpcs.recv().await {
            io.write_all(&rpc.encode_length_delimited_to_vec()).await?;
            io.flush().await?;
        }
        Ok(())
    }

    async fn write_response<T: AsyncWrite + Unpin + Send>(
        &mut self,
        _: &StreamProtocol,
        _: &mut T,
        (): (),
    ) -> io::Result<()> {
        Ok(())
    }
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    identify: identify::Behaviour,
    gossip: request_response::Behaviour<Stream>,
}

fn swarm(name: String) -> Swarm<Behaviour> {
    let day = Duration::from_secs(86_400);
    let protocol = StreamProtocol::try_from_owned(format!("/{name}")).unwrap();
    SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default(), noise::Config::new, yamux::Config::default)
        .unwrap()
        .with_behaviour(|key| {
            let said = identify::Config::new("raw".into(), key.public()).with_agent_version(name);
            let config = request_response::Config::default().with_request_timeout(day);
            let gossip = [GOSSIP, protocol].map(|name| (name, request_response::ProtocolSupport::Full));
            Behaviour {
                identify: identify::Behaviour::new(said),
                gossip: request_response::Behaviour::with_codec(Stream, gossip, config),
            }
        })
        .unwrap()
        .with_swarm_config(|config| config.with_idle_connection_timeout(day))
        .build()
}

/// The peer, connected to one other.
pub struct RawPeer {
    pub id: PeerId,
    said: mpsc::Sender<Rpc>,
    driving: JoinHandle<()>,
}

impl RawPeer {
    /// Connects to `address`, which ends in the peer id, and calls itself, a protocol and an address by this name.
    pub async fn connect(address: &str, name: &str) -> Self {
        Self::try_connect(address, name).await.expect("a connection")
    }

    /// The same; `None` where nobody lets it in.
    pub async fn try_connect(address: &str, name: &str) -> Option<Self> {
        let mut swarm = swarm(name.into());
        swarm.add_external_address(Multiaddr::empty().with(Protocol::Dns4(name.into())).with(Protocol::Tcp(1)));
        let id = *swarm.local_peer_id();
        let address: Multiaddr = address.parse().unwrap();
        let Some(Protocol::P2p(other)) = address.iter().last() else { panic!("{address}") };
        swarm.dial(address).unwrap();
        let (said, rpcs) = mpsc::channel(16);
        let (connected, connection) = oneshot::channel();
        let driving = tokio::spawn(async move {
            let mut first = Some((connected, rpcs));
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::ConnectionEstablished { .. } => {
                        let Some((connected, rpcs)) = first.take() else { continue };
                        swarm.behaviour_mut().gossip.send_request(&other, rpcs);
                        let _ = connected.send(());
                    }
                    SwarmEvent::OutgoingConnectionError { .. } => return,
                    _ => {}
                }
            }
        });
        let peer = RawPeer { id, said, driving };
        timeout(DEADLINE, connection).await.ok()?.ok()?;
        Some(peer)
    }

    /// Says something; false once nobody listens any more.
    pub async fn say(&self, rpc: Rpc) -> bool {
        self.said.send(rpc).await.is_ok()
    }
}

impl Drop for RawPeer {
    fn drop(&mut self) {
        self.driving.abort();
    }
}
