#!/usr/bin/env sh
# Scan one or more JSONL files and fail when too many rows look like harmful ones.
#
#   examples/ci/gate.sh data/new-drop.jsonl
#
# Exit codes are those of geofilter: 1 the gate is not passed, 2 a file or an option cannot be used,
# 3 the model is not available, 4 the run folder is in use or belongs to other data.
# What to scan with, and what may pass, stands in geofilter.toml or in MODEL, THRESHOLD and MAX_FLAGGED; BASELINE is an
# accepted earlier run, of which no row is counted again.
set -eu
geofilter scan "$@" ${MODEL:+--model "$MODEL"} --quiet
geofilter gate ${THRESHOLD:+--threshold "$THRESHOLD"} ${MAX_FLAGGED:+--max-flagged "$MAX_FLAGGED"} \
  ${BASELINE:+--baseline "$BASELINE"}
