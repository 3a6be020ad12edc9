import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from securefd.attacks import rmia as module
from securefd.attacks.rmia import GAMMA, OFFLINE_A, rmia, rmia_offline
from securefd.errors import AuditError

T, M, N, Z = 3, 12, 25, 40


def scene(seed: int = 0):
    """Confidences of targets and shadows about records and population, and the shadows' membership."""
    rng = np.random.default_rng(seed)
    membership = rng.random((M, N)) < 0.5
    membership[:2], membership[2:4] = True, False
    hard, hard_z = rng.normal(0, 2, N), rng.normal(0, 2, Z)
    return (
        rng.normal(hard, 1, (T, N)),
        rng.normal(hard_z, 1, (T, Z)),
        rng.normal(hard, 1, (M, N)) + membership,
        rng.normal(hard_z, 1, (M, Z)),
        membership,
    )


def probability(confidence):
    return 1 / (1 + np.exp(-confidence))


def pair_by_pair(target, population, shadows, shadows_population, membership, online):
    """The share of z of which the record's ratio is GAMMA times theirs, and the ratio itself."""
    p, p_z = probability(shadows), probability(shadows_population)
    shares, ratios = np.zeros((T, N)), np.zeros((T, N))
    for i in range(N):
        mean_in, mean_out = p[membership[:, i], i].mean(), p[~membership[:, i], i].mean()
        a = OFFLINE_A
        usual = (mean_in + mean_out) / 2 if online else ((1 + a) * mean_out + 1 - a) / 2
        for t in range(T):
            ratios[t, i] = probability(target[t, i]) / usual
            for j in range(Z):
                usual_z = p_z[:, j].mean() if online else ((1 + a) * p_z[:, j].mean() + 1 - a) / 2
                ratio_z = probability(population[t, j]) / usual_z
                shares[t, i] += (ratios[t, i] / ratio_z >= GAMMA) / Z
    return shares, ratios


@pytest.mark.parametrize(("attack", "online"), [(rmia, True), (rmia_offline, False)])
@pytest.mark.parametrize("block", [1 << 19, 60])
def test_scores_are_the_shares_with_ties_broken_by_the_ratio(attack, online, block, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    inputs = scene()
    scores = attack(*inputs)
    shares, ratios = pair_by_pair(*inputs, online)
    np.testing.assert_allclose(np.floor(scores * (Z + 1)), shares * Z, atol=1e-9)
    for score, ratio in zip(scores, ratios, strict=True):
        np.testing.assert_array_equal(np.argsort(score), np.argsort(ratio))


@pytest.mark.parametrize("attack", [rmia, rmia_offline])
def test_no_two_records_tie_however_small_the_population(attack):
    target, population, shadows, shadows_population, membership = scene()
    scores = attack(target + 20, population[:, :1], shadows, shadows_population[:, :1], membership)
    assert all(len(np.unique(score)) == N for score in scores)


@pytest.mark.parametrize("attack", [rmia, rmia_offline])
def test_a_ratio_that_equals_another_counts_as_reaching_it(attack):
    target, population, shadows, shadows_population, membership = scene()
    halves = (np.zeros_like(values) for values in (target, population, shadows, shadows_population))
    np.testing.assert_array_equal(np.floor(attack(*halves, membership) * (Z + 1)), Z)


@pytest.mark.parametrize("attack", [rmia, rmia_offline])
def test_each_target_is_scored_by_itself(attack):
    target, population, *known = scene()
    together = attack(target, population, *known)
    for t in range(T):
        np.testing.assert_array_equal(
            together[t : t + 1], attack(target[t : t + 1], population[t : t + 1], *known)
        )


@pytest.mark.parametrize("attack", [rmia, rmia_offline])
def test_certain_answers_break_nothing(attack):
    target, population, shadows, shadows_population, membership = scene()
    certain = (np.sign(values) * 103 for values in (target, population, shadows, shadows_population))
    scores = attack(*certain, membership)
    assert ((scores > 0) & (scores < 1)).all()


@pytest.mark.parametrize("attack", [rmia, rmia_offline])
def test_members_are_found_among_records_of_any_difficulty(attack):
    rng = np.random.default_rng(2)
    n, m = 3000, 32
    membership = rng.random((m + 1, n)) < 0.5
    hard, hard_z = rng.normal(-1, 3, n), rng.normal(-1, 3, 200)
    confidence = hard + 2 * membership + rng.normal(0, 1, (m + 1, n))
    about_z = hard_z + rng.normal(0, 1, (m + 1, 200))
    scores = attack(confidence[:1], about_z[:1], confidence[1:], about_z[1:], membership[1:])
    by_confidence = roc_auc_score(membership[0], confidence[0])
    assert roc_auc_score(membership[0], scores[0]) > by_confidence + 0.05


def test_records_without_enough_shadows_have_no_score():
    *confidences, membership = scene()
    membership[:, 0], membership[:, 1] = True, False
    np.testing.assert_array_equal(np.isnan(rmia(*confidences, membership)).any(axis=0)[:3], [1, 1, 0])
    np.testing.assert_array_equal(np.isnan(rmia_offline(*confidences, membership)).any(axis=0)[:3], [1, 0, 0])


@pytest.mark.parametrize("attack", [rmia, rmia_offline])
def test_what_does_not_fit_is_refused(attack):
    target, population, shadows, shadows_population, membership = scene()
    with pytest.raises(AuditError, match=r"population \(t, z\)"):
        attack(target, population[:, :-1], shadows, shadows_population, membership)
    with pytest.raises(AuditError, match="at least one record"):
        attack(target, population[:, :0], shadows, shadows_population[:, :0], membership)
    with pytest.raises(AuditError, match="population must be finite"):
        attack(target, population * np.nan, shadows, shadows_population, membership)
    with pytest.raises(AuditError, match="all True"):
        attack(target, population, shadows, shadows_population, np.ones_like(membership))
