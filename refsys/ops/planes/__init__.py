"""Sums of many parts in a fixed order: what the gradients of shared tensors end with.

Programs that share a tensor each leave their part in a plane of their own, and one kernel adds the
planes up. No sum is atomic, so that two runs give the same bits.
"""
