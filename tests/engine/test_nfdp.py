"""Route `nfdp`: clients train on a sample, whole and without noise, and nobody is promised anything."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import securefd
from securefd import runner
from securefd.config import AuditConfig, Config, DataConfig, SealingConfig, parse_config, to_toml
from securefd.data.splits import load_split
from securefd.defenses.claims import RELATIONS
from securefd.errors import ConfigError, PrivacyError, RunError
from securefd.evaluation import play as playing
from securefd.evaluation import recipe as auditing
from securefd.evaluation.findings import Finding
from securefd.evaluation.play import Play
from securefd.evaluation.summary import report
from securefd.federation import Federations
from securefd.folder import read_arrays, write_arrays
from securefd.nfdp import Sampled, draw, theorem, trained_on
from securefd.planning import plan
from securefd.runner import pool_of, run
from tests.engine import samples
from tests.evaluation.runs import everyone

NFDP: dict[str, Any] = {"unit": "record", "route": "nfdp", "relation": "add-or-remove", "sample": 7}
SIZE = 22
"""Records of each of the three clients in `samples.config`."""

Settings = Callable[..., Config]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return lambda *models, **changes: samples.config(tmp_path, *models, **{"privacy": NFDP, **changes})


def stored(folder: Path, client: int) -> np.ndarray:
    return read_arrays(folder / "clients" / str(client) / "sample.safetensors")["rows"]


# --- what is proven of a sample ------------------------------------------------------------------


def subsets(records: tuple[int, ...], sample: int) -> dict[tuple[int, ...], float]:
    """The probability of each set that may be drawn: what is published by whoever publishes the sample."""
    return {drawn: 1 / math.comb(len(records), sample) for drawn in combinations(records, sample)}


def exact_delta(p: dict[Any, float], q: dict[Any, float], epsilon: float) -> float:
    """The largest P(A) - e^epsilon Q(A) over all events A."""
    return sum(max(0.0, p[drawn] - math.exp(epsilon) * q.get(drawn, 0.0)) for drawn in p)


@pytest.mark.parametrize(("records", "sample"), [(n, k) for n in (1, 2, 5, 8) for k in range(1, n + 1)])
def test_publishing_the_sample_fulfils_the_theorem_and_no_smaller_figures(records: int, sample: int) -> None:
    fewer, more = subsets(tuple(range(records)), sample), subsets(tuple(range(records + 1)), sample)
    epsilon, delta = theorem(records, sample, "add-or-remove")
    assert exact_delta(fewer, more, epsilon) == pytest.approx(0, abs=1e-12)
    assert exact_delta(fewer, more, 0.99 * epsilon) > 0
    assert exact_delta(more, fewer, epsilon) == pytest.approx(sample / (records + 1))
    assert delta == sample / records

    replaced = subsets((*range(1, records), records), sample)
    epsilon, delta = theorem(records, sample, "replace-one")
    assert epsilon == 0
    assert exact_delta(fewer, replaced, 0) == pytest.approx(delta) == pytest.approx(sample / records)
    assert exact_delta(fewer, replaced, 20) == pytest.approx(delta), "however much epsilon is allowed"


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("records", [1, 10, 1000])
def test_delta_is_never_below_one_over_the_records(records: int, relation: Any) -> None:
    assert theorem(records, 1, relation)[1] >= 1 / records


def test_figures_of_the_literature() -> None:
    assert theorem(10_000, 3_000, "add-or-remove") == pytest.approx((0.3566, 0.3), abs=1e-4)
    assert theorem(600, 60, "add-or-remove") == pytest.approx((0.105, 0.1), abs=1e-3)


@pytest.mark.parametrize("sample", [0, -1, 11])
def test_a_sample_that_cannot_be_drawn(sample: int) -> None:
    with pytest.raises(PrivacyError, match="sample must be at least 1 and at most the 10 records, got"):
        theorem(10, sample, "replace-one")


def test_every_record_is_drawn_as_often() -> None:
    counts = np.zeros(10)
    for _ in range(2000):
        rows = draw(10, 3)
        assert len(set(rows)) == 3
        assert (np.diff(rows) > 0).all()
        counts[rows] += 1
    assert abs(counts / 2000 - 0.3).max() < 6 * math.sqrt(0.3 * 0.7 / 2000)


# --- what the configuration may hold -------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epsilon", 1.0),
        ("noise", 1.0),
        ("delta", 1e-5),
        ("clip", 2.0),
        ("learning_rate", 0.5),
        ("ledger", "x"),
        ("budget", 3.0),
        ("witness", "x"),
        ("mechanism", "skellam"),
    ],
)
def test_what_belongs_to_noise_is_refused(settings: Settings, key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"^privacy\.{key} must be left out for .*'nfdp'.*; remove it"):
        settings(privacy={**NFDP, key: value})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"sample": None}, r"^privacy\.sample is required, but missing; add sample = 60"),
        ({"unit": "client"}, r"^privacy\.unit must be record for privacy\.route = 'nfdp'"),
        (
            {"route": "dpsgd", "epsilon": 1.0, "delta": 1e-5},
            r"^privacy\.sample must be left out .*; remove it, or choose privacy\.route = 'nfdp'",
        ),
        ({"route": "none", "delta": 1e-5}, r"^privacy\.sample must be left out for privacy\.route = 'none'"),
    ],
)
def test_other_refusals(settings: Settings, changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        settings(privacy={**NFDP, **changes})


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('relation = "add-or-remove"\n', "", "privacy.relation is required, but missing; add relation ="),
        ("sample = 7", "sample = 0", "privacy.sample must be at least 1, got 0; give 1 or more"),
        ("sample = 7", "sample = 2.5", "privacy.sample must be a whole number, got 2.5"),
        ("sample = 7", "sample = nan", "privacy.sample must be a whole number, got NaN"),
    ],
)
def test_refusals_of_a_file(settings: Settings, old: str, new: str, sentence: str) -> None:
    text = to_toml(settings())
    assert parse_config(text) == settings()
    assert old in text
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        parse_config(text.replace(old, new))


def test_no_client_may_have_fewer_records(tmp_path: Path, settings: Settings, monkeypatch) -> None:
    monkeypatch.setattr(Federations, "fit", lambda *_: pytest.fail("trained"))
    for refused in (securefd.plan, lambda config: securefd.run(config, tmp_path / "run")):
        with pytest.raises(ConfigError, match=r"^privacy\.sample must be at most .*, which are 22, got 23"):
            refused(settings(privacy={**NFDP, "sample": SIZE + 1}))
    assert not (tmp_path / "run").exists()
    plan(settings(privacy={**NFDP, "sample": SIZE}))


# --- plan ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_plan_shows_it_as_what_it_is(settings: Settings, relation: str) -> None:
    planned = plan(settings(privacy={**NFDP, "relation": relation}))
    assert [claim.kind for claim in planned.claims if claim.subject == "records"] == ["none"] * 3
    assert (planned.spending, planned.noise, planned.answers) == ((), (), None)
    assert planned.cautions[0].startswith("nothing is promised about single records: privacy.route = 'nfdp'")
    lines = planned.lines()
    assert "nfdp without noise" in lines[0]
    assert "  client 2: 7 of 22 records, drawn once" in lines
    told = [line for line in lines if re.search("epsilon|ε", line)]
    assert len(told) == 1
    assert told[0].startswith("  server, peer, release about records: none. No noise was added")
    epsilon = {"add-or-remove": "0.363", "replace-one": "0"}[relation]
    for part in (
        f"epsilon = {epsilon} at delta = 0.32 for one record, {relation}, towards every observer",
        "that is no protection",
        "here 7/22, and never below 1/22",
    ):
        assert part in told[0]


def test_figures_are_those_of_the_smallest_client(settings: Settings) -> None:
    data = {"source": "digits", "public": 40, "test": 40, "partition": {"kind": "quantity", "alpha": 2.0}}
    text = to_toml(settings(data=DataConfig(**data)))
    planned = plan(parse_config(text))
    least = min(client.records for client in planned.clients)
    assert least < max(client.records for client in planned.clients)
    assert f"the smallest client's {least} records" in planned.claims[0].reason


# --- run -----------------------------------------------------------------------------------------


def test_clients_train_on_their_sample_alone(tmp_path: Path, settings: Settings, monkeypatch) -> None:
    seen: list[Any] = []
    real = runner.Federations

    def spied(recipe: Any, pool: Any, rows: Any, *more: Any, **named: Any) -> Federations:
        seen.append(rows)
        return real(recipe, pool, rows, *more, **named)

    monkeypatch.setattr(runner, "Federations", spied)
    run(settings(samples.TREE, "mlp", "head"), tmp_path / "run")
    (((*used,),),) = seen
    assert [len(rows) for rows in used] == [7, 7, 7]
    for k, rows in enumerate(used):
        assert np.array_equal(rows, stored(tmp_path / "run", k) + SIZE * k)


def test_a_sample_of_everything_is_a_run_without_the_route(tmp_path: Path, settings: Settings) -> None:
    whole = samples.play(settings(privacy={**NFDP, "sample": SIZE}), tmp_path / "whole")
    assert whole == samples.play(settings(privacy=None), tmp_path / "without")
    assert whole != samples.play(settings(), tmp_path / "sampled")


@pytest.mark.parametrize("kind", ["plain", "masked"])
def test_a_run_promises_nothing_and_keeps_no_ledger(tmp_path: Path, settings: Settings, kind: Any) -> None:
    config = settings(sealing=SealingConfig(kind=kind))
    done = run(config, tmp_path / "run")
    assert done.claims == plan(config).claims
    assert {claim.kind for claim in done.claims if claim.subject == "records"} == {"none"}
    assert not list((tmp_path / "run").rglob("*.jsonl.*")) + list((tmp_path / "run").rglob("ledger*"))
    assert (tmp_path / "run" / "clients" / "0" / "sample.safetensors").stat().st_mode & 0o777 == 0o600


def test_what_is_drawn_is_nobodys_guess(tmp_path: Path, settings: Settings) -> None:
    for name in ("one", "two"):
        run(settings(), tmp_path / name)
    drawn = [[tuple(stored(tmp_path / name, k)) for k in range(3)] for name in ("one", "two")]
    assert drawn[0] != drawn[1]
    assert drawn[0][0] != drawn[0][1]


class Killed(BaseException):
    """What no handler expects."""


def interrupted(config: Config, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends in its second round."""

    def killed(self: Federations, round: int) -> None:  # noqa: A002
        if round == 1:
            raise Killed
        real(self, round)

    real = Federations.fit
    with monkeypatch.context() as patched:
        patched.setattr(Federations, "fit", killed)
        with pytest.raises(Killed):
            run(config, folder)


