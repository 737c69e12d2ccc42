"""Conversion of mmCIF text to BinaryCIF by biotite, with the encodings that servers use."""

import io

import numpy as np
from biotite.structure.io import pdbx

_NUMBERS = {"Cartn_x": np.float64, "Cartn_y": np.float64, "Cartn_z": np.float64, "id": np.int32}


def as_binary(text):
    """Return the bytes of a BinaryCIF file."""
    binary = pdbx.BinaryCIFFile()
    for name, block in pdbx.CIFFile.read(io.StringIO(text)).items():
        binary[name] = pdbx.BinaryCIFBlock(
            {category: _category(category, columns) for category, columns in block.items()}
        )
    out = io.BytesIO()
    pdbx.compress(binary).write(out)
    return out.getvalue()


def _category(category, columns):
    numbers = _NUMBERS if category == "atom_site" else {}
    return pdbx.BinaryCIFCategory(
        {
            name: pdbx.BinaryCIFColumn(
                pdbx.BinaryCIFData(column.data.array.astype(numbers.get(name, str))),
                None if column.mask is None else pdbx.BinaryCIFData(column.mask.array),
            )
            for name, column in columns.items()
        }
    )
