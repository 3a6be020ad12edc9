import numpy as np
import pytest

from securefd.errors import AuditError
from securefd.evaluation.stored import Stored, store

RNG = np.random.default_rng(0)
CHUNKS = [
    {"queries.0": np.arange(7), "answers.0": RNG.random((3, 2, 7)), "student.w": RNG.random((3, 4))},
    {"queries.0": np.arange(7), "answers.0": RNG.random((2, 2, 7)), "student.w": RNG.random((2, 4))},
]


@pytest.fixture
def stored(tmp_path) -> Stored:
    paths = tuple(tmp_path / f"{number}.safetensors" for number in range(2))
    for number, (path, arrays) in enumerate(zip(paths, CHUNKS, strict=True)):
        store(path, arrays, "key", number)
    return Stored(paths=paths, size=3, shared=("queries.",))


def test_each_federation_is_read_by_itself(stored):
    assert stored.names() == ["answers.0", "queries.0", "student.w"]
    for f in range(5):
        chunk, place = divmod(f, 3)
        np.testing.assert_array_equal(stored.read("answers.0", f), CHUNKS[chunk]["answers.0"][place])
        np.testing.assert_array_equal(stored.read("student.w", f), CHUNKS[chunk]["student.w"][place])
        np.testing.assert_array_equal(stored.read("queries.0", f), np.arange(7))


def test_what_was_stored_passes(stored):
    stored.check("key")


def test_another_key_place_or_content_is_refused(stored):
    with pytest.raises(AuditError, match="isn't what an audit of this run stored"):
        stored.check("other")
    with pytest.raises(AuditError, match="isn't what"):
        Stored(paths=stored.paths[::-1], size=3, shared=("queries.",)).check("key")
    store(stored.paths[1], CHUNKS[1] | {"student.w": CHUNKS[1]["student.w"] + 1e-9}, "key", 1)
    stored.check("key")  # stored anew by whoever holds the key
    store(stored.paths[1], CHUNKS[1], "key", 0)
    with pytest.raises(AuditError, match="isn't what"):
        stored.check("key")


@pytest.mark.parametrize("place", [0, 9, 40, -1, -30])
def test_one_changed_byte_is_noticed(stored, place):
    content = bytearray(stored.paths[0].read_bytes())
    content[place] ^= 1
    stored.paths[0].write_bytes(content)
    with pytest.raises(AuditError, match="isn't what"):
        stored.check("key")


@pytest.mark.parametrize("content", [b"", b"no tensors", None])
def test_what_is_no_chunk_is_noticed(stored, content):
    if content is None:
        stored.paths[0].unlink()
    else:
        stored.paths[0].write_bytes(content)
    with pytest.raises(AuditError, match="isn't what"):
        stored.check("key")
