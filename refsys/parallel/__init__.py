"""Sharding of the pair representation over ranks: layouts, collectives and data parallelism.

Every exchange between ranks that the model needs is a method of `Layout`. Modules do not depend on
the number of ranks; they ask the layout for the rows, columns or channels that they need.
"""

from refsys.parallel.layout import Layout, SingleRank
from refsys.parallel.row_slab import RowSlab

__all__ = ["Layout", "RowSlab", "SingleRank"]
