from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from securefd.attacks import lira as module
from securefd.attacks.known import attackable
from securefd.attacks.lira import lira, lira_offline
from securefd.attacks.signals import logit_confidence
from securefd.attacks.simple import loss_attack
from securefd.errors import AuditError

RECORDED = Path(__file__).parent / "oracles" / "tf_privacy.npz"
"""By tf_privacy.py beside it."""


@pytest.fixture(scope="module")
def recorded():
    with np.load(RECORDED, allow_pickle=False) as found:
        return dict(found)


def test_confidences_are_tf_privacys(recorded):
    np.testing.assert_allclose(
        logit_confidence(softmax(recorded["logits"].astype(np.float64), axis=-1), recorded["labels"]),
        recorded["confidence"],
        rtol=1e-9,
    )


@pytest.mark.parametrize(("name", "models"), [("own", 80), ("pooled", 20)])
def test_lira_is_tf_privacys(recorded, name, models):
    confidence = logit_confidence(softmax(recorded["logits"].astype(np.float64), axis=-1), recorded["labels"])
    np.testing.assert_allclose(
        lira(confidence[-1], confidence[:models], recorded["membership"][:models]),
        recorded[name],
        rtol=1e-9,
        atol=1e-9,
    )


def record_by_record(target, shadows, membership, own):
    """What the docstring says, with neither blocks nor masks."""
    n = len(target)
    known = [(shadows[membership[:, i], i], shadows[~membership[:, i], i]) for i in range(n)]
    scores = np.zeros(n)
    for side, sign in ((0, 1), (1, -1)):
        pooled = np.std(np.concatenate([values[side] - np.median(values[side]) for values in known]))
        for i, values in enumerate(known):
            spread = np.std(values[side]) if own else pooled
            scores[i] += sign * norm.logpdf(target[i], np.median(values[side]), spread + 1e-30)
    return scores


def scores_of(m: int, n: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    membership = rng.random((m, n)) < 0.5
    difficulty = rng.normal(0, 3, n)
    shadows = difficulty + 1.5 * membership + rng.normal(0, 1 + rng.random(n), (m, n))
    return rng.normal(difficulty, 1, n), shadows, membership


@pytest.mark.parametrize(("m", "own"), [(20, False), (63, False), (160, True)])
@pytest.mark.parametrize("block", [1 << 19, 1000])
def test_lira_is_the_naive_one(m, own, block, monkeypatch):
    monkeypatch.setattr(module, "_BLOCK", block)
    target, shadows, membership = scores_of(m, 50)
    np.testing.assert_allclose(
        lira(target, shadows, membership), record_by_record(target, shadows, membership, own), rtol=1e-9
    )


@pytest.mark.parametrize(("n_in", "own"), [(31, False), (32, True)])
def test_own_spread_from_32_in_and_32_out_on(n_in, own):
    target, shadows, membership = scores_of(n_in + 40, 5)
    membership[:] = (np.arange(n_in + 40) < n_in)[:, None]
    np.testing.assert_allclose(
        lira(target, shadows, membership), record_by_record(target, shadows, membership, own), rtol=1e-9
    )


@pytest.mark.parametrize("n_out", [31, 32])
def test_offline_is_standard_deviations_above_the_out_shadows(n_out):
    target, shadows, membership = scores_of(n_out + 3, 6)
    membership[:] = (np.arange(n_out + 3) >= n_out)[:, None]
    out = shadows[:n_out]
    residuals = out - np.median(out, axis=0)
    spread = out.std(axis=0) if n_out >= 32 else residuals.std()
    np.testing.assert_allclose(
        lira_offline(target, shadows, membership), (target - np.median(out, axis=0)) / spread, rtol=1e-9
    )


def test_offline_is_one_sided():
    """Far below the OUT shadows is no sign of membership; minus a log-density would say so."""
    _, shadows, membership = scores_of(40, 6)
    below, middle, above = (lira_offline(np.full(6, x), shadows, membership) for x in (-50.0, 0.0, 50.0))
    assert (below < middle).all()
    assert (middle < above).all()


def test_offline_never_saturates():
    _, shadows, membership = scores_of(40, 6)
    far, farther = (lira_offline(np.full(6, x), shadows, membership) for x in (500.0, 501.0))
    assert (far < farther).all()


@pytest.mark.parametrize("attack", [lira, lira_offline])
def test_several_targets_are_scored_as_each_alone(attack):
    target, shadows, membership = scores_of(20, 30)
    both = attack(np.stack([target, -target]), shadows, membership)
    np.testing.assert_array_equal(both[0], attack(target, shadows, membership))
    np.testing.assert_array_equal(both[1], attack(-target, shadows, membership))


@pytest.mark.parametrize("mu", [0.5, 1.0, 2.0])
def test_lira_reaches_the_closed_form_on_gaussians(mu):
    """On N(mu, 1) against N(0, 1) no attack has a larger AUC than Phi(mu / sqrt 2)."""
    rng = np.random.default_rng(3)
    n = 20_000
    membership = rng.random((64, n)) < 0.5
    shadows = mu * membership + rng.standard_normal((64, n))
    member = rng.random(n) < 0.5
    target = mu * member + rng.standard_normal(n)
    best = norm.cdf(mu / np.sqrt(2))
    # Medians of 32 values are off by 0.22 each, which costs up to 0.015.
    assert best - 0.02 < roc_auc_score(member, lira(target, shadows, membership)) < best + 0.008
    assert best - 0.02 < roc_auc_score(member, lira_offline(target, shadows, membership)) < best + 0.008


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
    np.testing.assert_array_equal(lira_offline(np.ones(6), np.ones((20, 6)), membership), 0)


def test_records_without_enough_shadows_have_no_score_and_change_none():
    target, shadows, membership = scores_of(20, 6)
    membership[:, 0] = True
    membership[:, 1] = False
    membership[:, 2] = np.arange(20) < 1
    np.testing.assert_array_equal(attackable(membership), [False, False, False, True, True, True])
    scores = lira(target, shadows, membership)
    assert np.isnan(scores[:3]).all()
    np.testing.assert_array_equal(scores[3:], lira(target[3:], shadows[:, 3:], membership[:, 3:]))
    offline = lira_offline(target, shadows, membership)
    np.testing.assert_array_equal(np.isnan(offline), [True, False, False, False, False, False])
    with pytest.raises(AuditError, match="none of 3 records has 2 IN and 2 OUT shadows among 20"):
        lira(target[:3], shadows[:, :3], membership[:, :3])


@pytest.mark.parametrize("attack", [lira, lira_offline])
def test_what_does_not_fit_is_refused(attack):
    target, shadows, membership = scores_of(20, 6)
    with pytest.raises(AuditError, match="shadows and membership"):
        attack(target, shadows.T, membership)
    with pytest.raises(AuditError, match="boolean"):
        attack(target, shadows, membership.astype(float))
    for all_one in (True, False):
        with pytest.raises(AuditError, match=f"membership is all {all_one}"):
            attack(target, shadows, np.full_like(membership, all_one))
    with pytest.raises(AuditError, match="target must be finite"):
        attack(np.full(6, np.inf), shadows, membership)
    shadows[0, 0] = np.nan
    with pytest.raises(AuditError, match="shadows must be finite"):
        attack(target, shadows, membership)
