import numpy as np
import pytest

from securefd.attacks.inversion import invert, structural_similarity
from securefd.errors import AuditError

RNG = np.random.default_rng(0)
SHAPES = RNG.random((3, 1, 8, 8)) > 0.6
"""What three classes look like in public; the client's third one looks otherwise."""
OTHERWISE = RNG.random((1, 8, 8)) > 0.6


def drawn(pictures: np.ndarray, seed: int) -> np.ndarray:
    noise = 0.15 * np.random.default_rng(seed).standard_normal(pictures.shape)
    return (pictures + noise).astype(np.float32)


def planted():
    """Public inputs of the third class come in both looks; only the client is sure of the rare one."""
    labels = np.repeat([0, 1, 2, 2], [150, 150, 130, 20])
    rare = np.arange(450) >= 430
    pictures = np.where(rare[:, None, None, None], OTHERWISE[None], SHAPES[labels])
    public_model = np.full((450, 3), 0.02)
    public_model[np.arange(450), labels] = 0.96
    client = public_model.copy()
    public_model[rare] = [0.36, 0.34, 0.30]  # has hardly seen it
    client[(labels == 2) & ~rare] = [0.45, 0.35, 0.20]  # doesn't know what the others call a 2
    return public_model, client, drawn(pictures, 1)


def test_what_a_client_alone_knows_is_drawn_from_its_answers():
    public_model, client, x = planted()
    mine, theirs = invert(public_model, client, x), invert(public_model, None, x)
    secret = OTHERWISE.astype(float)
    assert mine.shape == (3, 1, 8, 8)
    assert structural_similarity(mine[2], secret, reach=1.0) > 0.5
    assert structural_similarity(mine[2], secret, reach=1.0) > structural_similarity(
        theirs[2], secret, reach=1.0
    )
    for label in (0, 1):
        common = SHAPES[label].astype(float)
        assert structural_similarity(mine[label], common, reach=1.0) > 0.5


def test_the_same_seed_draws_the_same():
    given = planted()
    np.testing.assert_array_equal(invert(*given, steps=20), invert(*given, steps=20))
    assert not np.array_equal(invert(*given, steps=20), invert(*given, steps=20, seed=1))


def test_tables_can_be_inverted_too():
    public_model, client, x = planted()
    assert invert(public_model, client, x.reshape(450, -1), steps=5).shape == (3, 64)


def test_similarity_is_one_for_the_same_and_falls_with_noise():
    image = RNG.random((1, 16, 16))
    assert structural_similarity(image, image, reach=1.0) == pytest.approx(1)
    near, far = (image + scale * RNG.standard_normal(image.shape) for scale in (0.05, 0.5))
    assert (
        1 > structural_similarity(image, near, reach=1.0) > structural_similarity(image, far, reach=1.0) > -1
    )
    assert structural_similarity(image, 1 - image, reach=1.0) < 0
    flat, brighter = np.full((1, 8, 8), 0.3), np.full((1, 8, 8), 0.6)
    # of constant images only the first factor is left: (2 ab + c) / (a^2 + b^2 + c)
    expected = (2 * 0.18 + 1e-4) / (0.09 + 0.36 + 1e-4)
    assert structural_similarity(flat, brighter, reach=1.0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda p, c, x: (p[:-1], c, x), r"public_model must be \(m, C\)"),
        (lambda p, c, x: (p, c[:-1], x), r"client must be \(m, C\)"),
        (lambda p, c, x: (p, c[:, :2], x), r"client must be \(450, 3\)"),
        (lambda p, c, x: (p * np.nan, c, x), "finite"),
        (lambda p, c, x: (p[:1], c[:1], x[:1]), "m >= 2"),
    ],
)
def test_what_does_not_fit_is_refused(change, match):
    with pytest.raises(AuditError, match=match):
        invert(*change(*planted()), steps=1)


def test_images_of_different_shapes_are_not_compared():
    with pytest.raises(AuditError, match="one shape"):
        structural_similarity(np.zeros((8, 8)), np.zeros((8, 9)), reach=1.0)
    with pytest.raises(AuditError, match="reach must be > 0"):
        structural_similarity(np.zeros((8, 8)), np.zeros((8, 8)), reach=0.0)