def test_a_resumed_run_uses_the_same_sample(tmp_path: Path, settings: Settings, monkeypatch) -> None:
    config = settings("mlp", samples.TREE, "logistic")
    interrupted(config, tmp_path / "run", monkeypatch)
    before = [stored(tmp_path / "run", k) for k in range(3)]
    student = samples.play(config, tmp_path / "run")
    assert all(np.array_equal(stored(tmp_path / "run", k), rows) for k, rows in enumerate(before))

    monkeypatch.setattr("securefd.nfdp.draw", lambda *_: next(drawn))
    drawn = iter(before)
    assert student == samples.play(config, tmp_path / "straight"), "as if it had never been interrupted"


def test_a_sample_that_is_gone_is_not_drawn_again(tmp_path: Path, settings: Settings, monkeypatch) -> None:
    interrupted(settings(), tmp_path / "run", monkeypatch)
    (tmp_path / "run" / "clients" / "1" / "sample.safetensors").unlink()
    with pytest.raises(RunError, match=r"1/sample\.safetensors is missing, so that .*; restore it"):
        run(settings(), tmp_path / "run")


@pytest.mark.parametrize(
    "arrays",
    [
        {"rows": np.arange(6)},
        {"rows": np.arange(7)[::-1]},
        {"rows": np.arange(7) - 1},
        {"rows": np.arange(16, 23)},
        {"rows": np.zeros(7, dtype=np.int64)},
        {"rows": np.arange(7.0)},
        {"other": np.arange(7)},
    ],
)
def test_a_damaged_sample_is_refused(
    tmp_path: Path, settings: Settings, monkeypatch, arrays: dict[str, np.ndarray]
) -> None:
    interrupted(settings(), tmp_path / "run", monkeypatch)
    write_arrays(tmp_path / "run" / "clients" / "0" / "sample.safetensors", arrays)
    with pytest.raises(RunError, match=r"sample\.safetensors isn't a sample of 7 of 22 records; restore it"):
        run(settings(), tmp_path / "run")


