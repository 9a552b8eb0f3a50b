"""DhtService: who has what, without a server that knows.

python dht.py provide town-archive
python dht.py providers town-archive
python dht.py find-peer 12D3KooW...
python dht.py stop town-archive
"""

from p2pd_client import command_line, connect, dht_pb2, dht_pb2_grpc


def provide(dht, args):
    # It outlives this program: the daemon says it again until it is told to stop, or ends.
    dht.Provide(dht_pb2.ProvideRequest(key=args.what.encode()), timeout=30)
    print(f"provides {args.what}")


def stop(dht, args):
    dht.StopProviding(dht_pb2.StopProvidingRequest(key=args.what.encode()))
    print(f"no longer provides {args.what}")


def providers(dht, args):
    for found in dht.FindProviders(dht_pb2.FindProvidersRequest(key=args.what.encode()), timeout=30):
        print(found.peer_id, *found.addresses)


def find_peer(dht, args):
    for found in dht.FindPeer(dht_pb2.FindPeerRequest(peer_id=args.what), timeout=30):
        print(*found.addresses, sep="\n")


parser, commands = command_line(__doc__)
for name, run in [("provide", provide), ("stop", stop), ("providers", providers), ("find-peer", find_peer)]:
    command = commands.add_parser(name)
    command.add_argument("what", help="peer id" if run is find_peer else "key, any text")
    command.set_defaults(run=run)
args = parser.parse_args()
with connect(args.socket) as channel:
    args.run(dht_pb2_grpc.DhtServiceStub(channel), args)
