"""Exact gate: costs of each case, compared with the committed baseline.

`fingerprint` traces a case's costs by phase, module and operator; `comparison` compares them with
the baseline to the last call, FLOP and byte; `outcome` words the result. No hardware is needed.
"""
