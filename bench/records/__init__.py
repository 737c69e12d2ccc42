"""Records: what one JSON line holds, where it is stored and how it is traced to its origin.

`record` and `record.schema.json` define a record, `metrics` the metrics it may hold, `record_file`
the file it is appended to; `provenance`, `git` and `working_tree` identify code and machine;
`pytest_benchmark` imports records of another tool.
"""
