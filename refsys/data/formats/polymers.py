"""Types of polymers and components: mmCIF enumerations, compared without case."""

from collections import Counter
from collections.abc import Callable, Iterable
from types import MappingProxyType

PEPTIDE = "polypeptide(L)"
RNA_POLYMER = "polyribonucleotide"
DNA_POLYMER = "polydeoxyribonucleotide"
HYBRID = "polydeoxyribonucleotide/polyribonucleotide hybrid"
CYCLIC_PEPTIDE = "cyclic-pseudo-peptide"
OTHER = "other"
# `_entity_poly.type` -> kind of its chains.
POLYMER_KINDS = MappingProxyType(
    {
        PEPTIDE: "protein",
        "polypeptide(D)": "protein",
        CYCLIC_PEPTIDE: "protein",
        RNA_POLYMER: "rna",
        DNA_POLYMER: "dna",
        HYBRID: "dna",
        "peptide nucleic acid": "other",
        "polysaccharide(D)": "other",
        "polysaccharide(L)": "other",
        OTHER: "other",
    }
)
# Components that are water, whatever the type of their entity.
WATERS = frozenset({"HOH", "DOD"})


def keyword(value: str | None) -> str:
    """Return a value of an enumeration in lower case, with single blanks; empty for None."""
    return " ".join((value or "").split()).lower()


_POLYMER_TYPES = {keyword(name): name for name in POLYMER_KINDS}


def polymer_type(value: str | None) -> str | None:
    """Return the dictionary's spelling of an `_entity_poly.type`, None if it is unknown."""
    return _POLYMER_TYPES.get(keyword(value))


def polymer_kind(component_type: str | None) -> str | None:
    """Return the kind of polymer that a component links into: protein, rna or dna.

    Args:
        component_type: A `_chem_comp.type`.

    Returns:
        The kind; None for a component that links into no polymer, such as most ligands.
    """
    text = keyword(component_type)
    if "link" not in text and "termin" not in text:
        return None
    return next((kind for kind in ("rna", "dna") if kind in text.split()), None) or (
        "protein" if "peptide" in text else None
    )


def inferred_type(components: Iterable[str], kind_of: Callable[[str], str | None]) -> str:
    """Return the polymer type that most components of a sequence link into.

    Args:
        components: Components of the sequence.
        kind_of: Function from a component to the kind of polymer that it links into, see
            `polymer_kind`.
    """
    kinds = Counter(kind for component in components if (kind := kind_of(component)))
    if not kinds:
        return OTHER
    if kinds.most_common(1)[0][0] == "protein":
        return PEPTIDE
    if kinds["rna"] and kinds["dna"]:
        return HYBRID
    return RNA_POLYMER if kinds["rna"] else DNA_POLYMER
