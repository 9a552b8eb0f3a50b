"""ProtocolService: protocols of your own. A question and its answer:

python protocol.py serve /shout/1                           # answers in capitals
python protocol.py call 12D3KooW... /shout/1 "quiet words"

Or a stream of bytes, of which each side closes its half when it has said all:

python protocol.py accept /count/1                          # answers how many bytes came, once all are there
python protocol.py send 12D3KooW... /count/1 < file
"""

import queue
import sys

from p2pd_client import command_line, connect, protocol_pb2, protocol_pb2_grpc


def call(protocols, args):
    request = protocol_pb2.CallProtocolRequest(peer_id=args.peer, protocols=[args.protocol], data=args.text.encode())
    print(protocols.CallProtocol(request, timeout=30).data.decode())


def serve(protocols, args):
    say = queue.SimpleQueue()
    say.put(protocol_pb2.ServeProtocolRequest(open=protocol_pb2.HandleProtocolRequest(protocol=args.protocol)))
    for event in protocols.ServeProtocol(iter(say.get, None)):
        match event.WhichOneof("event"):
            case "handling":
                print(f"serving {args.protocol}")
            case "call":
                # Answers may come in any order, and later: a slow one need not hold up the others.
                answer = protocol_pb2.ProtocolAnswer(call_id=event.call.call_id, data=event.call.data.upper())
                say.put(protocol_pb2.ServeProtocolRequest(answer=answer))
                print(f"answered {event.call.peer_id}")


def send(protocols, args):
    def requests():
        stream = protocol_pb2.OpenProtocolStream(peer_id=args.peer, protocols=[args.protocol])
        yield protocol_pb2.ExchangeStreamRequest(open=stream)
        while data := sys.stdin.buffer.read1(64 * 1024):
            yield protocol_pb2.ExchangeStreamRequest(data=data)
        # The end of this generator closes our half; the answer still comes.

    for event in protocols.ExchangeStream(requests()):
        if event.HasField("data"):
            sys.stdout.buffer.write(event.data)
    sys.stdout.buffer.flush()


def accept(protocols, args):
    for event in protocols.HandleProtocol(protocol_pb2.HandleProtocolRequest(protocol=args.protocol)):
        if event.HasField("inbound"):
            # One after the other, for brevity. One that waits longer than 10 s to be accepted is reset.
            print(f"{count(protocols, event.inbound.stream_id)} bytes from {event.inbound.peer_id}")
        else:
            print(f"accepting {args.protocol}")


def count(protocols, stream_id):
    say = queue.SimpleQueue()
    say.put(protocol_pb2.ExchangeStreamRequest(accept=stream_id))
    received = 0
    for event in protocols.ExchangeStream(iter(say.get, None)):
        match event.WhichOneof("event"):
            case "data":
                received += len(event.data)
            case "remote_closed":
                say.put(protocol_pb2.ExchangeStreamRequest(data=f"{received} bytes\n".encode()))
                say.put(None)  # Closes our half, and with both closed the call ends.
    return received


parser, commands = command_line(__doc__)
for name, run in [("serve", serve), ("accept", accept), ("call", call), ("send", send)]:
    command = commands.add_parser(name)
    if name in ("call", "send"):
        command.add_argument("peer", help="peer id")
    command.add_argument("protocol", help="such as /shout/1")
    if name == "call":
        command.add_argument("text")
    command.set_defaults(run=run)
args = parser.parse_args()
with connect(args.socket) as channel:
    args.run(protocol_pb2_grpc.ProtocolServiceStub(channel), args)
