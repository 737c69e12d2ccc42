"""Mutations of files: flipped, cut, repeated and inserted bytes, changed numbers and letters.

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
# Non-ASCII text, and bytes that are not text. Some change their length with their case, some are
# digits or white space to Python and to no format.
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
# Texts that replace a value, which `json.dumps` cannot write.
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
    """Return `content` with one to four changes, as a function of the seed."""
    source = random.Random(seed)
    damaged = bytearray(content)
    for _ in range(source.choice((1, 1, 2, 4))):
        source.choice(_CHANGES)(damaged, source)
    return bytes(damaged)


def mutated_json(content: bytes, seed: int) -> bytes:
    """Return JSON or JSON Lines with one or two values or members changed, or else `mutated`."""
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
    """Join lines into a file, sometimes with blank lines, other line ends or a byte-order mark."""
    end = source.choice((b"\n", b"\n", b"\n", b"\r\n", b"\n\n", b"\n \t\n"))
    mark = source.choice((b"", b"", b"", b"", b"\xef\xbb\xbf"))
    return mark + end.join(lines) + source.choice((b"\n", b"\n", b"", end))


def _change_value(values, index, source) -> tuple[str, str]:
    """Change one value or member; return a mark and the text that must replace it."""
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
    """Yield the paths of all members of a value; of the first three items of a list."""
    members = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        members = enumerate(value[:3])
    for key, member in members:
        yield (*path, key)
        yield from _members(member, (*path, key))


def _slice(content, source):
    start = source.randrange(len(content) + 1)
    return slice(start, min(len(content), start + int(2 ** source.uniform(0, 10))))


def flip(content, source):
    for _ in range(source.randint(1, 8)):
        if content:
            content[source.randrange(len(content))] ^= 1 << source.randrange(8)


def noise(content, source):
    where = _slice(content, source)
    content[where] = source.randbytes(len(content[where]))


def cut(content, source):
    del content[source.randrange(len(content) + 1) :]


def drop(content, source):
    del content[_slice(content, source)]


def repeat(content, source):
    where = _slice(content, source)
    content[where] = content[where] * source.choice((2, 3, 40))


def insert(content, source):
    position = source.randrange(len(content) + 1)
    content[position:position] = source.randbytes(source.randint(1, 64))


def exchange(content, source):
    one, two = content[_slice(content, source)], _slice(content, source)
    content[two] = one


def extreme(content, source):
    """Replace a number near a random position by an extreme value."""
    position = source.randrange(len(content) + 1)
    number = _NUMBER.search(content, position)
    if number:
        content[number.start() : number.end()] = source.choice(_EXTREME)


def foreign(content, source):
    """Replace a part of a word near a random position by non-ASCII text or invalid bytes."""
    word = _WORD.search(content, source.randrange(len(content) + 1))
    if word:
        start = source.randrange(word.start(), word.end())
        end = source.choice((start, start + 1, word.end()))
        texts = [text.encode() for text in FOREIGN]
        content[start:end] = source.choice([*texts, *_NO_TEXT])


_CHANGES = (flip, noise, cut, drop, repeat, insert, exchange, extreme, extreme, foreign, foreign)
