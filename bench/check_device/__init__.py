"""``foldperf check-device``: a device's first minutes, in stages that each have a deadline.

One process runs all stages, so that libraries are loaded once; a supervisor ends it where a stage
overruns its deadline, and starts another on the next stage. Records are appended to
``records.jsonl`` as they are measured, ``stages.json`` has the end of each stage, and running the
command again does the missing work.

- `plan`: the stages, in order, and their shares of the budget.
- `check`: the state that stages share: device, sizes, deadline, records.
- `recorder`: records of cases that are measured within the process.
- `stages`: a module for each stage.
- `progress`: how each stage ended, on disk.
- `worker`, `supervisor`: the two processes.
- `table`: the closing table.
"""
