"""Lists streams, publishes to a topic and follows one, through p2pd's Unix socket. Needs requirements.txt only."""

import argparse
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import grpc
from grpc_tools import protoc

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("socket", nargs="?", default=os.environ.get("P2PD_SOCKET") or "/run/p2pd/api.sock")
parser.add_argument("--topic", default="chat")
parser.add_argument("--say", metavar="TEXT", help="publish this once somebody follows the topic, within 10 s")
parser.add_argument("--hear", metavar="N", type=int, default=0, help="print N messages of the topic, then end")
args = parser.parse_args()
sys.stdout.reconfigure(line_buffering=True)

# A program of your own would keep these generated modules instead of making them at each start.
proto = Path(__file__).resolve().parents[3] / "proto"
with tempfile.TemporaryDirectory() as stubs:
    files = [str(file) for file in proto.glob("p2pd/v1/*.proto")]
    protoc.main(["protoc", f"-I{proto}", f"--python_out={stubs}", f"--grpc_python_out={stubs}", *files])
    sys.path.insert(0, stubs)
    from p2pd.v1 import node_pb2, node_pb2_grpc, pubsub_pb2, pubsub_pb2_grpc, stream_pb2, stream_pb2_grpc


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
            if b"NO_LISTENERS" not in dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b""):
                raise
        time.sleep(0.1)
    sys.exit(f"nobody follows {args.topic}")


heard = []
# Without this option gRPC sends the socket's path as the HTTP/2 authority, which servers refuse.
with grpc.insecure_channel(f"unix:{args.socket}", options=[("grpc.default_authority", "localhost")]) as channel:
    info = node_pb2_grpc.NodeServiceStub(channel).GetInfo(node_pb2.GetInfoRequest())
    sys.stdout.write(f"peer id {info.peer_id}\n")
    for stream in stream_pb2_grpc.StreamServiceStub(channel).ListStreams(stream_pb2.ListStreamsRequest()).streams:
        sys.stdout.write(f"stream {stream.stream_id}: {stream.name}\n")
    pubsub = pubsub_pb2_grpc.PubSubServiceStub(channel)
    events = iter(pubsub.Subscribe(pubsub_pb2.SubscribeRequest(topic=args.topic)) if args.hear else ())
    next(events, None)  # `subscribed`: the daemon follows the topic from here on
    (thread := threading.Thread(target=hear, args=(events,), daemon=True)).start()
    if args.say:
        sys.stdout.write(f"sent; {say(pubsub)} connected peers follow\n")
    thread.join()
sys.exit(len(heard) < args.hear)
