"""PubSubService: messages on topics.

python pubsub.py publish chat "good day" --wait 60          # waits a minute for somebody who follows the topic
python pubsub.py follow chat --cursor chat.cursor           # misses nothing while it is away
python pubsub.py validate chat --count 2                    # lets through what is JSON
"""

import json
import os
import queue
import sys
import time
from pathlib import Path

import grpc
from p2pd_client import command_line, connect, pubsub_pb2, pubsub_pb2_grpc


def publish(pubsub, args):
    message = pubsub_pb2.PublishRequest(topic=args.topic, data=args.text.encode(), wait_ms=args.wait * 1000)
    print(f"sent; connected peers that follow: {pubsub.Publish(message).peers}")


def follow(pubsub, args):
    left = args.count
    while left:
        # The first time from now on, then after what was printed last.
        after = int(args.cursor.read_text()) if args.cursor.exists() else None
        request = pubsub_pb2.SubscribeRequest(topic=args.topic, durable=pubsub_pb2.Durable(after=after))
        try:
            for event in pubsub.Subscribe(request, wait_for_ready=True):
                match event.WhichOneof("event"):
                    case "subscribed":
                        print(f"following {args.topic}", file=sys.stderr)
                    case "message":
                        print(f"{event.message.sender}: {event.message.data.decode(errors='replace')}")
                        left -= 1
                    case "gap":
                        print(f"lost {getattr(event.gap, 'from')} to {event.gap.to}: {event.gap.reason}", file=sys.stderr)
                keep(args.cursor, event.cursor)
                if not left:
                    return
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.OUT_OF_RANGE:
                sys.exit(f"{error.details()}; remove {args.cursor} to begin anew")
            # The daemon is restarted. wait_for_ready waits until it is back; this, while it still says goodbye.
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            time.sleep(0.1)


def keep(path, cursor):
    """After the message was dealt with, so that none is lost; and so that a crash leaves the old or the new number."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(f"{cursor}\n")
    os.replace(beside, path)


def validate(pubsub, args):
    say = queue.SimpleQueue()
    say.put(pubsub_pb2.ValidateTopicRequest(topic=args.topic))
    left = args.count
    for event in pubsub.ValidateTopic(iter(say.get, None)):
        if event.HasField("message"):
            # JUDGEMENT_REJECT would cost the peer that passed it on its place, in the end.
            judgement = pubsub_pb2.JUDGEMENT_ACCEPT if is_json(event.message.data) else pubsub_pb2.JUDGEMENT_IGNORE
            verdict = pubsub_pb2.MessageVerdict(number=event.message.number, judgement=judgement)
            say.put(pubsub_pb2.ValidateTopicRequest(verdict=verdict))
            print(f"{event.message.sender}: {pubsub_pb2.Judgement.Name(judgement)}")
            left -= 1
        else:
            print(f"judging {args.topic}")
        if not left:
            say.put(None)  # Closes our side; the daemon ends the call when it has read all verdicts.
            left = -1


def is_json(data):
    try:
        json.loads(data)
        return True
    except ValueError:
        return False


parser, commands = command_line(__doc__)
command = commands.add_parser("publish")
command.add_argument("topic")
command.add_argument("text")
command.add_argument("--wait", type=int, default=0, help="seconds, at most 600")
command.set_defaults(run=publish)
command = commands.add_parser("follow")
command.add_argument("topic")
command.add_argument("--cursor", type=Path, required=True, help="file that keeps where this reader is")
command.add_argument("--count", type=int, default=-1, help="end after so many messages")
command.set_defaults(run=follow)
command = commands.add_parser("validate")
command.add_argument("topic")
command.add_argument("--count", type=int, default=-1, help="end after so many messages")
command.set_defaults(run=validate)
args = parser.parse_args()
with connect(args.socket) as channel:
    args.run(pubsub_pb2_grpc.PubSubServiceStub(channel), args)
