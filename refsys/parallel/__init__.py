"""How the pair representation is spread over ranks: layouts and their moves.

Every exchange between ranks that the model needs is a method of `Layout`. Modules never ask how
many ranks there are; they ask for the rows, columns or channels that they need.
"""

from refsys.parallel.layout import Layout, SingleRank

__all__ = ["Layout", "SingleRank"]
