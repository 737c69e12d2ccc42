"""Bytes that a rank of a row slab sends to others, in closed form, by operator and direction.

The forms follow from who owns what, not from the code that moves data. A rank owns R of N tokens,
A atoms, and c of C channels while these are divided:

- a gather sends the owned values to P − 1 ranks; its dual sends each rank the gradient of what that
  rank owns, N − R tokens in all;
- a swap of axes sends R (N − R) positions both ways;
- rows to channels sends R N positions of the channels of others, C − c; its dual sends the N − R
  rows of others of the own c channels;
- channel groups send each element of an operand to all ranks whose block needs it, and each of the
  result to its owner; the duals go the other way;
- an interval that rank q reads, [a, b), is sent by its owners: a rank sends the items that it owns
  of it. The dual sends the gradient of the items that a rank reads and others own.
"""

from dataclasses import dataclass

from refsys.batch import ATOM_HALO
from refsys.config import ModelConfig
from refsys.model.confidence import ATOMS_PER_TOKEN, PDE_BINS, PLDDT_BINS
from refsys.parallel.channel_groups import BlockGrid
from refsys.parallel.ledger import Ledger
from refsys.parallel.shares import AtomShares, Interval, shares
from refsys.precision import Precision

COUNT_BYTES = 8


@dataclass(frozen=True)
class Volume:
    """Elements or bytes that a rank sends.

    Attributes:
        forward: In the forward pass.
        backward: In the backward pass, of gradients.
        recomputed: In the backward pass, where blocks run again.
    """

    forward: int = 0
    backward: int = 0
    recomputed: int = 0

    def __add__(self, other: "Volume") -> "Volume":
        return Volume(
            self.forward + other.forward,
            self.backward + other.backward,
            self.recomputed + other.recomputed,
        )

    def __mul__(self, factor: int) -> "Volume":
        return Volume(self.forward * factor, self.backward * factor, self.recomputed * factor)

    def repeated(self, rounds: int) -> "Volume":
        """Return the volume of rounds of which the last alone has gradients."""
        return Volume(self.forward * rounds, self.backward, self.recomputed)

    def without_gradients(self) -> "Volume":
        """Return the volume of the same moves without a backward pass."""
        return Volume(self.forward)

    def recomputing(self) -> "Volume":
        """Return the volume of a block that runs again in the backward pass."""
        return Volume(self.forward, self.backward, self.forward)


Volumes = dict[str, Volume]


class Moves:
    """Elements that one rank sends in each move of a row slab."""

    def __init__(self, tokens: int, rank: int, ranks: int, atoms: AtomShares | None = None) -> None:
        self.tokens, self.rank, self.ranks = tokens, rank, ranks
        self.slabs = shares(tokens, ranks)
        self.rows = self.slabs[rank][1] - self.slabs[rank][0]
        self.atoms = atoms

    def gather(self, width: int) -> Volume:
        """`width` values of each token."""
        return Volume(self.rows * (self.ranks - 1) * width, (self.tokens - self.rows) * width)

    def gather_pairs(self, width: int) -> Volume:
        """`width` values of each pair of tokens, at once or streamed."""
        return self.gather(self.tokens * width)

    def gather_atoms(self, width: int) -> Volume:
        first, stop = self._atoms.slabs[self.rank]
        owned = stop - first
        return Volume(owned * (self.ranks - 1) * width, (self._atoms.atoms - owned) * width)

    def swap(self, width: int) -> Volume:
        """Rows to columns, or columns to rows."""
        positions = self.rows * (self.tokens - self.rows)
        return Volume(positions * width, positions * width)

    def to_channels(self, width: int) -> Volume:
        first, stop = shares(width, self.ranks)[self.rank]
        own = stop - first
        others = self.tokens - self.rows
        return Volume(self.rows * self.tokens * (width - own), others * self.tokens * own)

    def to_rows(self, width: int) -> Volume:
        dual = self.to_channels(width)
        return Volume(dual.backward, dual.forward)

    def by_channel_groups(self, width: int, grid: BlockGrid, *, outgoing: bool) -> Volume:
        """Both operands to the blocks of the ranks that compute them, and the result back."""
        n, owned = self.tokens, self.slabs[self.rank]
        members = self.ranks // grid.groups
        group, member = divmod(self.rank, members)
        row, column = divmod(group, grid.columns)
        block = shares(n, grid.rows)[row], shares(n, grid.columns)[column]
        rows, columns = (stop - first for first, stop in block)
        first, stop = shares(width, members)[member]
        own = stop - first
        # Of the block's rows and columns, those that this rank has itself.
        kept = [common(owned, interval) for interval in block]
        result = own * columns * (rows - kept[0])
        gradient = self.rows * n * width - own * columns * kept[0]
        copies = sum(grid)
        if outgoing:
            sent = n * (self.rows * width * copies - own * sum(kept))
            returned = n * own * (rows + columns - sum(kept))
        else:
            sent = self.rows * (n * width * copies - own * (rows + columns))
            returned = (n - self.rows) * own * (rows + columns)
        return Volume(sent + result, returned + gradient)

    def halo(self, width: int) -> Volume:
        slabs = self._atoms.slabs
        read = [(first - ATOM_HALO, stop + ATOM_HALO) for first, stop in slabs]
        return self._intervals(slabs, read) * width

    def tokens_of_atoms(self, width: int) -> Volume:
        return self._intervals(self.slabs, self._atoms.tokens) * width

    def sum_to_tokens(self, width: int) -> Volume:
        dual = self.tokens_of_atoms(width)
        return Volume(dual.backward, dual.forward)

    def pairs_of_atoms(self, width: int) -> Volume:
        columns = [stop - first for first, stop in self._atoms.key_tokens]
        weights = [count * width for count in columns]
        return self._intervals(self.slabs, self._atoms.tokens, weights)

    def sum_ranks(self, count: int) -> Volume:
        """A sum that every rank uses alike: its gradient is not sent."""
        return Volume(count * (self.ranks - 1))

    @property
    def _atoms(self) -> AtomShares:
        assert self.atoms is not None
        return self.atoms

    def _intervals(
        self,
        owned: tuple[Interval, ...],
        read: list[Interval] | tuple[Interval, ...],
        weights: list[int] | None = None,
    ) -> Volume:
        """Items that this rank owns and others read; backward, that it reads and others own."""
        weights = weights or [1] * self.ranks
        others = [q for q in range(self.ranks) if q != self.rank]
        forward = sum(weights[q] * common(owned[self.rank], read[q]) for q in others)
        backward = sum(weights[self.rank] * common(owned[q], read[self.rank]) for q in others)
        return Volume(forward, backward)


