"""Longest sequences for a machine: predicted by tracing, measured by isolated runs.

Here belong the search for the edge, its two oracles and the records of its result.
"""
