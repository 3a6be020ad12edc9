import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score

from securefd.attacks.lira import lira
from securefd.attacks.vector_lira import RIDGE, shrunk_covariance, vector_lira
from securefd.errors import AuditError


def scene(m: int = 16, n: int = 30, k: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    membership = rng.random((m, n)) < 0.5
    membership[:2], membership[2:4] = True, False
    mix = rng.normal(0, 1, (k, k))
    shadows = rng.normal(0, 3, (n, 1)) + membership[..., None] * 0.7 + rng.normal(0, 1, (m, n, k)) @ mix
    return rng.normal(0, 1, (2, n, k)) @ mix, shadows, membership


@pytest.mark.parametrize(("size", "k"), [(5, 8), (40, 3), (4000, 3)])
def test_the_covariance_is_shrunk_as_ledoit_and_wolf_say(size, k):
    residuals = np.random.default_rng(size).normal(0, 1, (size, k)) * np.arange(1, k + 1)
    expected, _ = ledoit_wolf(residuals, assume_centered=True)
    ridge = RIDGE * np.trace(expected) / k * np.eye(k)
    np.testing.assert_allclose(shrunk_covariance(residuals), expected + ridge, rtol=1e-9, atol=1e-12)


def record_by_record(target, shadows, membership):
    n, k = target.shape[1:]
    scores = np.zeros(target.shape[:2])
    for used, sign in ((membership, 1), (~membership, -1)):
        residuals = []
        for i in range(n):
            values = shadows[used[:, i], i]
            residuals += [
                (v - values.mean(axis=0)) * np.sqrt(len(values) / (len(values) - 1)) for v in values
            ]
        covariance, _ = ledoit_wolf(np.array(residuals), assume_centered=True)
        covariance += RIDGE * np.trace(covariance) / k * np.eye(k)
        for i in range(n):
            gaussian = multivariate_normal(shadows[used[:, i], i].mean(axis=0), covariance)
            scores[:, i] += sign * gaussian.logpdf(target[:, i])
    return scores


@pytest.mark.parametrize("k", [1, 3])
def test_scores_are_the_naive_ones(k):
    inputs = scene(k=k)
    np.testing.assert_allclose(vector_lira(*inputs), record_by_record(*inputs), rtol=1e-8, atol=1e-8)


def test_several_weak_signals_together_find_members_that_each_alone_does_not():
    rng = np.random.default_rng(1)
    membership = rng.random((33, 600)) < 0.5
    signals = rng.normal(0, 3, (600, 8)) + membership[..., None] * 0.8 + rng.normal(0, 1, (33, 600, 8))
    together = vector_lira(signals[:1], signals[1:], membership[1:])[0]
    alone = lira(signals[0, :, 0], signals[1:, :, 0], membership[1:])
    assert roc_auc_score(membership[0], together) > 0.9 > 0.8 > roc_auc_score(membership[0], alone)


def test_signals_that_never_vary_or_repeat_each_other_leave_finite_scores():
    target, shadows, membership = scene(k=1)
    np.testing.assert_array_equal(vector_lira(np.ones((2, 30, 2)), np.ones((16, 30, 2)), membership), 0)
    repeated = vector_lira(np.repeat(target, 3, axis=2), np.repeat(shadows, 3, axis=2), membership)
    assert np.isfinite(repeated).all()


def test_records_without_enough_shadows_have_no_score():
    target, shadows, membership = scene()
    membership[:, 0], membership[:, 1] = True, np.arange(16) < 1
    scores = vector_lira(target, shadows, membership)
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(scores[0])), [0, 1])
    with pytest.raises(AuditError, match="none of 2 records"):
        vector_lira(target[:, :2], shadows[:, :2], membership[:, :2])


def test_what_does_not_fit_is_refused():
    target, shadows, membership = scene()
    with pytest.raises(AuditError, match=r"shadows \(m, n, k\)"):
        vector_lira(target[..., :2], shadows, membership)
    with pytest.raises(AuditError, match="membership must be"):
        vector_lira(target, shadows, membership.T)
    with pytest.raises(AuditError, match="boolean"):
        vector_lira(target, shadows, membership.astype(int))
    with pytest.raises(AuditError, match="shadows must be finite"):
        vector_lira(target, shadows * np.nan, membership)
