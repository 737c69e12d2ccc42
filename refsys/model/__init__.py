"""AlphaFold 3 in readable PyTorch, one file per module of the paper.

Modules are written once for any number of ranks: a forward call gets a `Context`, whose layout
says which tokens are local and moves the rest. Names and algorithm numbers are the supplement's
(Abramson et al., Nature 2024).
"""
