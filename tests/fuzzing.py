"""Mutations of valid files, and what each reader must make of them: our error, or a right result.

`tools/fuzz.py` runs many thousand cases in processes with bounds; tests/test_fuzz.py a few. A case is its
target, seed and number: the same three give the same bytes.
"""

from __future__ import annotations

import json
import random
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from instancefcn.errors import InstanceFCNError

Mutate = Callable[[random.Random, bytes, Sequence[bytes]], bytes]
Run = Callable[[bytes, random.Random], object]


@dataclass(frozen=True)
class Target:
    """One reader.

    Attributes:
        seeds: valid files.
        mutate: makes a hostile file of one of them, the others at hand.
        run: reads it; raises AssertionError when the result is wrong.
        share: of the campaign's cases: slow readers get fewer.
    """

    name: str
    seeds: Sequence[bytes]
    mutate: Mutate
    run: Run
    share: float = 1.0


def case(target: Target, seed: int, number: int) -> tuple[bytes, random.Random]:
    """The bytes of a case, and the randomness left for its run. Case 0, 1, .. are the seeds themselves."""
    rng = random.Random(f"{target.name}:{seed}:{number}")
    if number < len(target.seeds):
        return target.seeds[number], rng
    return target.mutate(rng, rng.choice(target.seeds), target.seeds), rng


def attempt(target: Target, seed: int, number: int) -> str:
    """Run a case: "result", or "error" when it ended in an error of ours.

    Raises:
        BaseException: anything else, also a MemoryError that an error of ours was made of.
    """
    data, rng = case(target, seed, number)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target.run(data, rng)
    except InstanceFCNError as error:
        if not str(error).strip():
            raise AssertionError("an error without words") from error
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, MemoryError):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        return "error"
    return "result"


# -- mutations

_NUMBERS = (0, 1, 2, 7, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutate_bytes(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """A few changes as damage and malice make them: bits, numbers, pieces left out, doubled and swapped."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        if not out:
            break
        # Heads decide more than pixels.
        at = rng.randrange(min(len(out), 200)) if rng.random() < 0.5 else rng.randrange(len(out))
        kind = rng.randrange(7)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at] = rng.randrange(256)
        elif kind == 2:
            size, order = rng.choice((2, 4)), rng.choice("<>")
            value = rng.choice(_NUMBERS) & (0xFFFF if size == 2 else 0xFFFFFFFF)
            out[at : at + size] = struct.pack(f"{order}{'H' if size == 2 else 'L'}", value)
        elif kind == 3:
            del out[at : at + rng.choice((1, 4, 16, 200))]
        elif kind == 4:
            piece = out[at : at + rng.choice((1, 4, 16, 200))]
            out[at:at] = piece * rng.choice((1, 2, 50))
        elif kind == 5:
            del out[at:]
        else:
            other = rng.choice(seeds)
            start = rng.randrange(len(other))
            out[at : at + 64] = other[start : start + rng.choice((4, 64))]
    return bytes(out)


def mutate_image(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """The same; of a PNG file, whose parts bear check sums, these are corrected in most cases."""
    out = mutate_bytes(rng, data, seeds)
    return with_sums(out) if out.startswith(b"\x89PNG\r\n\x1a\n") and rng.random() < 0.8 else out


def with_sums(png: bytes) -> bytes:
    """A PNG file with right check sums, as far as its parts can be followed."""
    out, at = bytearray(png), 8
    while at + 12 <= len(out):
        end = at + 8 + int.from_bytes(out[at : at + 4], "big")
        if end + 4 > len(out):
            break
        out[end : end + 4] = struct.pack(">I", zlib.crc32(out[at + 4 : end]))
        at = end + 4
    return bytes(out)


HOSTILE: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    0.5,
    1e308,
    -1e308,
    5e-324,
    float("nan"),
    float("inf"),
    float("-inf"),
    2**31,
    2**53,
    2**63,
    2**64 + 1,
    10**30,
    10**400,
    "",
    " ",
    "x",
    "x" * 5000,
    "\ud800",
    "\x1b[2J\x00",
    "../../../etc/passwd",
    "/etc/passwd",
    "C:\\x",
    "\\\\host\\share",
    "NaN",
    "1",
    [],
    {},
    [[]],
    [{}],
    [None],
    [0] * 4,
    [1e9] * 6,
    [[0, 0, 1e9, 0, 0, 1e9]],
    [[0, 0, 5]],
    [[float("nan")] * 6],
    [[2, 2, 30, 2, 30, 30, 2, 30]],
    {"size": [2**31, 2**31], "counts": [2**62]},
    {"size": [48, 64], "counts": [0, 3072]},
    {"size": [48, 64], "counts": "0P`0"},
    {"size": [48, 64], "counts": [-1, 3073]},
    {"size": [48, 64], "counts": "o" * 99},
    {"size": None, "counts": None},
)


def mutate_json(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """A document with values of the wrong kind in it; now and then damaged text."""
    if rng.random() < 0.1:
        return mutate_bytes(rng, data, seeds)
    return json.dumps(mutate_value(rng, json.loads(data))).encode()


def mutate_value(rng: random.Random, document: Any) -> Any:
    """The same for what a JSON document holds."""
    document = deepcopy(document)
    for _ in range(rng.choice((1, 1, 2, 5))):
        places = list(_places(document))
        holder, key = rng.choice(places) if places else (None, None)
        kind = rng.randrange(5)
        if holder is None or rng.random() < 0.01:
            document = deepcopy(rng.choice(HOSTILE))
        elif kind == 0:
            del holder[key]
        elif kind == 1 and isinstance(holder, list) and len(places) < 5000:
            holder.extend([deepcopy(holder[key])] * rng.choice((1, 3, 300)))
        elif kind == 2 and isinstance(holder[key], int | float) and abs(holder[key]) < 1e290:
            holder[key] = holder[key] * rng.choice((-1, 0.5, 2, 1000, 1e12))
        elif kind == 3:
            other, there = rng.choice(places)
            holder[key] = deepcopy(other[there])
        else:
            holder[key] = deepcopy(rng.choice(HOSTILE))
    return document


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (list or dict, index or key) of a document. Those near the root come several times."""
    found: list[tuple[Any, Any]] = []
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        inner = _places(value[key])
        found += [(value, key)] * (1 + len(inner) // 20) + inner
    return found


_WORDS = (
    b"nan",
    b"inf",
    b"-1",
    b"1e999",
    b"&a [*a, *a]",
    b"*a",
    b"<<: *a",
    b"!!python/object:os.system x",
    b"!!int",
    b"!!float",
    b"2020-99-99",
    b"9" * 5000,
    b"[" * 2000,
    b"{" * 50,
    b": ",
    b"- ",
    b"\xff\xfe",
    b"\x00",
    b"\t",
    b"\n",
    b"..",
    b"/etc",
    b"nc: 1000000000",
    b"names: {0: [[[]]]}",
    b"1" * 400,
)


def mutate_text(rng: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Words and lines replaced by those that parsers stumble over."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, data, seeds)
    lines = [line.split(b" ") for line in data.split(b"\n")]
    for _ in range(rng.choice((1, 2, 5))):
        line = rng.choice(lines)
        at = rng.randrange(len(line))
        kind = rng.randrange(4)
        if kind == 0:
            line[at] = rng.choice(_WORDS)
        elif kind == 1:
            line.insert(at, rng.choice(_WORDS))
        elif kind == 2:
            line[at] = line[at] * rng.choice((0, 2, 100))
        else:
            lines.append(list(rng.choice(lines)))
    return b"\n".join(b" ".join(line) for line in lines)
