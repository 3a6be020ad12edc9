"""Robust methods in federations and runs: with liars, in groups, interrupted, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from securefd.config import ClientGroup, Config, SealingConfig, parse_config, to_toml
from securefd.data.splits import load_split
from securefd.defenses import robust
from securefd.defenses.claims import Claim
from securefd.defenses.sealing import PartialSum
from securefd.errors import ConfigError, ProtocolError
from securefd.federation import Asked, Consensus, Federations
from securefd.folder import read_arrays
from securefd.methods import METHODS, Method
from securefd.planning import Precisions, plan
from securefd.recipe import Recipe
from securefd.runner import pool_of, run
from tests.engine.samples import N_CLASSES, TREE, config, points, pool
from tests.engine.test_resume import durable_calls, outcome, whole

Settings = Callable[..., Config]
Vector = NDArray[np.int64]
Floats = NDArray[np.float64]
ROBUST = [name for name, row in METHODS.items() if row.individual]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return lambda *models, **changes: config(tmp_path, *models, **changes)


def nine(settings: Settings, name: str = "median", groups: int | None = 3, **changes: Any) -> Config:
    sealing = {"kind": "masked", "groups": groups, **changes.pop("sealing", {})}
    return settings(*["logistic"] * 8, TREE, name=name, sealing=SealingConfig(**sealing), **changes)


def singles(vectors: list[Vector]) -> list[PartialSum]:
    return [PartialSum(total=own, clients=(k,)) for k, own in enumerate(vectors)]


def sums(vectors: list[Vector], groups: tuple[tuple[int, ...], ...]) -> list[PartialSum]:
    return [PartialSum(total=sum(vectors[k] for k in group), clients=group) for group in groups]


# --- one federation ----------------------------------------------------------------------------

RULES: dict[str, Callable[[Floats], Floats]] = {
    "median": robust.coordinate_median,
    "trimmed": lambda answers: robust.trimmed_mean(answers, 0.34),
    "geometric": robust.geometric_median,
    "cronus": robust.cronus,
    "expguard": lambda answers: robust.expguard(answers, np.ones(len(answers)), 2.0)[1],
}


@pytest.mark.parametrize("name", ROBUST)
@pytest.mark.parametrize("grouped", [False, True])
def test_the_consensus_is_the_rule_over_what_was_opened(settings: Settings, name: str, grouped: bool) -> None:
    chosen = nine(settings, name) if grouped else nine(settings, name, None, sealing={"kind": "plain"})
    recipe = Recipe.of(chosen, (4,), N_CLASSES)
    played = Federations(recipe, pool(90), [np.array_split(np.arange(90), 9)], points(24, seed=9)[0])
    played.fit(0)
    asked = played.ask(0)
    (vectors,) = played.answer(asked)
    parts = sums(vectors, recipe.groups) if grouped else singles(vectors)
    assert len(parts) == (3 if grouped else 9)
    (consensus,) = played.combine(asked, [np.sum(vectors, axis=0)], [parts])
    levels = 2**recipe.bits - 1
    answers = np.stack([part.total.reshape(12, N_CLASSES) / levels / len(part.clients) for part in parts])
    np.testing.assert_allclose(consensus.fresh, RULES[name](answers), atol=1e-6)
    everyone = np.mean([vector.reshape(12, N_CLASSES) / levels for vector in vectors], axis=0)
    np.testing.assert_allclose(consensus.mean, everyone, atol=1e-12)


def test_a_sum_alone_is_refused(settings: Settings) -> None:
    recipe = Recipe.of(settings(name="median"), (4,), N_CLASSES)
    played = Federations(recipe, pool(30), [np.array_split(np.arange(30), 3)], points(24, seed=9)[0])
    asked = played.ask(0)
    (vectors,) = played.answer(asked)
    with pytest.raises(ProtocolError, match="method median combines answers one by one, got their sum; pass"):
        played.combine(asked, [np.sum(vectors, axis=0)])


def test_clients_that_are_missing_are_not_counted(settings: Settings) -> None:
    """Two of three survive: the mean, and what follows from it, are theirs."""
    recipe = Recipe.of(settings(name="dsfl"), (4,), N_CLASSES)
    played = Federations(recipe, pool(30), [np.array_split(np.arange(30), 3)], points(24, seed=9)[0])
    asked = played.ask(0)
    (vectors,) = played.answer(asked)
    total = vectors[0] + vectors[2]
    (consensus,) = played.combine(asked, [total], [[PartialSum(total=total, clients=(0, 2))]])
    np.testing.assert_allclose(consensus.mean, total.reshape(12, 3) / (2**recipe.bits - 1) / 2)


def test_weights_of_expguard_go_from_round_to_round(settings: Settings) -> None:
    recipe = Recipe.of(settings(name="expguard", rounds=3), (4,), N_CLASSES)
    played = Federations(recipe, pool(30), [np.array_split(np.arange(30), 3)] * 2, points(24, seed=9)[0])
    assert played.weights == [None, None]
    weights = [np.ones(3), np.ones(3)]
    for number in range(3):
        played.fit(number)
        asked = played.ask(number)
        vectors = played.answer(asked)
        vectors[1][2] = vectors[1][2][::-1].copy()  # a client of the second federation strays
        consensus = played.combine(
            asked, [np.sum(own, axis=0) for own in vectors], [singles(own) for own in vectors]
        )
        for f in range(2):
            answers = np.stack([recipe.decoded(own, 12) for own in vectors[f]])
            weights[f], expected = robust.expguard(answers, weights[f], 2.0)
            np.testing.assert_allclose(played.weights[f], weights[f], atol=1e-12)
            np.testing.assert_allclose(consensus[f].fresh, expected, atol=1e-6)
        played.digest(asked, consensus)
    assert weights[1][2] < 0.5 * weights[1][:2].min()


@pytest.mark.parametrize("without", [("combine",), ()])
def test_a_row_combines_in_one_way(without: tuple[str, ...]) -> None:
    row = METHODS["dsfl"]
    changes = {"combine": None} if without else {"combine_individual": METHODS["median"].combine_individual}
    with pytest.raises(ValueError, match="dsfl must combine either sums or individual answers"):
        replace(row, **changes)
    assert isinstance(row, Method)


# --- liars -------------------------------------------------------------------------------------

LIARS = (7, 8)


def digits(name: str, clients: int = 9, **tables: Any) -> Config:
    text = f"""
