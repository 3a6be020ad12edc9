from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from securefd.attacks.label_distribution import (
    _weights,
    answered_by,
    divergence,
    label_distributions,
    total_variation,
)
from securefd.errors import AuditError
from securefd.views import RoundView, View

RNG = np.random.default_rng(0)
TRUE = RNG.dirichlet(np.full(5, 0.4), size=8)
PUBLIC_MIX = np.array([0.5, 0.2, 0.1, 0.1, 0.1])


def answers(seed: int = 0, m: int = 400, sure: float = 6.0, true: np.ndarray = TRUE) -> np.ndarray:
    """Bayes' rule with each client's own mix, on inputs of an uneven public set."""
    rng = np.random.default_rng(seed)
    classes = rng.choice(5, size=m, p=PUBLIC_MIX)
    evidence = rng.standard_normal((m, 5))
    evidence[np.arange(m), classes] += sure / 2
    posterior = np.exp(evidence)[None] * true[:, None, :]
    return posterior / posterior.sum(axis=-1, keepdims=True)


def view(**fields) -> View:
    part = RoundView(round=0, queries=np.arange(400), consensus=answers().mean(axis=0), **fields)
    return View(observer="server", public=np.zeros((400, 1), dtype=np.float32), rounds=(part,))


def test_dividing_by_everybodys_mean_takes_the_public_set_out():
    """The plain mean mixes in what the public inputs are."""
    seen = answers()
    plain, relative = (label_distributions(seen, kind) for kind in ("mean", "relative"))
    baseline = np.repeat(TRUE.mean(axis=0)[None], 8, axis=0)
    near, nearer = divergence(TRUE, plain).mean(), divergence(TRUE, relative).mean()
    assert nearer < near < divergence(TRUE, baseline).mean()
    assert total_variation(TRUE, relative).mean() < 0.8 * total_variation(TRUE, baseline).mean()


def test_estimates_are_distributions_and_follow_the_formula():
    seen = RNG.dirichlet(np.ones(3), size=(2, 4))
    for kind in ("mean", "relative", "prior shift"):
        np.testing.assert_allclose(label_distributions(seen, kind).sum(axis=1), 1)
    means = [[(sum(seen[k, i, c] for i in range(4)) + 1 / 3) / 5 for c in range(3)] for k in range(2)]
    np.testing.assert_allclose(label_distributions(seen, "mean"), means)
    ratios = [[means[k][c] / ((means[0][c] + means[1][c]) / 2) for c in range(3)] for k in range(2)]
    expected = [[each / sum(row) for each in row] for row in ratios]
    np.testing.assert_allclose(label_distributions(seen, "relative"), expected)


def test_shifting_finds_the_weights_that_turn_everybodys_mean_into_a_clients():
    """The oracle maximises the concave likelihood of the weights, with another algorithm."""
    seen = RNG.dirichlet(np.ones(3), size=(2, 6))
    with_even = np.concatenate([seen, np.full((2, 1, 3), 1 / 3)], axis=1)
    reference, means = with_even.mean(axis=0), with_even.mean(axis=1)
    for mean, found in zip(means, label_distributions(seen, "prior shift"), strict=True):

        def loss(logs, mean=mean):
            return np.log(reference @ np.exp(logs)).mean() - mean @ logs

        weights = np.exp(minimize(loss, np.zeros(3), tol=1e-12).x)
        expected = weights * means.mean(axis=0)
        np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-4)


def test_shifting_is_exact_where_clients_differ_in_their_mix_alone():
    """Everybody's mean is put in place by hand, so that each client is a shift of it."""
    reference = RNG.dirichlet(np.ones(4), size=500)
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    shifted = reference * weights
    shifted /= shifted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(_weights(reference, shifted.mean(axis=0)), weights, rtol=1e-6)


