#!/bin/sh
# ProtocolService: questions and answers, a stream from pipe to pipe, a tunnel. Needs jq.
# protocol.sh SOCKET OTHER, the sockets of two daemons that are connected: one asks, the other answers.
set -eu
socket="$1"
other="$2"
peer="$(p2pctl -s "$other" rpc p2pd.v1.NodeService/GetInfo | jq -r .peer_id)"
me="$(p2pctl -s "$socket" rpc p2pd.v1.NodeService/GetInfo | jq -r .peer_id)"
work="$(mktemp -d)"
running=
trap '[ -z "$running" ] || kill $running 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# Waits until a command in the background has said on standard error, which goes to this file, that it is there.
said() {
    until [ -s "$work/$1" ]; do sleep 0.1; done
    cat "$work/$1"
}

# The command runs once for each question: it reads that, and prints the answer.
p2pctl -s "$other" serve /shout/1 tr a-z A-Z 2>"$work/serve" &
running="$running $!"
said serve
p2pctl -s "$socket" call "$peer" /shout/1 "quiet words" && echo

# A stream both ways; either side closes its own half when its standard input is at the end.
echo "good day" | p2pctl -s "$other" handle /chat/1.0.0 >"$work/heard" 2>"$work/handle" &
handler=$!
said handle
echo "hello" | p2pctl -s "$socket" open "$peer" /chat/1.0.0
wait "$handler"
cat "$work/heard"

# A tunnel to any local service, here to the other daemon's own API: who is allowed may do all that its user may.
p2pctl -s "$other" expose /api/1 "unix:$other" --allow "$me" 2>"$work/expose" &
running="$running $!"
said expose
p2pctl -s "$socket" forward "unix:$work/remote.sock" "$peer" /api/1 2>"$work/forward" &
running="$running $!"
said forward
p2pctl -s "$work/remote.sock" status
