"""Damage to files: bytes flipped, cut, repeated, inserted, exchanged, numbers and letters changed.

`mutated` damages bytes. `mutated_json` damages values of JSON or JSON Lines, so that the file
is still JSON more often than not.
"""

import json
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
# Text that is no ASCII, and bytes that are no text. Some have another length in another case, some
# are digits or white space to Python and to no format.
FOREIGN = (
    *("α", "Cα", "é", "ß", "İ", "ﬁ", "µ", "日本", "١", "４２", "½", "²", "−1", "🧬", "e\u0301"),
    *("\u00a0", "\u2028", "\u200b", "\ufeff", "\u0085", "\x0b", "\x1c", "\x7f", "\0", "\U0010ffff"),
)
_NO_TEXT = (b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc0\x80", b"\x80")
_WORD = re.compile(rb"[A-Za-z0-9_.+-]+")
_JUNK = (
    *(None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, 5e-324, 2**53, 10**23, [], {}, [[]], [None]),
    *(
        "",
        " ",
        "yesterday",
        "nan",
        "1e999",
        "../../x",
        "a\nb",
        "x" * 2000,
        ["a", 1],
        {"a": {"b": []}},
    ),
)
# Texts in the place of a value, for what `json.dumps` does not write.
_JUNK_TEXTS = (
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-1e999",
        "1" * 30,
        "1" * 5000,
        r'"\ud800"',
        "nul",
        "",
    ),
    *(
        "[" * 3000,
        "[" * 900 + "]" * 900,
        '"',
        "'a'",
        "{,}",
        '{"a":1,"a":2}',
        "\ufeff1",
        "01",
        "+1",
        ".5",
    ),
)
_MARK = "\x1a"


def mutated(content: bytes, seed: int) -> bytes:
    """`content` with one to four changes: a function of the seed."""
    source = random.Random(seed)
    damaged = bytearray(content)
    for _ in range(source.choice((1, 1, 2, 4))):
        source.choice(_CHANGES)(damaged, source)
    return bytes(damaged)


def mutated_json(content: bytes, seed: int) -> bytes:
    """`content`, JSON or JSON Lines, with one or two values or members changed; else `mutated`."""
    source = random.Random(seed)
    if source.random() < 0.2:
        return mutated(content, seed)
    lines = content.splitlines()
    try:
        values = [json.loads(content)]
        lines = [content]
    except ValueError:
        values = [json.loads(line) for line in lines]
    index = source.randrange(len(values))
    texts = [_change_value(values, index, source) for _ in range(source.choice((1, 1, 2)))]
    text = json.dumps(values[index], ensure_ascii=source.random() < 0.5)
    for mark, junk in texts:
        text = text.replace(json.dumps(mark), junk)
    lines[index] = text.encode("utf-8", "surrogatepass")
    return _joined(lines, source)


def _joined(lines, source) -> bytes:
    """The lines as a file: now and then with blank lines, other line ends or a byte-order mark."""
    end = source.choice((b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"\n \t\n"))
    mark = source.choice((b"", b"", b"", b"", b"\xef\xbb\xbf"))
    return mark + end.join(lines) + source.choice((b"\n", b"\n", b"", end))


def _change_value(values, index, source) -> tuple[str, str]:
    """Changes one value or member; returns a mark and the text that is to stand in its place."""
    path = source.choice(list(_members(values[index])) or [()])
    mark = f"{_MARK}{source.random()}"
    parent, key = values, index
    for step in path:
        parent, key = parent[key], step
    change = source.randrange(5)
    if change == 0 and isinstance(parent, dict):
        del parent[key]
    elif change == 1 and isinstance(parent, dict):
        parent[source.choice(("", "a.b", "step_time_s.x", *FOREIGN))] = parent.pop(key)
    elif change == 2:
        parent[key] = source.choice(FOREIGN)
    elif change == 3:
        parent[key] = mark
    else:
        parent[key] = source.choice(_JUNK)
    return mark, source.choice(_JUNK_TEXTS)


def _members(value, path=()):
    """The paths of all members inside a value; the first three of each list."""
    members = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        members = enumerate(value[:3])
    for key, member in members:
        yield (*path, key)
        yield from _members(member, (*path, key))


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


def foreign(found, source):
    """A part of a word near a random place becomes what is no ASCII, or no text."""
    word = _WORD.search(found, source.randrange(len(found) + 1))
    if word:
        start = source.randrange(word.start(), word.end())
        end = source.choice((start, start + 1, word.end()))
        texts = [text.encode() for text in FOREIGN]
        found[start:end] = source.choice([*texts, *_NO_TEXT])


_CHANGES = (flip, noise, cut, drop, repeat, insert, exchange, extreme, extreme, foreign, foreign)