def test_what_everybody_lacks_is_not_said_to_be_held():
    """Dividing by everybody's mean says too much of rare classes; the shift does not."""
    rare = np.array([0.5, 0.3, 0.15, 0.04, 0.01])
    true = RNG.dirichlet(20 * rare, size=8)
    seen = answers(true=true)
    relative, shift = (
        divergence(true, label_distributions(seen, kind)) for kind in ("relative", "prior shift")
    )
    assert shift.mean() < divergence(true, true.mean(axis=0)).mean() < relative.mean()


def test_decisions_are_counted_and_shades_are_shifted():
    seen = answers()
    np.testing.assert_array_equal(label_distributions(seen), label_distributions(seen, "prior shift"))
    decided = np.eye(5)[seen.argmax(axis=-1)]
    found = label_distributions(decided)
    counts = [[(sum(row[c] for row in own) + 1 / 5) / 401 for c in range(5)] for own in decided]
    np.testing.assert_allclose(found, counts)
    assert np.isfinite(label_distributions(decided, "prior shift")).all()


def test_one_client_alone_is_its_mean():
    seen = answers()[:1]
    np.testing.assert_allclose(label_distributions(seen), label_distributions(seen, "mean"))


def test_rounds_can_be_taken_together_or_without_the_first():
    parts = [view(answers=answers(seed)).rounds[0] for seed in range(3)]
    three = replace(view(), rounds=tuple(parts))
    np.testing.assert_array_equal(
        answered_by(three, "all"), np.concatenate([answers(seed) for seed in range(3)], axis=1)
    )
    np.testing.assert_array_equal(
        answered_by(three, "later"), np.concatenate([answers(1), answers(2)], axis=1)
    )
    with pytest.raises(AuditError, match="first for a view of a single round"):
        answered_by(view(answers=answers()), "later")
    with pytest.raises(AuditError, match="rounds must be first, all or later, got 'last'"):
        answered_by(three, "last")


def test_the_first_answers_that_show_a_client_are_taken():
    seen = answers()
    np.testing.assert_array_equal(answered_by(view(answers=seen)), seen)
    groups = np.array([0, 0, 1, 1, 0, 1, 0, 1])
    sums = np.stack([seen[groups == g].mean(axis=0) for g in range(2)])
    np.testing.assert_array_equal(answered_by(view(sums=sums, groups=groups)), sums[groups])
    both = view(answers=seen)
    later = view(answers=answers(1)).rounds
    np.testing.assert_array_equal(
        answered_by(View(observer="server", public=both.public, rounds=(*both.rounds, *later))), seen
    )


def test_a_mean_over_everybody_tells_nobody_apart():
    with pytest.raises(AuditError, match="nobody can be told apart"):
        answered_by(view(total=answers().mean(axis=0)))
    with pytest.raises(AuditError, match="client 2 is in no sum of round 0"):
        answered_by(view(sums=answers()[:2], groups=np.array([0, 1, -1])))
    broken = answers()
    broken[0, 0, 0] = np.nan
    with pytest.raises(AuditError, match="must be finite"):
        answered_by(view(answers=broken))


def test_distances_are_those_of_the_textbook():
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.25, 0.5])
    assert divergence(p, q) == pytest.approx(np.log(2), abs=1e-5)
    assert divergence(p, p) == pytest.approx(0, abs=1e-5)
    assert np.isfinite(divergence(p, np.array([1.0, 0.0, 0.0])))
    assert total_variation(p, q) == 0.5


@pytest.mark.parametrize(
    ("seen", "kind", "match"),
    [
        (answers()[0], "mean", r"\(n_clients, m, C\)"),
        (np.full((2, 3, 4), np.nan), "mean", "finite"),
        (-answers(), "mean", ">= 0"),
        (np.zeros((2, 3, 4)), "relative", "0 throughout"),
        (answers()[:, :0], "mean", "shape"),
        (answers(), "median", "estimator must be one of mean, relative, prior shift, got 'median'"),
    ],
)
def test_what_is_no_answer_is_refused(seen, kind, match):
    with pytest.raises(AuditError, match=match):
        label_distributions(seen, kind)
