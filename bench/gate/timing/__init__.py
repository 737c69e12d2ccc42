"""Timing gate: paired processes of two source trees on this machine.

`source_trees` checks out both trees, `block` runs fresh processes of both in turns
(`measuring_process` is the gate's side of a process, `process` the script that it runs), `verdict`
tests the ratios, `gate` runs the whole, `outcome` words the result.
"""
