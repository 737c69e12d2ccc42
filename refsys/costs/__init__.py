"""Cost model: calls, FLOPs, bytes, memory and communication of a program, from shapes alone.

A program (`program.Program`) is a sequence of phases on a module; no module here depends on
workloads.

- ``prediction``: trace a program under fake tensors, and fake ranks, without computing anything.
- ``trace``: the tracer and its result; on real tensors it measures what it would predict.
- ``storages``, ``module_paths``, ``collectives``, ``repeated_blocks``, ``block_insertion``,
  ``output_cache``, ``project_operators``: its parts.
- ``flops``, ``exponentials``, ``operator_kinds``: formulas and classes of operators.
- ``roofline``: rates of a device, and the least time that they allow.
- ``devices``, ``machines``: rates, memory, power and links of devices, from their documents.
- ``achievable``: fractions of these rates that operators achieve, assumed or fitted.
- ``time_model``, ``links``, ``energy_model``: time and energy of a traced step on a device.
"""
