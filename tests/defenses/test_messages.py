import contextlib
import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefd import messages
from securefd.errors import MessageError
from securefd.messages import (
    Advertise,
    Answer,
    Boxes,
    Broadcast,
    Ciphertexts,
    Confirm,
    Confirmations,
    EncryptedSum,
    KeyContext,
    Message,
    Opening,
    Query,
    Relay,
    Reveal,
    Roster,
    Signed,
    Survivors,
    Upload,
    decode,
    encode,
)

SESSION = bytes(range(16))
EXAMPLES = (
    Query.of(SESSION, 3, [0, 7, 2**32 - 1]),
    Answer(session=SESSION, round=3, sender=2, values=b"values"),
    Broadcast(session=SESSION, round=3, body=b"consensus"),
    Advertise(mask_key=bytes(32), share_key=bytes([1]) * 32),
    Roster(adverts=(b"first", b"", b"third")),
    Boxes(seed_hash=bytes(32), holders=(0, 2, 300), boxes=(bytes(80),) * 3),
    Relay(sharers=(0, 1, 2), senders=(0, 2), boxes=(bytes(80),) * 2),
    Upload(values=bytes(40), tags=(bytes(16),) * 2),
    Survivors(survivors=(0, 2, 65535), dropped=(1,)),
    Confirm(survivors=bytes(32)),
    Confirmations(senders=(0, 2), signatures=(bytes(64),) * 2, owners=(2,), tags=(bytes(16),)),
    Reveal(
        seed=bytes(32),
        survivors=(0, 2),
        seed_shares=(bytes(32),) * 2,
        dropped=(1,),
        key_shares=(bytes(32),),
    ),
    KeyContext(context=b"context", n_clients=3, threshold=2),
    Ciphertexts(size=5, parts=b"part"),
    EncryptedSum(contributors=(0, 1, 3), size=5, parts=b"part"),
    Opening(contributors=(0, 1, 3), size=5, slots=bytes(8)),
    Signed(
        session=SESSION, round=3, stage="upload", sender=1, roster=bytes(32), body=b"b", signature=bytes(64)
    ),
)
each = pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)


@each
class TestEveryMessage:
    def test_round_trip(self, message: Message) -> None:
        assert decode(encode(message), type(message)) == message

    def test_truncated(self, message: Message) -> None:
        data = encode(message)
        for length in range(len(data)):
            with pytest.raises(MessageError):
                decode(data[:length], type(message))

    def test_trailing(self, message: Message) -> None:
        with pytest.raises(MessageError):
            decode(encode(message) + b"\x00", type(message))

    def test_another_type(self, message: Message) -> None:
        for kind in messages.LIMITS:
            if kind is not type(message):
                with pytest.raises(MessageError):
                    decode(encode(message), kind)

    def test_one_field_more_or_less(self, message: Message) -> None:
        fields = msgspec.msgpack.decode(encode(message))
        for wrong in (fields[:-1], [*fields, 0], dict(enumerate(fields)), None):
            with pytest.raises(MessageError):
                decode(msgspec.msgpack.encode(wrong), type(message))

    def test_oversized(self, message: Message) -> None:
        data = encode(message)
        assert decode(data, type(message), limit=len(data)) == message
        with pytest.raises(MessageError, match="at most"):
            decode(data, type(message), limit=len(data) - 1)

    def test_a_caller_cant_loosen_the_limit(self, message: Message, monkeypatch: pytest.MonkeyPatch) -> None:
        data = encode(message)
        monkeypatch.setitem(messages.LIMITS, type(message), 5)
        with pytest.raises(MessageError, match="at most 5"):
            decode(data, type(message), limit=1 << 40)


def test_every_type_has_an_example_and_a_limit() -> None:
    assert {type(message) for message in EXAMPLES} == set(messages.LIMITS) == set(Message.__subclasses__())


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(data: bytes) -> None:
    for kind in messages.LIMITS:
        with pytest.raises(MessageError):
            decode(data, kind)


@given(st.sampled_from(EXAMPLES), st.data())
def test_a_changed_byte_is_refused_or_means_something_else(message: Message, data: st.DataObject) -> None:
    encoded = bytearray(encode(message))
    index = data.draw(st.integers(0, len(encoded) - 1))
    encoded[index] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(MessageError):
        assert decode(bytes(encoded), type(message)) != message


