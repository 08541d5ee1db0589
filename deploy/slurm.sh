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
# Ten minutes before the end Ctrl-C reaches the study, which then stops cleanly.
#SBATCH --signal=B:INT@600
#SBATCH --requeue
set -euo pipefail
study=${1:?say which study: sbatch deploy/slurm.sh my-study.yaml}
code=${SPARSING_CODE:-$SLURM_SUBMIT_DIR}
store=${SPARSING_STORE:-/shared/sparsing}
# shellcheck disable=SC1091
source "$code/.venv/bin/activate"

# A port and a folder of this job's own: nodes may hold other people's Ray.
export SPARSING_RAY_PORT=$((20000 + SLURM_JOB_ID % 20000))
export SPARSING_DASHBOARD_PORT=$((SPARSING_RAY_PORT + 20000))
# A token that only this job's user can read.
umask 077
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH="$HOME/.ray/auth_token.$SLURM_JOB_ID"
mkdir -p "$HOME/.ray"
od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH"
trap 'rm -f "$RAY_AUTH_TOKEN_PATH"' EXIT

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes 1 --ntasks 1 --nodelist "$head" hostname --ip-address | awk '{print $1}')

# On Slurm the first node trains as well: all of them are paid for.
srun --overlap --nodes 1 --ntasks 1 --nodelist "$head" \
  "$code/deploy/start-node.sh" head --node-ip-address "$address" --num-cpus "$SLURM_CPUS_PER_TASK" --block &
for attempt in $(seq 60); do
  if ray status --address "$address:$SPARSING_RAY_PORT" >/dev/null 2>&1; then break; fi
  [ "$attempt" -lt 60 ] || { echo "the head did not start" >&2; exit 1; }
  sleep 2
done
if [ "${#nodes[@]}" -gt 1 ]; then
  others=$(IFS=,; echo "${nodes[*]:1}")
  srun --overlap --nodes $((${#nodes[@]} - 1)) --ntasks-per-node 1 --nodelist "$others" \
    "$code/deploy/start-node.sh" worker "$address" --block &
fi

sparsing run "$study" --address "$address:$SPARSING_RAY_PORT" --store "$store" &
study_process=$!
trap 'kill -INT "$study_process" 2>/dev/null' INT TERM
ended=0
wait "$study_process" || ended=$?
# A signal ends the first wait; the study then stops cleanly.
if kill -0 "$study_process" 2>/dev/null; then
  ended=0
  wait "$study_process" || ended=$?
fi
exit "$ended"
