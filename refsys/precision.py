"""Precision policy: a table of the dtype of each kind of number, the same on every device.

There is no autocast. Modules take a `Precision` and cast explicitly, so that operations counted on
a CPU are those that a GPU runs.
"""

from dataclasses import dataclass

import torch

from refsys.errors import ArgumentError


@dataclass(frozen=True, kw_only=True, slots=True)
class Precision:
    """Dtype of each kind of number.

    Attributes:
        name: Name of the table in sweeps and records.
        parameters: Master weights and optimizer state.
        activations: Tensors between operators; weights are cast to this dtype where they are used.
        features: Functions of input features, such as arcsinh(charge), before they are cast to
            the dtype of activations.
        norm_statistics: Mean, variance and normalization inside LayerNorm.
        softmax: Attention logits, their maximum and their sum.
        accumulation: Sums over MSA rows, tokens and ranks.
        coordinates: Atom positions and distances.
        noise_levels: Diffusion noise levels and their embedding.
        losses: Loss computation, from the logits of a head to the scalar.
        alignments: Rigid alignment of structures.
    """

    name: str
    parameters: torch.dtype = torch.float32
    activations: torch.dtype = torch.float32
    features: torch.dtype = torch.float32
    norm_statistics: torch.dtype = torch.float32
    softmax: torch.dtype = torch.float32
    accumulation: torch.dtype = torch.float32
    coordinates: torch.dtype = torch.float32
    noise_levels: torch.dtype = torch.float32
    losses: torch.dtype = torch.float32
    alignments: torch.dtype = torch.float32


_KINDS = (
    "parameters",
    "activations",
    "features",
    "norm_statistics",
    "softmax",
    "accumulation",
    "coordinates",
    "noise_levels",
    "losses",
    "alignments",
)

PRECISIONS: dict[str, Precision] = {
    "float64": Precision(name="float64", **dict.fromkeys(_KINDS, torch.float64)),
    "float32": Precision(name="float32"),
    "bfloat16": Precision(name="bfloat16", activations=torch.bfloat16),
}


def precision(name: str) -> Precision:
    """Return the table called `name`.

    Raises:
        ArgumentError: no table has that name.
    """
    try:
        return PRECISIONS[name]
    except KeyError:
        raise ArgumentError(
            f"precision={name!r} does not exist; choose one of {', '.join(PRECISIONS)}"
        ) from None
