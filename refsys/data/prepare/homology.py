"""Sequence search by pyhmmer: MSAs of protein chains, and matches among many sequences."""

import io
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refsys.data.formats.a3m import without_final_nul
from refsys.data.formats.compressed import read_text_of
from refsys.data.formats.file_kind import FASTA
from refsys.data.formats.msa import read_msa
from refsys.errors import DataError

# E-value: number of equally good matches that are expected by chance in the whole search.
LARGEST_E_VALUE = 1e-3
# Name of the searched sequence in an MSA.
_QUERY = "query"


class Hits(NamedTuple):
    """Matches among sequences, by query and then best first; a sequence matches itself too.

    Attributes:
        query: [hit] number of the query sequence.
        target: [hit] number of the matching sequence.
        identical: [hit] identical residues in the best local alignment of the two.
        aligned: [hit] aligned residues in it.
    """

    query: NDArray[np.int32]
    target: NDArray[np.int32]
    identical: NDArray[np.int32]
    aligned: NDArray[np.int32]


def search_version() -> str:
    """Return the version of the search: that of the package, and the E-value."""
    return f"pyhmmer {_pyhmmer().__version__}, E {LARGEST_E_VALUE}"


def hits_among(sequences: Sequence[str]) -> Hits:
    """Search each of several protein sequences among all of them.

    Raises:
        DataError: pyhmmer is missing.
    """
    hmmer = _pyhmmer().hmmer
    block = _digitized((str(number), text) for number, text in enumerate(sequences))
    rows = []
    results = hmmer.phmmer(block, block, cpus=1, E=LARGEST_E_VALUE) if sequences else ()
    for query, hits in enumerate(results):
        for hit in hits:
            best = hit.best_domain.alignment
            pairs = zip(best.hmm_sequence.upper(), best.target_sequence.upper(), strict=True)
            both = [one == two for one, two in pairs if one.isalpha() and two.isalpha()]
            rows.append((query, int(_text(hit.name)), sum(both), len(both)))
    return Hits(*np.array(rows, np.int32).reshape(-1, 4).T)


def search_msa(sequence: str, database: Path) -> dict[str, NDArray[Any]]:
    """Search a sequence in a database and return the columns of its MSA record.

    Args:
        sequence: One letter per residue.
        database: FASTA, gzip-compressed if its name ends in ``.gz``.

    Raises:
        DataError: pyhmmer is missing, or the database cannot be read.
    """
    module = _pyhmmer()
    (query,) = _digitized([(_QUERY, sequence)])
    (hits,) = module.hmmer.phmmer([query], _database(database), cpus=1, E=LARGEST_E_VALUE)
    msa = hits.to_msa(
        query.alphabet,
        sequences=[query],
        traces=[module.plan7.Trace.from_sequence(query)],
        all_consensus_cols=True,
    )
    text = io.BytesIO()
    msa.write(text, "pfam")
    with tempfile.TemporaryDirectory(prefix="foldperf-search-") as folder:
        path = Path(folder) / f"{_QUERY}.sto"
        path.write_bytes(text.getvalue())
        return read_msa(path, sequence)


def _database(path: Path) -> Any:
    """Return the sequences of a FASTA file; cached, since every search reads all of it."""
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    return _sequences(path, (status.st_mtime_ns, status.st_size))


@lru_cache(maxsize=1)
def _sequences(path: Path, state: tuple[int, int]) -> Any:
    del state
    easel = _pyhmmer().easel
    content = without_final_nul(read_text_of(path, FASTA, "FASTA"))
    try:
        with easel.SequenceFile(
            io.BytesIO(content), format="fasta", digital=True, alphabet=easel.Alphabet.amino()
        ) as file:
            sequences = file.read_block()
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path}: not FASTA: {' '.join(str(error).split())}") from None
    if not len(sequences):
        raise DataError(f"{path}: no sequences")
    return sequences


def _digitized(named: Any) -> Any:
    easel = _pyhmmer().easel
    alphabet = easel.Alphabet.amino()
    return easel.DigitalSequenceBlock(
        alphabet,
        [
            easel.TextSequence(name=name.encode(), sequence=text).digitize(alphabet)
            for name, text in named
        ],
    )


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _pyhmmer() -> Any:
    try:
        import pyhmmer
    except ImportError:
        raise DataError("sequence search needs pyhmmer: pip install 'foldperf[data]'") from None
    return pyhmmer
