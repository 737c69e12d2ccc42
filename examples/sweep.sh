#!/bin/sh
# A sweep: three sizes of one operator, each in a process of its own, then a report of the records.
#
#     sh examples/sweep.sh
#
# Needs no prepared proteins. Run again, it measures only what is missing. Takes 20 s on a CPU.
set -eu
foldperf run examples/sweep.toml
foldperf report results/runs/sweep/records.jsonl --out results/report
