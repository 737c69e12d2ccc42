"""Species of alignment rows: headers to numbers that agree between files."""

import hashlib
import re
from functools import lru_cache

UNKNOWN_SPECIES = -1

_TAXON = re.compile(rb"[ \t](?:OX|(?i:TaxID))=(\d{1,9})(?!\S)")
_NAME = re.compile(rb"[ \t](?:OS|Tax)=(\S.*?)[ \t]*(?=$|\t|[ ][A-Za-z]+=)")
_MNEMONIC = re.compile(
    rb"(?:^>?(?:sp|tr)\|[A-Z0-9-]+\||[ \t]RepID=)[A-Z0-9]+_([A-Z0-9]{1,5})(?![A-Za-z0-9_])"
)
# Taxa of UniRef clusters whose members have next to nothing in common: the root, cellular
# organisms, the domains, viruses, and what is unclassified, unidentified or other.
_NOT_A_SPECIES = frozenset({0, 1, 2, 2157, 2759, 10239, 12908, 28384, 32644, 131567})
_NAMES_FROM = 1 << 30


def species_number(header: bytes, name: bytes = b"") -> int:
    """The number of the species that a row is of, or −1 where nothing says so.

    A taxonomy identifier (``OX=``, ``TaxID=``) is the number itself, less than 10⁹. Without one it
    is 2³⁰ and 30 bits of the BLAKE2b of a name (``OS=``, ``Tax=``), or else of a UniProt mnemonic
    (``sp|P61769|B2MG_HUMAN``, ``RepID=B2MG_HUMAN``). So a name and an identifier of one species
    have different numbers: a row should say what the rows that it is paired with say. Identifiers
    of strains, and of the taxa common to UniRef clusters, are taken as they are.

    Args:
        header: The row's header, with or without ``>``.
        name: The species' name or taxonomy identifier, where the file gives it beside the header.
    """
    if found := _TAXON.search(header):
        return _taxon(int(found[1]))
    for text in (name, *_NAME.findall(header), *_MNEMONIC.findall(header)):
        if key := b" ".join(text.lower().split()):
            return _taxon(int(key)) if key.isdigit() and len(key) < 10 else _hashed(key)
    return UNKNOWN_SPECIES


def _taxon(number: int) -> int:
    return UNKNOWN_SPECIES if number in _NOT_A_SPECIES else number


@lru_cache(maxsize=1 << 16)
def _hashed(key: bytes) -> int:
    bits = int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "big")
    return _NAMES_FROM + bits % _NAMES_FROM
