"""The manifest of the streams: every draw that is made, what keys it and what it decides."""

import re
from functools import cache
from typing import NamedTuple


class Stream(NamedTuple):
    """A stream, or several that differ in a part of their name.

    Attributes:
        name: As `Draw` has it; ``<part>`` stands for anything.
        key: What keys it beside the seed, its own name and the index.
        decides: What its draws decide.
    """

    name: str
    key: str
    decides: str


STREAMS = (
    Stream(
        "example",
        "step, place",
        "which chain or interface a place of a batch holds, or which entry; and its substitutes",
    ),
    Stream("epoch", "epoch", "the order of the entries, where each comes once an epoch"),
    Stream("crop/kind", "step, place", "the kind of crop, where kinds are mixed"),
    Stream("crop/order", "step, place", "the order in which chains get their run of tokens"),
    Stream("crop/size", "step, place", "how long each chain's run is"),
    Stream("crop/offset", "step, place", "where each chain's run begins"),
    Stream("crop/middle", "step, place", "the token that a spatial or interface crop is near to"),
    Stream(
        "rows/<cycle>/depth",
        "step, place",
        "how many alignment rows a recycling iteration has in training",
    ),
    Stream("rows/<cycle>/paired", "step, place", "which paired rows it has, in which order"),
    Stream(
        "rows/<cycle>/<chain>",
        "step, place",
        "which others, of the alignment that this chain is the first to have",
    ),
    Stream("templates/<chain>", "step, place", "which templates, and how many"),
    Stream(
        "conformer",
        "step, place",
        "how each residue's conformer lies, index 8 r on for residue r of the structure",
    ),
    Stream(
        "conformer/choice",
        "step, place",
        "which conformer each residue has, index 4 r for residue r of the structure",
    ),
    Stream("cycles", "step", "how many recycling iterations a step has"),
    Stream(
        "dropout/<channels>/<rate>/<cycle>",
        "step, place",
        "dropout masks, row r of the table for site r",
    ),
    Stream("initialization/<parameter>", "nothing else", "initial weights"),
    Stream("noise level", "step, place", "the noise levels of a training step's samples"),
    Stream("training/noise", "step, place", "the noise of atoms, index 2³⁰ d on for sample d"),
    Stream("training/augmentation", "step, place", "the rigid motions of the noised copies"),
    Stream(
        "rollout/noise",
        "step, place",
        "noise in sampling, index 2⁴⁴ t + 2³⁰ d on for sampling step t, sample d",
    ),
    Stream("rollout/augmentation", "step, place", "rigid motions in sampling, index 2⁴⁴ t on"),
    Stream("fourier/<part>", "seed 0", "the noise level's embedding, constants of the model"),
    Stream("synthetic/<field>", "step, place", "synthetic inputs"),
    Stream("sweep order", "nothing else", "the order of a sweep's cases"),
    Stream("timing gate cases", "nothing else", "in which order the timing gate takes its cases"),
    Stream("timing gate turns", "case", "whose turn it is in a round of the timing gate"),
    Stream("operator argument", "argument", "the inputs of a single operator that is measured"),
    Stream("conventional", "step", "crop and rows of the conventional pipeline"),
)


def stream_of(name: str) -> Stream:
    """The entry of the manifest that a stream's name belongs to.

    Raises:
        KeyError: there is none.
    """
    for stream in STREAMS:
        if _pattern(stream.name).fullmatch(name):
            return stream
    raise KeyError(name)


@cache
def _pattern(name: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"<\w+>", ".+", name))
