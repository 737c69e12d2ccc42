"""Deterministic host-device pipeline: from mmCIF, A3M and Parquet files to batches.

The deterministic part runs once and is stored (``formats``, ``prepare``, ``store``); the random
part is sampled at run time from keyed streams (``batches``). ``prepare`` imports biotite, gemmi,
pyhmmer, RDKit and pyarrow where they are used; training and measuring need the store alone.
"""
