"""Running a sweep: cases in processes of their own, and one record for each.

`sweep` reads the TOML file; `placement`, `schedule`, `durations`, `informative_order` and
`time_limits` plan; `runner` runs the cases; `isolation`, `launch`, `case`, `ranks` and `measure`
are one case, from its process to its metrics; `verdict` and `case_records` end it with a record.
"""
