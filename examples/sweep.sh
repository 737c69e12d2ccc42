#!/bin/sh
# A sweep: three sizes of one operator, each in a process of its own, then a report of the records.
#
#     sh examples/sweep.sh [sweep.toml]
#
# Needs no prepared proteins. Run again, it measures only what is missing. Takes 20 s on a CPU.
set -eu
sweep=${1:-$(dirname "$0")/sweep.toml}
foldperf run "$sweep" --dry-run
foldperf run "$sweep"
foldperf report "results/runs/$(basename "$sweep" .toml)/records.jsonl" --out results/report
