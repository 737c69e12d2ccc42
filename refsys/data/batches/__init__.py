"""Batches of a training step: sampling, crop, features, labels, loader processes and upload.

`construction` builds the batch of one example from prepared records, `examples` that of a step.
"""
