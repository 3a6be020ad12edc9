from dataclasses import replace

import numpy as np
import pytest

from securefd.attacks.observe import NoSignal, observe
from securefd.attacks.surrogate import Surrogate, log_answers
from securefd.errors import AuditError
from securefd.views import RoundView, View

RNG = np.random.default_rng(0)
PUBLIC = RNG.random((30, 5)).astype(np.float32)
X = RNG.random((8, 5)).astype(np.float32)
CLIENT = np.array([0, 1, 2, 0, 1, 2, 0, 1])
QUERIES = np.array([4, 2, 9, 20, 11, 29, 0, 7, 15, 3])


def dirichlet(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(4), size=shape)


def round_view(seed: int, number: int = 0, *, queries=QUERIES, total=True, answers=True) -> RoundView:
    n = len(queries)
    return RoundView(
        round=number,
        queries=queries,
        consensus=dirichlet(seed, n),
        total=dirichlet(seed + 1, n) if total else None,
        answers=dirichlet(seed + 2, 3, n) if answers else None,
    )


def view(*rounds: RoundView, observer="server", **fields) -> View:
    return View(observer=observer, public=PUBLIC, rounds=rounds, **fields)


def student(x: np.ndarray) -> np.ndarray:
    return np.tile([0.1, 0.2, 0.3, 0.4], (len(x), 1))


def distilled(values: np.ndarray, x: np.ndarray, queries: np.ndarray = QUERIES) -> np.ndarray:
    return Surrogate.fit(PUBLIC[np.sort(queries)]).predict(log_answers(values[np.argsort(queries)]), x)


def test_single_answers_are_distilled_client_by_client():
    seen = round_view(1)
    (signal,) = observe([view(seen)], X, CLIENT)
    assert (signal.name, signal.probabilities.shape) == ("answers", (1, 8, 4))
    for owner in range(3):
        mine = np.equal(CLIENT, owner)
        np.testing.assert_allclose(
            signal.probabilities[0, mine], distilled(seen.answers[owner], X[mine]), rtol=1e-9
        )


def grouped(seen: RoundView, groups: list[int], seed: int = 40) -> RoundView:
    means = dirichlet(seed, max(groups) + 1, len(seen.queries))
    return replace(seen, answers=None, sums=means, groups=np.array(groups))


def test_sums_of_groups_are_distilled_as_answers_of_their_members():
    seen = grouped(round_view(1), [1, 0, 1])
    (signal,) = observe([view(seen)], X, CLIENT)
    assert (signal.name, signal.probabilities.shape) == ("sums", (1, 8, 4))
    for owner, group in enumerate([1, 0, 1]):
        mine = np.equal(CLIENT, owner)
        np.testing.assert_allclose(
            signal.probabilities[0, mine], distilled(seen.sums[group], X[mine]), rtol=1e-9
        )


def test_single_answers_tell_more_than_sums_of_groups():
    seen = round_view(1)
    both = replace(grouped(seen, [1, 0, 1]), answers=seen.answers)
    (signal,) = observe([view(both)], X, CLIENT)
    assert signal.name == "answers"


def test_a_round_in_which_a_client_is_in_no_sum_says_nothing_of_it():
    first, second = grouped(round_view(1), [0, 1, 1]), grouped(round_view(5, 1), [0, 1, -1], seed=50)
    (signal,) = observe([view(first, second)], X, CLIENT)
    mine = np.equal(CLIENT, 2)
    np.testing.assert_allclose(signal.probabilities[0, mine], distilled(first.sums[1], X[mine]), rtol=1e-9)
    with pytest.raises(AuditError, match="lacks sums"):
        observe([view(second)], X, CLIENT)


@pytest.mark.parametrize(
    ("seen", "channel"),
    [
        (round_view(1, answers=False), "total"),
        (round_view(1, answers=False, total=False), "consensus"),
    ],
)
@pytest.mark.parametrize("observer", ["server", "peer", "release"])
def test_what_the_view_holds_decides_and_not_who_holds_it(seen, channel, observer):
    (signal,) = observe([view(seen, observer=observer)], X, CLIENT)
    assert signal.name == channel
    np.testing.assert_allclose(signal.probabilities[0], distilled(getattr(seen, channel), X), rtol=1e-9)


