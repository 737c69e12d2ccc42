"""Gates: candidate against baseline, with a verdict and the reason.

The exact tier needs no hardware: `fingerprint` is what can be known of a case without running it,
and `exact` compares it with the committed baseline to the last call, FLOP and byte.

The timing tier compares two source trees on this machine: `source_trees` puts them side by side,
`timing_block` has fresh processes of both take turns (`measuring_process` seen from the gate,
`timing_process` from within), `timing_verdict` judges their ratios and `timing` is the whole.

`exact_outcome` and `timing_outcome` put either's findings in words; `markdown` and `junit` write
them down.
"""
