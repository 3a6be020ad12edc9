from dataclasses import replace

import numpy as np
import pytest

from securefd.attacks.candidates import Candidates, NoEvidence
from securefd.attacks.observe import NOISY_COPIES, observe
from securefd.attacks.signals import logit_confidence
from securefd.attacks.surrogate import Surrogate, log_answers, probabilities_of
from securefd.errors import AuditError
from securefd.views import RoundView, View

RNG = np.random.default_rng(0)
PUBLIC = RNG.random((30, 5)).astype(np.float32)
X = RNG.random((8, 5)).astype(np.float32)
CLIENT = np.array([0, 1, 2, 0, 1, 2, 0, 1])
LABELS = np.array([0, 1, 2, 3, 0, 1, 2, 3])
QUERIES = np.array([4, 2, 9, 20, 11, 29, 0, 7, 15, 3])
RESERVED = RNG.random((6, 5)).astype(np.float32)


def about(client=CLIENT, **changes) -> Candidates:
    given = {
        "x": X,
        "labels": LABELS,
        "client": client,
        "population_x": RESERVED,
        "population_labels": np.array([0, 1, 2, 3, 0, 1]),
        "n_classes": 4,
    }
    return Candidates(**(given | changes))


ABOUT = about()


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


def curved(x: np.ndarray) -> np.ndarray:
    powers = np.exp(3 * x[:, :4].astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def decide(x: np.ndarray) -> np.ndarray:
    return curved(x).argmax(axis=1)


def fitted(queries: np.ndarray = QUERIES) -> Surrogate:
    return Surrogate.fit(PUBLIC[np.sort(queries)])


def logs(values: np.ndarray, queries: np.ndarray = QUERIES) -> np.ndarray:
    return log_answers(values[np.argsort(queries)])


def distilled(values: np.ndarray, x: np.ndarray, queries: np.ndarray = QUERIES) -> np.ndarray:
    return fitted(queries).predict(logs(values, queries), x)


def whole(evidence, n: int = 8) -> np.ndarray:
    """All parts' probabilities of the first federation, in the order of the candidates."""
    found = np.full((n, 4), np.nan)
    for part in evidence.parts:
        found[part.candidates] = part.answers.probabilities[0]
    return found


# What is seen


def test_single_answers_are_distilled_client_by_client():
    seen = round_view(1)
    (evidence,) = observe([view(seen)], ABOUT)
    assert (evidence.signal, len(evidence.parts)) == ("answers", 3)
    for owner, part in enumerate(evidence.parts):
        mine = np.equal(CLIENT, owner)
        np.testing.assert_array_equal(part.candidates, np.flatnonzero(mine))
        np.testing.assert_array_equal(part.records.labels, LABELS[mine])
        np.testing.assert_allclose(
            part.answers.probabilities[0], distilled(seen.answers[owner], X[mine]), rtol=1e-9
        )
        np.testing.assert_allclose(
            part.answers.population[0], distilled(seen.answers[owner], RESERVED), rtol=1e-9
        )


def test_the_other_clients_are_asked_about_a_record_too():
    seen = round_view(1)
    (evidence,) = observe([view(seen)], ABOUT)
    mine = np.equal(CLIENT, 1)
    expected = [logit_confidence(distilled(seen.answers[other], X[mine]), LABELS[mine]) for other in (0, 2)]
    np.testing.assert_allclose(evidence.parts[1].answers.others[0], np.stack(expected, axis=-1), rtol=1e-6)


def test_what_was_answered_at_the_nearest_public_inputs_is_looked_at():
    seen = round_view(1)
    (evidence,) = observe([view(seen)], ABOUT)
    part = evidence.parts[2]
    inputs = PUBLIC[np.sort(QUERIES)]
    for column, record in enumerate(part.candidates):
        order = np.argsort(((inputs - X[record]) ** 2).sum(axis=1))[:4]
        told = probabilities_of(logs(seen.answers[2]))[order]
        expected = logit_confidence(told, np.repeat(LABELS[record], 4))
        np.testing.assert_allclose(part.answers.nearby[0, column], expected, rtol=1e-6)


def test_rounds_are_looked_at_one_by_one_as_well():
    rounds = [round_view(1), round_view(5, 1, queries=QUERIES + 0)]
    (evidence,) = observe([view(*rounds)], ABOUT)
    mine = np.equal(CLIENT, 0)
    for number, seen in enumerate(rounds):
        expected = logit_confidence(distilled(seen.answers[0], X[mine]), LABELS[mine])
        np.testing.assert_allclose(evidence.parts[0].answers.rounds[0, :, number], expected, rtol=1e-6)
    (alone,) = observe([view(rounds[0])], ABOUT)
    assert alone.parts[0].answers.rounds is None


def test_surrogates_of_half_of_the_answers_differ_from_one_another():
    (evidence,) = observe([view(round_view(1))], ABOUT)
    resampled = evidence.parts[0].answers.resampled
    assert resampled.shape == (1, 3, 4)
    assert np.ptp(resampled, axis=-1).min() > 0


def grouped(seen: RoundView, groups: list[int], seed: int = 40) -> RoundView:
    means = dirichlet(seed, max(groups) + 1, len(seen.queries))
    return replace(seen, answers=None, sums=means, groups=np.array(groups))


def test_sums_of_groups_are_distilled_as_answers_of_their_members():
    seen = grouped(round_view(1), [1, 0, 1])
    (evidence,) = observe([view(seen)], ABOUT)
    assert evidence.signal == "sums"
    for owner, group in enumerate([1, 0, 1]):
        mine = np.equal(CLIENT, owner)
        np.testing.assert_allclose(whole(evidence)[mine], distilled(seen.sums[group], X[mine]), rtol=1e-9)
    assert all(part.answers.others is None for part in evidence.parts)


def test_single_answers_tell_more_than_sums_of_groups():
    seen = round_view(1)
    both = replace(grouped(seen, [1, 0, 1]), answers=seen.answers)
    (evidence,) = observe([view(both)], ABOUT)
    assert evidence.signal == "answers"


def test_a_round_in_which_a_client_is_in_no_sum_says_nothing_of_it():
    first, second = grouped(round_view(1), [0, 1, 1]), grouped(round_view(5, 1), [0, 1, -1], seed=50)
    (evidence,) = observe([view(first, second)], ABOUT)
    mine = np.equal(CLIENT, 2)
    np.testing.assert_allclose(whole(evidence)[mine], distilled(first.sums[1], X[mine]), rtol=1e-9)
    assert [part.answers.rounds.shape[-1] for part in evidence.parts] == [2, 2, 1]
    with pytest.raises(AuditError, match="lacks sums"):
        observe([view(second)], ABOUT)


@pytest.mark.parametrize(
    ("seen", "channel"),
    [
        (round_view(1, answers=False), "total"),
        (round_view(1, answers=False, total=False), "consensus"),
    ],
)
@pytest.mark.parametrize("observer", ["server", "peer", "release"])
def test_what_the_view_holds_decides_and_not_who_holds_it(seen, channel, observer):
    (evidence,) = observe([view(seen, observer=observer)], ABOUT)
    assert (evidence.signal, len(evidence.parts)) == (channel, 1)
    np.testing.assert_allclose(whole(evidence), distilled(getattr(seen, channel), X), rtol=1e-9)


def test_the_student_is_a_signal_of_its_own_beside_the_answers():
    found = observe([view(round_view(1), student=curved)], ABOUT)
    assert [evidence.signal for evidence in found] == ["answers", "student"]
    answers = found[1].parts[0].answers
    np.testing.assert_array_equal(answers.probabilities, curved(X)[None])
    np.testing.assert_array_equal(answers.population, curved(RESERVED)[None])
    place = np.argsort(((PUBLIC - X[3]) ** 2).sum(axis=1))[0]
    expected = logit_confidence(curved(PUBLIC[[place]]), LABELS[[3]])
    np.testing.assert_allclose(answers.nearby[0, 3, 0], expected[0])


def test_whoever_sees_decisions_learns_how_stable_they_are():
    (evidence,) = observe([view(observer="label-only", decide=decide)], ABOUT)
    assert evidence.signal == "labels"
    (told,) = evidence.parts[0].answers.probabilities
    np.testing.assert_array_equal(told.argmax(axis=1), decide(X))
    assert told.max(axis=1).min() > 0.5
    votes = told * (2 * NOISY_COPIES + 1) - 1 / 4
    np.testing.assert_allclose(votes, votes.round(), atol=1e-9)
    assert len(np.unique(told.max(axis=1))) > 1


def test_records_without_a_population_can_be_asked_about():
    nobody = about(population_x=RESERVED[:0], population_labels=LABELS[:0])
    for each in observe([view(round_view(1), student=curved, decide=decide)], nobody):
        assert all(part.answers.population is None for part in each.parts)
        assert all(part.records.population_labels is None for part in each.parts)


def test_federations_are_stacked_in_order():
    views = [view(round_view(seed), student=student) for seed in (10, 20, 30)]
    together = observe(views, ABOUT)
    for index, one in enumerate(views):
        for joint, alone in zip(together, observe([one], ABOUT), strict=True):
            np.testing.assert_allclose(joint.confidence[index], alone.confidence[0], rtol=1e-9)


def test_rounds_are_averaged_over_the_rounds_in_which_a_query_was_asked():
    first = round_view(1, 0, queries=np.array([3, 1, 5]), answers=False)
    second = round_view(2, 1, queries=np.array([5, 8]), answers=False)
    (evidence,) = observe([view(first, second)], ABOUT)
    logs = {1: [1], 3: [0], 5: [2]}
    rows = [log_answers(first.total[logs[query]][0]) for query in (1, 3, 5)]
    rows[2] = (rows[2] + log_answers(second.total[0])) / 2
    rows.append(log_answers(second.total[1]))
    expected = Surrogate.fit(PUBLIC[[1, 3, 5, 8]]).predict(np.stack(rows), X)
    np.testing.assert_allclose(whole(evidence), expected, rtol=1e-9)


def test_a_client_is_not_asked_about_its_own_records():
    seen = round_view(1, answers=False, total=False)
    (evidence,) = observe([view(seen, observer="peer", client=1)], ABOUT)
    others = np.flatnonzero(CLIENT != 1)
    np.testing.assert_array_equal(evidence.candidates, others)
    np.testing.assert_allclose(whole(evidence)[others], distilled(seen.consensus, X[others]), rtol=1e-9)


def test_whoever_saw_nothing_has_no_evidence():
    assert isinstance(observe([view(observer="release")], ABOUT), NoEvidence)
    nothing_asked = round_view(1, queries=np.array([], dtype=np.int64))
    assert isinstance(observe([view(nothing_asked)], ABOUT), NoEvidence)
    own = view(round_view(1), observer="peer", client=0)
    assert "itself" in observe([own], about(np.zeros(8, dtype=np.int64))).reason


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
            observe([first, other], ABOUT)


@pytest.mark.parametrize(
    ("views", "client", "match"),
    [
        ([], CLIENT, "at least one view"),
        ([view(round_view(1), student=student), view(round_view(1))], CLIENT, "hold a student"),
        ([view(round_view(1))], CLIENT + 1, r"0\.\.2"),
        ([view(grouped(round_view(1), [0, 1, 1]))], CLIENT + 1, r"0\.\.2"),
        ([view(round_view(1, queries=QUERIES + 1))], CLIENT, "below 30"),
        ([view(replace(round_view(1), answers=dirichlet(1, 3, 4)))], CLIENT, "must be"),
        ([view(replace(round_view(1), answers=np.full((3, 10, 4), np.nan)))], CLIENT, "finite"),
    ],
)
def test_what_does_not_fit_is_refused(views, client, match):
    with pytest.raises(AuditError, match=match):
        observe(views, about(client))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"client": CLIENT[:-1]}, "equally long, got 8, 8 and 7"),
        ({"labels": LABELS + 1}, r"0\.\.3, got 1\.\.4"),
        ({"labels": LABELS - 1}, r"got -1\.\.2"),
        ({"population_labels": LABELS}, "6 records and 8 labels"),
    ],
)
def test_candidates_that_do_not_fit_are_refused(changes, match):
    with pytest.raises(AuditError, match=match):
        about(**changes)
