from __future__ import annotations

import numpy as np
import pytest

from securefd.rng import generator


def draw(seed: int, *labels: str | int) -> list[int]:
    return generator(seed, *labels).integers(0, 2**62, size=4).tolist()


def test_same_name_same_stream_whatever_else_was_drawn() -> None:
    generator(7, "other").random(100)
    assert draw(7, "partition", 3) == draw(7, "partition", 3)
    assert draw(np.int64(7), "partition", np.int64(3)) == draw(7, "partition", 3)  # type: ignore[arg-type]


def test_streams_are_the_same_on_every_machine() -> None:
    # A run folder is resumed from its seed alone, so these must never change.
    assert generator(7, "partition").integers(0, 1000, size=5).tolist() == [796, 595, 14, 888, 411]


def test_names_are_kept_apart() -> None:
    names: list[tuple[str | int, ...]] = [
        (),
        ("a",),
        ("b",),
        ("a", "b"),
        ("b", "a"),
        ("ab",),
        (1,),
        ("1",),
        (1, 2),
        (12,),
    ]
    streams = {tuple(draw(7, *name)) for name in names} | {tuple(draw(8, *name)) for name in names}
    assert len(streams) == 2 * len(names)
    assert draw(7, 1) != draw(71)


def test_streams_are_uncorrelated() -> None:
    a, b = (
        generator(7, "client", 0).standard_normal(20_000),
        generator(7, "client", 1).standard_normal(20_000),
    )
    assert abs(np.corrcoef(a, b)[0, 1]) < 5 / np.sqrt(20_000)


@pytest.mark.parametrize("label", [1.5, None, b"a"])
def test_only_text_and_integers_name_a_stream(label: object) -> None:
    with pytest.raises(TypeError):
        generator(7, label)  # type: ignore[arg-type]
