import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge

from securefd.attacks import surrogate as module
from securefd.attacks.surrogate import MAX_LANDMARKS, RIDGE, Surrogate, landmarks, log_answers
from securefd.errors import AuditError

RNG = np.random.default_rng(0)
INPUTS = RNG.random((40, 2, 3)).astype(np.float32)
X = RNG.random((7, 2, 3)).astype(np.float32)


def answers(*lead: int) -> np.ndarray:
    return np.random.default_rng(1).dirichlet(np.ones(4), size=(*lead, 40))


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def test_equals_scikit_learn_with_the_median_distance_as_width():
    flat = INPUTS.reshape(40, 6).astype(np.float64)
    distances = [np.linalg.norm(flat[i] - flat[j]) for i in range(40) for j in range(i)]
    logs = np.log(answers())
    logs -= logs.mean(axis=1, keepdims=True)
    oracle = KernelRidge(kernel="rbf", gamma=1 / (2 * np.median(distances) ** 2), alpha=RIDGE)
    oracle.fit(flat, logs - logs.mean(axis=0))
    expected = softmax(oracle.predict(X.reshape(7, 6)) + logs.mean(axis=0))

    result = Surrogate.fit(INPUTS).predict(log_answers(answers()), X)
    np.testing.assert_allclose(result, expected, rtol=1e-8)


def test_one_factor_serves_federations_and_clients_alike():
    surrogate, stacked = Surrogate.fit(INPUTS), log_answers(answers(3, 2))
    together = surrogate.predict(stacked, X)
    assert together.shape == (3, 2, 7, 4)
    for federation in range(3):
        for client in range(2):
            alone = surrogate.predict(stacked[federation, client], X)
            np.testing.assert_allclose(together[federation, client], alone, rtol=1e-9)


def test_blocks_of_candidates_change_nothing(monkeypatch):
    surrogate, targets = Surrogate.fit(INPUTS), log_answers(answers())
    whole = surrogate.predict(targets, X)
    monkeypatch.setattr(module, "_BLOCK", 3)
    np.testing.assert_allclose(surrogate.predict(targets, X), whole, rtol=1e-12)


def test_at_a_query_it_nearly_repeats_the_answer():
    result = Surrogate.fit(INPUTS).predict(log_answers(answers()), INPUTS)
    assert np.abs(result - answers()).mean() < 0.05


def test_log_answers_are_centred_and_finite_for_hard_labels():
    logs = log_answers(np.eye(3))
    assert np.isfinite(logs).all()
    np.testing.assert_allclose(logs.sum(axis=1), 0, atol=1e-12)
    np.testing.assert_array_equal(logs.argmax(axis=1), [0, 1, 2])


@pytest.mark.parametrize("n_queries", [2, MAX_LANDMARKS, MAX_LANDMARKS + 1, 50_000])
def test_landmarks_are_distinct_ordered_and_bounded(n_queries):
    chosen = landmarks(n_queries)
    assert len(chosen) == min(n_queries, MAX_LANDMARKS)
    assert (np.diff(chosen) > 0).all()
    assert (chosen[0], chosen[-1]) == (0, n_queries - 1)


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        (np.zeros((5, 2)), "must differ"),
        (np.full((5, 2), np.nan), "finite"),
        (np.zeros((1, 2)), "2 to"),
        (np.zeros(5), "shape"),
        (np.zeros((MAX_LANDMARKS + 1, 1)), "landmarks"),
    ],
)
def test_inputs_that_teach_nothing_are_refused(inputs, match):
    with pytest.raises(AuditError, match=match):
        Surrogate.fit(inputs)


@pytest.mark.parametrize("bad", [np.nan, -0.1, np.inf])
def test_answers_that_are_not_probabilities_are_refused(bad):
    with pytest.raises(AuditError, match="finite and >= 0"):
        log_answers(np.array([[0.5, bad]]))


@pytest.mark.parametrize(
    ("targets", "x", "match"),
    [
        (np.zeros((39, 4)), X, "log-answers must be"),
        (np.zeros((40, 4)), X[:, :1], "features"),
        (np.full((40, 4), np.nan), X, "finite"),
        (np.zeros((40, 4)), np.full_like(X, np.nan), "finite"),
    ],
)
def test_a_prediction_from_the_wrong_shapes_is_refused(targets, x, match):
    with pytest.raises(AuditError, match=match):
        Surrogate.fit(INPUTS).predict(targets, x)
