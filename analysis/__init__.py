"""Analysis of records: tables, fits, figures, the HTML report.

Reads records (through `bench.records.record`, the schema) and runs nothing. Imports nothing else of
the project.
"""
