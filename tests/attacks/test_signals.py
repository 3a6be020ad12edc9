import numpy as np
import pytest

from securefd.attacks.signals import cross_entropy, logit_confidence
from securefd.errors import AuditError

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


@pytest.mark.parametrize("signal", [logit_confidence, cross_entropy])
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
    for signal in (logit_confidence, cross_entropy):
        with pytest.raises(AuditError, match=match):
            signal(probabilities, labels)
