"""Notes on a file: items left out or read in an unusual way, counted by kind, with an example."""

from typing import NamedTuple


class NoteKind(NamedTuple):
    """Wording of a kind of note after its count.

    Attributes:
        one: For a count of 1, as in ``connection matches no atom``.
        several: For larger counts, as in ``connections match no atom``.
    """

    one: str
    several: str


class Notes:
    """Collection of notes, counted by kind; each kind becomes one sentence."""

    def __init__(self) -> None:
        self._sentences: list[str] = []
        self._instances: dict[NoteKind, dict[str, None]] = {}

    def state(self, sentence: str) -> None:
        """Add a sentence about the file as a whole."""
        self._sentences.append(sentence)

    def add(self, kind: NoteKind, instance: str) -> None:
        """Count an instance; equal texts count once."""
        self._instances.setdefault(kind, {})[" ".join(instance.split())] = None

    def sentences(self) -> tuple[str, ...]:
        """Return one sentence per kind, as in ``2 connections match no atom, first: A 4 NZ``."""
        counted = [
            f"{len(instances)} {kind.one if len(instances) == 1 else kind.several}, "
            f"first: {next(iter(instances))}"
            for kind, instances in self._instances.items()
        ]
        return (*self._sentences, *counted)
