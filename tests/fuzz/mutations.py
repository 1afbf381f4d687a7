"""Damaged copies of good files: bytes that are flipped, cut, grown and spliced, and documents of the wrong types."""

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

import yaml

# Lengths and counts that readers are tempted to believe.
SIZES = (
    0,
    1,
    2,
    7,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    2**40,
    2**63,
    2**64 - 1,
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 2**31, -(2**63), 10**30, 0.0, 0.5, -0.5, 1e308, -1e308),
    *(
        float("inf"),
        float("-inf"),
        float("nan"),
        "",
        "0",
        "1e3",
        "nan",
        "\x00",
        "\ud800",
        "é" * 300,
        "a.b.c",
        "../../x",
    ),
    *([], {}, [[]], {"": None}, [None] * 50, {"class_path": "os.system"}, {"class_path": "torch.nn.ReLU"}),
)
TEXTS = (
    *("!!python/object/apply:os.system ['true']", "!!binary |\n  AA==", "&a [*a]", "*missing", "<<: {x: 1}", "\t- x"),
    *(
        "[" * 3000,
        "{" * 3000,
        '{"a":' * 3000,
        "- " * 3000,
        "9" * 5000,
        "1e999",
        "NaN",
        '"\\ud800"',
        "\ufeff",
        "---\n---\n",
    ),
)

Mutation = Callable[[random.Random, bytes, Sequence[bytes]], bytes]


def damaged(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    """A copy with one to four things wrong with it, which may by chance undo one another.

    Args:
        rng: the only source of randomness.
        content: a good file.
        others: good files of the same kind, to splice with.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        content = rng.choice(MUTATIONS)(rng, content, others)
    return content


def _flip_bits(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    changed = bytearray(content)
    for _bit in range(rng.choice((1, 1, 2, 8)) if changed else 0):
        changed[_place(rng, len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _write_size(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    width, order = rng.choice((1, 2, 4, 8)), rng.choice(("big", "little"))
    size = (rng.choice(SIZES) + rng.choice((0, 0, 1, -1))) % 2 ** (8 * width)
    place = _place(rng, len(content) + 1)
    return content[:place] + size.to_bytes(width, order) + content[place + width :]


def _truncate(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    return content[: rng.choice((_place(rng, len(content) + 1), len(content) - rng.randrange(1, 9)))]


def _extend(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    count = rng.choice((1, 4, 100))
    return content + rng.choice((bytes(count), rng.randbytes(count), content[:count], content))


def _move_slice(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    first, last = sorted((rng.randrange(len(content) + 1), rng.randrange(len(content) + 1)))
    place, piece = rng.randrange(len(content) + 1), content[first:last]
    without = rng.choice((content, content[:first] + content[last:]))
    return without[:place] + rng.choice((piece, b"", bytes(len(piece)))) + without[place:]


def _splice(rng: random.Random, content: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return content[: _place(rng, len(content) + 1)] + other[_place(rng, len(other) + 1) :]


def _insert(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    place = _place(rng, len(content) + 1)
    return content[:place] + rng.randbytes(rng.choice((1, 3, 16))) + content[place:]


def _replace_all(rng: random.Random, content: bytes, _: Sequence[bytes]) -> bytes:
    return rng.choice((b"", bytes(len(content)), rng.randbytes(rng.randrange(64)), content[::-1]))


MUTATIONS: tuple[Mutation, ...] = (
    *(
        _flip_bits,
        _flip_bits,
        _write_size,
        _write_size,
        _truncate,
        _extend,
        _move_slice,
        _splice,
        _insert,
        _replace_all,
    ),
)


def _place(rng: random.Random, end: int) -> int:
    """A position, often near one of both ends, where headers and directories are."""
    if end < 1:
        return 0
    near = min(end, 64)
    return rng.choice((rng.randrange(end), rng.randrange(near), end - 1 - rng.randrange(near)))


def confused(rng: random.Random, document: Any) -> Any:
    """A copy of a JSON document with some values of other types, missing or added."""
    document = json.loads(json.dumps(document))
    for _ in range(rng.choice((1, 1, 2, 4))):
        holders = list(_holders(document))
        if not holders:
            return _value(rng)
        _confuse_one(rng, rng.choice(holders))
    return _value(rng) if rng.random() < 0.02 else document


def _value(rng: random.Random) -> Any:
    return copy.deepcopy(rng.choice(VALUES))  # lists are confused further


def _confuse_one(rng: random.Random, holder: Any) -> None:
    key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
    kind = rng.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice(("", "unknown", "0.25", "nan", f"{key} "))] = _value(rng)
    elif kind == 1:
        holder.append(_value(rng))
    elif kind == 2:
        other = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        holder[key], holder[other] = holder[other], holder[key]
    elif kind == 3 and type(holder[key]) in (int, float):
        holder[key] = rng.choice((-holder[key], holder[key] * 1e9, holder[key] + 1, str(holder[key]), [holder[key]]))
    else:
        holder[key] = _value(rng)


def _holders(document: Any) -> Any:
    """Every list and mapping that is not empty."""
    if isinstance(document, dict | list) and document:
        yield document
        for value in list(document.values() if isinstance(document, dict) else document):
            yield from _holders(value)


def json_text(rng: random.Random, document: Any) -> bytes:
    """A document as JSON that is wrong inside, or no JSON any more."""
    text = json.dumps(confused(rng, document), indent=rng.choice((None, 2)))
    return _with_nonsense(rng, text).encode("utf-8", errors="surrogatepass")


def yaml_text(rng: random.Random, document: Any) -> bytes:
    """A document as YAML that is wrong inside, or no YAML any more."""
    text = yaml.dump(confused(rng, document), allow_unicode=True)
    return _with_nonsense(rng, text).encode("utf-8", errors="surrogatepass")


def _with_nonsense(rng: random.Random, text: str) -> str:
    if rng.random() < 0.8:
        return text
    lines = text.splitlines(keepends=True) or [""]
    place = rng.randrange(len(lines))
    start = lines[place].partition(":")[0]
    lines[place] = rng.choice((f"{start}: {rng.choice(TEXTS)}\n", rng.choice(TEXTS), lines[place] * 2, ""))
    return "".join(lines)
