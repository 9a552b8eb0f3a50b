#!/bin/sh
# DhtService: one daemon says that it has something, the other finds out who has it. Needs jq.
# dht.sh SOCKET OTHER, the sockets of two daemons of one network.
set -eu
socket="$1"
other="$2"
key="example-$$"
peer="$(p2pctl -s "$other" rpc p2pd.v1.NodeService/GetInfo | jq -r .peer_id)"

# Said again every 12 hours, until it is stopped or the daemon ends.
p2pctl -s "$other" dht provide "$key"
p2pctl -s "$socket" dht providers "$key"
p2pctl -s "$socket" dht find-peer "$peer"

# Others forget within 48 hours.
p2pctl -s "$other" dht stop "$key"