# --- audit and report ----------------------------------------------------------------------------


def test_of_other_rows_it_is_as_large_a_share() -> None:
    rows = np.arange(100, 150)
    taken = Sampled(client=0, records=100, sample=20).of(rows)
    assert len(taken) == 10
    assert set(taken) < set(rows)
    assert len(Sampled(client=0, records=100, sample=1).of(rows[:3])) == 1
    assert len(Sampled(client=0, records=100, sample=100).of(rows)) == 50


def test_shadows_train_on_samples_of_theirs(tmp_path: Path, settings: Settings, monkeypatch) -> None:
    seen: list[Any] = []
    real = playing.Federations

    def spied(recipe: Any, pool: Any, rows: Any, *more: Any, **named: Any) -> Federations:
        seen.extend(rows)
        return real(recipe, pool, rows, *more, **named)

    done = run(settings(), tmp_path / "run")
    setup = Play.of(done, everyone(done))
    monkeypatch.setattr(playing, "Federations", spied)
    theirs = [[np.arange(start, start + 11) for start in (0, SIZE, 2 * SIZE)] for _ in range(4)]
    playing.play(setup, theirs)
    assert len(seen) == 4
    for own, used in zip(theirs, seen, strict=True):
        for mine, rows in zip(own, used, strict=True):
            assert len(rows) == round(11 * 7 / SIZE)
            assert set(rows) < set(mine)
    assert len({tuple(map(int, rows)) for used in seen for rows in used}) > 3, "drawn afresh"


