"""Shares of noise and randomised responses: what they cost, and what they do."""

import math

import numpy as np
import pytest
from scipy import stats

from securefd.defenses.charges import DiscreteGaussian, GaussianShares, RandomisedResponse, Skellam
from securefd.defenses.csprng import uniform
from securefd.defenses.quantise import Block
from securefd.defenses.sensitivity import of_client
from securefd.defenses.shares import NoiseShare, debiased, respond, response_noise
from securefd.errors import PrivacyError

MOVED = of_client((Block(name="votes", shape=(5, 3), low=0.0, high=1.0, simplex=True),), 1)


def test_a_share_is_charged_with_what_is_unknown() -> None:
    share = NoiseShare(kind="discrete-gaussian", variance=4.0)
    assert share.charge(MOVED, entries=15, unknown=1) == DiscreteGaussian(variance=4.0, sensitivity=MOVED)
    assert share.charge(MOVED, entries=15, unknown=9) == GaussianShares(
        variance=4.0, shares=9, entries=15, sensitivity=MOVED
    )
    skellam = NoiseShare(kind="skellam", variance=4.0)
    assert skellam.charge(MOVED, entries=15, unknown=9) == Skellam(variance=36.0, sensitivity=MOVED)
    with pytest.raises(PrivacyError, match="at least 1 share"):
        share.charge(MOVED, entries=15, unknown=0)


@pytest.mark.parametrize("kind", ["discrete-gaussian", "skellam"])
def test_shares_add_up_to_their_variance(kind: str) -> None:
    share = NoiseShare(kind=kind, variance=2.5)  # type: ignore[arg-type]
    total = np.sum([share.draw(50_000) for _ in range(8)], axis=0)
    assert total.dtype == np.int64
    assert total.var() == pytest.approx(20.0, rel=0.05)
    assert abs(total.mean()) < 5 * math.sqrt(20 / 50_000)


@pytest.mark.parametrize("variance", [0.0, -1.0, math.nan, math.inf])
def test_a_share_has_a_variance(variance: float) -> None:
    with pytest.raises(PrivacyError, match="variance"):
        NoiseShare(kind="skellam", variance=variance)


@pytest.mark.parametrize(("classes", "epsilon"), [(2, 0.5), (10, 3.0), (3, 20.0)])
def test_an_answer_by_itself_has_the_epsilon_that_was_asked_for(classes: int, epsilon: float) -> None:
    noise = response_noise(classes, epsilon)
    charge = RandomisedResponse(classes=classes, noise=noise, answers=1)
    assert charge.ratio <= epsilon
    assert charge.ratio == pytest.approx(epsilon, rel=1e-3)
    assert (noise * 2**32).is_integer()


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan])
def test_an_answer_needs_an_epsilon(bad: float) -> None:
    with pytest.raises(PrivacyError, match="epsilon"):
        response_noise(3, bad)


def test_responses_are_of_the_right_frequency_and_debiased() -> None:
    classes, answers = 4, 200_000
    noise = response_noise(classes, 1.0)
    charge = RandomisedResponse(classes=classes, noise=noise, answers=answers)
    votes = np.tile([0, 0, 1, 0], answers)
    sent = respond(votes, charge, uniform).reshape(answers, classes)
    assert (sent.sum(axis=1) == 1).all()
    expected = np.full(classes, noise / classes) + (1 - noise) * np.array([0, 0, 1, 0])
    assert stats.chisquare(sent.sum(axis=0), expected * answers).pvalue > 1e-6
    mean = debiased(sent.mean(axis=0, keepdims=True), noise, classes)
    assert np.abs(mean - [[0, 0, 1, 0]]).max() < 0.02


def test_only_votes_are_responded_with() -> None:
    charge = RandomisedResponse(classes=2, noise=0.5, answers=2)
    for wrong in ([1, 1, 0, 1], [0, 0, 1, 0], [2, -1, 1, 0]):
        with pytest.raises(PrivacyError, match="one class"):
            respond(np.array(wrong), charge, uniform)