name = "liars"
seed = 3
data = {{ source = "digits", public = 200, test = 300 }}
student = {{ model = "logistic", steps = 100 }}
clients = [{{ count = {clients}, model = "logistic" }}]
[method]
name = "{name}"
rounds = 2
queries = 100
local_steps = 10
digest_steps = 20
learning_rate = 0.01
"""
    return parse_config(text).model_copy(update=tables)


@pytest.fixture
def lying(monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[int, ...]], None]:
    """Makes clients answer, for every input, with all their weight on what the honest find least likely."""
    real = Federations.answer

    def lie(liars: tuple[int, ...]) -> None:
        def answer(self: Federations, asked: Asked) -> list[list[Vector]]:
            found = real(self, asked)
            for vectors in found:
                honest = [own for k, own in enumerate(vectors) if k not in liars]
                least = np.sum(honest, axis=0).reshape(-1, self.recipe.n_classes).argmin(axis=-1)
                lies = (2**self.recipe.bits - 1) * np.eye(self.recipe.n_classes, dtype=np.int64)[least]
                for k in liars:
                    vectors[k] = lies.ravel()
            return found

        monkeypatch.setattr(Federations, "answer", answer)

    return lie


def student_accuracy(chosen: Config, folder: Path) -> float:
    accuracy: float = run(chosen, folder, with_local=False).metrics["student.accuracy"]
    return accuracy


def test_two_of_nine_liars_ruin_a_mean_and_no_robust_method(
    tmp_path: Path, lying: Callable[[tuple[int, ...]], None]
) -> None:
    honest = {name: student_accuracy(digits(name), tmp_path / f"{name}-honest") for name in ("dsfl", *ROBUST)}
    lying(LIARS)
    lied = {name: student_accuracy(digits(name), tmp_path / name) for name in ("dsfl", *ROBUST)}
    assert lied["dsfl"] < 0.3 < 0.7 < honest["dsfl"]
    for name in ROBUST:
        assert lied[name] > honest[name] - 0.1, name
        assert lied[name] > lied["dsfl"] + 0.4, name


@pytest.mark.parametrize("name", ROBUST)
def test_as_many_liars_as_are_tolerated_in_as_many_groups(
    tmp_path: Path, lying: Callable[[tuple[int, ...]], None], name: str
) -> None:
    """15 clients in 5 groups of 3, masked. Each liar is in another group, which is the worst there is."""
    chosen = digits(name, 15, sealing=SealingConfig(kind="masked", groups=5, threshold=3, colluders=1))
    groups = Recipe.of(chosen, (1, 8, 8), 10).groups
    tolerated = robust.liars_tolerated(name, 5, trim=0.34)
    liars = tuple(group[0] for group in groups[:tolerated])
    honest = student_accuracy(chosen, tmp_path / "honest")
    lying(liars)
    lied = student_accuracy(chosen, tmp_path / "lied")
    assert lied > honest - 0.2
    if tolerated == 2:  # two liars of 15 are enough to harm a mean over all
        assert lied > student_accuracy(digits("dsfl", 15), tmp_path / "mean") + 0.15


# --- grouped, sealed ---------------------------------------------------------------------------


def by_hand(chosen: Config) -> tuple[Federations, list[tuple[Asked, Consensus, list[PartialSum]]]]:
    """The run's federation, on plain sums of the run's groups."""
    split = load_split(chosen.data, 9, chosen.seed)
    recipe = Recipe.of(chosen, split.input_shape, split.n_classes)
    records, rows = pool_of(split.clients)
    played = Federations(recipe, records, [rows], split.public)
    rounds = []
    for number in range(chosen.method.rounds):
        played.fit(number)
        asked = played.ask(number)
        (vectors,) = played.answer(asked)
        parts = sums(vectors, recipe.groups)
        (consensus,) = played.combine(asked, [np.sum(vectors, axis=0)], [parts])
        played.digest(asked, [consensus])
        rounds.append((asked, consensus, parts))
    played.finish()
    return played, rounds


@pytest.mark.parametrize("name", ["median", "expguard"])
def test_masks_change_no_bit_of_what_groups_learn(tmp_path: Path, settings: Settings, name: str) -> None:
    chosen = nine(settings, name, rounds=3)
    run(chosen, tmp_path / "run")
    played, rounds = by_hand(chosen)
    assert played.students is not None
    student = read_arrays(tmp_path / "run" / "models" / "student.safetensors")
    for weight, value in played.students.states[0].items():
        np.testing.assert_array_equal(student[f"student.{weight}"], value.numpy())
    for number, (asked, consensus, parts) in enumerate(rounds):
        seen = read_arrays(tmp_path / "run" / "views" / f"round-{number + 1:03d}.safetensors")
        assert seen.keys() == {"queries", "consensus", "total", "groups", "sums"}
        np.testing.assert_array_equal(seen["queries"], asked.asked)
        np.testing.assert_array_equal(seen["consensus"], consensus.fresh)
        for group, part in enumerate(parts):
            assert tuple(np.flatnonzero(seen["groups"] == group)) == part.clients
            total = part.total.reshape(12, N_CLASSES) / (2**played.recipe.bits - 1)
            np.testing.assert_array_equal(seen["sums"][group], total)
        np.testing.assert_allclose(seen["total"], seen["sums"].sum(axis=0) / 9, atol=1e-12)


def test_groups_are_those_of_the_seed_and_stay(tmp_path: Path, settings: Settings) -> None:
    chosen = nine(settings, rounds=3)
    recipe = Recipe.of(chosen, (4,), N_CLASSES)
    assert recipe.groups == Recipe.of(chosen, (4,), N_CLASSES).groups
    assert sorted(map(len, recipe.groups)) == [3, 3, 3]
    others = {Recipe.of(nine(settings, seed=seed), (4,), N_CLASSES).groups for seed in range(10)}
    assert len(others) > 5
    run(chosen, tmp_path / "run")
    seen = [
        read_arrays(path)["groups"].tolist()
        for path in sorted((tmp_path / "run").glob("views/round-*.safetensors"))
    ]
    assert seen == [seen[0]] * 3
    assert Recipe.of(settings(name="median"), (4,), N_CLASSES).groups == ()


def test_encrypted_groups(tmp_path: Path, settings: Settings) -> None:
    """Few clients in a sum leave more bits for each value: 14 for 3, where 9 would have 12."""
    chosen = nine(settings, sealing={"kind": "homomorphic"}, rounds=1)
    assert Recipe.of(chosen, (4,), N_CLASSES).bits == 14
    done = run(chosen, tmp_path / "run")
    assert "keyholder" in {claim.observer for claim in done.claims}
    _, ((_, consensus, _),) = by_hand(chosen)
    seen = read_arrays(tmp_path / "run" / "views" / "round-001.safetensors")
    np.testing.assert_array_equal(seen["consensus"], consensus.fresh)


@pytest.mark.parametrize(
    ("name", "groups"),
    [("expguard", None), ("expguard", 3), ("median", 3)],
    ids=["plain", "grouped", "median"],
)
def test_interrupted_anywhere(tmp_path: Path, settings: Settings, name: str, groups: int | None) -> None:
    """Weights and groups are what they would have been."""
    kind = "plain" if groups is None else "masked"
    chosen = nine(settings, name, groups, sealing={"kind": kind}, rounds=3)
    expected, total = whole(chosen, tmp_path / "whole")
    for point in range(total - 20, total + 1, 3):
        folder = tmp_path / str(point)
        with durable_calls(point), pytest.raises(KeyboardInterrupt):
            run(chosen, folder)
        run(chosen, folder)
        assert outcome(folder) == expected, f"interrupted at {point} of {total}"


# --- what is said ------------------------------------------------------------------------------


def answers_claims(claims: tuple[Claim, ...]) -> list[str]:
    return [claim.reason for claim in claims if claim.subject == "answers"]


@pytest.mark.parametrize(("clients", "size"), [(9, "3"), (10, "3 or 4"), (14, "4 or 5")])
def test_plan_and_claims_say_group_size_and_liars(settings: Settings, clients: int, size: str) -> None:
    sealing = SealingConfig(kind="masked", groups=3, colluders=1)
    chosen = settings(clients=(ClientGroup(count=clients, model="logistic"),), name="median", sealing=sealing)
    planned = plan(chosen)
    told = "\n".join(planned.cautions)
    reasons = answers_claims(planned.claims)
    assert len(reasons) == 2  # server and coalition
    for text in (told, *reasons):
        assert f"in each of 3 groups of {size} clients" in text
        assert "over the means of 3 groups tolerates up to 1 lying client, each taken to be in" in text
        assert "with another seed" in text.lower()
    assert f"The server and 1 of {clients // 3} clients" in reasons[1]
    assert "in each of 3 groups the sum of the clients' answers" in planned.sees["server"]


def test_a_plain_robust_method_says_how_many_liars(settings: Settings) -> None:
    for name, tolerated in (("median", 4), ("trimmed", 3), ("cronus", 2)):
        told = plan(nine(settings, name, None, sealing={"kind": "plain"})).cautions
        assert any(f"{name} tolerates up to {tolerated} lying clients of 9" in each for each in told)
    assert not any("lying" in each for each in plan(settings()).cautions)


@pytest.mark.parametrize("clients", [9, 11])
def test_bytes_of_groups_are_those_of_a_run(tmp_path: Path, settings: Settings, clients: int) -> None:
    chosen = settings(
        clients=(ClientGroup(count=clients, model="logistic"),),
        name="median",
        sealing=SealingConfig(kind="masked", groups=3),
    )
    planned, done = plan(chosen), run(chosen, tmp_path / "run", with_local=False)
    assert planned.precision == Precisions(up="exactly", down="exactly")
    assert [(w.up, w.down) for w in planned.traffic] == [
        (line["bytes.up"], line["bytes.down"]) for line in done.rounds
    ]


# --- what is refused ---------------------------------------------------------------------------


def possible(**changes: Any) -> Config:
    sealing = {"kind": "masked", "groups": 3} | changes
    count, name = sealing.pop("clients", 9), sealing.pop("name", "median")
    method = {"name": name} | ({"trim": sealing.pop("trim")} if "trim" in sealing else {})
    return Config(
        name="small",
        seed=1,
        data={"source": "digits"},
        clients=({"count": count, "model": "mlp"},),
        method=method,
        sealing=sealing,
    )


def refused(**changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        possible(**changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["masked", "homomorphic", "masked+homomorphic"])
@pytest.mark.parametrize("name", ROBUST)
def test_robust_methods_can_be_sealed_in_groups_only(kind: str, name: str) -> None:
    chosen = possible(kind=kind, name=name)
    assert parse_config(to_toml(chosen)) == chosen
    sentence = refused(kind=kind, name=name, groups=None)
    assert sentence.startswith(
        f"sealing.kind must be plain for method.name = '{name}', because it needs every"
    )
    assert "choose 'plain', give sealing.groups, or a method that can be sealed" in sentence


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ROBUST and name != "cfd"])
def test_a_mean_has_no_groups(name: str) -> None:
    sentence = refused(name=name)
    assert sentence.startswith(f"sealing.groups must be left out for method.name = '{name}', which needs one")
    assert "got 3; remove it, or choose median, trimmed, geometric, cronus or expguard" in sentence


def test_plain_has_no_groups() -> None:
    assert refused(kind="plain").startswith("sealing.groups must be left out for sealing.kind = 'plain'")


def test_each_group_has_three() -> None:
    assert possible(clients=12, groups=4).sealing.groups == 4
    sentence = refused(clients=11, groups=4)
    assert "sealing.groups must be at most a third of the clients, of whom there are 11" in sentence
    assert "got 4; give less, or add clients; there must be 9 at least" in sentence
    with pytest.raises(ValueError, match="greater than or equal to 3"):
        possible(clients=9, groups=2)


def test_the_threshold_is_that_of_a_group() -> None:
    assert possible().sealing.threshold == 3
    assert possible(clients=11).sealing.threshold == 3
    assert possible(clients=15, threshold=4).sealing.threshold == 4
    sentence = refused(threshold=4)
    assert "sealing.threshold must be at most the number of clients of a group, which is 3, got 4" in sentence


def test_all_colluders_may_be_in_any_group() -> None:
    """In 10 clients' groups of 3, 3 and 4 with t = 3: c < 2 * 3 - 4 = 2 for the largest, t - c >= 2."""
    assert possible(clients=10, colluders=1).sealing.colluders == 1
    assert "threshold - colluders = 3 - 2" in refused(clients=10, colluders=2)
    # 16 clients in groups of 5, 5 and 6 with t = 4: the smaller ones would stand 2, the largest stands 1
    assert possible(clients=15, threshold=4, colluders=2).sealing.colluders == 2
    assert possible(clients=16, threshold=4, colluders=1).sealing.colluders == 1
    sentence = refused(clients=16, threshold=4, colluders=2)
    assert "sealing.colluders must be less than 2 * threshold - clients = 2" in sentence
    assert "(now 4 of 6 clients of a group)" in sentence


@pytest.mark.parametrize("name", ROBUST)
def test_nobody_is_robust_with_two(name: str) -> None:
    sentence = refused(kind="plain", groups=None, clients=2, name=name)
    assert sentence.startswith(
        f"clients must be at least 3 in all for method.name = '{name}', which tolerates"
    )
    assert possible(kind="plain", groups=None, clients=3, name=name).method.name == name


def test_a_trim_that_drops_nobody() -> None:
    sentence = refused(name="trimmed", trim=0.3)
    assert "method.trim must be at least 1 / 3, so that one of 3 answers is dropped at each end" in sentence
    assert "got 0.3; give 0.34 or more" in sentence
    assert possible(name="trimmed", trim=0.34).method.trim == 0.34
    assert possible(kind="plain", groups=None, name="trimmed", trim=0.12).method.trim == 0.12