def test_this_run_is_attacked_on_records_that_it_used(
    tmp_path: Path, settings: Settings, monkeypatch
) -> None:
    asked: list[np.ndarray] = []
    real = auditing.gather

    def spied(views: Any, about: Any, *, subject: str) -> Any:
        if subject == "this run":
            asked.append(about.x)
        return real(views, about, subject=subject)

    monkeypatch.setattr(auditing, "gather", spied)
    config = settings(audit=AuditConfig(shadows=4))
    done = run(config, tmp_path / "run")
    audit = securefd.audit(done)
    split = load_split(config.data, 3, config.seed)
    pool, rows = pool_of(split.clients)
    used = {pool.x[row].tobytes() for row in np.concatenate(trained_on(done.path, config, rows))}
    assert len(used) == 21
    for x in asked:
        members = {each.tobytes() for each in x[: len(x) // 2]}
        assert members
        assert members <= used
    assert {outcome.judgement for outcome in audit.outcomes if isinstance(outcome, Finding)} == {
        "INCONCLUSIVE"
    }

    (made,) = report(done, audit).variants
    assert made.privacy == "nfdp"
    assert {claim.kind for claim in made.claims if claim.subject == "records"} == {"none"}
    assert all(claim.epsilon is None for claim in made.claims)
    assert "that is no protection" in made.claims[0].reason
    assert "single private records: no noise was added" in made.unprotected
    assert report(done, audit).verdict == "inconclusive"
