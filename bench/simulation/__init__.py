"""Simulation of cases: exact costs of one rank from shapes alone, as records.

- ``stored``: form of a trace in a file.
- ``traces``: traces of cases, remembered by content.
- ``simulated``: metrics and record of a simulated case.
- ``baseline``: memory beside the tensors.
- ``predicted``: predicted time and energy of a trace on a device.
- ``plan``: configurations that fit a device, and the predicted best ones.
"""
