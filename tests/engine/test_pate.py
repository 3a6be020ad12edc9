"""Teachers within one client vote on public inputs, with noise, and its model learns from nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dp_accounting as dp
import msgspec
import numpy as np
import pytest
import torch
from dp_accounting.pld import PLDAccountant
from numpy.typing import NDArray

from securefd import features, heads, pate
from securefd.config import Config, parse_config
from securefd.defenses import accounting, filters
from securefd.defenses.charges import Charge, Votes
from securefd.defenses.claims import PATE, RELATIONS, Relation, claim_about_records
from securefd.errors import BudgetExceeded, ConfigError, DataError, ModelError, PrivacyError
from securefd.evaluation.play import Play, play
from securefd.federation import Federations
from securefd.fleet import State, initial
from securefd.folder import read_arrays
from securefd.given import Given
from securefd.heads import Basis
from securefd.models import ModelSpec
from securefd.pate import PatePlan, VoteCounts, assigned, usual_teachers, worthwhile
from securefd.planning import plan
from securefd.private import charges_of, plan_private
from securefd.recipe import Recipe
from securefd.result import Run
from securefd.runner import pool_of, run
from tests.engine.samples import N_CLASSES, NET, TREE, config, points, same
from tests.evaluation.runs import everyone

Vector = NDArray[np.int64]
PRIVATE: dict[str, Any] = {
    "unit": "record",
    "route": "pate",
    "relation": "replace-one",
    "delta": 1e-4,
    "epsilon": 4.0,
}
PUBLIC = points(24, seed=9)[0]
X, Y = points(60)
KEY = bytes(32)

DIGITS = """
name = "digits"
seed = 3
data = { source = "digits", public = 400, test = 300 }
student = { model = "mlp", steps = 400 }

[[clients]]
count = 2
model = "head"

[[clients]]
count = 1
model = "mlp"

[method]
name = "dsfl"
rounds = 1
queries = 400
local_steps = 200
digest_steps = 50

[sealing]
kind = "masked"

