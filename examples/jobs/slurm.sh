#!/bin/bash
#SBATCH --job-name=geofilter
#SBATCH --array=1-64
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --requeue
# A scan as a Slurm array: each task makes a stretch of the shards in a run folder that all of them see. The first one
# to start reads the data, plans, and finds or builds the banks; the others wait for that, and read their own lines
# only. The last one scores. A task that is killed or requeued makes what is missing of its stretch.
#
#     sbatch examples/jobs/slurm.sh /shared/data.jsonl gemma-2-2b /shared/runs/a
#     geofilter merge /shared/runs/a        # says which parts are missing, if any are
set -euo pipefail
data=$1 model=$2 run=$3
geofilter scan "$data" --model "$model" --run "$run" --shard "$SLURM_ARRAY_TASK_ID/${SLURM_ARRAY_TASK_COUNT:-64}" --quiet