def test_the_student_is_a_signal_of_its_own_beside_the_answers():
    signals = observe([view(round_view(1), student=student)], X, CLIENT)
    assert [signal.name for signal in signals] == ["answers", "student"]
    np.testing.assert_array_equal(signals[1].probabilities, student(X)[None])


def test_federations_are_stacked_in_order():
    views = [view(round_view(seed), student=student) for seed in (10, 20, 30)]
    together = observe(views, X, CLIENT)
    for index, one in enumerate(views):
        for joint, alone in zip(together, observe([one], X, CLIENT), strict=True):
            np.testing.assert_allclose(joint.probabilities[index], alone.probabilities[0], rtol=1e-9)


def test_rounds_are_averaged_over_the_rounds_in_which_a_query_was_asked():
    first = round_view(1, 0, queries=np.array([3, 1, 5]), answers=False)
    second = round_view(2, 1, queries=np.array([5, 8]), answers=False)
    (signal,) = observe([view(first, second)], X, CLIENT)
    logs = {1: [1], 3: [0], 5: [2]}
    rows = [log_answers(first.total[logs[query]][0]) for query in (1, 3, 5)]
    rows[2] = (rows[2] + log_answers(second.total[0])) / 2
    rows.append(log_answers(second.total[1]))
    expected = Surrogate.fit(PUBLIC[[1, 3, 5, 8]]).predict(np.stack(rows), X)
    np.testing.assert_allclose(signal.probabilities[0], expected, rtol=1e-9)


def test_a_client_is_not_asked_about_its_own_records():
    seen = round_view(1, answers=False, total=False)
    (signal,) = observe([view(seen, observer="peer", client=1)], X, CLIENT)
    np.testing.assert_array_equal(signal.candidates, np.flatnonzero(CLIENT != 1))
    np.testing.assert_allclose(signal.probabilities[0], distilled(seen.consensus, X[CLIENT != 1]), rtol=1e-9)


def test_whoever_saw_nothing_has_no_signal():
    assert isinstance(observe([view(observer="release")], X, CLIENT), NoSignal)
    nothing_asked = round_view(1, queries=np.array([], dtype=np.int64))
    assert isinstance(observe([view(nothing_asked)], X, CLIENT), NoSignal)
    own = view(round_view(1), observer="peer", client=0)
    assert "itself" in observe([own], X, np.zeros(8, dtype=np.int64)).reason


def test_views_of_different_kinds_do_not_mix():
    first = view(round_view(1))
    others = [
        view(round_view(1), observer="peer"),
        view(round_view(1), student=student),
        view(round_view(1, answers=False)),
        view(round_view(1, queries=QUERIES[::-1].copy())),
        replace(first, public=PUBLIC + 1),
    ]
    for other in others:
        with pytest.raises(AuditError, match="one observer's"):
            observe([first, other], X, CLIENT)


@pytest.mark.parametrize(
    ("views", "client", "match"),
    [
        ([], CLIENT, "at least one view"),
        ([view(round_view(1))], CLIENT[:-1], "owner of each candidate"),
        ([view(round_view(1))], CLIENT + 1, r"0\.\.2"),
        ([view(grouped(round_view(1), [0, 1, 1]))], CLIENT + 1, r"0\.\.2"),
        ([view(round_view(1, queries=QUERIES + 1))], CLIENT, "below 30"),
        ([view(replace(round_view(1), answers=dirichlet(1, 3, 4)))], CLIENT, "must be"),
        ([view(replace(round_view(1), answers=np.full((3, 10, 4), np.nan)))], CLIENT, "finite"),
    ],
)
def test_what_does_not_fit_is_refused(views, client, match):
    with pytest.raises(AuditError, match=match):
        observe(views, X, client)