[privacy]
unit = "record"
route = "pate"
relation = "add-or-remove"
teachers = 40
epsilon = 8.0
delta = 1e-4
"""


@pytest.fixture(scope="module")
def basis() -> Basis:
    return Basis.learn(PUBLIC, seed=1)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(features.learn.__kwdefaults__, "steps", 100)
        yield run(parse_config(DIGITS), tmp_path_factory.mktemp("digits") / "run")


def federation(folder: Path, *models: str, privacy: dict[str, Any] | None = None, **changes: Any) -> Config:
    return config(
        folder, *(models or ("head", "mlp", "head")), privacy={**PRIVATE, **(privacy or {})}, **changes
    )


def planned(
    folder: Path, sizes: list[int], *models: str, n_public: int = 24, **privacy: Any
) -> list[PatePlan]:
    settings = federation(folder, *models, privacy=privacy)
    assert settings.privacy is not None
    plans = plan_private(settings.privacy, Recipe.of(settings, (4,), N_CLASSES), sizes, n_public)
    assert all(isinstance(each, PatePlan) for each in plans)
    return plans  # type: ignore[return-value]


def spec_of(name: str) -> ModelSpec:
    return ModelSpec(name=name, shape=(4,), n_classes=N_CLASSES)


# --- who teaches whom ----------------------------------------------------------------------------


def parts(draws: Vector, teachers: int) -> list[Vector]:
    """What `assigned` makes of its draws."""
    return [np.flatnonzero(draws == teacher) for teacher in range(teachers)]


@pytest.mark.parametrize(("records", "teachers"), [(0, 2), (1, 5), (60, 7), (1000, 10)])
def test_each_record_teaches_one_teacher(records: int, teachers: int) -> None:
    rows = assigned(records, teachers)
    assert len(rows) == teachers
    assert sorted(np.concatenate(rows).tolist()) == list(range(records))


def test_each_teacher_is_as_likely_and_draws_are_fresh() -> None:
    rows = assigned(70_000, 7, _key=KEY)
    expected, deviation = 10_000, math.sqrt(70_000 * 6) / 7
    assert all(abs(len(own) - expected) < 5 * deviation for own in rows)
    one, other = assigned(60, 7), assigned(60, 7)
    assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_record_more_leaves_the_draws_of_the_others() -> None:
    fewer, more = assigned(60, 7, _key=KEY), assigned(61, 7, _key=KEY)
    kept = [own[own < 60] for own in more]
    assert all(np.array_equal(a, b) for a, b in zip(fewer, kept, strict=True))
    assert sum(len(own) for own in more) == 61


@pytest.mark.parametrize("name", ["head", "logistic", "mlp"])
@pytest.mark.parametrize("teachers", [3, 12, 40])
def test_one_record_moves_at_most_one_teacher(tmp_path: Path, basis: Basis, name: str, teachers: int) -> None:
    """Whatever it holds, and whether it is replaced, added or removed; of 40 teachers many have no record."""
    (made,) = planned(tmp_path, [60], teachers=teachers)
    spec, rng = spec_of(name), np.random.default_rng(teachers)
    moved = 0
    for trial in range(6):
        n = int(rng.integers(20, 40))
        x, y = points(n, seed=trial)
        draws = rng.integers(0, teachers, n)
        row = int(rng.integers(n))
        other, label = x.copy(), y.copy()
        other[row] = rng.choice([0.0, 1e6, -30.0]) * rng.normal(size=4)
        label[row] = (y[row] + 1) % N_CLASSES
        without = np.delete(np.arange(n), row)
        cases = [
            (other, label, draws),
            (x[without], y[without], draws[without]),
        ]

        def votes(x: NDArray[np.float32], y: Vector, draws: Vector) -> Vector:
            return made._votes(
                Given(spec=spec, x=x, y=y, public=PUBLIC, basis=basis), parts(draws, teachers), PUBLIC
            )

        before = votes(x, y, draws)
        assert before.shape == (teachers, 24)
        for case in cases:
            after = votes(*case)
            changed = np.flatnonzero((before != after).any(axis=1))
            assert set(changed) <= {draws[row]}
            moved += len(changed)
            counts = [VoteCounts.exactly(made.mechanism, each) for each in (before, after)]
            apart = counts[0] - counts[1]
            assert (apart**2).sum() <= made.mechanism.charge.as_shares.sensitivity.added
            assert np.abs(apart).sum() <= made.mechanism.charge.as_shares.sensitivity.added_l1
    assert moved > 0


@pytest.mark.parametrize("name", ["mlp", NET])
def test_the_others_are_the_same_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Their weights, not only their votes: also where a part becomes empty, or another record is absurd."""
    (made,) = planned(tmp_path, [60], teachers=5)
    taught: list[list[State]] = []
    real = PatePlan._trained

    def spy(self: PatePlan, *given: Any) -> list[State]:
        taught.append(real(self, *given))
        return taught[-1]

    monkeypatch.setattr(PatePlan, "_trained", spy)
    draws = np.arange(30) % 4
    draws[7] = 4  # the only record of its teacher
    x, y = points(30)
    absurd = x.copy()
    absurd[7] = 1e30
    keep = np.delete(np.arange(30), 7)
    for given in ((x, y, draws), (absurd, y, draws), (x[keep], y[keep], draws[keep])):
        made._votes(
            Given(spec=spec_of(name), x=given[0], y=given[1], public=PUBLIC), parts(given[2], 5), PUBLIC
        )
    first, second, third = taught
    for k in range(4):
        assert same(first[k], second[k])
        assert same(first[k], third[k])
    assert not same(first[4], third[4])


def test_usual_teachers() -> None:
    assert [usual_teachers(n) for n in (5, 60)] == [5, 10]
    many = usual_teachers(100_000)
    assert many == 100_000 // pate.RECORDS_A_TEACHER


# --- counting votes ------------------------------------------------------------------------------


def test_votes_are_counted() -> None:
    rng = np.random.default_rng(0)
    votes = rng.integers(0, 4, (9, 20))
    mechanism = VoteCounts(teachers=9, labels=20, n_classes=4, variance=1.0)
    expected = [[sum(vote == c for vote in votes[:, m]) for c in range(4)] for m in range(20)]
    assert mechanism.exactly(votes).tolist() == expected


