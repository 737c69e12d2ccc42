"""Each kind of block of the model in float64, on one rank or divided among many.

Every kind is a function of random inputs, of which each rank has its slab. Ranks that are threads
share the modules.
"""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from refsys.batch import Batch
from refsys.model.alphafold3 import AlphaFold3
from refsys.model.chunks import Chunks
from refsys.model.context import Context
from refsys.model.recycling import pair_mask
from refsys.model.template import template_features
from refsys.parallel import Layout, RowSlab
from refsys.parallel.collectives import GroupExchange
from refsys.parallel.ledger import Ledger
from refsys.parallel.shares import AtomShares
from support.atoms import with_atoms, with_templates
from support.rank_threads import on_ranks
from support.sharded_steps import MODEL
from support.trunks import FLOAT64, random_batch, randomize, whole

TOKENS, ROWS, SAMPLES = 70, 3, 2
# Parts into which the channels of triangle multiplication are divided; with many ranks, some have
# no channels at all.
CHUNKS = 2
CONFIG = dataclasses.replace(MODEL, c_atom=8, c_atompair=4, atom_heads=2, token_heads=2)


class Axis(NamedTuple):
    """Axis of a tensor that is divided among ranks.

    Attributes:
        number: Number of the axis.
        item: ``token`` or ``atom``.
    """

    number: int
    item: str = "token"

    def local(self, layout: Layout, x: Tensor) -> Tensor:
        """Return the owned part of a tensor."""
        local = layout.local if self.item == "token" else layout.local_atoms
        return local(x, self.number)


class Call(NamedTuple):
    """Arguments that all kinds of blocks have in common."""

    model: AlphaFold3
    batch: Batch
    context: Context

    @property
    def masks(self) -> tuple[Tensor, Tensor]:
        """Masks of tokens and of owned pairs."""
        return self.batch["token_mask"], pair_mask(self.batch, self.context)


Block = Callable[..., Sequence[Tensor]]


class Kind(NamedTuple):
    """Kind of block.

    Attributes:
        run: Function of a `Call` and of the inputs.
        inputs: Names of the inputs.
        outputs: Axis of each output that is divided.
    """

    run: Block
    inputs: tuple[str, ...]
    outputs: tuple[Axis, ...]


def pairformer(call: Call, s: Tensor, z: Tensor) -> Sequence[Tensor]:
    result: tuple[Tensor, ...] = call.model.pairformer.blocks[0](s, z, *call.masks, call.context)
    return result


def msa(call: Call, m: Tensor, z: Tensor) -> Sequence[Tensor]:
    rows = call.batch["alignment_row_mask"][:, 0].unsqueeze(2)
    mask = rows & call.batch["token_mask"].unsqueeze(1)
    result: tuple[Tensor, ...] = call.model.msa.blocks[0](m, z, mask, *call.masks, call.context)
    return result


def template(call: Call, z: Tensor) -> Sequence[Tensor]:
    features = template_features(call.batch, FLOAT64)
    return (call.model.template_embedder(z, features, call.masks[1], call.context),)


def token_transformer(call: Call, a: Tensor, condition: Tensor, z: Tensor) -> Sequence[Tensor]:
    transformer = call.model.diffusion.transformer
    biases = transformer.biases(z, call.context)
    return (transformer(a, condition, biases, call.masks[0], call.context),)


def atom_transformers(
    call: Call, s: Tensor, z: Tensor, position: Tensor, a: Tensor
) -> Sequence[Tensor]:
    """Return the tokens of the encoder, and the positions of the decoder with other tokens."""
    _, batch, context = call
    encoder, decoder = call.model.diffusion.atom_encoder, call.model.diffusion.atom_decoder
    atoms = encoder.condition(s, z, batch, context)
    of_encoder, of_decoder = (part.transformer.condition(atoms) for part in (encoder, decoder))
    tokens, queries = encoder(atoms.single_B1AC, of_encoder, position, batch, context)
    update = decoder(a, queries, of_decoder, batch, context)
    # Padded atoms read any token.
    return tokens, update * context.layout.local_atoms(batch["atom_mask"], 1)[:, None, :, None]


