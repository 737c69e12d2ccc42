"""Probes: measurements of a program, one quantity in each file.

Probes use phases and devices and are independent of workloads. Time, memory and energy come from an
undisturbed pass; operators and kernels are counted in a separate one.
"""
