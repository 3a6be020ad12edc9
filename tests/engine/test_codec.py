"""Coded answers: what goes in comes out, small, and nothing malformed gets through."""

import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from securefd.codec import Codec
from securefd.errors import MessageError, SealingError

ONE_BIT = Codec(n_classes=10, bits=1)
MESSAGE = ONE_BIT.encode(np.eye(10, dtype=np.int64)[[3, 1, 4]].ravel())


def levels(rng: np.random.Generator, codec: Codec, m: int) -> NDArray[np.int64]:
    shares = rng.dirichlet(np.full(codec.n_classes, 0.3), m)
    return rng.multinomial(codec.steps, shares).astype(np.int64).ravel()


@given(
    bits=st.integers(1, 8),
    n_classes=st.integers(2, 17),
    m=st.integers(0, 40),
    kept=st.floats(0, 1),
    unknown=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
def test_round_trip(bits: int, n_classes: int, m: int, kept: float, unknown: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    codec = Codec(n_classes=n_classes, bits=bits)
    vector, previous = levels(rng, codec, m), levels(rng, codec, m)
    same = rng.random(m) < kept
    previous.reshape(m, n_classes)[same] = vector.reshape(m, n_classes)[same]
    previous.reshape(m, n_classes)[rng.random(m) < unknown] = -1
    for before in (None, previous):
        message = codec.encode(vector, before)
        np.testing.assert_array_equal(codec.decode(message, before, vector.size), vector)


def test_the_body_is_what_the_module_says() -> None:
    # Classes 3, 1, 4 in four bits each: 0011 0001 0100 and four padding bits.
    assert zlib.decompress(MESSAGE) == bytes([0b00110001, 0b01000000])
    # Only query 1 of 3 changed, to class 9: mask 010, then 1001.
    before = np.eye(10, dtype=np.int64)[[3, 1, 4]].ravel()
    after = np.eye(10, dtype=np.int64)[[3, 9, 4]].ravel()
    assert zlib.decompress(ONE_BIT.encode(after, before)) == bytes([0b01000000, 0b10010000])
    # Two bits, three classes: (1, 0, 2) travels as 01 00, the rest is known.
    vector = np.array([1, 0, 2])
    assert zlib.decompress(Codec(n_classes=3, bits=2).encode(vector)) == bytes([0b01000000])


def test_one_bit_of_ten_classes_takes_at_most_half_a_byte_a_query() -> None:
    vector = levels(np.random.default_rng(0), ONE_BIT, 1000)
    assert len(ONE_BIT.encode(vector)) <= 500 + 16


def test_few_changes_cost_little() -> None:
    rng = np.random.default_rng(1)
    before = levels(rng, ONE_BIT, 1000)
    after = before.copy().reshape(1000, 10)
    after[::50] = np.roll(after[::50], 1, axis=1)
    assert len(ONE_BIT.encode(after.ravel(), before)) < len(ONE_BIT.encode(after.ravel())) / 5
    assert len(ONE_BIT.encode(before, before)) < 32


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes([0b00110001]),
        bytes([0b00110001, 0b01000000, 0]),
        bytes([0b00110001, 0b01000001]),
        bytes([0b11110001, 0b01000000]),
    ],
    ids=["empty", "short", "long", "padding", "class 15 of 10"],
)
def test_a_wrong_body_is_refused(body: bytes) -> None:
    with pytest.raises(MessageError, match="malformed"):
        ONE_BIT.decode(zlib.compress(body), None, 30)


@pytest.mark.parametrize(
    "message",
    [b"", b"not zlib", MESSAGE[:-1], MESSAGE + b"x"],
    ids=["empty", "foreign", "cut", "trailing"],
)
def test_a_wrong_stream_is_refused(message: bytes) -> None:
    with pytest.raises(MessageError, match="malformed"):
        ONE_BIT.decode(message, None, 30)


def test_a_bomb_is_refused_before_it_unfolds() -> None:
    bomb = zlib.compress(bytes(2**25))
    tracemalloc.start()
    try:
        with pytest.raises(MessageError, match="more than the 2 bytes"):
            ONE_BIT.decode(bomb, None, 30)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_levels_that_sum_to_too_much_are_refused() -> None:
    with pytest.raises(MessageError, match="more than 3"):
        Codec(n_classes=3, bits=2).decode(zlib.compress(bytes([0b11110000])), None, 3)


def test_a_mask_that_is_cut_or_padded_is_refused() -> None:
    before = np.eye(10, dtype=np.int64)[[3, 1, 4]].ravel()
    with pytest.raises(MessageError, match="mask"):
        ONE_BIT.decode(zlib.compress(b""), before, 30)
    with pytest.raises(MessageError, match="padding"):
        ONE_BIT.decode(zlib.compress(bytes([0b00000001])), before, 30)


def test_a_query_that_was_never_sent_must_be() -> None:
    with pytest.raises(MessageError, match="never sent"):
        ONE_BIT.decode(zlib.compress(bytes([0])), np.full(30, -1), 30)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_never_raise_anything_else(body: bytes) -> None:
    codec = Codec(n_classes=3, bits=3)
    for message in (body, zlib.compress(body)):
        for before in (None, np.tile([7, 0, 0], 5)):
            try:
                decoded = codec.decode(message, before, 15).reshape(5, 3)
            except MessageError:
                continue
            assert (decoded >= 0).all()
            assert (decoded.sum(axis=1) == 7).all()


@pytest.mark.parametrize("vector", [[1, 1, 0], [0, 0, 0], [2, -1, 0]])
def test_levels_off_the_grid_are_refused(vector: list[int]) -> None:
    with pytest.raises(SealingError, match="sum to 1"):
        Codec(n_classes=3, bits=1).encode(np.array(vector))


def test_shapes_and_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(MessageError, match="multiple of 10"):
        ONE_BIT.decode(MESSAGE, None, 31)
    with pytest.raises(MessageError, match="previous must have 30"):
        ONE_BIT.decode(MESSAGE, np.zeros(20, dtype=np.int64), 30)
    with pytest.raises(SealingError, match="n_classes"):
        Codec(n_classes=1, bits=1)
    with pytest.raises(SealingError, match="bits"):
        Codec(n_classes=3, bits=9)
