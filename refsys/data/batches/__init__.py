"""Batches of a training step: sampling, crop, features, labels, loader processes and upload.

`construction` builds one example from prepared records, `examples` the examples of a step.
"""
