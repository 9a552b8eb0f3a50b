"""StreamService: live audio, and the directory that lists it.

python streams.py list
python streams.py watch --changes 1             # the directory, then one change of it
python streams.py publish silence --seconds 5   # an encoder's packets would go where this one has silence
python streams.py listen silence --groups 10
"""

import time

from p2pd_client import command_line, connect, stream_pb2, stream_pb2_grpc, with_changes

# Opus, mono, 20 ms of silence.
SILENCE = b"\xf8\xff\xfe"
CONFIG = stream_pb2.StreamConfig(codec="opus", sample_rate=48000, channels=1, frame_us=20_000, frames_per_group=5)


def name(stream):
    return f"{stream.stream_id}@{stream.publisher}"


def directory(streams, _):
    for stream in streams.ListStreams(stream_pb2.ListStreamsRequest()).streams:
        print(name(stream), stream.name)


def watch(streams, args):
    for event in with_changes(streams.WatchStreams(stream_pb2.WatchStreamsRequest()), args.changes):
        match event.WhichOneof("event"):
            case "present":
                print(f"present {name(event.present)}")
            case "gone":
                print(f"{event.gone.reason} {name(event.gone)}")
            case "snapshot_done":
                print("these are all; what follows are changes")


def publish(streams, args):
    def requests():
        stream = stream_pb2.OpenStream(stream_id=args.stream, wire=stream_pb2.WIRE_FORMAT_NATIVE, config=CONFIG)
        yield stream_pb2.PublishStreamRequest(open=stream)
        # The daemon sends frames on as they come, so their pace is ours; counted from the start, it does not drift.
        start = time.monotonic()
        for number in range(args.seconds * 50):
            time.sleep(max(0, start + number * 0.02 - time.monotonic()))
            yield stream_pb2.PublishStreamRequest(frame=stream_pb2.Frame(data=SILENCE))
        yield stream_pb2.PublishStreamRequest(finish=True)

    for event in streams.PublishStream(requests()):
        if event.HasField("opened"):
            print(f"publishing {name(event.opened)}")
        else:
            print(f"{event.acknowledgement.frames} frames taken, {event.acknowledgement.listeners} listeners")


def listen(streams, args):
    left = args.groups
    for event in streams.SubscribeStream(stream_pb2.SubscribeStreamRequest(stream=args.stream, wait_ms=30_000)):
        match event.WhichOneof("event"):
            case "opened":
                print(f"listening to {name(event.opened)}")
            case "group":
                # A decoder would take event.group.frames, ordered by pts: groups may come out of order.
                print(f"group {event.group.seq} at {event.group.pts / 48000:.1f} s: {len(event.group.frames)} frames")
                left -= 1
            case "gap":
                print(f"missed {getattr(event.gap, 'from')} to {event.gap.to}: {event.gap.reason}")
            case "ended":
                print(f"over: {event.ended.reason}")
        if left == 0:
            return


parser, commands = command_line(__doc__)
commands.add_parser("list").set_defaults(run=directory)
command = commands.add_parser("watch")
command.add_argument("--changes", type=int, default=-1, help="end after so many; unset: never")
command.set_defaults(run=watch)
command = commands.add_parser("publish")
command.add_argument("stream", help="its id")
command.add_argument("--seconds", type=int, default=5)
command.set_defaults(run=publish)
command = commands.add_parser("listen")
command.add_argument("stream", help="its id, or id@publisher")
command.add_argument("--groups", type=int, default=-1, help="end after so many")
command.set_defaults(run=listen)
args = parser.parse_args()
with connect(args.socket) as channel:
    args.run(stream_pb2_grpc.StreamServiceStub(channel), args)
