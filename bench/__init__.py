"""Measurement: sweeps, isolated cases, probes, records and gates.

Planning and measuring need the standard library, NumPy and torch alone; other packages are imported
by the commands that use them. Only ``bench.cli`` imports ``analysis``.
"""
