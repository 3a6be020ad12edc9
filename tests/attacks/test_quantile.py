import numpy as np
import pytest
from scipy.optimize import linprog
from sklearn.metrics import roc_auc_score

from securefd.attacks import quantile as module
from securefd.attacks.answers import Records
from securefd.attacks.quantile import LEVEL, excess_over_quantile, fit_quantiles
from securefd.errors import AuditError


def scene(n: int = 400, z: int = 300, d: int = 20, seed: int = 0):
    """Records whose confidence depends on label and features, in targets of different scales."""
    rng = np.random.default_rng(seed)
    features, labels = rng.normal(0, 1, (n + z, d)), rng.integers(0, 4, n + z)
    features[:, :2] *= 3
    member = rng.random((2, n)) < 0.5
    base = 2 * labels + 2 * features[:, 0] + rng.normal(0, 1, (2, n + z))
    base[:, :n] += 2 * member
    base[1] = 10 * base[1] - 40
    records = Records(
        labels=labels[:n],
        features=features[:n],
        population_labels=labels[n:],
        population_features=features[n:],
    )
    return base[:, :n], base[:, n:], records, member


def exact_quantile(columns, values):
    """Pinball loss by linear programming: coefficients, and the parts above and below the line."""
    size, p = columns.shape
    costs = np.r_[np.zeros(p), np.full(size, LEVEL), np.full(size, 1 - LEVEL)]
    equal = np.hstack([columns, np.eye(size), -np.eye(size)])
    bounds = [(None, None)] * p + [(0, None)] * (2 * size)
    return linprog(costs, A_eq=equal, b_eq=values, bounds=bounds).x[:p]


def pinball(columns, values, coefficients):
    residuals = values - columns @ coefficients
    return np.maximum(LEVEL * residuals, (LEVEL - 1) * residuals).mean()


def test_the_fit_is_nearly_the_best_by_the_pinball_loss(monkeypatch):
    monkeypatch.setattr(module, "RIDGE", 0.0)
    rng = np.random.default_rng(1)
    columns = np.column_stack([np.ones(300), rng.normal(0, 1, (300, 3))])
    values = columns @ [0.5, 1.0, -1.0, 0.3] + rng.normal(0, 1, 300) * (1 + 0.3 * columns[:, 1])
    (found,) = fit_quantiles(columns, values[None])
    best = exact_quantile(columns, values)
    assert pinball(columns, values, found) < 1.01 * pinball(columns, values, best)


def test_records_with_nobody_in_training_exceed_it_as_often_as_the_level_says():
    confidence, population, records, member = scene(n=4000)
    excess = excess_over_quantile(confidence, population, records)
    for row, trained in zip(excess, member, strict=True):
        # 300 records for 21 coefficients: the quantile of fresh records is off by some points.
        assert abs((row[~trained] > 0).mean() - (1 - LEVEL)) < 0.05


def test_it_beats_the_confidence_where_label_and_features_decide_the_difficulty():
    confidence, population, records, member = scene()
    excess = excess_over_quantile(confidence, population, records)
    for row, plain, trained in zip(excess, confidence, member, strict=True):
        assert roc_auc_score(trained, row) > roc_auc_score(trained, plain) + 0.1


def test_each_target_is_scored_by_itself_and_so_is_each_record():
    confidence, population, records, _ = scene()
    whole = excess_over_quantile(confidence, population, records)
    alone = excess_over_quantile(confidence[1:], population[1:], records)
    np.testing.assert_allclose(whole[1:], alone, rtol=1e-9)
    few = np.array([7, 3])
    some = excess_over_quantile(confidence[:, few], population, records.take(few))
    np.testing.assert_allclose(whole[:, few], some, rtol=1e-9)


def test_scores_follow_the_scale_of_a_target():
    confidence, population, records, _ = scene()
    plain = excess_over_quantile(confidence, population, records)
    scaled = excess_over_quantile(3 * confidence + 5, 3 * population + 5, records)
    np.testing.assert_allclose(scaled, 3 * plain, rtol=1e-6, atol=1e-6)


def test_a_class_that_the_population_lacks_and_features_that_never_vary_break_nothing():
    confidence, population, records, _ = scene()
    assert records.features is not None
    features = records.features.copy()
    features[:, 5] = 9.0
    constant = np.where(np.arange(20) == 5, 0.0, records.population_features)
    odd = Records(
        labels=records.labels + 1,
        features=features,
        population_labels=np.zeros(300, dtype=np.int64),
        population_features=constant,
    )
    found = excess_over_quantile(confidence, population, odd)
    assert np.abs(found - confidence).max() < 20 * np.abs(population).max()
    flat = excess_over_quantile(np.ones((2, 400)), np.ones((2, 300)), odd)
    np.testing.assert_allclose(flat, 0, atol=1e-6)


@pytest.mark.parametrize(("z", "d"), [(300, 2), (12, 50), (1, 5)])
def test_few_records_or_features_suffice(z, d):
    rng = np.random.default_rng(2)
    records = Records(
        labels=rng.integers(0, 4, 30),
        features=rng.random((30, d)),
        population_labels=rng.integers(0, 4, z),
        population_features=rng.random((z, d)),
    )
    assert np.isfinite(excess_over_quantile(rng.random((2, 30)), rng.random((2, z)), records)).all()


def test_what_does_not_fit_is_refused():
    confidence, population, records, _ = scene()
    with pytest.raises(AuditError, match="target must be"):
        excess_over_quantile(confidence, population[:, :-1], records)
    with pytest.raises(AuditError, match="population must be finite"):
        excess_over_quantile(confidence, population * np.nan, records)
    with pytest.raises(AuditError, match="needs features"):
        excess_over_quantile(confidence, population, Records(labels=records.labels))
    assert records.features is not None
    fewer = Records(
        labels=records.labels,
        features=records.features[:, :-1],
        population_labels=records.population_labels,
        population_features=records.population_features,
    )
    with pytest.raises(AuditError, match="as many features"):
        excess_over_quantile(confidence, population, fewer)
