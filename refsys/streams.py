"""Keyed random streams: every draw is a function of its purpose.

A draw is keyed by (seed, stream, step, example, global index) and computed from that key by the
counter-based generator Philox 4×32-10 (Salmon et al., SC11). There is no state, so draws do not
depend on worker count, resume point, padding or number of ranks. The same code runs on NumPy
arrays and on torch tensors of any device: integers and uniforms are bit-equal everywhere, normals
agree to a few units in the last place of float32.

The 128-bit counter is (block low, block high, step, example), where block = index // 4 and a
block's four words serve indices 4·block … 4·block + 3; the 64-bit key hashes (seed, stream).
"""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10

# A counter word: a Python int, a NumPy int64 array or a torch int64 tensor.
Word = Any


def philox(counter: tuple[Word, Word, Word, Word], key: tuple[int, int]) -> tuple[Word, ...]:
    """Compute Philox 4×32-10 on 32-bit words in int64 (products wrap modulo 2⁶⁴, which is exact).

    Args:
        counter: Four words, of shapes that broadcast together.
        key: Two words.

    Returns:
        Four random words in [0, 2³²), of the broadcast shape.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((product1 >> 32) & _MASK) ^ c1 ^ k0,
            product1 & _MASK,
            ((product0 >> 32) & _MASK) ^ c3 ^ k1,
            product0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


@lru_cache(maxsize=4096)
def stream_key(seed: int, stream: str) -> tuple[int, int]:
    """Return the two key words of a stream: the first 64 bits of BLAKE2b over seed and name."""
    digest = hashlib.blake2b(f"{seed}\0{stream}".encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


@dataclass(frozen=True, slots=True)
class Draw:
    """One keyed random draw.

    On a device, `step` may be a 0-dimensional int64 tensor, and `example` an int64 tensor
    [batch, 1], which makes every result [batch, count].

    Attributes:
        seed: Seed of the run.
        stream: Name of the stream, listed in `refsys.stream_manifest`.
        step: Training step (RNG key).
        example: Index in the global batch (RNG key).
    """

    seed: int
    stream: str
    step: int | Tensor = 0
    example: int | Tensor = 0

    def _words(self, blocks: Word) -> tuple[Word, ...]:
        step, example = self.step, self.example
        counter = (blocks & _MASK, blocks >> 32, step & _MASK, example & _MASK)
        return philox(counter, stream_key(self.seed, self.stream))

    def integers(self, count: int, start: int = 0) -> NDArray[np.uint32]:
        """Return uint32 integers of the global indices [start, start + count), on the host."""
        first, last = start // 4, -(-(start + count) // 4)
        words = self._words(np.arange(first, last, dtype=np.int64))
        flat = np.stack(np.broadcast_arrays(*words), axis=-1).reshape(-1)
        return flat[start - 4 * first :][:count].astype(np.uint32)

    def integers_on(self, device: torch.device, count: int, start: int = 0) -> Tensor:
        """Return the result of `integers` as int64 in [0, 2³²), computed on `device`."""
        first, last = start // 4, -(-(start + count) // 4)
        words = self._words(torch.arange(first, last, dtype=torch.int64, device=device))
        flat = torch.stack(torch.broadcast_tensors(*words), dim=-1).flatten(-2)
        return flat[..., start - 4 * first :][..., :count]

    def uniform(self, count: int, start: int = 0) -> NDArray[np.float32]:
        """Return float32 in [0, 1): the top 24 bits of each integer times 2⁻²⁴."""
        return (self.integers(count, start) >> np.uint32(8)).astype(np.float32) * np.float32(
            2.0**-24
        )

    def uniform_on(self, device: torch.device, count: int, start: int = 0) -> Tensor:
        """Return the result of `uniform`, computed on `device`."""
        return (self.integers_on(device, count, start) >> 8).to(torch.float32) * 2.0**-24

    def uniform_table_on(self, device: torch.device, rows: int, count: int) -> Tensor:
        """Return a table of uniforms; row r holds the indices from r · 2³⁴.

        Returns:
            [rows, count], or [rows, batch, count] if `example` is a [batch, 1] tensor.
        """
        blocks = torch.arange(rows, dtype=torch.int64, device=device) << 32
        return (self._table_on(blocks, count) >> 8).to(torch.float32) * 2.0**-24

    def normal(self, count: int, start: int = 0) -> NDArray[np.float32]:
        """Return standard normals by Box-Muller in float64, rounded to float32.

        Indices 2j and 2j + 1 are the cosine and the sine of integers 2j and 2j + 1.
        """
        first = start // 2 * 2
        words = self.integers(2 * -(-(start + count - first) // 2), first).astype(np.float64)
        return _box_muller(words)[start - first :][:count]

    def normal_on(self, device: torch.device, count: int, start: int = 0) -> Tensor:
        """Return the result of `normal`, computed on `device`."""
        first = start // 2 * 2
        words = self.integers_on(device, 2 * -(-(start + count - first) // 2), first)
        return _box_muller_on(words)[..., start - first :][..., :count]

    def normal_table_on(self, starts: Tensor, count: int) -> Tensor:
        """Return a table of normals; a row holds the indices from its start, a multiple of four.

        Returns:
            [..., count] for starts [...]; [..., batch, count] if `example` is a [batch, 1] tensor.
        """
        return _box_muller_on(self._table_on(starts >> 2, count + count % 2))[..., :count]

    def _table_on(self, first_blocks: Tensor, count: int) -> Tensor:
        """Return a table of integers; a row starts at the first index of its block."""
        blocks = torch.arange(-(-count // 4), dtype=torch.int64, device=first_blocks.device)
        table = first_blocks.unsqueeze(-1) + blocks
        if isinstance(self.example, Tensor) and self.example.dim():
            table = table.unsqueeze(-2)
        words = torch.stack(torch.broadcast_tensors(*self._words(table)), dim=-1)
        return words.flatten(-2)[..., :count]

    def normal_rows(self, rows: NDArray[np.int64], width: int) -> NDArray[np.float32]:
        """Return the normals [row, width] of chosen rows of a table, without computing the others.

        Args:
            rows: Row numbers; row r holds the indices from r · width.
            width: Row width, a multiple of 4.
        """
        return _box_muller(self.integer_rows(rows, width).astype(np.float64))

    def integer_rows(self, rows: NDArray[np.int64], width: int) -> NDArray[np.int64]:
        """Return the integers [row, width], in [0, 2³²), at the indices of `normal_rows`."""
        blocks = (rows[:, None] * (width // 4) + np.arange(width // 4)).astype(np.int64)
        words = np.stack(np.broadcast_arrays(*self._words(blocks)), axis=-1)
        return words.reshape(len(rows), width)

    def permutation(self, count: int) -> NDArray[np.int64]:
        """Return a uniform permutation of range(count): the stable argsort of `count` integers."""
        return np.argsort(self.integers(count), kind="stable")

    def sample(self, count: int, most: int) -> NDArray[np.int64]:
        """Return the first `most` elements of `permutation(count)`, without a full sort."""
        if most >= count:
            return self.permutation(count)
        # Integer and index in one number: ties resolve as in a stable sort.
        keys = self.integers(count).astype(np.int64) << 31 | np.arange(count)
        return np.sort(np.partition(keys, most)[:most]) & 0x7FFFFFFF

    def below(self, bound: int, number: int = 0) -> int:
        """Return integer `number` of the stream, in [0, bound), by the multiply-shift map."""
        (fraction,) = self.fractions(1, number)
        return (fraction * int(bound)) >> 64

    def fractions(self, count: int, first: int = 0) -> list[int]:
        """Return 64-bit integers u from number `first` on; u · bound // 2⁶⁴ is in [0, bound)."""
        words = self.integers(2 * count, 2 * first).astype(np.uint64)
        fractions: list[int] = (words[1::2] << np.uint64(32) | words[0::2]).tolist()
        return fractions


def _box_muller(words: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return normals from pairs of integers along the last axis."""
    u = (words + 0.5) * 2.0**-32
    radius, angle = np.sqrt(-2.0 * np.log(u[..., 0::2])), 2.0 * math.pi * u[..., 1::2]
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return pairs.reshape(words.shape).astype(np.float32)


def _box_muller_on(words: Tensor) -> Tensor:
    """Return the result of `_box_muller` for torch tensors."""
    u = (words.to(torch.float64) + 0.5) * 2.0**-32
    radius = torch.sqrt(-2.0 * torch.log(u[..., 0::2]))
    angle = 2.0 * math.pi * u[..., 1::2]
    pairs = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], -1)
    return pairs.flatten(-2).to(torch.float32)


def recycling_iterations(seed: int, most: int, step: int) -> int:
    """Return the number of recycling iterations of a step, 1 to `most`, equal on all ranks."""
    return 1 + Draw(seed, "cycles", step).below(most)
