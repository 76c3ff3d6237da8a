#!/usr/bin/env bash
# Train on a Slurm cluster, one task per GPU.
# Environment: GPUS (8), GPUS_PER_NODE (8), CPUS_PER_TASK (5), SRUN_ARGS (more options of srun), MASTER_PORT (drawn: two
# jobs on a node must not share one).
# A minute before its time is over, and when the node is taken away, the job gets SIGTERM: it saves at the end of the
# iteration and exits with 143. The same command with --resume goes on from there.
set -euo pipefail

if [ $# -lt 3 ]; then
    echo "usage: bash $0 PARTITION JOB_NAME CONFIG [options of tools/train.py]" >&2
    exit 2
fi
partition=$1
job_name=$2
config=$3
shift 3
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-8}
if [ "$gpus" -lt "$gpus_per_node" ]; then
    gpus_per_node=$gpus
fi

export MASTER_PORT="${MASTER_PORT:-$((20000 + RANDOM % 20000))}"
# SRUN_ARGS is a list of options: it must be split.
# shellcheck disable=SC2086
exec srun --partition "$partition" --job-name "$job_name" \
    --ntasks "$gpus" --ntasks-per-node "$gpus_per_node" --gres "gpu:$gpus_per_node" \
    --cpus-per-task "${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 --signal TERM@60 ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "${BASH_SOURCE[0]}")/train.py" "$config" --launcher slurm "$@"
