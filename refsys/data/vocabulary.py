"""Residue classes: 20 amino acids, unknown, gap, 4 ribo-, 4 deoxyribonucleotides, unknown base.

The order and the 31 classes are the released model's.
"""

from types import MappingProxyType

import numpy as np

AMINO_ACIDS = MappingProxyType(
    {
        "ALA": "A",
        "ARG": "R",
        "ASN": "N",
        "ASP": "D",
        "CYS": "C",
        "GLN": "Q",
        "GLU": "E",
        "GLY": "G",
        "HIS": "H",
        "ILE": "I",
        "LEU": "L",
        "LYS": "K",
        "MET": "M",
        "PHE": "F",
        "PRO": "P",
        "SER": "S",
        "THR": "T",
        "TRP": "W",
        "TYR": "Y",
        "VAL": "V",
    }
)
UNKNOWN = 20
GAP = 21
RNA = ("A", "G", "C", "U")
DNA = ("DA", "DG", "DC", "DT")
UNKNOWN_BASE = 30
RESIDUE_CLASSES = 31

# Component name -> class, for components that are a single token.
RESIDUE_TYPES = MappingProxyType(
    {name: code for code, name in enumerate(AMINO_ACIDS)}
    | {"UNK": UNKNOWN}
    | {name: 22 + code for code, name in enumerate(RNA)}
    | {name: 26 + code for code, name in enumerate(DNA)}
    | {"N": UNKNOWN_BASE, "DN": UNKNOWN_BASE}
)

PURINES = frozenset({"A", "G", "DA", "DG"})
NUCLEOTIDES = frozenset({*RNA, *DNA, "N", "DN"})

_ILLEGAL = 255


def _letters() -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    """Return the residue class of each byte of a protein MSA, as the released model maps it.

    B (Asx) is read as aspartate, Z (Glx) as glutamate, U (selenocysteine) as cysteine; J, O and X
    are unknown.
    """
    table = np.full(256, _ILLEGAL, dtype=np.uint8)
    for code, letter in enumerate(AMINO_ACIDS.values()):
        table[ord(letter)] = code
    for letter, equivalent in zip("BZU", "DEC", strict=True):
        table[ord(letter)] = table[ord(equivalent)]
    for letter in "JOX":
        table[ord(letter)] = UNKNOWN
    table[ord("-")] = GAP
    return table


# Byte -> class for aligned columns of a protein MSA; 255 for an illegal byte.
PROTEIN_LETTERS = _letters()
ILLEGAL_LETTER = _ILLEGAL

ELEMENTS = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se "
    "Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy "
    "Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf "
    "Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
).split()
ATOMIC_NUMBERS = MappingProxyType(
    {symbol.upper(): number for number, symbol in enumerate(ELEMENTS)} | {"D": 1}
)
