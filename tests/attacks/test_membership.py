import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from securefd.attacks.membership import attackable, lira, loss_attack
from securefd.attacks.signals import cross_entropy, logit_confidence
from securefd.errors import AuditError


def tf_privacy_score(target, shadows, membership, fix_variance):
    """TF-Privacy's ``compute_score_lira``, record by record, with the sign turned: higher = member."""
    n = len(target)
    stat_in = [shadows[membership[:, i], i] for i in range(n)]
    stat_out = [shadows[~membership[:, i], i] for i in range(n)]
    mean_in = [np.median(values) for values in stat_in]
    mean_out = [np.median(values) for values in stat_out]
    if fix_variance:
        std_in = [np.std(np.concatenate([v - m for v, m in zip(stat_in, mean_in, strict=True)]))] * n
        std_out = [np.std(np.concatenate([v - m for v, m in zip(stat_out, mean_out, strict=True)]))] * n
    else:
        std_in = [np.std(values) for values in stat_in]
        std_out = [np.std(values) for values in stat_out]
    return np.array(
        [
            norm.logpdf(target[i], mean_in[i], std_in[i] + 1e-30)
            - norm.logpdf(target[i], mean_out[i], std_out[i] + 1e-30)
            for i in range(n)
        ]
    )


def scores_of(m: int, n: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    membership = rng.random((m, n)) < 0.5
    difficulty = rng.normal(0, 3, n)
    shadows = difficulty + 1.5 * membership + rng.normal(0, 1 + rng.random(n), (m, n))
    return rng.normal(difficulty, 1, n), shadows, membership


@pytest.mark.parametrize(("m", "fix_variance"), [(20, True), (63, True), (160, False)])
def test_lira_is_tf_privacys(m, fix_variance):
    target, shadows, membership = scores_of(m, 50)
    np.testing.assert_allclose(
        lira(target, shadows, membership),
        tf_privacy_score(target, shadows, membership, fix_variance),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize(("n_in", "fix_variance"), [(31, True), (32, False)])
def test_own_spread_from_32_in_and_32_out_on(n_in, fix_variance):
    target, shadows, membership = scores_of(n_in + 40, 5)
    membership[:] = (np.arange(n_in + 40) < n_in)[:, None]
    np.testing.assert_allclose(
        lira(target, shadows, membership),
        tf_privacy_score(target, shadows, membership, fix_variance),
        rtol=1e-9,
    )


def test_several_targets_are_scored_as_each_alone():
    target, shadows, membership = scores_of(20, 30)
    both = lira(np.stack([target, -target]), shadows, membership)
    np.testing.assert_array_equal(both[0], lira(target, shadows, membership))
    np.testing.assert_array_equal(both[1], lira(-target, shadows, membership))


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0])
def test_lira_reaches_the_closed_form_on_gaussians(mu):
    """On N(mu, 1) against N(0, 1) no attack has a larger AUC than Phi(mu / sqrt 2)."""
    rng = np.random.default_rng(3)
    n = 20_000
    membership = rng.random((64, n)) < 0.5
    shadows = mu * membership + rng.standard_normal((64, n))
    member = rng.random(n) < 0.5
    target = mu * member + rng.standard_normal(n)
    kept = attackable(membership)
    score = lira(target[kept], shadows[:, kept], membership[:, kept])
    best = norm.cdf(mu / np.sqrt(2))
    # Medians of 32 values are off by 0.22 each, which costs up to 0.015.
    assert best - 0.02 < roc_auc_score(member[kept], score) < best + 0.008


def test_lira_beats_the_loss_attack_where_records_differ():
    rng = np.random.default_rng(4)
    membership = rng.random((41, 2000)) < 0.5
    confidence = rng.normal(0, 5, 2000) + membership + rng.standard_normal((41, 2000))
    by_loss = roc_auc_score(membership[0], loss_attack(confidence[0]))
    by_lira = roc_auc_score(membership[0], lira(confidence[0], confidence[1:], membership[1:]))
    assert by_loss < 0.6 < 0.7 < by_lira


def test_a_signal_that_never_varies_says_nothing():
    membership = scores_of(20, 6)[2]
    np.testing.assert_array_equal(lira(np.ones(6), np.ones((20, 6)), membership), 0)


def test_loss_attack_is_minus_the_cross_entropy():
    rng = np.random.default_rng(5)
    probabilities, labels = rng.dirichlet(np.ones(10), 200), rng.integers(0, 10, 200)
    np.testing.assert_allclose(
        loss_attack(logit_confidence(probabilities, labels)), -cross_entropy(probabilities, labels), rtol=1e-9
    )


def test_records_without_enough_shadows_are_counted():
    target, shadows, membership = scores_of(20, 6)
    membership[:, 0] = True
    membership[:, 1] = False
    membership[:, 2] = np.arange(20) < 1
    np.testing.assert_array_equal(attackable(membership), [False, False, False, True, True, True])
    with pytest.raises(AuditError, match="3 of 6 records"):
        lira(target, shadows, membership)


def test_what_does_not_fit_is_refused():
    target, shadows, membership = scores_of(20, 6)
    with pytest.raises(AuditError, match="shadows and membership"):
        lira(target, shadows.T, membership)
    with pytest.raises(AuditError, match="boolean"):
        lira(target, shadows, membership.astype(float))
    shadows[0, 0] = np.nan
    with pytest.raises(AuditError, match="shadows must be finite"):
        lira(target, shadows, membership)
    with pytest.raises(AuditError, match="confidence must be finite"):
        loss_attack(np.array([np.nan]))