@pytest.mark.parametrize(
    "wrong",
    [
        {"session": bytes(15)},
        {"session": bytes(65)},
        {"session": "text of 16 chars"},
        {"round": -1},
        {"round": 2**32},
        {"round": 1.0},
        {"round": True},
        {"sender": 2**16},
        {"values": [1, 2]},
        {"values": None},
    ],
    ids=repr,
)
def test_fields_out_of_bounds(wrong: dict[str, object]) -> None:
    fields = {"session": SESSION, "round": 3, "sender": 2, "values": b"", **wrong}
    with pytest.raises(MessageError):
        encode(Answer(**fields))  # type: ignore[arg-type]
    with pytest.raises(MessageError):
        decode(msgspec.msgpack.encode(["answer", *fields.values()]), Answer)


LENGTHS: dict[str, tuple[int, Callable[[bytes], Message]]] = {
    "mask key": (32, lambda data: Advertise(mask_key=data, share_key=bytes(32))),
    "share key": (32, lambda data: Advertise(mask_key=bytes(32), share_key=data)),
    "seed hash": (32, lambda data: Boxes(seed_hash=data, holders=(), boxes=())),
    "box": (80, lambda data: Boxes(seed_hash=bytes(32), holders=(0, 1), boxes=(bytes(80), data))),
    "relayed box": (80, lambda data: Relay(sharers=(0,), senders=(0,), boxes=(data,))),
    "tag": (16, lambda data: Upload(values=b"", tags=(data,))),
    "list hash": (32, lambda data: Confirm(survivors=data)),
    "signature": (64, lambda data: Confirmations(senders=(0,), signatures=(data,), owners=(), tags=())),
    "relayed tag": (16, lambda data: Confirmations(senders=(), signatures=(), owners=(0,), tags=(data,))),
    "seed": (32, lambda data: reveal(seed=data)),
    "seed share": (32, lambda data: reveal(seed_shares=(data,))),
    "key share": (32, lambda data: reveal(key_shares=(data,))),
    "roster": (
        32,
        lambda data: Signed(
            session=SESSION, round=0, stage="", sender=0, roster=data, body=b"", signature=bytes(64)
        ),
    ),
    "own signature": (
        64,
        lambda data: Signed(
            session=SESSION, round=0, stage="", sender=0, roster=bytes(32), body=b"", signature=data
        ),
    ),
}


def reveal(**fields: object) -> Reveal:
    empty = {"survivors": (), "seed_shares": (), "dropped": (), "key_shares": ()}
    return Reveal(**{"seed": bytes(32), **empty, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", LENGTHS)
def test_lengths(name: str) -> None:
    length, make = LENGTHS[name]
    encode(make(bytes(length)))
    for wrong in (0, length - 1, length + 1, 2 * length):
        with pytest.raises(MessageError):
            encode(make(bytes(wrong)))
        with pytest.raises(MessageError):
            decode(msgspec.msgpack.encode(make(bytes(wrong))), type(make(bytes(length))))


@pytest.mark.parametrize("positions", [(-1,), (2**16,), (1.0,), (True,), ("a",), (None,), ((0,),)], ids=repr)
def test_positions(positions: tuple[Any, ...]) -> None:
    """Which positions are there, and in which order, is for the protocol cores to judge."""
    for make in (
        lambda: Survivors(survivors=positions, dropped=()),
        lambda: Survivors(survivors=(), dropped=positions),
        lambda: Relay(sharers=positions, senders=(), boxes=()),
        lambda: Boxes(seed_hash=bytes(32), holders=positions, boxes=()),
    ):
        with pytest.raises(MessageError):
            encode(make())
    encode(Survivors(survivors=(5, 5, 0), dropped=(5,)))


def test_too_many_positions() -> None:
    most = tuple(range(1 << 16))
    encode(Survivors(survivors=most, dropped=()))
    with pytest.raises(MessageError):
        encode(Survivors(survivors=(*most, 0), dropped=()))


def test_adverts_in_a_roster_are_small() -> None:
    encode(Roster(adverts=(bytes(messages.KIB),)))
    with pytest.raises(MessageError):
        encode(Roster(adverts=(bytes(messages.KIB + 1),)))


@pytest.mark.parametrize(
    "wrong", [{"n_clients": 1}, {"n_clients": 2**16}, {"threshold": 1}, {"threshold": 2**16}], ids=repr
)
def test_key_contexts(wrong: dict[str, int]) -> None:
    with pytest.raises(MessageError):
        encode(KeyContext(**{"context": b"", "n_clients": 3, "threshold": 2, **wrong}))  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, -1, 2**32])
