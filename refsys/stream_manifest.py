"""Manifest of the random streams: the key and the purpose of every draw."""

import re
from functools import cache
from typing import NamedTuple


class Stream(NamedTuple):
    """One stream, or a family of streams that differ in a part of their name.

    Attributes:
        name: Name as passed to `Draw`; ``<part>`` matches any text.
        key: Key words of the stream beside the seed, the name and the global index.
        decides: Purpose of its draws.
    """

    name: str
    key: str
    decides: str


STREAMS = (
    Stream(
        "example",
        "step, example",
        "chain, interface or entry of an example of the batch, and its substitutes",
    ),
    Stream("epoch", "epoch", "order of the entries in an epoch"),
    Stream("crop/kind", "step, example", "kind of crop, if kinds are mixed"),
    Stream(
        "crop/order", "step, example", "order in which chains are given their segment of tokens"
    ),
    Stream("crop/size", "step, example", "length of each chain's segment"),
    Stream("crop/offset", "step, example", "start of each chain's segment"),
    Stream("crop/middle", "step, example", "centre token of a spatial or interface crop"),
    Stream(
        "rows/<cycle>/depth",
        "step, example",
        "MSA depth of a recycling iteration in training",
    ),
    Stream("rows/<cycle>/paired", "step, example", "paired MSA rows and their order"),
    Stream(
        "rows/<cycle>/<chain>",
        "step, example",
        "unpaired rows from the MSA of which this is the first chain",
    ),
    Stream("templates/<chain>", "step, example", "templates and their number"),
    Stream(
        "conformer",
        "step, example",
        "orientation of each residue's conformer, from index 8 r for residue r of the structure",
    ),
    Stream(
        "conformer/choice",
        "step, example",
        "conformer of each residue, index 4 r for residue r of the structure",
    ),
    Stream("cycles", "step", "number of recycling iterations of a step"),
    Stream(
        "dropout/<channels>/<rate>/<cycle>",
        "step, example",
        "dropout masks, row r of the table for site r",
    ),
    Stream("initialization/<parameter>", "none", "initial weights"),
    Stream("noise level", "step, example", "noise levels of the diffusion samples in training"),
    Stream("training/noise", "step, example", "noise of atoms, from index 2³⁰ d for sample d"),
    Stream("training/augmentation", "step, example", "rigid motions of the diffusion samples"),
    Stream(
        "rollout/noise",
        "step, example",
        "noise in sampling, from index 2⁴⁴ t + 2³⁰ d for sampling step t and sample d",
    ),
    Stream("rollout/augmentation", "step, example", "rigid motions in sampling, from index 2⁴⁴ t"),
    Stream("fourier/<part>", "seed 0", "constants of the noise level's embedding"),
    Stream("synthetic/<field>", "step, example", "synthetic inputs"),
    Stream("sweep order", "none", "order of the cases of a sweep"),
    Stream("timing gate cases", "none", "order of the cases of the timing gate"),
    Stream("timing gate turns", "case", "order of base and change in a round of the timing gate"),
    Stream("operator argument", "argument", "inputs of a measured operator"),
    Stream("conventional", "step", "crop and MSA rows of the conventional pipeline"),
)


def stream_of(name: str) -> Stream:
    """Return the manifest entry of the stream called `name`.

    Raises:
        KeyError: no entry matches.
    """
    for stream in STREAMS:
        if _pattern(stream.name).fullmatch(name):
            return stream
    raise KeyError(name)


@cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"<\w+>", ".+", name))
