#!/usr/bin/env bash
# A study on Slurm: Ray on all nodes of one job, then the study. The same command again goes on
# where the job's time ended.
#   sbatch --nodes 4 deploy/slurm.sh my-study.yaml
#SBATCH --job-name=sparsing
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --time=48:00:00
# Ten minutes before its time is over the job is told, stops the study cleanly, and asks Slurm to
# queue it again: it goes on where it stopped. (Slurm's own --requeue is for lost nodes.)
#SBATCH --signal=B:USR1@600
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
study=${1:?say which study: sbatch deploy/slurm.sh my-study.yaml}
code=${SPARSING_CODE:-$SLURM_SUBMIT_DIR}
store=${SPARSING_STORE:-/shared/sparsing}
# shellcheck disable=SC1091
source "$code/.venv/bin/activate"

# Ports and files of this job's own, below those that Linux gives to anybody: nodes may hold other
# people's Ray.
first=$((10000 + SLURM_JOB_ID % 80 * 256))
export SPARSING_PORTS="$first-$((first + 255))"
export SPARSING_RAY_PORT=$first
export SPARSING_DASHBOARD_PORT=$((first + 8))
export SPARSING_PID_FILE="${TMPDIR:-/tmp}/sparsing-ray.$SLURM_JOB_ID.pid"
# Slurm's steps do not inherit it since 22.05.
export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
# A token that only this job's user can read.
umask 077
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$HOME/.ray/auth_token.$SLURM_JOB_ID"
mkdir -p "$HOME/.ray"
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH"
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes 1 --ntasks 1 --nodelist "$head" "$code/deploy/start-node.sh" address)

# On Slurm the first node trains as well: all of them are paid for.
srun --overlap --nodes 1 --ntasks 1 --nodelist "$head" \
  "$code/deploy/start-node.sh" head --num-cpus "$SLURM_CPUS_PER_TASK" &
for attempt in $(seq 60); do
  if ray status --address "$address:$SPARSING_RAY_PORT" >/dev/null 2>&1; then break; fi
  [ "$attempt" -lt 60 ] || { echo "the head did not start" >&2; exit 1; }
  sleep 2
done
if [ "${#nodes[@]}" -gt 1 ]; then
  others=$(IFS=,; echo "${nodes[*]:1}")
  srun --overlap --nodes $((${#nodes[@]} - 1)) --ntasks-per-node 1 --nodelist "$others" \
    "$code/deploy/start-node.sh" worker "$address" &
fi

# The shell has what runs in the background ignore SIGINT.
env --default-signal=INT sparsing run "$study" --address "$address:$SPARSING_RAY_PORT" --store "$store" &
study_process=$!
again=
trap 'again=yes; kill -INT "$study_process" 2>/dev/null' USR1
trap 'kill -INT "$study_process" 2>/dev/null' INT TERM
ended=0
wait "$study_process" || ended=$?
# A signal ends the first wait; the study then stops cleanly.
while kill -0 "$study_process" 2>/dev/null; do
  ended=0
  wait "$study_process" || ended=$?
done
if [ -n "$again" ] && [ "$ended" -ne 0 ]; then
  echo "the job's time is nearly over: the study is stopped, and queued again"
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$ended"
