"""How it is measured: sweeps, isolated cases, probes, records, simulation, gates.

Planning and measuring need the standard library, NumPy and torch alone; what needs more is imported
by the command that uses it. Only ``bench.cli`` imports ``analysis``.
"""
