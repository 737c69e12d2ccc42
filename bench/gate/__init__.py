"""Gates: candidate against baseline, with a verdict and the reason.

The exact tier needs no hardware: `fingerprint` is what can be known of a case without running it,
and `exact` compares it with the committed baseline to the last call, FLOP and byte.
"""
