"""Reader of BinaryCIF: the categories of a structure, as the text format represents them.

biotite decodes the columns (Sehnal et al., PLOS Comput. Biol. 2020); after that both formats are
the same tables of strings.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from refsys.data.formats.compressed import check_kind, read_bytes
from refsys.data.formats.file_kind import BINARY_CIF

_CATEGORIES = (
    *("entry", "atom_site", "entity", "entity_poly", "entity_poly_seq", "struct_asym"),
    *("struct_conn", "chem_comp", "chem_comp_bond", "refine", "em_3d_reconstruction"),
    *("pdbx_struct_assembly", "pdbx_struct_assembly_gen", "pdbx_struct_oper_list"),
    *("pdbx_audit_revision_history", "pdbx_database_status"),
)
# Limit of the unpacked size that an encoding declares: ten times the largest known structure.
_MOST_VALUES = 1 << 26
_INAPPLICABLE, _MISSING = 1, 2


def read_binary_cif(path: Path) -> Any:
    """Return the gemmi document of a BinaryCIF file, gzip-compressed if its name ends in ``.gz``.

    Raises:
        DataError: the file cannot be read or unpacked.
        Exception: it is not BinaryCIF; the libraries raise several unrelated classes.
    """
    import msgpack
    from biotite.structure.io.pdbx import BinaryCIFFile
    from gemmi import cif

    packed = read_bytes(path)
    check_kind(path, packed, BINARY_CIF)
    content = msgpack.unpackb(packed, raw=False)
    if any(size > _MOST_VALUES for size in _declared_sizes(content)):
        raise ValueError("a column claims to unpack to more values than a structure has")
    document = cif.Document()
    for name, source in BinaryCIFFile.deserialize(content).items():
        block = document.add_new_block(name)
        for category in (category for category in _CATEGORIES if category in source):
            columns = {name: _values(column) for name, column in source[category].items()}
            block.set_mmcif_category(f"_{category}.", columns)
    return document


def _declared_sizes(content: Any) -> Iterator[int]:
    """Yield the number of values that each encoding of a file unpacks to.

    Raises:
        ValueError: an encoding that repeats values does not declare its size.
    """
    pending = [content]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            if part.get("kind") in {"RunLength", "IntegerPacking"}:
                size = part.get("srcSize")
                if not isinstance(size, int) or size < 0:
                    raise ValueError(f"{part['kind']} without its size")
                yield size
            pending += part.values()
        elif isinstance(part, list):
            pending += part


def _values(column: Any) -> list[str | bool | None]:
    """Return strings; None where missing, False where inapplicable, as gemmi has it."""
    texts: list[str] = column.data.array.astype(str).tolist()
    # Some writers have no mask and use the text format's placeholders as values.
    placeholders: dict[str, bool | None] = {".": False, "?": None}
    values: list[str | bool | None] = [placeholders.get(text, text) for text in texts]
    if column.mask is None:
        return values
    masks = column.mask.array.tolist()
    absent: dict[int, bool | None] = {_INAPPLICABLE: False, _MISSING: None}
    return [absent.get(mask, value) for mask, value in zip(masks, values, strict=True)]