def test_one_teacher_can_move_that_far_and_no_further() -> None:
    mechanism = VoteCounts(teachers=2, labels=50, n_classes=3, variance=1.0)
    votes = np.zeros((2, 50), dtype=np.int64)
    turned = votes.copy()
    turned[1] = 2
    apart = mechanism.exactly(votes) - mechanism.exactly(turned)
    moved = mechanism.charge.as_shares.sensitivity
    assert (apart**2).sum() == moved.added == moved.replaced == 100
    assert np.abs(apart).sum() == moved.added_l1 == moved.replaced_l1 == 100


def test_noise_is_whole_unbiased_and_as_wide_as_said() -> None:
    mechanism = VoteCounts.of(2.0, teachers=30, labels=200, n_classes=10)
    assert mechanism.deviation == pytest.approx(2 * math.sqrt(400))
    votes = np.tile(np.arange(200) % 10, (30, 1))
    exact = mechanism.exactly(votes)
    noise = np.array([mechanism(votes, _key=bytes([k]) * 32) - exact for k in range(40)])
    assert noise.dtype == np.int64
    deviation = mechanism.deviation / math.sqrt(noise.size)
    assert abs(noise.mean()) < 5 * deviation
    assert noise.std() == pytest.approx(mechanism.deviation, rel=0.02)
    assert abs(np.corrcoef(noise.reshape(40, -1).T[:2])[0, 1]) < 0.8
    assert not np.array_equal(mechanism(votes), mechanism(votes))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"teachers": 1}, "teachers must be at least 2, got 1"),
        ({"labels": 0}, "labels must be at least 1"),
        ({"n_classes": 1}, "n_classes must be at least 2"),
        ({"variance": 0.0}, "variance must be > 0"),
        ({"variance": math.nan}, "variance must be > 0"),
        ({"variance": 2.0**63}, r"variance must be > 0 and at most 2\^62"),
    ],
)
def test_a_mechanism_that_cannot_be(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PrivacyError, match=sentence):
        VoteCounts(**{"teachers": 5, "labels": 3, "n_classes": 4, "variance": 1.0, **wrong})


@pytest.mark.parametrize("noise", [0.0, -1.0, math.nan, math.inf])
def test_noise_that_is_none(noise: float) -> None:
    with pytest.raises(PrivacyError, match="noise_multiplier must be > 0"):
        VoteCounts.of(noise, teachers=5, labels=3, n_classes=4)


@pytest.mark.parametrize(
    "votes",
    [np.zeros((4, 3), np.int64), np.full((5, 3), 4), np.full((5, 3), -1), np.zeros((5, 3))],
)
def test_votes_that_are_none(votes: Any) -> None:
    with pytest.raises(DataError, match="votes must be"):
        VoteCounts(teachers=5, labels=3, n_classes=4, variance=1.0).exactly(votes)


# --- what they cost ------------------------------------------------------------------------------


def renyi_epsilon(answers: int, variance: float, delta: float) -> float:
    """GNMax: alpha / variance for each answer (Papernot et al. 2018, Proposition 8), by the best order.

    The discrete Gaussian's divergences are the continuous one's, at most; converted as by Canonne, Kamath,
    Steinke 2020.
    """
    order = np.linspace(1.001, 400, 400_000)
    curve = order * answers / variance
    return float(np.min(curve + np.log1p(-1 / order) - (math.log(delta) + np.log(order)) / (order - 1)))


def gaussian_epsilon(multiplier: float, delta: float) -> float:
    accountant = PLDAccountant(dp.NeighboringRelation.ADD_OR_REMOVE_ONE, 1e-4)
    return float(accountant.compose(dp.GaussianDpEvent(multiplier)).get_epsilon(delta))


