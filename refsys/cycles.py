"""How many recycling iterations a step has."""

from refsys.streams import Draw


def cycles_of(seed: int, most: int, step: int) -> int:
    """A number from 1 to `most`, drawn for a step: the same for all examples and ranks."""
    return 1 + Draw(seed, "cycles", step).below(most)
