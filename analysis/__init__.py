"""What the records mean: tables, fits, figures, the HTML report.

Reads records (through `bench.record`, the schema) and runs nothing. Imports nothing else of the
project.
"""
