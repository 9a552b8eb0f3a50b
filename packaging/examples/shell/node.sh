#!/bin/sh
# NodeService: who the daemon is, how it fares, what happened. Needs jq. node.sh SOCKET
set -eu
export P2PD_SOCKET="$1"

p2pctl wait ready --timeout 30s
p2pctl status

# One of the kept events; without -n, new ones follow as they come.
p2pctl events --from-oldest -n 1

# Any unary method of the API can be called, and answers with its own field names.
p2pctl rpc p2pd.v1.NodeService/GetState | jq -r '"state: \(.state) \(.advice)"'
