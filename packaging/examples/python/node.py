"""NodeService: who the daemon is, how it fares, and what happened to it.

python node.py status
python node.py events --count 3     # the oldest that are kept first, then new ones as they come
"""

import grpc
from p2pd_client import command_line, connect, node_pb2, node_pb2_grpc


def status(node, _):
    info = node.GetInfo(node_pb2.GetInfoRequest())
    print(f"{info.peer_id}, version {info.version}, in {info.network}")
    for address in info.addresses:
        print(f"listens on {address}")
    state = node.GetState(node_pb2.GetStateRequest())
    print(node_pb2.NodeState.Name(state.state).removeprefix("NODE_STATE_").lower(), state.advice)
    print(f"{node.GetStatistics(node_pb2.GetStatisticsRequest()).peers} peers")


def events(node, args):
    request = node_pb2.WatchEventsRequest(from_oldest=True)
    printed = 0
    while printed < args.count:
        try:
            for event in node.WatchEvents(request):
                print(f"{event.cursor}: {event.kind} {event.subject}")
                request = node_pb2.WatchEventsRequest(after=event.cursor)
                printed += 1
                if printed == args.count:
                    return
        except grpc.RpcError as error:
            # WATCH_LAGGED: this reader was too slow, and goes on where it was.
            if error.code() != grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise


parser, commands = command_line(__doc__)
commands.add_parser("status").set_defaults(run=status)
command = commands.add_parser("events")
command.add_argument("--count", type=int, default=1 << 63, help="end after so many")
command.set_defaults(run=events)
args = parser.parse_args()
with connect(args.socket) as channel:
    args.run(node_pb2_grpc.NodeServiceStub(channel), args)
