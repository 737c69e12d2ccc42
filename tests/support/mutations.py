"""Damage to files: bytes flipped, cut, repeated, inserted, exchanged, numbers made extreme."""

import random
import re

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
_EXTREME = (
    *(
        b"",
        b"-1",
        b"0",
        b"nan",
        b"inf",
        b"-0.0",
        b"1e308",
        b"1e-308",
        b"99999999999",
        b"4294967296",
    ),
    *(b"-2147483649", b"18446744073709551616", b"0x10", b"1_000", b"?", b".", b"'", b'"', b";\n"),
)


def mutated(content: bytes, seed: int) -> bytes:
    """`content` with one to four changes: a function of the seed."""
    source = random.Random(seed)
    found = bytearray(content)
    for _ in range(source.choice((1, 1, 2, 4))):
        source.choice(_CHANGES)(found, source)
    return bytes(found)


def _slice(found, source):
    start = source.randrange(len(found) + 1)
    return slice(start, min(len(found), start + int(2 ** source.uniform(0, 10))))


def flip(found, source):
    for _ in range(source.randint(1, 8)):
        if found:
            found[source.randrange(len(found))] ^= 1 << source.randrange(8)


def noise(found, source):
    where = _slice(found, source)
    found[where] = source.randbytes(len(found[where]))


def cut(found, source):
    del found[source.randrange(len(found) + 1) :]


def drop(found, source):
    del found[_slice(found, source)]


def repeat(found, source):
    where = _slice(found, source)
    found[where] = found[where] * source.choice((2, 3, 40))


def insert(found, source):
    place = source.randrange(len(found) + 1)
    found[place:place] = source.randbytes(source.randint(1, 64))


def exchange(found, source):
    one, two = found[_slice(found, source)], _slice(found, source)
    found[two] = one


def extreme(found, source):
    """A number near a random place, or a byte of it, becomes what no file should have."""
    place = source.randrange(len(found) + 1)
    number = _NUMBER.search(found, place)
    if number:
        found[number.start() : number.end()] = source.choice(_EXTREME)


_CHANGES = (flip, noise, cut, drop, repeat, insert, exchange, extreme, extreme)