def test_sizes(size: int) -> None:
    with pytest.raises(MessageError):
        encode(Ciphertexts(size=size, parts=b""))
    with pytest.raises(MessageError):
        encode(EncryptedSum(contributors=(0,), size=size, parts=b""))


def test_integers_must_be_minimal() -> None:
    canonical = encode(Broadcast(session=SESSION, round=3, body=b""))
    longer = canonical.replace(SESSION + b"\x03", SESSION + b"\xcc\x03")
    assert msgspec.msgpack.decode(longer) == msgspec.msgpack.decode(canonical)
    with pytest.raises(MessageError, match="canonically"):
        decode(longer, Broadcast)


def test_a_promised_length_reserves_no_memory() -> None:
    for header in (b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
        with pytest.raises(MessageError):
            decode(b"\x92\xa6roster" + header, Roster)


def test_only_bytes_are_decoded() -> None:
    with pytest.raises(MessageError, match="bytes"):
        decode(bytearray(encode(EXAMPLES[0])), Query)  # type: ignore[arg-type]


class TestQuery:
    def test_positions(self) -> None:
        positions = Query.of(SESSION, 0, np.array([5, 0, 2**32 - 1])).positions()
        assert positions.dtype == np.int64
        assert positions.tolist() == [5, 0, 2**32 - 1]

    def test_little_endian(self) -> None:
        assert Query.of(SESSION, 0, [1, 258]).indices == bytes([1, 0, 0, 0, 2, 1, 0, 0])

    @pytest.mark.parametrize("wrong", [[-1], [2**32], [0.5], [[1]], ["a"]], ids=repr)
    def test_refused(self, wrong: list[object]) -> None:
        with pytest.raises(MessageError):
            Query.of(SESSION, 0, np.array(wrong))

    def test_half_an_index(self) -> None:
        data = msgspec.msgpack.encode(["query", SESSION, 0, b"\x00\x00\x00"])
        with pytest.raises(MessageError, match="multiple of 4"):
            decode(data, Query)


class TestStatement:
    signed = Signed(
        session=SESSION,
        round=258,
        stage="upload",
        sender=1,
        roster=bytes(31) + b"r",
        body=b"body",
        signature=bytes(64),
    )

    def test_by_hand(self) -> None:
        expected = (
            b"\x00\x00\x00\x08protocol"
            + b"\x00\x00\x00\x10"
            + SESSION
            + b"\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x01\x02"
            + b"\x00\x00\x00\x06upload"
            + b"\x00\x00\x00\x08\x00\x00\x00\x00\x00\x00\x00\x01"
            + b"\x00\x00\x00\x20"
            + bytes(31)
            + b"r"
            + b"\x00\x00\x00\x20"
            + hashlib.sha256(b"body").digest()
        )
        assert messages.statement(b"protocol", self.signed) == expected

    @pytest.mark.parametrize(
        "other",
        [
            {"session": SESSION + b"\x00"},
            {"round": 2},
            {"stage": "uploa"},
            {"sender": 0},
            {"roster": bytes(32)},
            {"body": b"bodies"},
        ],
        ids=repr,
    )
    def test_covers_every_field(self, other: dict[str, object]) -> None:
        changed = msgspec.structs.replace(self.signed, **other)
        assert messages.statement(b"p", changed) != messages.statement(b"p", self.signed)

    def test_covers_the_protocol(self) -> None:
        assert messages.statement(b"p", self.signed) != messages.statement(b"q", self.signed)


def test_messages_are_frozen() -> None:
    for message in EXAMPLES:
        with pytest.raises(AttributeError):
            setattr(message, message.__struct_fields__[0], b"")
