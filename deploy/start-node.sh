#!/usr/bin/env bash
# Keep Ray running on this machine: started, and started again whenever it has ended (a raylet that
# was cut off ends itself, and a machine that came back has none). SIGTERM ends it.
#   start-node.sh head                 the head; trains nothing itself
#   start-node.sh worker HEAD[:PORT]   a node with GPUs
#   start-node.sh background ROLE ...  the same, left running when this returns: once Ray is up
#   start-node.sh stop                 end what was started here before
#   start-node.sh address              the address of this node that the others are told
# More options of `ray start` may follow. Whoever reaches a Ray cluster runs code on it: so tokens
# are on (RAY_AUTH_MODE), and the dashboard and its jobs listen on loopback unless
# SPARSING_DASHBOARD_HOST says otherwise.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source-path=SCRIPTDIR source=nccl.sh
source "$here/nccl.sh"

: "${RAY_AUTH_MODE:=token}"
# All ports that Ray listens at, on every node; README.md has the list for a firewall.
: "${SPARSING_PORTS:=20000-20999}"
first=${SPARSING_PORTS%-*} last=${SPARSING_PORTS#*-}
: "${SPARSING_RAY_PORT:=$first}"
: "${SPARSING_METRICS_PORT:=$((first + 7))}"
: "${SPARSING_DASHBOARD_HOST:=127.0.0.1}"
: "${SPARSING_DASHBOARD_PORT:=8265}"
: "${SPARSING_PID_FILE:=$HOME/.sparsing-ray.$(uname -n).pid}"
: "${SPARSING_RAY_LOG:=$HOME/.sparsing-ray.$(uname -n).log}"
# A node that does not answer is lost to the cluster after 5 * (3 + 5) = 40 s at most; Ray's own
# values make it 65 s. Cuts of 10 s cost nothing but the time.
: "${RAY_health_check_period_ms:=3000}"
: "${RAY_health_check_timeout_ms:=5000}"
: "${RAY_health_check_failure_threshold:=5}"
# A node that does not reach the head ends its Ray after so long, and tries to join again.
: "${RAY_gcs_rpc_server_reconnect_timeout_s:=60}"
again_seconds=${SPARSING_AGAIN_SECONDS:-5}
export RAY_AUTH_MODE RAY_health_check_period_ms RAY_health_check_timeout_ms
export RAY_health_check_failure_threshold RAY_gcs_rpc_server_reconnect_timeout_s

say() { echo "start-node.sh: $*" >&2; }

# The address by which this node reaches another: not the 127.0.1.1 of Debian's /etc/hosts.
address_towards() {
  local found
  found=$(ip -o route get "$1" 2>/dev/null | sed -n 's/.* src \([0-9a-f.:]*\).*/\1/p')
  echo "${found:-$(hostname -I 2>/dev/null | awk '{print $1}')}"
}

stop_other() {
  local other
  [ -f "$SPARSING_PID_FILE" ] || return 0
  other=$(cat "$SPARSING_PID_FILE")
  if [ -n "$other" ] && [ "$other" != $$ ] &&
    tr '\0' ' ' <"/proc/$other/cmdline" 2>/dev/null | grep -q start-node.sh; then
    kill -TERM "$other"
    for _ in $(seq 300); do kill -0 "$other" 2>/dev/null || break; sleep 0.1; done
  fi
  rm -f "$SPARSING_PID_FILE"
}

in_background() {
  : >"$SPARSING_RAY_LOG"
  nohup setsid "${BASH_SOURCE[0]}" "$@" >>"$SPARSING_RAY_LOG" 2>&1 </dev/null &
  local keeper=$!
  for _ in $(seq 120); do
    if grep -q "Ray runtime started" "$SPARSING_RAY_LOG"; then exit 0; fi
    kill -0 "$keeper" 2>/dev/null || break
    sleep 1
  done
  say "Ray has not started on $(uname -n); $SPARSING_RAY_LOG ends with"
  tail -n 20 "$SPARSING_RAY_LOG" >&2
  # One that only waits for its head goes on trying.
  if kill -0 "$keeper" 2>/dev/null; then exit 0; fi
  exit 1
}

nowhere=192.0.2.1 # an address of no machine: the way to it is the default route
role=${1:-}
case "$role" in
  address)
    echo "${SPARSING_NODE_ADDRESS:-$(address_towards "$nowhere")}"
    exit 0
    ;;
  background)
    shift
    in_background "$@"
    ;;
  head)
    shift
    # --num-cpus 0: no shard on the machine whose loss ends the cluster. What asks for no CPU may be
    # there: controllers, law services, and measurers where there are no GPUs for them.
    role_options=(--head --port "$SPARSING_RAY_PORT" --num-cpus 0
      --ray-client-server-port $((first + 1))
      --dashboard-host "$SPARSING_DASHBOARD_HOST" --dashboard-port "$SPARSING_DASHBOARD_PORT")
    towards=$nowhere
    ;;
  worker)
    if [ $# -lt 2 ]; then
      say "worker needs the head's address: start-node.sh worker 10.0.0.1"
      exit 2
    fi
    address=$2
    shift 2
    case "$address" in *:*) ;; *) address="$address:$SPARSING_RAY_PORT" ;; esac
    role_options=(--address "$address")
    towards=${address%:*}
    ;;
  stop)
    stop_other
    exit 0
    ;;
  *)
    say "say head, worker HEAD_ADDRESS or stop, not '$role'"
    exit 2
    ;;