def common(first: Interval, second: Interval) -> int:
    """Return the number of items that two intervals share."""
    return max(0, min(first[1], second[1]) - max(first[0], second[0]))


class Operators:
    """Bytes that one rank sends in each operator of a model, of one example each."""

    def __init__(self, moves: Moves, config: ModelConfig, precision: Precision) -> None:
        self.moves, self.config, self.precision = moves, config, precision
        self.item = precision.activations.itemsize

    def triangle_multiplication(self, c: int) -> Volume:
        """Both operands go to channels and the result comes back."""
        return (self.moves.to_channels(c) * 2 + self.moves.to_rows(c)) * self.item

    def triangle_attention_starting(self) -> Volume:
        return self.moves.gather_pairs(self.config.pair_heads) * self.item

    def triangle_attention_ending(self, c: int) -> Volume:
        return self.triangle_attention_starting() + self.moves.swap(c) * 2 * self.item

    def pair_stack(self, c: int) -> Volumes:
        """Five pair updates; the transition sends nothing."""
        attention = self.triangle_attention_starting() + self.triangle_attention_ending(c)
        multiplication = self.triangle_multiplication(c) * 2
        return {"triangle_multiplication": multiplication, "triangle_attention": attention}

    def attention_pair_bias(self) -> Volume:
        """Keys and values."""
        return self.moves.gather(2 * self.config.c_s) * self.item

    def pairformer_block(self) -> Volumes:
        return {
            "attention_pair_bias": self.attention_pair_bias(),
            **self.pair_stack(self.config.c_z),
        }

    def outer_product_mean(self, alignment_rows: int) -> Volume:
        return self.moves.gather(alignment_rows * self.config.outer_product_width) * self.item

    def pair_weighted_averaging(self, alignment_rows: int) -> Volume:
        return self.moves.gather(alignment_rows * self.config.c_m) * self.item

    def embedding(self) -> Volume:
        return self.moves.gather(self.config.c_z) * self.item

    def diffusion_attention(self, samples: int) -> Volume:
        """Keys and values of every sample."""
        return self.moves.gather(2 * samples * self.config.c_token) * self.item

    def atom_attention(self, samples: int) -> Volume:
        """Keys and values of every sample."""
        return self.moves.halo(2 * samples * self.config.c_atom) * self.item

    def atom_pairs(self) -> Volume:
        """One end of each pair of atoms."""
        return self.moves.halo(self.config.c_atompair) * self.item

    def token_sums(self, samples: int, width: int) -> Volume:
        accumulated = self.moves.sum_to_tokens(samples * width)
        return accumulated * self.precision.accumulation.itemsize

    def tokens_of_atoms(self, samples: int) -> Volume:
        return self.moves.tokens_of_atoms(samples * self.config.c_atom) * self.item

    def token_pairs_of_atoms(self) -> Volume:
        return self.moves.pairs_of_atoms(self.config.c_atompair) * self.item

    def positions(self, samples: int) -> Volume:
        return self.moves.gather_atoms(3 * samples) * self.precision.coordinates.itemsize

    def heads(self) -> Volume:
        """Columns of the confidence head's pairs; logits of PDE and distogram, made symmetric."""
        symmetric = self.moves.swap(PDE_BINS + self.config.distogram_bins)
        return (self.moves.gather(self.config.c_z) + symmetric) * self.item

    def losses(self, samples: int) -> Volume:
        """Logits of atoms, and sums with their counts.

        Four losses of the confidence head and the distogram have a sum and a count each; the
        diffusion loss sums squares, bonds and scores of each sample, and counts pairs once.
        """
        logits = self.moves.tokens_of_atoms(ATOMS_PER_TOKEN * (PLDDT_BINS + 2)) * self.item
        item = self.precision.losses.itemsize
        sums = self.moves.sum_ranks(4 + 2 + 3 * samples + 1) * item
        return logits + sums + self.moves.sum_ranks(4) * COUNT_BYTES


