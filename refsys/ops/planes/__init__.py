"""Split accumulation: sums of many partial sums in a fixed order, for gradients of shared tensors.

Programs that share a tensor each write a partial sum of their own (a plane of a dense tensor), and
one kernel adds them up. No sum is atomic, so that two runs give the same bits.
"""
