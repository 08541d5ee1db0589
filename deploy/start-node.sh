#!/usr/bin/env bash
# Start Ray on this machine.
#   start-node.sh head                 the head; trains nothing itself
#   start-node.sh worker HEAD[:PORT]   a node with GPUs
# More options of `ray start` may follow. Whoever reaches a Ray cluster runs code on it: so tokens
# are on (RAY_AUTH_MODE), and the dashboard and its jobs listen on loopback unless
# SPARSING_DASHBOARD_HOST says otherwise.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=nccl.sh
source "$here/nccl.sh"

: "${RAY_AUTH_MODE:=token}"
: "${SPARSING_RAY_PORT:=6379}"
: "${SPARSING_DASHBOARD_HOST:=127.0.0.1}"
: "${SPARSING_DASHBOARD_PORT:=8265}"
: "${SPARSING_METRICS_PORT:=8090}"
export RAY_AUTH_MODE
# Ray's own heavy use of file descriptors: sockets to every worker and raylet.
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"
# RDMA pins memory.
ulimit -l unlimited 2>/dev/null || echo "start-node.sh: ulimit -l stays $(ulimit -l); RDMA needs unlimited" >&2

role=${1:-}
shared=(--disable-usage-stats --metrics-export-port "$SPARSING_METRICS_PORT")
case "$role" in
  head)
    shift
    # --num-cpus 0: no shard and no measurer on the machine whose loss ends the cluster.
    exec ray start --head --port "$SPARSING_RAY_PORT" --num-cpus 0 \
      --dashboard-host "$SPARSING_DASHBOARD_HOST" --dashboard-port "$SPARSING_DASHBOARD_PORT" \
      "${shared[@]}" "$@"
    ;;
  worker)
    if [ $# -lt 2 ]; then
      echo "start-node.sh worker needs the head's address: start-node.sh worker 10.0.0.1" >&2
      exit 2
    fi
    address=$2
    shift 2
    case "$address" in *:*) ;; *) address="$address:$SPARSING_RAY_PORT" ;; esac
    exec ray start --address "$address" "${shared[@]}" "$@"
    ;;
  *)
    echo "start-node.sh: say head, or worker HEAD_ADDRESS, not '$role'" >&2
    exit 2
    ;;
esac
