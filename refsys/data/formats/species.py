"""Species of MSA rows: numbers from headers that agree between files."""

import hashlib
import re
from functools import lru_cache

UNKNOWN_SPECIES = -1

_TAXON = re.compile(rb"[ \t](?:OX|(?i:TaxID))=(\d{1,9})(?!\S)")
_NAME = re.compile(rb"[ \t](?:OS|Tax)=(\S.*?)[ \t]*(?=$|\t|[ ][A-Za-z]+=)")
_MNEMONIC = re.compile(
    rb"(?:^>?(?:sp|tr)\|[A-Z0-9-]+\||[ \t]RepID=)[A-Z0-9]+_([A-Z0-9]{1,5})(?![A-Za-z0-9_])"
)
# Taxa that are no species: the root, cellular organisms, the domains, viruses, unclassified,
# unidentified and other. UniRef clusters of diverse members have them.
_NOT_A_SPECIES = frozenset({0, 1, 2, 2157, 2759, 10239, 12908, 28384, 32644, 131567})
_NAMES_FROM = 1 << 30


def species_number(header: bytes, name: bytes = b"") -> int:
    """Return the number of a row's species, or −1 if it is unknown.

    A taxonomy identifier (``OX=``, ``TaxID=``) is the number itself, less than 10⁹. Without one the
    number is 2³⁰ plus 30 bits of the BLAKE2b hash of a name (``OS=``, ``Tax=``), or else of a
    UniProt mnemonic (``sp|P61769|B2MG_HUMAN``, ``RepID=B2MG_HUMAN``). A name and an identifier of
    one species thus have different numbers, so MSAs that are paired should have the same kind.
    Identifiers of strains, and of the common taxa of UniRef clusters, are used as they are.

    Args:
        header: Header of the row, with or without ``>``.
        name: Name or taxonomy identifier of the species, if the file has it beside the header.
    """
    if taxon := _TAXON.search(header):
        return _taxon_number(int(taxon[1]))
    for text in (name, *_NAME.findall(header), *_MNEMONIC.findall(header)):
        if key := b" ".join(text.lower().split()):
            return _taxon_number(int(key)) if key.isdigit() and len(key) < 10 else _name_number(key)
    return UNKNOWN_SPECIES


def _taxon_number(number: int) -> int:
    return UNKNOWN_SPECIES if number in _NOT_A_SPECIES else number


@lru_cache(maxsize=1 << 16)
def _name_number(key: bytes) -> int:
    bits = int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "big")
    return _NAMES_FROM + bits % _NAMES_FROM
