"""Costs without hardware: a program's step traced operator by operator, under fake tensors.

`trace` counts calls, FLOPs and bytes by phase, module path and operator, and follows live storages
to the peak. The same tracer runs on real tensors, where it measures what it would predict.
"""
