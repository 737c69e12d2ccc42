"""Shardings of other systems, implemented on the exchanges and the ledger of `RowSlab`.

They exist to be measured: the bytes and messages of each are counted in the same way. DAP and
MegaFold are layouts, on which the modules of the model run unchanged. Cannon's algorithm divides
the pair representation into tiles, and is a function of the operands of triangle multiplication.

Symbols in the docstrings: P ranks, p = √P, N tokens, c pair channels, h = heads / c, e bytes per
element, U = N² c e / P: the bytes of one rank's share of the pair representation.
"""

from refsys.parallel.row_slab import RowSlab
from refsys.parallel.schemes.cannon import Grid
from refsys.parallel.schemes.dap import DAP
from refsys.parallel.schemes.megafold import MegaFold

# Layouts by name; the first is that of this project.
LAYOUTS: dict[str, type[RowSlab]] = {"channels": RowSlab, "dap": DAP, "megafold": MegaFold}

__all__ = ["DAP", "LAYOUTS", "Grid", "MegaFold"]
