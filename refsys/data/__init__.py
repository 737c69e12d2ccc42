"""The deterministic host-device pipeline: from mmCIF, A3M and Parquet files to batches.

What is deterministic is done once and stored (`preparation`, `store`); what is random is drawn at
run time from keyed streams (`crop`, `examples`). Preparing imports biotite, gemmi and pyarrow, and
only where they are used; training and measuring need the store alone.
"""