@pytest.mark.parametrize(("answers", "deviation"), [(1, 1.0), (40, 15.0), (1000, 30.0), (1000, 120.0)])
def test_epsilon_against_other_ways_to_count(answers: int, deviation: float) -> None:
    delta = 1e-5
    charge = VoteCounts(teachers=20, labels=answers, n_classes=10, variance=deviation**2).charge
    found = {relation: accounting.spent([charge], delta, relation) for relation in RELATIONS}
    assert found["replace-one"] == found["add-or-remove"]
    bound = renyi_epsilon(answers, deviation**2, delta)
    exact = gaussian_epsilon(deviation / math.sqrt(2 * answers), delta)
    assert 0.97 * exact <= found["replace-one"] < bound
    if answers > 1:
        assert found["replace-one"] == pytest.approx(exact, rel=0.01)
    for relation in RELATIONS:
        assert filters.spent([charge], delta, relation) == pytest.approx(bound, rel=5e-3)


@pytest.mark.parametrize("relation", RELATIONS)
def test_epsilon_against_every_output(relation: Relation) -> None:
    """Two entries move by one, under either relation: all pairs of what can come out of them."""
    variance, delta = 3.0, 1e-3
    charge = VoteCounts(teachers=2, labels=1, n_classes=3, variance=variance).charge
    x = np.arange(-60, 61)
    mass = np.exp(-(x**2) / (2 * variance))
    mass /= mass.sum()
    p = np.multiply.outer(mass, mass)
    q = np.multiply.outer(np.roll(mass, 1), np.roll(mass, -1))

    def leaks(epsilon: float) -> float:
        return float(np.maximum(p - math.exp(epsilon) * q, 0).sum())

    found = accounting.spent([charge], delta, relation)
    assert leaks(found) <= delta * (1 + 1e-6)
    assert leaks(0.97 * found) > delta


def test_a_vote_of_ones_own_costs_less_where_it_is_added() -> None:
    turned = Votes(variance=400.0, shares=1, answers=50, classes=5, turned=True)
    own = Votes(variance=400.0, shares=1, answers=50, classes=5)
    one, other = (accounting.spent([each], 1e-5, "add-or-remove") for each in (own, turned))
    assert one < 0.75 * other
    assert other == accounting.spent([own], 1e-5, "replace-one")


def test_ledgers_that_were_written_before_read_as_they_are() -> None:
    old = b'{"type":"votes","variance":4.0,"shares":3,"answers":7,"classes":2}'
    found = msgspec.json.decode(old, type=Charge)
    assert found == Votes(variance=4.0, shares=3, answers=7, classes=2)
    assert msgspec.json.encode(found) == old
    turned = Votes(variance=4.0, shares=1, answers=7, classes=2, turned=True)
    assert msgspec.json.decode(msgspec.json.encode(turned), type=Charge) == turned


# --- its plan ------------------------------------------------------------------------------------


@pytest.mark.parametrize("relation", RELATIONS)
def test_noise_is_sized_for_all_votes_at_once(tmp_path: Path, relation: Relation) -> None:
    for each in planned(tmp_path, [200, 60], relation=relation):
        assert each.parts == (1,)
        assert each.counts is None
        assert charges_of(each) == [each.mechanism.charge] == [each.charge(1)]
        assert each.mechanism.labels == 24
        assert 3.9 < accounting.spent(charges_of(each), 1e-4, relation) <= 4.0
        assert (each.guarantee.epsilon, each.guarantee.relation) == (4.0, relation)


def test_a_shared_ledger_gets_the_noise_that_its_filter_needs(tmp_path: Path) -> None:
    (shared,) = planned(tmp_path, [200], ledger=str(tmp_path / "ledgers"))
    assert 3.9 < filters.spent(charges_of(shared), 1e-4, "replace-one") <= 4.0


def test_noise_may_be_given_instead_of_epsilon(tmp_path: Path) -> None:
    (each,) = planned(tmp_path, [200], epsilon=None, noise=2.0, teachers=6, labels=8)
    assert each.mechanism == VoteCounts(teachers=6, labels=8, n_classes=3, variance=64.0)
    assert each.guarantee.epsilon == accounting.spent([each.mechanism.charge], 1e-4, "replace-one")


