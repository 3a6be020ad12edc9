"""Bad messages for the fuzz tests: seeded mutations of good ones, and a tally of what became of them.

Some mutations work on bytes, others on the MessagePack values inside, down through messages that are packed
in messages. Nothing here knows the protocol, nor can sign.
"""

import ast
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, TypeVar

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

import securefd
from securefd.errors import ProtocolError

PACKAGE = Path(securefd.__file__).parent
LOW_ORDER = (bytes(32), b"\x01" + bytes(31), b"\xec" + b"\xff" * 30 + b"\x7f")
"""X25519 public keys that give no shared secret."""
NUMBERS = (
    0,
    1,
    -1,
    2**7,
    2**8 - 1,
    2**16 - 1,
    2**16,
    2**31,
    2**32 - 1,
    2**32,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -(2**63),
)
MIB = 1 << 20
T = TypeVar("T")


class Packed(list[Any]):
    """The values of a message that travels as bytes inside another one."""


def unpack(data: bytes) -> Any:
    """The values in valid MessagePack, messages inside byte strings unpacked too."""
    return _open(msgspec.msgpack.decode(data))


def _open(value: Any) -> Any:
    if isinstance(value, list):
        return [_open(element) for element in value]
    if isinstance(value, bytes) and value and 0x91 <= value[0] <= 0x9F:
        try:
            inside = msgspec.msgpack.decode(value)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            return value
        if inside and isinstance(inside[0], str):
            return Packed(_open(inside))
    return value


def pack(value: Any) -> bytes:
    """Reverse `unpack`; ``msgspec.Raw`` goes in as it is."""
    return msgspec.msgpack.encode(_close(value))


def _close(value: Any) -> Any:
    if isinstance(value, Packed):
        return msgspec.msgpack.encode([_close(element) for element in value])
    return [_close(element) for element in value] if isinstance(value, list) else value


# Each takes the message to spoil, and a good one of any kind to take parts from.
Mutator = Callable[[Random, bytes, bytes], bytes]


def flip(random: Random, data: bytes, donor: bytes) -> bytes:
    """One to eight bits."""
    spoiled = bytearray(data or b"\0")
    for _ in range(random.choice((1, 1, 1, 2, 8))):
        spoiled[random.randrange(len(spoiled))] ^= 1 << random.randrange(8)
    return bytes(spoiled)


def insert(random: Random, data: bytes, donor: bytes) -> bytes:
    place = random.randint(0, len(data))
    return data[:place] + random.randbytes(random.choice((1, 1, 4, 40))) + data[place:]


def delete(random: Random, data: bytes, donor: bytes) -> bytes:
    place = random.randint(0, len(data))
    return data[:place] + data[place + random.choice((1, 1, 4, 40)) :]


def truncate(random: Random, data: bytes, donor: bytes) -> bytes:
    return data[: random.randrange(len(data) or 1)]


def double(random: Random, data: bytes, donor: bytes) -> bytes:
    """All of it twice, or a part."""
    start = random.choice((0, random.randint(0, len(data))))
    return data + data[start:]


def splice(random: Random, data: bytes, donor: bytes) -> bytes:
    return data[: random.randint(0, len(data))] + donor[random.randint(0, len(donor)) :]


def oversize(random: Random, data: bytes, donor: bytes) -> bytes:
    """Megabytes, after the message or inside it; most times only a few kilobytes, for the sake of time."""
    size = random.choice((MIB, 9 * MIB)) if random.random() < 0.01 else random.choice((500, 2000, 5000))
    if random.random() < 0.5:
        return data + bytes(size)
    values = unpack(data)
    container, index = _draw_slot(random, values)
    container[index] = random.choice(([None] * min(size, MIB), bytes(size), "x" * size))
    return pack(values)


def claim(random: Random, data: bytes, donor: bytes) -> bytes:
    """A header that claims up to 2**32 - 1 elements or bytes, in place of a value or of any bytes."""
    code = random.choice((0xC6, 0xC9, 0xDB, 0xDD, 0xDF))
    header = bytes([code]) + struct.pack(">I", random.choice((2**16, 2**24, 2**31, 2**32 - 1)))
    if random.random() < 0.3:
        place = random.randint(0, len(data))
        return data[:place] + header + data[place + 1 :]
    values = unpack(data)
    container, index = _draw_slot(random, values)
    container[index] = msgspec.Raw(header + random.choice((b"", b"\xc0" * 50)))
    return pack(values)


def widen(random: Random, data: bytes, donor: bytes) -> bytes:
    """The same values, one of them in a longer encoding than need be."""
    values = unpack(data)
    container, index = _draw_slot(random, values)
    value = _close(container[index])
    if isinstance(value, bytes):
        container[index] = msgspec.Raw(b"\xc6" + struct.pack(">I", len(value)) + value)
    elif isinstance(value, str):
        container[index] = msgspec.Raw(b"\xdb" + struct.pack(">I", len(value.encode())) + value.encode())
    elif isinstance(value, int):
        container[index] = msgspec.Raw(random.choice((b"\xcf", b"\xd3")) + struct.pack(">Q", value))
    else:
        elements = b"".join(map(msgspec.msgpack.encode, value))
        container[index] = msgspec.Raw(b"\xdd" + struct.pack(">I", len(value)) + elements)
    return pack(values)