def volumes_of(ledger: Ledger) -> Volumes:
    """Return what a rank sent in the phases ``forward`` and ``backward`` of a step."""
    total: Volumes = {}
    for key, traffic in ledger.entries().items():
        if key.phase == "forward":
            volume = Volume(forward=traffic.nbytes)
        elif key.direction == "backward":
            volume = Volume(backward=traffic.nbytes)
        else:
            volume = Volume(recomputed=traffic.nbytes)
        total[key.operator] = total.get(key.operator, Volume()) + volume
    return total


def step_volumes(
    operators: Operators,
    *,
    alignment_rows: int,
    templates: int,
    cycles: int,
    samples: int,
    rollout_steps: int,
    checkpointing: bool = False,
) -> Volumes:
    """Return the bytes of a training step of the full model on one example.

    With checkpointing, blocks run again in the backward pass.
    Cycles but the last, and the rollout with its one sample, have no gradient.
    """
    config = operators.config
    total: Volumes = {}

    def add(operator: str, volume: Volume) -> None:
        total[operator] = total.get(operator, Volume()) + volume

    def block(volume: Volume) -> Volume:
        return volume.recomputing() if checkpointing else volume

    def blocks(volumes: Volumes, count: int) -> None:
        for operator, volume in volumes.items():
            add(operator, block(volume).repeated(cycles) * count)

    def atom_encoder() -> None:
        add("atom_attention", operators.atom_pairs())

    def denoise(count: int) -> Volumes:
        """Atom encoder, token transformer and atom decoder on `count` samples."""
        atoms = block(operators.atom_attention(count)) * config.atom_blocks * 2
        tokens = block(operators.diffusion_attention(count)) * config.token_blocks
        moved = operators.token_sums(count, config.c_token) + operators.tokens_of_atoms(count)
        return {
            "atom_attention": atoms,
            "diffusion_transformer": tokens,
            "tokens_and_atoms": moved,
            "positions": operators.positions(count),
        }

    # Input embedder and initial embedding.
    atom_encoder()
    add("atom_attention", block(operators.atom_attention(1)) * config.atom_blocks)
    add("tokens_and_atoms", operators.token_sums(1, config.c_s))
    add("embedding", operators.embedding())
    # Trunk.
    blocks(operators.pair_stack(config.c_t), templates * config.template_blocks)
    blocks(operators.pair_stack(config.c_z), config.msa_blocks)
    blocks({"outer_product_mean": operators.outer_product_mean(alignment_rows)}, config.msa_blocks)
    averaging = operators.pair_weighted_averaging(alignment_rows)
    blocks({"pair_weighted_averaging": averaging}, config.msa_blocks - 1)
    blocks(operators.pairformer_block(), config.pairformer_blocks)
    # Conditioning of the diffusion module.
    atom_encoder()
    add("tokens_and_atoms", operators.tokens_of_atoms(1) + operators.token_pairs_of_atoms())
    for operator, volume in denoise(samples).items():
        add(operator, volume)
    for operator, volume in denoise(1).items():
        add(operator, volume.without_gradients() * rollout_steps)
    # Confidence head and losses.
    for operator, volume in operators.pairformer_block().items():
        add(operator, block(volume) * config.confidence_blocks)
    add("heads", operators.heads())
    add("losses", operators.losses(samples))
    return total
