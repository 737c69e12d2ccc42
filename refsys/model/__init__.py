"""AlphaFold 3 in readable PyTorch, one file per module of the paper.

Modules are written once for any number of ranks: a forward call receives a `Context`, whose layout
defines the local tokens and the exchanges with other ranks. Names and algorithm numbers are those
of the supplement (Abramson et al., Nature 2024).
"""