def conditioning(call: Call, s_inputs: Tensor, s: Tensor, z: Tensor) -> Sequence[Tensor]:
    diffusion = call.model.diffusion
    single = diffusion.single_conditioning
    sigma = torch.tensor([[0.5, 20.0]], dtype=torch.float64)
    levels = single.fourier.constants(torch.device("cpu"))
    pairs = diffusion.pair_conditioning(z, call.batch, call.context)
    return pairs, single(single.trunk(s, s_inputs), levels, sigma)


def confidence(call: Call, s_inputs: Tensor, s: Tensor, z: Tensor) -> Sequence[Tensor]:
    positions = call.batch["pseudo_beta"].double()
    output = call.model.confidence(s_inputs, s, z, positions, *call.masks, call.context)
    return tuple(output)


def distogram(call: Call, z: Tensor) -> Sequence[Tensor]:
    return (call.model.distogram(z, call.context),)


def input_embedder(call: Call) -> Sequence[Tensor]:
    return (call.model.input_embedder(call.batch, call.context),)


def embedders(call: Call, s_inputs: Tensor, s: Tensor, z: Tensor) -> Sequence[Tensor]:
    model, batch, context = call
    single, pairs = model.initial_embedding(s_inputs, batch, context.layout)
    m = model.alignment_embedding(s_inputs, batch, context.layout)
    return single, pairs, m, *model.recycling_embedder(s, z, context)


FIRST, SECOND = Axis(1), Axis(2)
KINDS = {
    "pairformer": Kind(pairformer, ("s", "z"), (FIRST, FIRST)),
    "msa": Kind(msa, ("m", "z"), (SECOND, FIRST)),
    "template": Kind(template, ("z",), (FIRST,)),
    "token_transformer": Kind(token_transformer, ("a", "condition", "z"), (SECOND,)),
    "atom_transformers": Kind(
        atom_transformers, ("s", "z", "position", "a"), (SECOND, Axis(2, "atom"))
    ),
    "conditioning": Kind(conditioning, ("s_inputs", "s", "z"), (FIRST, SECOND)),
    "confidence": Kind(confidence, ("s_inputs", "s", "z"), (FIRST,) * 4),
    "distogram": Kind(distogram, ("z",), (FIRST,)),
    "input_embedder": Kind(input_embedder, (), (FIRST,)),
    "embedders": Kind(embedders, ("s_inputs", "s", "z"), (FIRST, FIRST, SECOND, FIRST, FIRST)),
}
INPUTS = {
    "s": FIRST,
    "z": FIRST,
    "m": SECOND,
    "s_inputs": FIRST,
    "a": SECOND,
    "condition": SECOND,
    "position": Axis(2, "atom"),
}


@cache
def block_batch() -> Batch:
    """Return an example with a padded token and MSA row, and an atom window for each rank."""
    plain = random_batch(TOKENS - 1, ROWS)
    batch = with_templates(with_atoms(plain, least=28, most=33), count=1)
    return batch.padded(token=TOKENS, alignment_row=ROWS + 1, atom=batch.sizes["atom"] + 32)


@cache
def inputs() -> dict[str, Tensor]:
    """Return random inputs on all tokens and atoms, by name."""
    generator = torch.Generator().manual_seed(17)
    shapes = {
        "s": (TOKENS, CONFIG.c_s),
        "z": (TOKENS, TOKENS, CONFIG.c_z),
        "m": (ROWS + 1, TOKENS, CONFIG.c_m),
        "s_inputs": (TOKENS, CONFIG.c_s_inputs),
        "a": (SAMPLES, TOKENS, CONFIG.c_token),
        "condition": (SAMPLES, TOKENS, CONFIG.c_s),
        "position": (SAMPLES, block_batch().sizes["atom"], 3),
    }
    return {
        name: torch.randn(1, *shape, generator=generator, dtype=torch.float64)
        for name, shape in shapes.items()
    }


@cache
def model() -> AlphaFold3:
    """Return a model with random parameters, zero-initialized ones included."""
    result = AlphaFold3(CONFIG, FLOAT64)
    randomize(result)
    return result