def restructure(random: Random, data: bytes, donor: bytes) -> bytes:
    """One to three values changed, or exchanged for the donor's at the same place."""
    values, others = unpack(data), unpack(donor)
    for _ in range(random.choice((1, 1, 2, 3))):
        container, index, other = _draw_pair(random, values, others)
        if other is not None and random.random() < 0.25:
            container[index] = other
        else:
            container[index] = change(random, container[index])
    return pack(values)


def claims(data: bytes) -> Iterator[bytes]:
    """``data`` with each of its values in turn replaced by a header that claims what nobody can hold."""
    for place in range(_count(unpack(data))):
        for code in (0xC6, 0xC9, 0xDB, 0xDD, 0xDF):
            for size in (2**31 - 1, 2**32 - 1):
                values = unpack(data)
                container, index = _slot_at(values, place)
                container[index] = msgspec.Raw(bytes([code]) + struct.pack(">I", size))
                yield pack(values)


def _count(value: Any) -> int:
    """How many values there are at all depths below this one."""
    return len(value) + sum(map(_count, value)) if isinstance(value, list) else 0


def _slot_at(values: list[Any], place: int) -> tuple[list[Any], int]:
    """Where the value of that number is, counted from the outside in, and from the left."""
    if place < len(values):
        return values, place
    place -= len(values)
    for value in values:
        if place < (inside := _count(value)):
            return _slot_at(value, place)
        place -= inside
    raise IndexError(place)


MUTATORS: Mapping[str, Mutator] = {
    mutator.__name__: mutator
    for mutator in (flip, insert, delete, truncate, double, splice, oversize, claim, widen, restructure)
}
_WEIGHTS = [2, 1, 1, 2, 1, 1, 1, 2, 2, 12]


def mutate(random: Random, data: bytes, donor: bytes) -> tuple[str, bytes]:
    """The name of a mutation, and what it made of ``data``."""
    (name,) = random.choices(list(MUTATORS), _WEIGHTS)
    return name, MUTATORS[name](random, data, donor)


def _draw_slot(random: Random, values: list[Any]) -> tuple[list[Any], int]:
    """A place in ``values`` at any depth: every field of a message is as likely as the others."""
    container, index, _ = _draw_pair(random, values, None)
    return container, index


def _draw_pair(random: Random, values: list[Any], others: Any) -> tuple[list[Any], int, Any]:
    """The same, and what is in ``others`` at that place, if anything."""
    container = values
    while True:
        index = random.randrange(len(container))
        others = others[index] if isinstance(others, list) and index < len(others) else None
        value = container[index]
        stop = 0.05 if isinstance(value, Packed) else 0.5
        if not isinstance(value, list) or not value or random.random() < stop:
            return container, index, others
        container = value


def change(random: Random, value: Any) -> Any:
    """Another value, three times in four of the same type."""
    if random.random() < 0.25:
        return _other_type(random)
    if isinstance(value, list):
        changed = _change_list(random, value)
        return Packed(changed) if isinstance(value, Packed) else changed
    if isinstance(value, bytes):
        return _change_bytes(random, value)
    if isinstance(value, str):
        return random.choice(("", value + "x", value[:-1], "x" * 17, "upload", "boxes", "confirm", "é", "\0"))
    if isinstance(value, int):
        return random.choice(
            (min(value + 1, NUMBERS[-1]), max(value - 1, 0), random.randrange(8), random.choice(NUMBERS))
        )
    return None


def _other_type(random: Random) -> Any:
    """Of any type, and what no parser should follow: thousands of arrays in arrays."""
    deep = msgspec.Raw(b"\x91" * random.choice((100, 5000)) + b"\xc0")
    numbers = (0, 5, -7, 2**40, True, 1.5, float("nan"), float("inf"))
    others: tuple[Any, ...] = (None, "", "text", b"", bytes(32), [], [[]], [0, 1], {}, {"a": 1}, deep)
    extensions = (msgspec.msgpack.Ext(5, b"x"), msgspec.Raw(b"\xd6\xff1234"), msgspec.Raw(b"\xc1"))
    return random.choice((*numbers, *others, *extensions))


def _change_list(random: Random, value: list[Any]) -> list[Any]:
    changed = list(value)
    kind = random.randrange(9)
    if kind == 0 or not changed:
        return [*changed, random.choice((random.randrange(8), bytes(32), 2**16))]
    index = random.randrange(len(changed))
    if kind in (1, 2):
        del changed[index]
    elif kind == 3:
        changed.insert(index, changed[index])
    elif kind == 4:
        changed.reverse()
    elif kind == 5:
        other = random.randrange(len(changed))
        changed[index], changed[other] = changed[other], changed[index]
    elif kind == 6:
        changed = changed * random.choice((2, 50))
    elif kind == 7:
        changed = []
    else:
        changed[index] = change(random, changed[index])
    return changed