esac
if ! [ "$first" -gt 1023 ] 2>/dev/null || ! [ "$last" -le 65535 ] 2>/dev/null ||
  [ $((last - first)) -lt 99 ]; then
  say "SPARSING_PORTS=$SPARSING_PORTS: write FIRST-LAST, at least a hundred ports above 1023"
  exit 2
fi
if read -r lowest _ 2>/dev/null </proc/sys/net/ipv4/ip_local_port_range && [ "$last" -ge "$lowest" ]; then
  say "SPARSING_PORTS=$SPARSING_PORTS reaches into the ports that Linux gives to anybody, from $lowest on"
fi
# Ray's own heavy use of file descriptors: sockets to every worker and raylet.
ulimit -n 65536 2>/dev/null || ulimit -n "$(ulimit -Hn)"
# RDMA pins memory.
ulimit -l unlimited 2>/dev/null || say "ulimit -l stays $(ulimit -l); RDMA needs unlimited"

stop_other
echo $$ >"$SPARSING_PID_FILE"
ray_process=
ending=
# shellcheck disable=SC2317,SC2329 # called by the trap
end() {
  ending=yes
  if [ -n "$ray_process" ]; then kill -TERM "$ray_process" 2>/dev/null || true; fi
}
trap end INT TERM
while [ -z "$ending" ]; do
  node_address=${SPARSING_NODE_ADDRESS:-$(address_towards "$towards")}
  ray start "${role_options[@]}" ${node_address:+--node-ip-address "$node_address"} \
    --node-manager-port $((first + 2)) --object-manager-port $((first + 3)) \
    --runtime-env-agent-port $((first + 4)) --dashboard-agent-grpc-port $((first + 5)) \
    --dashboard-agent-listen-port $((first + 6)) --metrics-export-port "$SPARSING_METRICS_PORT" \
    --min-worker-port $((first + 10)) --max-worker-port "$last" \
    --disable-usage-stats --block "$@" &
  ray_process=$!
  ended=0
  wait "$ray_process" || ended=$?
  if [ -n "$ending" ]; then
    # A signal ended the first wait; Ray then ends its processes.
    wait "$ray_process" 2>/dev/null || true
    break
  fi
  if [ "$ended" -eq 2 ]; then
    say "ray start refuses its options"
    exit 2
  fi
  say "Ray has ended with code $ended on $(uname -n); started again in $again_seconds s"
  sleep "$again_seconds" &
  wait $! || true
done
rm -f "$SPARSING_PID_FILE"
