"""Workloads: the programs that are measured. Other packages add theirs through an entry point.

Imports ``refsys`` and nothing of ``bench``: a workload builds a program with named
phases and states its exact costs, independent of how it is measured.
"""
