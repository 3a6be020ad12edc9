"""Random bits: of AES-256-CTR, never the same twice, and not across a fork."""

import os
from collections.abc import Callable

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy import stats

from securefd.defenses import csprng
from securefd.defenses.csprng import Stream, below, uniform
from securefd.defenses.samplers import discrete_gaussian
from securefd.errors import PrivacyError

KEY = bytes(range(32))


def keystream(size: int) -> bytes:
    return Cipher(algorithms.AES(KEY), modes.CTR(bytes(16))).encryptor().update(bytes(size))


def test_a_stream_is_the_keystream_of_its_key_each_byte_once() -> None:
    stream = Stream(_key=KEY)
    sizes = (1, 16, 0, 33, 8, len(csprng._ZEROS), 3 * len(csprng._ZEROS) + 5)
    drawn = b"".join(stream.bytes(size).tobytes() for size in sizes)
    assert len(drawn) == sum(sizes)
    drawn += stream.words(3).tobytes() + stream.number(24).to_bytes(3, "little")
    assert drawn == keystream(len(drawn))


def test_the_keystream_is_the_published_one() -> None:
    """NIST's known answers for AES-256 (AESAVS, KeySbox 0): the keystream of this key begins with E(0)."""
    key = bytes.fromhex("c47b0294dbbbee0fec4757f22ffeee3587ca4730c3d33b691df38bab076bc558")
    assert Stream(_key=key).bytes(16).tobytes().hex() == "46f2fb342d6f0ab477476fc501242c5f"


def test_without_a_key_every_stream_is_another() -> None:
    assert len({Stream().bytes(16).tobytes() for _ in range(100)}) == 100
    assert not np.array_equal(uniform(4), uniform(4))


def test_words_are_the_callers_own() -> None:
    stream = Stream()
    first = stream.words(8)
    kept = first.copy()
    stream.words(8)[:] = 0
    assert np.array_equal(first, kept)


def test_uniform_integers_fill_their_range() -> None:
    drawn = uniform(1_000_000)
    assert drawn.dtype == np.int64
    # exp(-23) that none of a million is as small, or as large
    assert 0 <= drawn.min() < 100_000
    assert 2**32 - 100_000 < drawn.max() < 2**32
    for shift in (0, 12, 24):
        assert stats.chisquare(np.bincount((drawn >> shift) & 255, minlength=256)).pvalue > 1e-9


def test_bits_are_independent_of_those_before() -> None:
    words = Stream(_key=KEY).words(100_000)
    bits = np.unpackbits(words.view(np.uint8)).reshape(-1, 64)
    assert stats.chisquare(bits.sum(axis=0), np.full(64, bits.sum() / 64)).pvalue > 1e-5
    flat = bits.ravel().astype(float) - 0.5
    for lag in (1, 8, 64, 128):
        assert abs((flat[lag:] * flat[:-lag]).mean()) < 4.5 * 0.25 / np.sqrt(flat.size)


class TestBelow:
    def test_words_that_would_favour_some_are_not_kept(self) -> None:
        words = np.array([0, 5, 2**64 - 1, 2**64 - 2], dtype=np.uint64)
        values, kept = below(3, words)
        assert kept.tolist() == [True, True, False, True]
        assert values[kept].tolist() == [0, 2, 2]

    @pytest.mark.parametrize("bound", [1, 2, 3, 10, 2**31 + 1, 2**62, 2**63 - 1, 2**63])
    def test_every_integer_comes_from_as_many_words(self, bound: int) -> None:
        """Those kept are a whole number of rounds of 0 to bound - 1."""
        whole = 2**64 // bound
        around = [0, 1, bound - 1, bound, bound + 1, whole * bound - 1, whole * bound, 2**64 - 1]
        words = [word for word in around if word < 2**64]
        values, kept = below(bound, np.array(words, dtype=np.uint64))
        assert kept.tolist() == [word < whole * bound for word in words]
        assert values[kept].tolist() == [word % bound for word in words if word < whole * bound]

    def test_all_are_equally_likely(self) -> None:
        values, kept = below(7, Stream(_key=KEY).words(100_000))
        assert kept.all()
        assert stats.chisquare(np.bincount(values, minlength=7)).pvalue > 1e-5


def in_a_child(work: Callable[[], bytes]) -> bytes:
    """What ``work`` gives in a forked process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            os.write(writer, work())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as found:
        given = found.read()
    assert os.waitpid(child, 0)[1] == 0
    return given


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
class TestFork:
    def test_a_child_doesnt_go_on_with_its_parents_stream(self) -> None:
        stream = Stream()

        def draw() -> bytes:
            try:
                return stream.bytes(16).tobytes()
            except PrivacyError as error:
                return str(error).encode()

        assert b"before a fork; make a new one" in in_a_child(draw)
        assert len(stream.bytes(16)) == 16

    def test_children_draw_other_noise_than_their_parent(self) -> None:
        def draw() -> bytes:
            return discrete_gaussian(1e6, 8).tobytes()

        discrete_gaussian(1e6, 8)
        assert len({in_a_child(draw), in_a_child(draw), draw()}) == 3

    def test_the_process_is_looked_up_each_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = Stream()
        monkeypatch.setattr(os, "getpid", lambda: -1)
        with pytest.raises(PrivacyError, match="fork"):
            stream.words(1)
