import contextlib
import hashlib

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
    Broadcast,
    Ciphertexts,
    KeyContext,
    Message,
    Query,
    Roster,
    Signed,
    Upload,
    decode,
    encode,
)

SESSION = bytes(range(16))
EXAMPLES = (
    Query.of(SESSION, 3, [0, 7, 2**32 - 1]),
    Answer(session=SESSION, round=3, sender=2, values=b"values"),
    Broadcast(session=SESSION, round=3, body=b"consensus"),
    Advertise(public_key=bytes(32)),
    Roster(adverts=(b"first", b"second")),
    Upload(width=4, values=bytes(40)),
    KeyContext(context=b"context"),
    Ciphertexts(size=5, parts=(b"part",)),
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


@pytest.mark.parametrize("width", [0, 1, 2, 5, 6, 16])
def test_ring_widths(width: int) -> None:
    with pytest.raises(MessageError):
        encode(Upload(width=width, values=b""))


@pytest.mark.parametrize("length", [0, 31, 33])
def test_key_lengths(length: int) -> None:
    with pytest.raises(MessageError):
        encode(Advertise(public_key=bytes(length)))


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
