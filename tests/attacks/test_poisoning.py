import numpy as np
import pytest

from securefd.attacks.poisoning import ATTACKS, lies
from securefd.errors import AuditError

RNG = np.random.default_rng(0)
HONEST = RNG.dirichlet(np.full(5, 0.5), size=(6, 40))


def made(name: str, liars: int = 3) -> np.ndarray:
    return lies(name, HONEST, liars, np.random.default_rng(1))


@pytest.mark.parametrize("name", list(ATTACKS))
def test_lies_are_class_probabilities(name):
    found = made(name)
    assert found.shape == (3, 40, 5)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=-1), 1)


def test_the_opposite_is_what_honest_clients_find_least_likely():
    for query in range(40):
        assert made("one-hot opposite")[0, query].argmax() == HONEST[:, query].sum(axis=0).argmin()


def test_a_covariance_says_which_class_is_least_alike():
    mean = HONEST.mean(axis=0)
    covariance = np.cov(mean.T, bias=True)
    for query in range(40):
        assert made("covariance-guided")[0, query].argmax() == covariance[mean[query].argmax()].argmin()


def test_shifted_ranks_keep_the_values_and_lose_the_class():
    found = made("rank-shift")
    for liar in found:
        (copied,) = [own for own in HONEST if np.allclose(np.sort(own), np.sort(liar))]
        assert (liar.argmax(-1) != copied.argmax(-1)).all()
        second = np.argsort(-copied, axis=-1)[:, 1]
        np.testing.assert_array_equal(liar.argmax(-1), second)


def test_colluders_repeat_one_honest_answer_each_time():
    found = made("colluding")
    np.testing.assert_array_equal(found[0], found[1])
    for query in range(40):
        assert any(np.array_equal(found[0, query], own[query]) for own in HONEST)
        top = HONEST[:, query].mean(axis=0).argmax()
        assert found[0, query, top] == HONEST[:, query, top].min()


def test_liars_move_a_mean_by_no_more_than_their_share():
    for name in ATTACKS:
        everyone = np.concatenate([HONEST, made(name, 4)])
        shift = np.abs(everyone.mean(axis=0) - HONEST.mean(axis=0)).sum(axis=-1)
        assert shift.max() <= 2 * 4 / 10 + 1e-12


@pytest.mark.parametrize(
    ("name", "honest", "liars", "match"),
    [
        ("gossip", HONEST, 1, "attack must be one of random"),
        ("random", HONEST[0], 1, r"\(n, m, C\)"),
        ("random", HONEST * np.nan, 1, "finite"),
        ("random", -HONEST, 1, ">= 0"),
        ("random", 2 * HONEST, 1, "must add up to 1 over classes, got rows that are 1 off"),
        ("random", HONEST[..., :1], 1, "C >= 2"),
        ("random", HONEST, 0, "liars must be at least 1, got 0"),
    ],
)
def test_what_can_not_be_attacked_is_refused(name, honest, liars, match):
    with pytest.raises(AuditError, match=match):
        lies(name, honest, liars, np.random.default_rng(0))
