import numpy as np
import pytest

from securefd.attacks.peers import above_peers
from securefd.attacks.ranks import population_rank, reference_rank
from securefd.errors import AuditError

RNG = np.random.default_rng(0)
TARGET = np.round(RNG.normal(0, 1, (2, 30)), 1)
POPULATION = np.round(RNG.normal(0, 1, (2, 40)), 1)
SHADOWS = np.round(RNG.normal(0, 1, (11, 30)), 1)
MEMBERSHIP = RNG.random((11, 30)) < 0.5


def test_population_rank_is_the_share_of_worse_fitted_records_with_ties_half():
    ranks = population_rank(TARGET, POPULATION)
    for t in range(2):
        for i in range(30):
            own, others = TARGET[t, i], POPULATION[t]
            steps = (others < own).sum() + (others == own).sum() / 2
            assert steps < ranks[t, i] * 41 < steps + 1


def test_population_rank_orders_records_as_their_confidence_does():
    for own, ranks in zip(TARGET, population_rank(TARGET, POPULATION), strict=True):
        np.testing.assert_array_equal(
            np.unique(own, return_inverse=True)[1], np.unique(ranks, return_inverse=True)[1]
        )


def test_reference_rank_is_the_share_of_less_confident_models_without_the_record():
    ranks = reference_rank(TARGET, SHADOWS, MEMBERSHIP)
    for t in range(2):
        for i in range(30):
            own, others = TARGET[t, i], SHADOWS[~MEMBERSHIP[:, i], i]
            steps = (others < own).sum() + (others == own).sum() / 2
            assert steps < ranks[t, i] * (len(others) + 1) < steps + 1


def test_reference_rank_never_falls_as_a_target_grows_more_confident():
    grown = np.linspace(-4, 4, 50)
    ranks = reference_rank(np.repeat(grown[:, None], 30, axis=1), SHADOWS, MEMBERSHIP)
    assert (np.diff(ranks, axis=0) > 0).all()


def test_models_that_trained_on_the_record_do_not_matter_to_its_reference_rank():
    moved = np.where(MEMBERSHIP, 50.0, SHADOWS)
    np.testing.assert_array_equal(
        reference_rank(TARGET, SHADOWS, MEMBERSHIP), reference_rank(TARGET, moved, MEMBERSHIP)
    )


def test_records_with_fewer_than_two_models_without_them_have_no_reference_rank():
    membership = MEMBERSHIP.copy()
    membership[:, 3], membership[1:, 4] = True, True
    ranks = reference_rank(TARGET, SHADOWS, membership)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(ranks[0])), [3, 4])
    with pytest.raises(AuditError, match="none of 1 records has 2 OUT shadows"):
        reference_rank(TARGET[:, 4:5], SHADOWS[:, 4:5], membership[:, 4:5])


def peer_by_peer(own, peers):
    scores = np.zeros(own.shape)
    for t in range(len(own)):
        residuals = [np.var(peers[t, i], ddof=1) for i in range(own.shape[1])]
        for i in range(own.shape[1]):
            scores[t, i] = (own[t, i] - np.mean(peers[t, i])) / np.sqrt(np.mean(residuals))
    return scores


def test_peers_are_outsiders_with_a_spread_pooled_over_records():
    peers = RNG.normal(0, 1, (2, 30, 4)) + RNG.normal(0, 5, (2, 30, 1))
    np.testing.assert_allclose(above_peers(TARGET, peers), peer_by_peer(TARGET, peers), rtol=1e-12)


def test_a_single_peer_ranks_records_by_their_difference():
    peer = RNG.normal(0, 1, (2, 30, 1))
    scores = above_peers(TARGET, peer)
    assert np.isfinite(scores).all()
    for t in range(2):
        np.testing.assert_array_equal(np.argsort(scores[t]), np.argsort(TARGET[t] - peer[t, :, 0]))


def test_peers_that_agree_in_everything_leave_finite_scores():
    assert np.isfinite(above_peers(np.ones((1, 5)), np.ones((1, 5, 3)))).all()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: population_rank(TARGET, POPULATION[:1]), r"population \(t, z\)"),
        (lambda: population_rank(TARGET, POPULATION[:, :0]), "z >= 1"),
        (lambda: population_rank(TARGET, POPULATION * np.nan), "population must be finite"),
        (lambda: reference_rank(TARGET, SHADOWS.T, MEMBERSHIP), "shadows and membership"),
        (lambda: reference_rank(TARGET, SHADOWS, ~np.zeros_like(MEMBERSHIP)), "all True"),
        (lambda: above_peers(TARGET, np.zeros((2, 30, 0))), "k >= 1"),
        (lambda: above_peers(TARGET, np.zeros((2, 29, 3))), "k >= 1"),
        (lambda: above_peers(TARGET, np.full((2, 30, 3), np.nan)), "peers must be finite"),
    ],
)
def test_what_does_not_fit_is_refused(call, match):
    with pytest.raises(AuditError, match=match):
        call()
