"""``foldperf check-device``: a device's first minutes, in stages that each have a deadline.

One process runs all stages, so that libraries are loaded once; a supervisor ends it where a stage
overruns its deadline, and starts another on the next stage. What was measured is in
``records.jsonl`` as it comes; ``stages.json`` says how each stage ended, and running the command
again does what is missing.

- `plan`: the stages, in order, and their shares of the budget.
- `check`: the state that stages share: device, sizes, deadline, records.
- `recorder`: records of cases that are measured within the process.
- `stages`: a module for each stage.
- `progress`: how each stage ended, on disk.
- `worker`, `supervisor`: the two processes.
- `table`: the closing table.
"""
