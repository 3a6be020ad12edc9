import numpy as np
import pytest

from securefd.attacks import signals as module
from securefd.attacks.signals import (
    cross_entropy,
    entropy,
    is_right,
    log_probability_of,
    logit_confidence,
    modified_entropy,
    probability_of,
)
from securefd.errors import AuditError

SIGNALS = [logit_confidence, cross_entropy, entropy, modified_entropy, is_right]

LABELS = np.array([0, 2])
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3]])


def test_logit_confidence_is_the_log_odds_of_the_true_label():
    np.testing.assert_allclose(
        logit_confidence(PROBABILITIES, LABELS), [np.log(0.7 / 0.3), np.log(0.3 / 0.7)], rtol=1e-14
    )


def test_confidence_keeps_its_digits_where_one_minus_p_would_lose_them():
    tiny = 1e-20
    row = np.array([[1.0, tiny, tiny]])
    assert logit_confidence(row, np.array([0]))[0] == pytest.approx(-np.log(2e-20), rel=1e-12)


def test_a_probability_of_zero_or_one_stays_finite():
    certain = np.array([[1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(
        logit_confidence(certain, np.array([0, 1])), [-np.log(1e-45), np.log(1e-45)], rtol=1e-12
    )


def test_cross_entropy_is_minus_log_of_the_true_label():
    np.testing.assert_allclose(cross_entropy(PROBABILITIES, LABELS), [-np.log(0.7), -np.log(0.3)], rtol=1e-14)


def naive_modified_entropy(row, label):
    others = sum(-p * np.log(1 - p) for k, p in enumerate(row) if k != label)
    return -(1 - row[label]) * np.log(row[label]) + others


def test_the_entropies_are_what_their_definitions_say():
    values = np.random.default_rng(0).dirichlet(np.ones(5), 20)
    labels = np.arange(20) % 5
    np.testing.assert_allclose(
        entropy(values, labels), [-sum(p * np.log(p) for p in row) for row in values], rtol=1e-12
    )
    np.testing.assert_allclose(
        modified_entropy(values, labels),
        [naive_modified_entropy(row, label) for row, label in zip(values, labels, strict=True)],
        rtol=1e-12,
    )


def test_entropies_of_certainty_are_finite_and_modified_entropy_minds_whether_it_is_right():
    certain = np.array([[1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_array_equal(entropy(certain, np.array([0, 1])), 0)
    right, wrong = modified_entropy(certain, np.array([0, 1]))
    assert right == 0
    assert 100 < wrong < np.inf


def test_the_likeliest_class_is_right_or_not():
    np.testing.assert_array_equal(is_right(PROBABILITIES, LABELS), [1, 0])


def test_confidence_gives_the_probability_back():
    confidence = logit_confidence(PROBABILITIES, LABELS)
    np.testing.assert_allclose(probability_of(confidence), [0.7, 0.3], rtol=1e-14)
    np.testing.assert_allclose(log_probability_of(confidence), np.log([0.7, 0.3]), rtol=1e-14)


@pytest.mark.parametrize("signal", SIGNALS)
def test_blocks_and_precision_change_nothing(signal, monkeypatch, tmp_path):
    values = np.random.default_rng(2).dirichlet(np.ones(4), (5, 9)).astype(np.float32)
    labels = np.arange(9) % 4
    whole = signal(values.astype(np.float64), labels)
    monkeypatch.setattr(module, "_BLOCK", 28)  # 7 rows, which end within a model
    np.save(tmp_path / "values.npy", values)
    mapped = np.load(tmp_path / "values.npy", mmap_mode="r")
    np.testing.assert_allclose(signal(mapped, labels), whole, rtol=1e-14)


@pytest.mark.parametrize("signal", SIGNALS)
def test_what_is_read_stays_as_it_was(signal):
    before = PROBABILITIES.copy()
    signal(PROBABILITIES, LABELS)
    np.testing.assert_array_equal(PROBABILITIES, before)


@pytest.mark.parametrize("signal", SIGNALS)
def test_leading_axes_are_models(signal):
    stacked = np.stack([PROBABILITIES, PROBABILITIES[:, ::-1]])
    for model in range(2):
        np.testing.assert_array_equal(signal(stacked, LABELS)[model], signal(stacked[model], LABELS))


@pytest.mark.parametrize(
    ("probabilities", "labels", "match"),
    [
        (np.array([[np.nan, 0.5], [0.5, 0.5]]), np.array([0, 1]), "not NaN"),
        (np.array([[-0.1, 1.1]]), np.array([0]), ">= 0"),
        (np.array([[2.0, 3.0]]), np.array([0]), "sum to 1"),
        (np.array([[np.inf, 0.0]]), np.array([0]), "sum to 1"),
        (np.array([0.5, 0.5]), np.array([0]), "shape"),
        (np.array([[1.0]]), np.array([0]), "C >= 2"),
        (PROBABILITIES, np.array([0]), "one a record"),
        (PROBABILITIES, np.array([0.0, 1.0]), "integers"),
        (PROBABILITIES, np.array([0, 3]), r"0\.\.2"),
        (PROBABILITIES, np.array([-1, 0]), r"0\.\.2"),
    ],
)
def test_what_is_not_a_probability_or_a_class_is_refused(probabilities, labels, match):
    for signal in SIGNALS:
        with pytest.raises(AuditError, match=match):
            signal(probabilities, labels)
