"""What is measured. Each workload is a class that others may add through an entry point.

Imports ``refsys`` and nothing of ``bench``: a workload builds a program with named phases and knows
its exact facts, but not who measures it or how.
"""
