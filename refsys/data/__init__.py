"""Deterministic host-device pipeline: from mmCIF, A3M and Parquet files to batches.

The deterministic part is done once and stored (``formats``, ``prepare``, ``store``); the random
part is sampled at run time from keyed streams (``batches``). Preparing imports biotite, gemmi and
pyarrow where they are used; training and measuring need the store alone.
"""
