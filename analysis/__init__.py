"""Analysis of records: tables, fits, figures, the HTML report.

The input is records alone, through their schema in `bench.records.record`: nothing here runs a
case, and nothing else of the project is imported.
"""
