#!/bin/sh
# PubSubService: a reader that misses nothing while it is away, and a command that judges messages. Needs jq.
# pubsub.sh SOCKET OTHER, the sockets of two daemons that are connected: what one publishes the other reads.
set -eu
socket="$1"
other="$2"
topic="example-$$"
work="$(mktemp -d)"
judge=
trap '[ -z "$judge" ] || kill "$judge" 2>/dev/null || true; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# The first subscription begins the topic's log. The file keeps where the reader is.
p2pctl -s "$other" sub "$topic" --resume "$work/cursor" -n 1 &
reader=$!
p2pctl -s "$socket" pub "$topic" "first" --wait 30s
wait "$reader"

# Nobody reads now, but the daemon keeps what comes; each line of standard input is a message.
printf '%s\n' second third | p2pctl -s "$socket" pub "$topic"
p2pctl -s "$other" sub "$topic" --resume "$work/cursor" -n 2
p2pctl -s "$other" topics show "$topic"

# From here on only what has a text is delivered and passed on. jq ends with 1 where there is none, which would cost the
# sender its place; 2 ignores the message.
p2pctl -s "$other" validate "$topic" sh -c 'jq -e .text >/dev/null || exit 2' &
judge=$!
judged() {
    p2pctl -s "$other" rpc p2pd.v1.PubSubService/GetTopic "{\"topic\": \"$topic\"}" | jq -e .topic.validated >/dev/null
}
until judged; do sleep 0.1; done
p2pctl -s "$socket" pub "$topic" '{"no": "text"}'
p2pctl -s "$socket" pub "$topic" '{"text": "good day"}'
p2pctl -s "$other" sub "$topic" --resume "$work/cursor" -n 1

p2pctl -s "$other" topics forget "$topic"