def _change_bytes(random: Random, value: bytes) -> bytes:
    size = len(value)
    return random.choice(
        (
            lambda: flip(random, value, b""),
            lambda: random.randbytes(size),
            lambda: random.choice((bytes(size), b"\xff" * size)),
            lambda: random.choice((b"", value[:-1], value + b"\0", value * 2)),
            lambda: random.choice(LOW_ORDER),
        )
    )()


DRAWS = ("chosen", "sampled", "_random")
"""Which lots a client has drawn stays so after a refusal, lest a server make it draw until it likes them."""
CONSTANT = ("_identity", "_terms", "_checks", "_server", "_ask")


def fingerprint(thing: object) -> object:
    """All that ``thing`` holds, private keys too, in a form that can be compared; without `DRAWS`."""
    if thing is None or isinstance(thing, bytes | int | str | float):
        return thing
    if isinstance(thing, X25519PrivateKey):
        return thing.private_bytes_raw()
    if isinstance(thing, np.ndarray):
        return thing.dtype.str, thing.shape, thing.tobytes()
    if isinstance(thing, Mapping):
        return [(key, fingerprint(value)) for key, value in thing.items()]
    if isinstance(thing, set | frozenset):
        return frozenset(thing)
    if isinstance(thing, list | tuple):
        return [*map(fingerprint, thing)]
    if isinstance(thing, msgspec.Struct):
        return type(thing), msgspec.structs.astuple(thing)
    return type(thing), [
        (name, id(value) if name in CONSTANT else fingerprint(value))
        for name, value in vars(thing).items()
        if name not in DRAWS
    ]


@dataclass(frozen=True, kw_only=True)
class Site:
    """A statement that refuses something."""

    file: str
    function: str
    says: str

    def __str__(self) -> str:
        return f"{self.file} {self.function}: {self.says[:90]}"


Sites = Mapping[tuple[str, int], Site]
"""By file and line."""


def raise_sites(*files: str) -> dict[tuple[str, int], Site]:
    """Every ``raise`` in these files of the package, by file and line."""
    found = {}
    for name in files:
        for node, function in _functions(ast.parse((PACKAGE / name).read_text())):
            if isinstance(node, ast.Raise) and node.exc is not None:
                site = Site(file=Path(name).name, function=function, says=ast.unparse(node.exc))
                for line in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                    found[site.file, line] = site
    return found


def _functions(tree: ast.AST, function: str = "") -> Iterator[tuple[ast.AST, str]]:
    """All nodes, and the function each is in."""
    for node in ast.iter_child_nodes(tree):
        inside = node.name if isinstance(node, ast.FunctionDef | ast.ClassDef) else function
        yield node, inside
        yield from _functions(node, inside)


@dataclass(kw_only=True)
class Tally:
    """How many messages of each kind were tried, and which statement refused them."""

    sites: Sites
    tried: Counter[str] = field(default_factory=Counter)
    accepted: Counter[str] = field(default_factory=Counter)
    refused: Counter[Site] = field(default_factory=Counter)

    def count(self, kind: str, act: Callable[[], T]) -> list[T]:
        """What ``act`` returned, or nothing if it was refused. Untyped errors come out as they are."""
        self.tried[kind] += 1
        try:
            result = act()
        except ProtocolError as error:
            self.note(error)
            return []
        self.accepted[kind] += 1
        return [result]

    def refuse(self, act: Callable[[], object]) -> None:
        """Of ``act``, a step at the wrong time, nothing but a typed error may come."""
        try:
            act()
        except ProtocolError as error:
            self.note(error)
        else:
            raise AssertionError("a step at the wrong time was taken")

    def note(self, error: BaseException | None) -> None:
        """Count a refusal, and the one that it was caused by."""
        while isinstance(error, ProtocolError):
            if site := self._site(error.__traceback__):
                self.refused[site] += 1
            error = error.__cause__

    def _site(self, traceback: TracebackType | None) -> Site | None:
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        if traceback is None:
            return None
        return self.sites.get((Path(traceback.tb_frame.f_code.co_filename).name, traceback.tb_lineno))

    @property
    def never(self) -> set[Site]:
        """Statements that refused nothing."""
        return {*self.sites.values()} - self.refused.keys()

    def __str__(self) -> str:
        kinds = [
            f"{kind:<24} tried {tried:>7}   accepted {self.accepted[kind]:>6}"
            for kind, tried in sorted(self.tried.items())
        ]
        checks = [f"{count:>7}  {site}" for site, count in self.refused.most_common()]
        total = f"{self.tried.total()} messages, {self.accepted.total()} accepted; refused by:"
        return "\n".join([*kinds, total, *checks, "never refused by:", *sorted(map(str, self.never))])
