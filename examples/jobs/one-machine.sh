#!/bin/bash
# A scan on every GPU of one machine, a process for each: without Ray, and with the same bytes as one process.
#
#     examples/jobs/one-machine.sh data.jsonl gemma-2-2b runs/a 8
#
# With Ray the same is: geofilter scan data.jsonl --model gemma-2-2b --run runs/a --engine ray
set -euo pipefail
data=$1 model=$2 run=$3 n=$4
pids=()
for ((i = 1; i <= n; i++)); do
  CUDA_VISIBLE_DEVICES=$((i - 1)) geofilter scan "$data" --model "$model" --run "$run" --shard "$i/$n" --quiet &
  pids+=($!)
done
failed=0
for pid in "${pids[@]}"; do wait "$pid" || failed=$?; done
# What is missing is named; where nothing is, the last process has completed the run already.
geofilter merge "$run" --quiet
exit "$failed"
