"""The deterministic host-device pipeline: from mmCIF and A3M files to batches.

What is deterministic is done once and stored (`store`, `mmcif`, `tokens`, `alignment`); what is
random is drawn at run time from keyed streams (`crop`, `examples`). Reading mmCIF imports gemmi,
and only there; training and measuring need the store alone.
"""
