"""Random bits: of AES-256-CTR, never the same twice, and not across a fork."""

import os

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy.stats import chisquare

from securefd.defenses.csprng import Stream, uniform

KEY = bytes(range(32))


def keystream(size: int) -> bytes:
    return Cipher(algorithms.AES(KEY), modes.CTR(bytes(16))).encryptor().update(bytes(size))


def test_a_stream_is_the_keystream_of_its_key_each_byte_once() -> None:
    stream = Stream(_key=KEY)
    drawn = b"".join(bytes(stream.bytes(size)) for size in (1, 16, 0, 33, 8))
    assert drawn + stream.words(3).tobytes() == keystream(len(drawn) + 24)


def test_without_a_key_every_stream_is_another() -> None:
    assert len({bytes(Stream().bytes(16)) for _ in range(100)}) == 100
    assert not np.array_equal(uniform(4), uniform(4))


def test_uniform_integers_fill_their_range() -> None:
    drawn = uniform(1_000_000)
    assert drawn.dtype == np.int64
    assert 0 <= drawn.min() < 10_000
    assert 2**32 - 10_000 < drawn.max() < 2**32
    for shift in (0, 12, 24):
        assert chisquare(np.bincount((drawn >> shift) & 255, minlength=256)).pvalue > 1e-6


def test_a_child_process_doesnt_go_on_with_its_parents_stream() -> None:
    stream = Stream()
    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            stream.bytes(1)
        except RuntimeError:
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert len(stream.bytes(1)) == 1
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "getpid", lambda: -1)
        with pytest.raises(RuntimeError, match="fork"):
            stream.bytes(1)
