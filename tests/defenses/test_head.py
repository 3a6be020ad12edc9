"""Noised class sums: distances by trying all, noise and epsilon by hand, least squares written out."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq, minimize

from securefd.defenses import accounting, filters
from securefd.defenses.head import (
    SMALLEST_PROBABILITY,
    ClassSums,
    Head,
    Whitening,
    nearest_probabilities,
    on_grid,
    worthwhile,
)
from securefd.errors import DataError, PrivacyError

KEY = bytes(range(32))


def on_sphere(n, dimensions, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, dimensions))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# --- sensitivity ---------------------------------------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3, 4, 7])
@pytest.mark.parametrize(("dimensions", "resolution"), [(1, 4), (2, 3), (3, 2)])
def test_no_record_moves_the_sum_further_than_is_charged(n_classes, dimensions, resolution):
    """Every integer vector that a record can be, with every label, against every other."""
    sums = ClassSums(n_classes=n_classes, dimensions=dimensions, variance=1.0, resolution=resolution)
    steps = np.arange(-resolution, resolution + 1)
    vectors = np.array(list(itertools.product(steps, repeat=dimensions)))
    vectors = vectors[(vectors**2).sum(axis=1) <= resolution**2]
    one = [
        sums.exactly(vector[None] / resolution, np.array([label])).ravel()
        for vector in vectors
        for label in range(min(n_classes, 3))
    ]
    added = max(int((each**2).sum()) for each in one)
    added_l1 = max(int(np.abs(each).sum()) for each in one)
    replaced = max(int(((a - b) ** 2).sum()) for a in one for b in one)
    replaced_l1 = max(int(np.abs(a - b).sum()) for a in one for b in one)
    found = sums.sensitivity
    assert added == found.added == n_classes * (n_classes - 1) * resolution**2
    assert replaced == found.replaced == 4 * added
    assert added_l1 <= found.added_l1
    assert replaced_l1 <= found.replaced_l1
    if dimensions == 1:
        assert (added_l1, replaced_l1) == (found.added_l1, found.replaced_l1)


@pytest.mark.parametrize("n_classes", range(2, 40))
def test_two_labels_are_no_further_apart_than_one_label_turned_round(n_classes):
    """The Gram matrix of two records with labels of their own: its largest eigenvalue bounds them all."""
    code = n_classes * np.eye(n_classes) - 1
    cross = -(code[0] @ code[1])
    own = code[0] @ code[0]
    assert (own, cross) == (n_classes * (n_classes - 1), n_classes)
    assert 2 * own + 2 * cross == 2 * n_classes**2 <= 4 * own


def test_the_sum_is_that_of_outer_products():
    x, y = on_sphere(50, 6), np.arange(50) % 4
    sums = ClassSums(n_classes=4, dimensions=6, variance=1.0)
    naive = np.zeros((6, 4), dtype=np.int64)
    for row, label in zip(on_grid(x, sums.resolution), y, strict=True):
        naive += np.outer(row, 4 * (np.arange(4) == label) - 1)
    assert np.array_equal(sums.exactly(x, y), naive)
    assert sums.exactly(x[:0], y[:0]).shape == (6, 4)


def test_rows_are_cut_off_towards_zero_and_never_too_long():
    sums = ClassSums(n_classes=2, dimensions=5, variance=1.0)
    x = on_sphere(20_000, 5) * np.random.default_rng(1).choice([0.1, 1.0, 1 + 1e-15, 7.0, 1e200], (20_000, 1))
    q = on_grid(x, sums.resolution)
    assert ((q * q).sum(axis=1) <= 10**10).all()
    longest = np.sqrt((q * q).sum(axis=1))
    size = np.abs(x).max(axis=1)
    assert (longest[size > 2] > 10**5 - 5).all()
    short = size < 0.1
    assert np.array_equal(q[short], np.trunc(x[short] * 10**5))


@pytest.mark.parametrize("resolution", [1, 2, 7, 10**5, 2**20])
def test_floats_that_round_up_are_shortened(resolution):
    sums = ClassSums(n_classes=2, dimensions=2, variance=1.0, resolution=resolution)
    angles = np.arctan2(*np.meshgrid(np.arange(-40, 41), np.arange(-40, 41))).ravel()
    x = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (1 + 4e-16)
    q = on_grid(x, sums.resolution)
    assert ((q * q).sum(axis=1) <= resolution**2).all()


def test_a_grid_point_beyond_the_sphere_goes_back_inside(monkeypatch):
    monkeypatch.setattr(np.linalg, "norm", lambda x, **_: np.ones((len(x), 1)))
    q = on_grid(np.array([[0.9, 0.9], [0.6, -0.8], [-1.0, 0.0]]), 10)
    assert q.tolist() == [[7, 7], [6, -8], [-10, 0]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_record_that_is_not_finite_counts_nothing_and_stops_nobody(bad):
    sums = ClassSums(n_classes=3, dimensions=4, variance=1.0)
    x, y = on_sphere(5, 4), np.array([0, 1, 2, 0, 1])
    spoilt = x.copy()
    spoilt[2, 1] = bad
    assert np.array_equal(sums.exactly(spoilt, y), sums.exactly(np.delete(x, 2, 0), np.delete(y, 2)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_features_that_are_not_finite_stop_nobody_either(bad):
    features = np.random.default_rng(0).normal(size=(20, 4))
    whitening = Whitening.of(features)
    spoilt = features.copy()
    spoilt[3, 2] = bad
    sums = ClassSums(n_classes=2, dimensions=4, variance=1.0)
    y = np.arange(20) % 2
    found = sums.exactly(whitening.each(spoilt), y)
    without = sums.exactly(whitening.each(np.delete(features, 3, 0)), np.delete(y, 3))
    assert ((found - without) ** 2).sum() <= sums.sensitivity.added


def test_a_record_counts_the_same_whoever_is_beside_it():
    sums = ClassSums(n_classes=3, dimensions=80, variance=1.0)
    x = on_sphere(300, 80)
    together = on_grid(x, sums.resolution)
    for k in range(0, 300, 7):
        assert np.array_equal(on_grid(x[k : k + 1])[0], together[k])


# --- noise and its cost --------------------------------------------------------------------------


def test_noise_is_the_discrete_gaussian_that_is_charged():
    sums = ClassSums(n_classes=10, dimensions=40, variance=9.0, resolution=5)
    x, y = on_sphere(30, 40), np.arange(30) % 10
    exact = sums.exactly(x, y)
    noise = np.concatenate([(sums(x, y, _key=bytes([k] * 32)) - exact).ravel() for k in range(100)])
    values = np.arange(-12, 13)
    weights = np.exp(-(values**2) / 18)
    expected = weights / weights.sum() * len(noise)
    observed = np.array([(noise == value).sum() for value in values])
    middle = np.abs(values) <= 9
    assert (
        stats.chisquare(
            np.append(observed[middle], observed[~middle].sum()),
            np.append(expected[middle], expected[~middle].sum()),
            sum_check=False,
        ).pvalue
        > 1e-4
    )
    assert sums.charge.variance == 9.0
    assert sums.charge.sensitivity == sums.sensitivity
    assert noise.dtype == np.int64


def test_noise_is_fresh_at_every_release():
    sums = ClassSums.of(1.0, n_classes=3, dimensions=4)
    x, y = on_sphere(9, 4), np.arange(9) % 3
    assert not np.array_equal(sums(x, y), sums(x, y))
    assert np.array_equal(sums(x, y, _key=KEY), sums(x, y, _key=KEY))


@pytest.mark.parametrize("relation", ["add-or-remove", "replace-one"])
@pytest.mark.parametrize("noise", [0.8, 3.0, 20.0])
def test_epsilon_is_that_of_concentrated_privacy_by_hand(relation, noise):
    """rho = squared distance / (2 variance); epsilon by the conversion of Canonne, Kamath, Steinke 2020."""
    sums = ClassSums.of(noise, n_classes=10, dimensions=80)
    moved = 2 if relation == "replace-one" else 1
    rho = moved**2 / (2 * noise**2)
    alphas = 1 + np.geomspace(0.02, 2000, 200_000)
    by_hand = np.min(rho * alphas + np.log1p(-1 / alphas) - np.log(1e-5 * alphas) / (alphas - 1))
    found = accounting.spent([sums.charge], 1e-5, relation)
    assert by_hand <= found * (1 + 1e-9)
    assert found == pytest.approx(by_hand, rel=4e-3)
    # the analytic Gaussian mechanism (Balle, Wang 2018) is less, by not much
    gaussian = brentq(
        lambda e: (
            stats.norm.cdf(moved / noise / 2 - e * noise / moved)
            - math.exp(e) * stats.norm.cdf(-moved / noise / 2 - e * noise / moved)
            - 1e-5
        ),
        1e-3,
        50,
    )
    assert gaussian < found < 1.25 * gaussian


@pytest.mark.parametrize("counting", [accounting, filters])
def test_noise_is_found_for_an_epsilon(counting):
    def charges(noise):
        return [ClassSums.of(noise, n_classes=10, dimensions=80).charge]

    noise = counting.calibrate(charges, 2.0, 1e-5, "replace-one")
    assert 1.97 < counting.spent(charges(noise), 1e-5, "replace-one") <= 2.0
    assert ClassSums.of(noise, n_classes=10, dimensions=80).noise_multiplier == pytest.approx(noise)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_classes": 1},
        {"dimensions": 0},
        {"variance": 0.0},
        {"variance": math.nan},
        {"variance": math.inf},
        {"variance": 2.0**63},
        {"resolution": 0},
        {"resolution": 2**21},
    ],
)
def test_impossible_releases_are_refused(wrong):
    with pytest.raises(PrivacyError, match=next(iter(wrong))):
        ClassSums(**{"n_classes": 3, "dimensions": 4, "variance": 1.0, **wrong})


@pytest.mark.parametrize("noise", [0.0, -1.0, math.nan, math.inf])
def test_impossible_noise_is_refused(noise):
    with pytest.raises(PrivacyError, match="noise_multiplier"):
        ClassSums.of(noise, n_classes=3, dimensions=4)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((3, 5)), np.zeros(3, dtype=np.int64)),
        (np.zeros((3, 4)), np.zeros(2, dtype=np.int64)),
        (np.zeros((3, 4)), np.array([0, 1, 3])),
        (np.zeros((3, 4)), np.array([0, 1, -1])),
        (np.zeros((3, 4)), np.array([0.0, 1.0, 2.0])),
        (np.zeros(4), np.zeros(1, dtype=np.int64)),
    ],
)
def test_records_of_another_shape_are_refused(x, y):
    with pytest.raises(DataError):
        ClassSums(n_classes=3, dimensions=4, variance=1.0)(x, y)


# --- whitening and decoding ----------------------------------------------------------------------


def test_whitened_features_are_even_and_of_length_one():
    rng = np.random.default_rng(3)
    features = rng.normal(size=(4000, 12)) * np.geomspace(1, 0.05, 12) + 5
    whitening = Whitening.of(features, dimensions=6)
    x = whitening(features)
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1)
    np.testing.assert_allclose(whitening.second_moment, x.T @ x / len(x))
    assert np.trace(whitening.second_moment) == pytest.approx(1)
    # before they are scaled to length 1: variance lambda / (lambda + 0.01 lambda_1), uncorrelated
    plain = (features - features.mean(0)) @ whitening.transform
    variances = np.sort(np.linalg.eigvalsh(np.cov(features.T)))[::-1][:6]
    expected = np.diag(variances / (variances + 0.01 * variances[0]))
    np.testing.assert_allclose(np.cov(plain.T), expected, atol=1e-9)


def test_few_features_have_as_many_directions_as_there_are():
    whitening = Whitening.of(np.random.default_rng(0).normal(size=(5, 3)))
    assert whitening.dimensions == 3
    assert Whitening.of(np.random.default_rng(0).normal(size=(5, 1))).transform.shape == (1, 1)


def test_row_by_row_is_the_same_and_depends_on_no_other_row():
    rng = np.random.default_rng(4)
    features = rng.normal(size=(200, 30)).astype(np.float32)
    whitening = Whitening.of(features, dimensions=20)
    each = whitening.each(features)
    np.testing.assert_allclose(each, whitening(features), atol=1e-12)
    assert np.array_equal(whitening.each(features[50:60]), each[50:60])
    assert whitening.each(features[:0]).shape == (0, 20)


def test_the_mean_of_public_features_has_no_direction():
    features = np.random.default_rng(0).normal(size=(50, 3))
    whitening = Whitening.of(features)
    assert not whitening(whitening.mean[None]).any()


@pytest.mark.parametrize(
    "public",
    [np.zeros((1, 3)), np.zeros(3), np.ones((5, 3)), np.full((5, 3), math.nan), np.full((5, 3), math.inf)],
)
def test_public_features_that_teach_nothing_are_refused(public):
    with pytest.raises(DataError):
        Whitening.of(public)


@pytest.mark.parametrize("wrong", [{"dimensions": 0}, {"shrinkage": 0.0}, {"shrinkage": math.nan}])
def test_impossible_whitenings_are_refused(wrong):
    with pytest.raises(DataError):
        Whitening.of(np.random.default_rng(0).normal(size=(9, 3)), **wrong)


def test_weights_are_ridge_regression_where_the_second_moment_is_the_records_own():
    x, y = on_sphere(400, 5), np.random.default_rng(5).integers(0, 3, 400)
    sums = ClassSums(n_classes=3, dimensions=5, variance=1.0, resolution=2**20)
    head = Head.of(sums.exactly(x, y), 400, x.T @ x / 400, resolution=2**20)
    target = np.eye(3)[y] - 1 / 3

    def loss(weights):
        w = weights.reshape(5, 3)
        return ((x @ w - target) ** 2).sum() / 400 + (1.0 / 5) * (w**2).sum()

    found = minimize(loss, np.zeros(15), tol=1e-12).x.reshape(5, 3)
    np.testing.assert_allclose(head.weights, found, atol=1e-4)
    np.testing.assert_allclose(head.weights.sum(axis=1), 0, atol=1e-9)


def test_a_head_tells_classes_apart_under_noise():
    rng = np.random.default_rng(6)
    y = rng.integers(0, 4, 3000)
    features = 3 * rng.normal(size=(4, 10))[y] + rng.normal(size=(3000, 10))
    whitening = Whitening.of(features[:1000])
    noise = accounting.calibrate(
        lambda n: [ClassSums.of(n, n_classes=4, dimensions=10).charge], 1.0, 1e-5, "replace-one"
    )
    sums = ClassSums.of(noise, n_classes=4, dimensions=10)
    x = whitening.each(features[1000:])
    head = Head.of(sums(x[:1500], y[1000:2500], _key=KEY), 1500, whitening.second_moment)
    answers = head.probabilities(x[1500:])
    assert (answers.argmax(axis=1) == y[2500:]).mean() > 0.95
    np.testing.assert_allclose(answers.sum(axis=1), 1)
    logits = head.logits(x[1500:])
    assert logits.min() >= math.log(SMALLEST_PROBABILITY)
    np.testing.assert_allclose(np.maximum(answers, SMALLEST_PROBABILITY), np.exp(logits))


@pytest.mark.parametrize(
    ("records", "noise", "n_classes", "at_most", "dimensions"),
    [(5000, 7.5, 10, 256, 80), (366, 2.4, 10, 256, 19), (50, 7.5, 10, 256, 10), (50, 7.5, 10, 4, 4)],
)
def test_more_noise_and_fewer_records_are_worth_fewer_dimensions(
    records, noise, n_classes, at_most, dimensions
):
    assert worthwhile(records, noise, n_classes=n_classes, at_most=at_most) == dimensions


@pytest.mark.parametrize(("records", "ridge"), [(0, 1.0), (5, 0.0), (5, math.nan)])
def test_impossible_decodings_are_refused(records, ridge):
    with pytest.raises(DataError):
        Head.of(np.zeros((4, 3), dtype=np.int64), records, np.eye(4), ridge=ridge)


def test_the_nearest_probabilities_are_nearest():
    rng = np.random.default_rng(7)
    scores = np.concatenate([rng.normal(size=(40, 3)), rng.normal(size=(10, 3)) * 100, np.zeros((1, 3))])
    found = nearest_probabilities(scores)
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)
    steps = np.linspace(0, 1, 101)
    grid = np.array([(a, b, 1 - a - b) for a in steps for b in steps if a + b <= 1 + 1e-9])
    for score, nearest in zip(scores, found, strict=True):
        others = ((grid - score) ** 2).sum(axis=1)
        assert ((nearest - score) ** 2).sum() <= others.min() + 1e-9
    already = rng.dirichlet(np.ones(5), 30)
    np.testing.assert_allclose(nearest_probabilities(already), already)
