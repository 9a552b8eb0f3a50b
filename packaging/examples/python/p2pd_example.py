"""A whole program: lists streams, publishes to a topic and follows one. The programs beside it show each service.

python p2pd_example.py /run/p2pd/api.sock --topic chat --hear 1
python p2pd_example.py /run/p2pd/api.sock --topic chat --say "good day"
"""

import argparse
import sys
import threading
import time

import grpc
from p2pd_client import connect, default_socket, has_reason
from p2pd_client import node_pb2, node_pb2_grpc, pubsub_pb2, pubsub_pb2_grpc, stream_pb2, stream_pb2_grpc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("socket", nargs="?", default=default_socket())
parser.add_argument("--topic", default="chat")
parser.add_argument("--say", metavar="TEXT", help="publish this once somebody follows the topic, within 10 s")
parser.add_argument("--hear", metavar="N", type=int, default=0, help="print N messages of the topic, then end")
args = parser.parse_args()


def hear(events):
    try:
        while len(heard) < args.hear:
            event = next(events)
            if event.HasField("message"):
                heard.append(event.message)
                sys.stdout.write(f"{event.message.sender}: {event.message.data.decode(errors='replace')}\n")
    except grpc.RpcError as error:
        sys.stdout.write(f"no longer following: {error.details()}\n")


def say(pubsub):
    for _ in range(100):
        try:
            # One's own subscription is a listener too, so this asks for other daemons that follow.
            if not args.hear or pubsub.ListTopicPeers(pubsub_pb2.ListTopicPeersRequest(topic=args.topic)).peer_ids:
                return pubsub.Publish(pubsub_pb2.PublishRequest(topic=args.topic, data=args.say.encode())).peers
        except grpc.RpcError as error:
            if not has_reason(error, "NO_LISTENERS"):
                raise
        time.sleep(0.1)
    sys.exit(f"nobody follows {args.topic}")


heard = []
with connect(args.socket) as channel:
    info = node_pb2_grpc.NodeServiceStub(channel).GetInfo(node_pb2.GetInfoRequest())
    sys.stdout.write(f"peer id {info.peer_id}\n")
    for stream in stream_pb2_grpc.StreamServiceStub(channel).ListStreams(stream_pb2.ListStreamsRequest()).streams:
        sys.stdout.write(f"stream {stream.stream_id}: {stream.name}\n")
    pubsub = pubsub_pb2_grpc.PubSubServiceStub(channel)
    events = iter(pubsub.Subscribe(pubsub_pb2.SubscribeRequest(topic=args.topic)) if args.hear else ())
    next(events, None)  # `subscribed`: the daemon follows the topic from here on
    (thread := threading.Thread(target=hear, args=(events,), daemon=True)).start()
    if args.say:
        sys.stdout.write(f"sent; connected peers that follow: {say(pubsub)}\n")
    thread.join()
sys.exit(len(heard) < args.hear)
