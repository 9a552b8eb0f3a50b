#!/bin/sh
# A chat on one topic with p2pctl and jq: each line typed is sent, what others say is printed. chat.sh [TOPIC]
# p2pctl has to be in PATH; P2PD_SOCKET names another daemon than the usual one. End it with Ctrl-D.
set -eu
topic="${1:-chat}"

p2pctl wait ready --timeout 30s >&2
me="$(p2pctl rpc p2pd.v1.NodeService/GetInfo | jq -r .peer_id)"
work="$(mktemp -d)"
reader=
trap '[ -z "$reader" ] || kill "$reader" 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# A pipe with a name, because the reader's process id is needed to end it.
mkfifo "$work/events"
p2pctl -o jsonl sub "$topic" >"$work/events" &
reader=$!
jq -r --unbuffered --arg me "$me" --arg topic "$topic" '
    if .subscribed then "you are \($me[-8:]) on \($topic)"
    elif .gap then "(some messages were lost)"
    elif .message.sender == $me then empty
    else "\(.message.sender[-8:]): \(.message.data | @base64d)" end' <"$work/events" &

while IFS= read -r line; do
    p2pctl pub -- "$topic" "$line" >"$work/sent" || { echo "not sent" >&2; continue; }
    ! grep -q ' 0 connected' "$work/sent" || echo "(nobody else follows)" >&2
done