def test_labels_are_drawn_of_all_public_inputs(tmp_path: Path) -> None:
    (some,) = planned(tmp_path, [200], labels=8)
    (every,) = planned(tmp_path, [200])
    assert every.asked().tolist() == list(range(24))
    assert len(set(some.asked())) == 8
    assert some.asked().tolist() == sorted(some.asked())
    assert not np.array_equal(some.asked(), replace(some, seed=some.seed + 1).asked())


@pytest.mark.parametrize(
    ("sizes", "changes", "sentence"),
    [
        (
            [60, 20],
            {"teachers": 30},
            r"privacy\.teachers must be .* at most a client's records, got 30 for 20",
        ),
        ([60, 1], {}, r"privacy\.teachers must be at least 2 .*, got 1 for 1 records"),
        ([60], {"n_public": 7, "labels": 8}, r"privacy\.labels must be .* got 8 for 7 inputs"),
        ([60], {"n_public": 0}, r"privacy\.labels must be at least 1 .* got 0 for 0 inputs"),
        ([10_000], {}, "delta must be below 1/10000"),
    ],
)
def test_a_plan_that_cannot_be(
    tmp_path: Path, sizes: list[int], changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(PrivacyError, match=sentence):
        planned(tmp_path, sizes, **changes)


def test_an_estimator_of_ones_own(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"tree' can't learn from noisy votes, .*; choose a network or head"):
        planned(tmp_path, [60, 60], "head", TREE, "mlp")


def test_a_plan_says_what_votes_cost(tmp_path: Path) -> None:
    found = plan(federation(tmp_path, privacy={"epsilon": 1.0}))
    text = "\n".join(found.lines())
    (first, *_) = found.noise
    assert "client 0: 10 teachers vote on 24 public inputs, with noise of standard deviation " in text
    assert f"standard deviation {first.deviation:.3g} votes on each count" in text
    assert "the top class of one input is wrong in" in text
    assert "hopeless at every client: noise on the votes of 10 teachers" in text
    assert "or choose privacy.route = 'head' or 'dpsgd'" in text
    promised, other = found.spending
    assert promised.epsilons == other.epsilons
    assert json.dumps(found.to_dict())
    assert PATE in claim_about_records(found.claims, "release").reason
    quiet = plan(federation(tmp_path, privacy={"epsilon": 400.0, "teachers": 20, "labels": 24}))
    assert not any("hopeless" in each for each in quiet.cautions)


# --- what is learnt from counts ------------------------------------------------------------------


def test_a_head_of_counts_is_one_of_as_many_records(basis: Basis) -> None:
    y = np.arange(24) % N_CLASSES
    counts = np.zeros((24, N_CLASSES), dtype=np.int64)
    counts[np.arange(24), y] = 7
    found = heads.counted(basis, PUBLIC, counts, 7, 4)
    torch.testing.assert_close(found["weight"], heads.fitted(basis, PUBLIC, y, N_CLASSES)["weight"])
    # shares: as if each input were there several times
    split = heads.counted(basis, PUBLIC, np.tile([2, 1, 1], (24, 1)), 4, 4)
    repeated = np.repeat(PUBLIC, 4, axis=0)
    again = heads.fitted(basis, repeated, np.tile([0, 0, 1, 2], 24), N_CLASSES)
    torch.testing.assert_close(split["weight"], again["weight"], atol=1e-5, rtol=0)


def test_a_head_of_noised_counts_is_right_on_average(basis: Basis) -> None:
    mechanism = VoteCounts.of(0.5, teachers=40, labels=24, n_classes=N_CLASSES)
    votes = np.tile(np.arange(24) % N_CLASSES, (40, 1))
    drawn = [
        heads.counted(basis, PUBLIC, mechanism(votes, _key=bytes([k]) * 32), 40, 3)["weight"].numpy()
        for k in range(200)
    ]
    exact = heads.counted(basis, PUBLIC, mechanism.exactly(votes), 40, 3)["weight"].numpy()
    error = np.std(drawn, axis=0) / math.sqrt(200)
    assert (np.std(drawn, axis=0) > 0.01).all()
    assert (np.abs(np.mean(drawn, axis=0) - exact) < 5 * error).all()


def test_less_noise_is_worth_more_dimensions() -> None:
    made = [VoteCounts.of(1.5, teachers=t, labels=100, n_classes=10) for t in (10, 60, 120, 10_000)]
    found = [worthwhile(each, at_most=256) for each in made]
    assert found[0] == 10
    assert found == sorted(found)
    assert found[-1] == 80
    assert worthwhile(made[-1], at_most=6) == 6


@pytest.mark.parametrize("name", ["head", "mlp", NET])
def test_a_model_sees_nothing_but_noised_counts(
    tmp_path: Path, basis: Basis, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    (made,) = planned(tmp_path, [60])
    drawn = np.random.default_rng(1).integers(-9, 20, (24, N_CLASSES))
    monkeypatch.setattr(VoteCounts, "__call__", lambda *_: drawn)
    spec = spec_of(name)
    state = heads.blank(N_CLASSES) if name == "head" else initial(spec, 3)

    def learnt(x: NDArray[np.float32], y: Vector) -> State:
        return made.train(Given(spec=spec, x=x, y=y, public=PUBLIC, basis=basis), state, 1)

    first = learnt(X, Y)
    assert same(first, learnt(-X[:20], (Y[:20] + 1) % N_CLASSES))
    assert not same(first, state)


# --- a whole run ---------------------------------------------------------------------------------


def test_clients_learn_from_teachers(digits: Run) -> None:
    first, second, mlp = digits.metrics["local.accuracies"]
    assert min(first, second) > 0.4
    assert mlp > 0.4
    assert digits.metrics["student.accuracy"] > 0.6
    claim = claim_about_records(digits.claims, "release")
    assert claim.guarantee is not None
    assert 7.9 < claim.guarantee.epsilon <= 8.0
    assert (claim.guarantee.unit, claim.guarantee.relation) == ("record", "add-or-remove")
    assert claim.reason == f"{PATE}."
    assert not digits.notes


def test_one_line_of_each_ledger_paid_for_all_votes(digits: Run) -> None:
    for client in range(3):
        ledger = digits.path / "clients" / str(client) / "ledger.jsonl"
        (paid,) = [line for line in ledger.read_text().splitlines() if "training" in line]
        charge = json.loads(paid)["entry"]["charge"]
        assert (charge["type"], charge["answers"], charge["classes"]) == ("votes", 400, 10)
        assert charge["turned"] is True
        # independent of the accounting: 2 M / variance is what 1 / z^2 is to a Gaussian
        exact = gaussian_epsilon(math.sqrt(charge["variance"] / 800), 1e-4)
        assert exact == pytest.approx(8.0, rel=0.02)


def test_its_recipe_is_played_again_with_fresh_noise(digits: Run) -> None:
    rows = pool_of(digits.split.clients)[1]
    one, other = play(Play.of(digits, everyone(digits)), [rows, rows])["answers.0"]
    assert one.shape == (3, 400, 10)
    assert not any(np.array_equal(one[k], other[k]) for k in range(3))


def test_votes_are_paid_for_before_noise_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, out = federation(tmp_path), tmp_path / "run"
    paid: list[int] = []
    real = VoteCounts.__call__

    def counted(self: VoteCounts, votes: Vector) -> Vector:
        ledger = out / "clients" / str(len(paid)) / "ledger.jsonl"
        paid.append(sum("votes" in line for line in ledger.read_text().splitlines()))
        return real(self, votes)

    monkeypatch.setattr(VoteCounts, "__call__", counted)
    run(settings, out)
    assert paid == [1, 1, 1]


def test_an_interrupted_run_sends_what_is_stored_and_pays_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    def drawn_again(*_: object) -> None:
        raise AssertionError("noise was drawn again")

    settings, out = federation(tmp_path), tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(Federations, "ask", killed)
        with pytest.raises(KeyboardInterrupt):
            run(settings, out)
    kept = [
        out / "clients" / str(k) / name for k in range(3) for name in ("ledger.jsonl", "private.safetensors")
    ]
    before = [path.read_bytes() for path in kept]
    with monkeypatch.context() as patched:
        patched.setattr(VoteCounts, "__call__", drawn_again)
        patched.setattr(pate, "assigned", drawn_again)
        run(settings, out)
    assert [path.read_bytes() for path in kept] == before
    assert read_arrays(kept[1])["model.weight"].shape == (3, N_CLASSES)


def test_votes_that_are_lost_are_paid_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise KeyboardInterrupt

    for name, changes in (("tight", {}), ("wide", {"budget": 9.0})):
        settings, out = federation(tmp_path, privacy=changes), tmp_path / name
        with monkeypatch.context() as patched:
            patched.setattr(VoteCounts, "__call__", lost)
            with pytest.raises(KeyboardInterrupt):
                run(settings, out)
        if not changes:
            with pytest.raises(BudgetExceeded, match="part 1 of 1"):
                run(settings, out)
        else:
            claim = claim_about_records(run(settings, out).claims, "server")
            assert claim.guarantee is not None
            assert 5.0 < claim.guarantee.epsilon <= 9.0


@pytest.mark.parametrize("name", ["fedmd", "dsfl-power", "feddf", "cfd", "fedct"])
def test_every_method_that_asks_about_public_inputs(tmp_path: Path, name: str) -> None:
    settings = federation(tmp_path, NET, "logistic", "head", privacy={"epsilon": 400.0}, name=name)
    assert run(settings, tmp_path / "run").metrics["clients.accuracy"] > 0.4


# --- what can't be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "privacy", "changes", "sentence"),
    [
        (("mlp", "forest", "mlp"), {}, {}, r"clients\[1\]\.model doesn't fit privacy\.route = 'pate'"),
        ((), {"unit": "client"}, {}, r"privacy\.unit must be record for privacy\.route = 'pate'"),
        ((), {"clip": 2.0}, {}, r"privacy\.clip must be left out for privacy\.route = 'pate'"),
        ((), {"learning_rate": 2.0}, {}, r"privacy\.learning_rate must be left out for .* 'pate'"),
        ((), {"mechanism": "skellam"}, {}, r"privacy\.mechanism must be left out for .* 'pate'"),
        ((), {"labels": 25}, {}, r"privacy\.labels must be at most data\.public = 24.*, got 25; give 24"),
        (("mlp",) * 3, {}, {"name": "balanced"}, r"method\.name doesn't fit privacy\.route = 'pate'"),
        (("mlp",) * 3, {}, {"name": "fd"}, r"method\.name doesn't fit privacy\.route = 'pate'"),
        ((), {}, {"local_steps": 0}, r"method\.local_steps must be at least 1 for privacy\.route = 'pate'"),
        (
            ("mlp",) * 3,
            {"route": "dpsgd", "teachers": 4},
            {},
            r"privacy\.teachers must be left out .*'dpsgd'",
        ),
        (("head",) * 3, {"route": "head", "labels": 4}, {}, r"privacy\.labels must be left out .*'head'"),
        ((), {"epsilon": None, "route": "none", "teachers": 4}, {}, r"privacy\.teachers must be left out"),
    ],
)
def test_teachers_where_they_cannot_be(
    tmp_path: Path, models: tuple[str, ...], privacy: dict[str, Any], changes: Any, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        federation(tmp_path, *models, privacy=privacy, **changes)


def test_teachers_and_labels_in_a_file() -> None:
    for key, value in (("teachers", 1), ("labels", 0)):
        text = DIGITS.replace("teachers = 40", f"{key} = {value}")
        with pytest.raises(ConfigError, match=rf"privacy\.{key} must be at least {value + 1}"):
            parse_config(text)
    found = parse_config(DIGITS).privacy
    assert found is not None
    assert (found.teachers, found.labels) == (40, None)


def test_more_teachers_than_records_is_refused_before_there_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match=r"privacy\.teachers must be .*, got 23 for 22 records"):
        run(federation(tmp_path, privacy={"teachers": 23}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
