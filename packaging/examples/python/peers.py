"""PeerService: other peers and the connections to them.

python peers.py connect /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW...
python peers.py watch --changes 2   # who is connected, then two changes of that; 0: who is connected now
python peers.py ping 12D3KooW... --count 3
python peers.py pin /ip4/192.0.2.7/tcp/4001/p2p/12D3KooW... --tag relay
python peers.py unpin 12D3KooW...
"""

from p2pd_client import command_line, connect, peer_pb2, peer_pb2_grpc, with_changes


def dial(peers, args):
    answer = peers.Connect(peer_pb2.ConnectRequest(address=args.address), timeout=30)
    print(f"connected to {answer.peer_id}")


def watch(peers, args):
    for event in with_changes(peers.WatchPeers(peer_pb2.WatchPeersRequest()), args.changes):
        match event.WhichOneof("event"):
            case "present":
                print(f"present {event.present.peer_id} {event.present.agent}")
            case "gone":
                print(f"gone {event.gone}")
            case "snapshot_done":
                print("these are all; what follows are changes")


def ping(peers, args):
    for answer in peers.PingPeer(peer_pb2.PingPeerRequest(peer_id=args.peer, count=args.count, interval_ms=100)):
        print(f"{answer.rtt_us / 1000:.2f} ms")


def pin(peers, args):
    peers.PinPeer(peer_pb2.PinPeerRequest(peer=args.peer, tags=args.tag))
    for kept in peers.ListPins(peer_pb2.ListPinsRequest()).pins:
        # A pin is kept whether or not the peer can be reached: the daemon goes on dialling it.
        print(f"pinned {kept.peer_id} [{' '.join(kept.tags)}] {'connected' if kept.connected else 'not connected yet'}")


def unpin(peers, args):
    peers.UnpinPeer(peer_pb2.UnpinPeerRequest(peer_id=args.peer))
    print(f"no longer pinned: {args.peer}")


parser, commands = command_line(__doc__)
command = commands.add_parser("connect")
command.add_argument("address")
command.set_defaults(run=dial)
command = commands.add_parser("watch")
command.add_argument("--changes", type=int, default=-1, help="end after so many; unset: never")
command.set_defaults(run=watch)
command = commands.add_parser("ping")
command.add_argument("peer")
command.add_argument("--count", type=int, default=3)
command.set_defaults(run=ping)
command = commands.add_parser("pin")
command.add_argument("peer", help="its id, or an address that ends in it")
command.add_argument("--tag", action="append")
command.set_defaults(run=pin)
command = commands.add_parser("unpin")
command.add_argument("peer")
command.set_defaults(run=unpin)
args = parser.parse_args()
with connect(args.socket) as channel:
    args.run(peer_pb2_grpc.PeerServiceStub(channel), args)