class Result(NamedTuple):
    """Result of a kind of block.

    Attributes:
        outputs: Outputs, whole or of one rank.
        inputs: Gradient of each input by name; None if there is none.
        parameters: Gradient of each parameter by name, summed over ranks; of those alone that the
            block reads.
    """

    outputs: list[Tensor]
    inputs: dict[str, Tensor | None]
    parameters: dict[str, Tensor]


def run(names: Iterable[str], layout: Layout, streamed: Iterable[str] = ()) -> dict[str, Result]:
    """Return the results of some kinds of blocks on one rank, with dropout.

    Args:
        names: Kinds of blocks.
        layout: Layout of the rank.
        streamed: Those that compute all rows at once and stream the bias of triangle attention;
            the others compute a few rows at a time, and gather it.
    """
    batch, shared = block_batch(), model()
    context = Context(layout=layout, seed=7, step=3, example=batch["example"].unsqueeze(1))
    masks = shared.dropout_masks(context, torch.device("cpu"))
    at_once = Call(shared, batch, dataclasses.replace(context, masks=masks))
    in_chunks = dataclasses.replace(at_once.context, chunks=Chunks(rows=3))
    by_rows = at_once._replace(context=in_chunks)
    return {
        name: _differentiated(KINDS[name], at_once if name in streamed else by_rows)
        for name in names
    }


def _differentiated(kind: Kind, call: Call) -> Result:
    """Return the result of a kind of block for random cotangents of its outputs."""
    layout = call.context.layout
    trained = {name: p for name, p in call.model.named_parameters() if p.requires_grad}
    slabs = [
        INPUTS[name].local(layout, inputs()[name]).clone().requires_grad_() for name in kind.inputs
    ]
    outputs = kind.run(call, *slabs)
    gradients = torch.autograd.grad(
        outputs,
        [*slabs, *trained.values()],
        [
            axis.local(layout, cotangent(number, axis, output))
            for number, (axis, output) in enumerate(zip(kind.outputs, outputs, strict=True))
        ],
        allow_unused=True,
    )
    of_parameters = zip(trained, gradients[len(slabs) :], strict=True)
    return Result(
        [output.detach() for output in outputs],
        dict(zip(kind.inputs, gradients, strict=False)),
        {name: gradient for name, gradient in of_parameters if gradient is not None},
    )


def cotangent(number: int, axis: Axis, output: Tensor) -> Tensor:
    """Return random values of the shape that an output has on one rank."""
    shape = list(output.shape)
    shape[axis.number] = TOKENS if axis.item == "token" else block_batch().sizes["atom"]
    return _normal(number, tuple(shape))


@cache
def _normal(seed: int, shape: tuple[int, ...]) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@cache
def serial() -> dict[str, Result]:
    """Return the result of each kind of block on one rank."""
    return run(KINDS, whole(block_batch()), KINDS)


def divided(
    ranks: int,
    names: Iterable[str] = tuple(KINDS),
    streamed: Iterable[str] = (),
    scheme: type[RowSlab] = RowSlab,
) -> dict[str, Result]:
    """Return the results of some kinds of blocks on several ranks, put together; see `run`."""
    atoms = AtomShares.of(block_batch()["atom_token"].numpy(), ranks)

    def program(_rank: int) -> dict[str, Result]:
        layout = scheme(TOKENS, GroupExchange(ledger=Ledger()), atoms, chunks=CHUNKS)
        return run(names, layout, streamed)

    results = on_ranks(ranks, program)
    return {name: _joined(KINDS[name], [result[name] for result in results]) for name in names}


def _joined(kind: Kind, parts: Sequence[Result]) -> Result:
    outputs = zip(kind.outputs, *(part.outputs for part in parts), strict=True)
    slabs = {name: [part.inputs[name] for part in parts] for name in kind.inputs}
    parameters: Counter[str] = Counter()
    for part in parts:
        for name, gradient in part.parameters.items():
            parameters[name] = parameters[name] + gradient
    return Result(
        [torch.cat(slices, dim=axis.number) for axis, *slices in outputs],
        {
            name: None if gradients[0] is None else torch.cat(gradients, dim=INPUTS[name].number)
            for name, gradients in slabs.items()
        },
        dict(parameters),
    )
