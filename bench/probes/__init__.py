"""What is measured of a program, one quantity to a file.

A probe knows phases and devices, and nothing of workloads. Time, memory and energy come from an
undisturbed pass; operators and kernels are counted in another.
"""
