"""What the programs beside this one share: p2pd's generated modules and a channel to its socket."""

import argparse
import contextlib
import os
import sys
import tempfile
from pathlib import Path

import grpc
import grpc_tools
from grpc_tools import protoc

# A program of your own would keep these generated modules instead of making them at each start. `python -m grpc_tools.protoc` adds
# the second directory, with the files of google/protobuf, by itself.
_proto = Path(__file__).resolve().parents[3] / "proto"
with tempfile.TemporaryDirectory() as _stubs:
    _files = [str(file) for file in _proto.glob("p2pd/v1/*.proto")]
    _google = Path(grpc_tools.__file__).parent / "_proto"
    _options = [f"-I{_proto}", f"-I{_google}", f"--python_out={_stubs}", f"--grpc_python_out={_stubs}"]
    protoc.main(["protoc", *_options, *_files])
    sys.path.insert(0, _stubs)
    from p2pd.v1 import dht_pb2, dht_pb2_grpc, node_pb2, node_pb2_grpc, peer_pb2, peer_pb2_grpc
    from p2pd.v1 import protocol_pb2, protocol_pb2_grpc, pubsub_pb2, pubsub_pb2_grpc, stream_pb2, stream_pb2_grpc

    sys.path.remove(_stubs)

# Whoever reads this output through a pipe wants each line when it is there.
sys.stdout.reconfigure(line_buffering=True)


def default_socket():
    """Where p2pctl looks too: P2PD_SOCKET, the user's own daemon, the machine's."""
    here = [("XDG_RUNTIME_DIR", "p2pd"), ("XDG_STATE_HOME", "p2pd"), ("HOME", ".local/state/p2pd")]
    own = [Path(os.environ[name], below, "api.sock") for name, below in here if os.environ.get(name)]
    found = next((path for path in own if path.exists()), "/run/p2pd/api.sock")
    return os.environ.get("P2PD_SOCKET") or str(found)


def command_line(doc):
    """A parser that knows --socket, and where it takes subcommands."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--socket", default=default_socket(), help="of the daemon")
    return parser, parser.add_subparsers(required=True, metavar="command")


@contextlib.contextmanager
def connect(socket):
    """A channel to the daemon. What a call inside fails with ends the program, with one line that says why."""
    # Without this option gRPC sends the socket's path as the HTTP/2 authority, which servers refuse.
    with grpc.insecure_channel(f"unix:{socket}", options=[("grpc.default_authority", "localhost")]) as channel:
        try:
            yield channel
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")
        except KeyboardInterrupt:
            sys.exit(130)


def with_changes(events, count):
    """The events of a watch: a snapshot, then so many changes."""
    known = False  # whether all of the snapshot was there
    for event in events:
        yield event
        count -= known
        known |= event.snapshot_done
        if known and count == 0:
            return


def has_reason(error, reason):
    """Whether p2pd gave an error this reason, such as NO_LISTENERS; the package grpcio-status decodes all it says."""
    return reason.encode() in dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
