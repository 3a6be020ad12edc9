"""Route ``votes``: what a trusted server releases where enough clients agree, in whole runs."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm

import securefd
from securefd import runner, voting
from securefd.config import Config, parse_config, to_toml
from securefd.defenses import accounting
from securefd.defenses.charges import ConfidentVotes
from securefd.defenses.confident import Answered, Confident
from securefd.defenses.data_dependent import Figure
from securefd.defenses.ledger import Ledger
from securefd.errors import ConfigError, PrivacyError, RunError
from securefd.evaluation.findings import Finding
from securefd.evaluation.variants import variant
from securefd.federation import Federations
from securefd.folder import read_arrays, write_arrays
from securefd.outlook import AGREEMENTS, ReleasedClasses, outlook
from securefd.recipe import Recipe
from securefd.releases import ReleasePlan, plan_releases
from tests.engine import samples

SHAPE, CLASSES, PUBLIC = (1, 8, 8), 10, 60
SMALL = """
name = "small"
seed = 3
data = {{ source = "digits", public = 60, test = 60 }}
clients = [{{ count = {count}, model = "{model}" }}]
method = {{ name = "{method}", rounds = {rounds}, local_steps = 20, digest_steps = 2, queries = 40 }}
student = {{ model = "logistic", steps = 5 }}
[sealing]
kind = "{sealing}"
[privacy]
unit = "client"
route = "votes"
relation = "{relation}"
delta = 1e-3
{privacy}
"""
BOTH = ("replace-one", "add-or-remove")


def written(
    *,
    privacy: str = "epsilon = 60.0",
    method: str = "votes",
    relation: str = "replace-one",
    sealing: str = "plain",
    count: int = 6,
    model: str = "logistic",
    rounds: int = 2,
) -> Config:
    return parse_config(
        SMALL.format(
            privacy=privacy,
            method=method,
            relation=relation,
            sealing=sealing,
            count=count,
            model=model,
            rounds=rounds,
        )
    )


def planned(config: Config) -> ReleasePlan:
    plan = plan_releases(config, Recipe.of(config, SHAPE, CLASSES), PUBLIC)
    assert plan is not None
    return plan


class TestPlan:
    @pytest.mark.parametrize("relation", BOTH)
    @pytest.mark.parametrize("epsilon", [0.5, 8.0, 200.0])
    def test_the_noise_is_what_epsilon_needs(self, relation: str, epsilon: float) -> None:
        found = planned(written(privacy=f"epsilon = {epsilon}", relation=relation)).guarantees()
        assert set(found) == {"peer", "release"}
        for each in found.values():
            assert 0.99 * epsilon <= each.epsilon <= epsilon
            assert (each.unit, each.relation, each.delta) == ("client", relation, 1e-3)

    @pytest.mark.parametrize(("relation", "counts"), [("replace-one", 2), ("add-or-remove", 1)])
    def test_by_hand(self, relation: str, counts: int) -> None:
        """2 rounds of 40 queries, all taken as answered, in the limit of much noise."""
        plan = planned(written(privacy="epsilon = 0.5", relation=relation))
        assert plan.confident is not None
        assert plan.figure_variance is not None
        check, answer = plan.confident.deviations
        assert check == pytest.approx(1.5 * answer)
        votes = 80 * (1 / check**2 + counts / answer**2)
        assert 1 / plan.figure_variance == pytest.approx(0.02 * votes)
        mu = math.sqrt(1.02 * votes)
        epsilon = plan.guarantees()["peer"].epsilon
        second = math.exp(epsilon + norm.logcdf(-epsilon / mu - mu / 2))
        assert norm.cdf(-epsilon / mu + mu / 2) - second == pytest.approx(1e-3, rel=0.02)

    def test_noise_may_be_given_instead(self) -> None:
        plan = planned(written(privacy="noise = 2.0\nthreshold = 5\nthreshold_noise = 3.0"))
        assert plan.confident == Confident(
            classes=10, threshold=5, check_variance=9 * 4 * 80, answer_variance=4 * 80
        )
        assert plan.guarantee.epsilon == accounting.spent(plan.charges(), 1e-3, "replace-one")

    def test_the_figure_is_charged_once_with_the_last_round(self) -> None:
        charges = planned(written(rounds=3)).charges()
        assert all(isinstance(charge, ConfidentVotes) for charge in charges)
        figures = [charge.figure_variance for charge in charges if isinstance(charge, ConfidentVotes)]
        assert figures[:2] == [None, None]
        assert figures[2] is not None

    def test_the_usual_threshold_is_written_down(self) -> None:
        config = written(count=10)
        assert config.privacy is not None
        assert config.privacy.threshold == 4
        assert parse_config(to_toml(config)) == config

    def test_a_plan_says_what_is_answered_and_that_the_server_is_trusted(self) -> None:
        plan = securefd.plan(written())
        lines = "\n".join(plan.lines())
        assert "a query is answered in" in lines
        assert "epsilon at delta = 0.001 for one client, replace-one, towards each observer" in lines
        about = {claim.observer: claim for claim in plan.claims if claim.subject == "records"}
        assert about["server"].kind == "none"
        assert about["peer"].kind == about["release"].kind == "proven"
        assert "it is trusted to, and sees the counts" in about["peer"].reason
        assert "route 'distributed' has every count noised under masks" in about["peer"].reason

    @pytest.mark.parametrize("method", ["votes", "fedct"])
    @pytest.mark.parametrize("sealing", ["plain", "masked"])
    def test_bytes_are_those_of_the_run(self, tmp_path: Path, method: str, sealing: str) -> None:
        config = written(method=method, sealing=sealing, rounds=1)
        run, plan = securefd.run(config, tmp_path / "run"), securefd.plan(config)
        assert run.metrics["bytes"]["down"] == plan.largest.down
        if method == "votes" or sealing == "masked":
            assert run.metrics["bytes"]["up"] == plan.largest.up

    def test_a_delta_that_publishes_a_client_is_refused(self) -> None:
        config = written()
        assert config.privacy is not None
        bad = config.model_copy(update={"privacy": config.privacy.model_copy(update={"delta": 0.2})})
        with pytest.raises(PrivacyError, match="below 1/6 for 6 units"):
            planned(bad)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"method": "dsfl"}, "method.name doesn't fit privacy.route = 'votes'"),
        ({"method": "cfd"}, "method.name doesn't fit privacy.route = 'votes'"),
        (
            {"privacy": "epsilon = 1.0\nthreshold = 7"},
            "privacy.threshold must be at most the number of clients",
        ),
        ({"privacy": "epsilon = 1.0\nthreshold = 0"}, "privacy.threshold must be at least 1"),
        ({"privacy": "epsilon = 1.0\nthreshold = 2.5"}, "privacy.threshold"),
        (
            {"privacy": "epsilon = 1.0\nthreshold_noise = 0.0"},
            "privacy.threshold_noise must be greater than 0",
        ),
        ({"privacy": "epsilon = 1.0\nthreshold_noise = nan"}, "privacy.threshold_noise"),
        ({"privacy": 'epsilon = 1.0\nmechanism = "skellam"'}, "which has its own noise"),
        ({"privacy": ""}, "privacy.epsilon must be given"),
        ({"privacy": "epsilon = inf"}, "privacy.epsilon"),
    ],
)
def test_what_cant_be_is_refused_with_a_remedy(changes: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        written(**changes)  # type: ignore[arg-type]
    assert sentence in str(caught.value)
    assert ";" in str(caught.value)


@pytest.mark.parametrize("key", ["threshold = 3", "threshold_noise = 2.0"])
def test_other_routes_know_no_threshold(key: str) -> None:
    text = to_toml(written()).replace('route = "votes"', 'route = "central"').replace("threshold = 3\n", "")
    with pytest.raises(ConfigError, match=r"must be left out for privacy.route = 'central'"):
        parse_config(f"{text.rstrip()}\n".replace('unit = "client"', f'unit = "client"\n{key}'))


def test_a_record_is_not_what_it_protects() -> None:
    with pytest.raises(ConfigError, match=r"privacy.unit must be client for privacy.route = 'votes'"):
        parse_config(to_toml(written()).replace('unit = "client"', 'unit = "record"'))


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


class TestRun:
    def charged(self, folder: Path, client: int) -> int:
        lines = (folder / "clients" / str(client) / "ledger.jsonl").read_text().splitlines()
        return sum(json.loads(line)["entry"]["type"] == "charged" for line in lines)

    def released(self, folder: Path, number: int) -> np.ndarray:
        return np.asarray(read_arrays(voting.release_path(folder, number - 1))["total"]).reshape(40, 10)

    @pytest.mark.parametrize("method", ["votes", "fedct"])
    @pytest.mark.parametrize("sealing", ["plain", "masked"])
    def test_claims_and_ledgers(self, tmp_path: Path, method: str, sealing: str) -> None:
        config = written(method=method, sealing=sealing)
        run, plan = securefd.run(config, tmp_path / "run"), planned(config)
        about = {c.observer: c for c in run.claims if c.subject == "records"}
        assert about["server"].kind == "none"
        assert {o: c.guarantee for o, c in about.items() if c.guarantee} == plan.guarantees()
        for client in range(6):
            path = tmp_path / "run" / "clients" / str(client) / "ledger.jsonl"
            with Ledger.open(path, plan.guarantee) as ledger:
                assert [each.charge for each in ledger.charged] == plan.charges()
        assert about["peer"].guarantee == ledger.spent()
        assert run.student.predict_proba(run.split.test.x).shape == (60, 10)

    def test_others_hear_of_answered_queries_only(self, tmp_path: Path) -> None:
        run = securefd.run(written(privacy="epsilon = 40.0\nthreshold = 6"), tmp_path / "run")
        answered = 0
        for number in (1, 2):
            released = self.released(run.path, number)
            seen = read_arrays(run.path / "views" / f"round-{number:03d}.safetensors")
            # The server saw all six votes on each query, the others one class, or nothing.
            np.testing.assert_allclose(seen["total"].sum(axis=-1), 1.0)
            np.testing.assert_array_equal(seen["consensus"], released / 6)
            assert set(np.unique(released)) == {0, 6}
            assert set(released.sum(axis=-1)) == {0, 6}
            answered += int(released.any(axis=-1).sum())
        assert run.metrics["votes"]["asked"] == 80
        assert run.metrics["votes"]["answered"] == answered

    def test_little_noise_releases_what_was_voted(self, tmp_path: Path) -> None:
        run = securefd.run(written(privacy="noise = 0.01\nthreshold = 3", rounds=1), tmp_path / "run")
        seen = read_arrays(run.path / "views" / "round-001.safetensors")
        counts = np.rint(6 * seen["total"])
        np.testing.assert_array_equal(self.released(run.path, 1).any(axis=-1), counts.max(axis=-1) >= 3)
        clear = counts.max(axis=-1) >= 3
        assert 0 < clear.sum() < 40
        np.testing.assert_array_equal(
            self.released(run.path, 1)[clear].argmax(axis=-1), counts[clear].argmax(axis=-1)
        )

    def test_the_figure_about_the_votes_is_said_with_all_its_terms(self, tmp_path: Path) -> None:
        run = securefd.run(written(relation="add-or-remove"), tmp_path / "run")
        found = run.metrics["votes"]["data dependent"]
        assert found["epsilon"] > 0
        assert (found["unit"], found["relation"], found["delta"]) == ("client", "add-or-remove", 1e-3)
        assert found["observers"] == ["peer", "release"]
        (note,) = run.notes
        up = math.ceil(found["epsilon"] * 1000) / 1000
        terms = f"(epsilon = {up:g}, delta = 0.001) for one client, add-or-remove towards peer and release"
        assert terms in note
        assert f"{run.metrics['votes']['answered']} of 80 queries were answered" in note
        assert "It is no guarantee for other data" in note
        assert note in variant(run, None, description="", substitutions=()).substitutions
        assert all(c.guarantee is None or c.guarantee.epsilon != found["epsilon"] for c in run.claims)

    def test_the_figure_is_of_the_stored_level_and_costs(self, tmp_path: Path) -> None:
        config = written()
        run, plan = securefd.run(config, tmp_path / "run"), planned(config)
        server = voting.VoteServer.of(run.path, plan)
        assert server is not None
        made = server._figure
        assert made is not None
        costs = 0.0
        for number in (1, 2):
            seen = read_arrays(run.path / "views" / f"round-{number:03d}.safetensors")
            counts = np.rint(6 * seen["total"]).astype(np.int64)
            costs += float(made.costs.smooth(counts, made.beta).sum())
            assert made.costs.of(counts).sum() <= made.costs.smooth(counts, made.beta).sum()
        level = int(read_arrays(voting.release_path(run.path, 1))["level"][0])
        assert "level" not in read_arrays(voting.release_path(run.path, 0))
        assert run.metrics["votes"]["data dependent"]["epsilon"] == made.epsilon(level, 80)
        # within eight deviations of what the costs come to
        assert abs(level - made._exact(costs)) <= 8 * math.sqrt(made.variance) + 1

    def test_what_was_released_is_never_drawn_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Killed between a release and the end of its round, and again between the figure and the result."""
        folder = tmp_path / "run"
        with monkeypatch.context() as patched:
            patched.setattr(runner._Runner, "_save_round", interrupted)
            with pytest.raises(KeyboardInterrupt):
                securefd.run(written(), folder)
        first = voting.release_path(folder, 0).read_bytes()
        with monkeypatch.context() as patched:
            patched.setattr(runner, "write_json", interrupted)
            with pytest.raises(KeyboardInterrupt):
                securefd.run(written(), folder)
        assert voting.release_path(folder, 0).read_bytes() == first
        second = voting.release_path(folder, 1).read_bytes()
        monkeypatch.setattr(Confident, "__call__", interrupted)
        monkeypatch.setattr(Figure, "level", interrupted)
        securefd.run(written(), folder)
        assert voting.release_path(folder, 0).read_bytes() == first
        assert voting.release_path(folder, 1).read_bytes() == second
        assert [self.charged(folder, client) for client in range(6)] == [2] * 6

    def test_a_release_that_is_gone_is_not_drawn_anew_once_others_heard_of_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = tmp_path / "run"
        with monkeypatch.context() as patched:
            patched.setattr(runner._Runner, "_save_round", interrupted)
            with pytest.raises(KeyboardInterrupt):
                securefd.run(written(), folder)
        voting.release_path(folder, 0).unlink()
        monkeypatch.setattr(Confident, "__call__", interrupted)
        with pytest.raises(RunError, match=r"release-0001.safetensors must be there.*put it back"):
            securefd.run(written(), folder)

    def test_costs_of_another_figure_are_not_added_up(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As when other versions of what it is computed with would choose another order."""
        folder = tmp_path / "run"
        with monkeypatch.context() as patched:
            patched.setattr(runner, "write_json", interrupted)
            with pytest.raises(KeyboardInterrupt):
                securefd.run(written(), folder)
        path = voting.release_path(folder, 0)
        stored = {name: np.array(value) for name, value in read_arrays(path).items()}
        write_arrays(path, stored | {"figure": stored["figure"] + 1})
        with pytest.raises(RunError, match="finish the run with the versions that began it"):
            securefd.run(written(), folder)

    def test_one_that_nobody_heard_of_is_drawn(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = tmp_path / "run"
        with monkeypatch.context() as patched:
            patched.setattr(runner, "write_arrays", interrupted)
            with pytest.raises(KeyboardInterrupt):
                securefd.run(written(), folder)
        assert not voting.release_path(folder, 0).exists()
        securefd.run(written(), folder)
        assert [self.charged(folder, client) for client in range(6)] == [2] * 6

    @pytest.mark.parametrize("model", ["logistic", "forest", "head"])
    def test_where_nothing_is_answered_nobody_learns(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str
    ) -> None:
        nothing = Answered(rows=np.empty(0, dtype=np.int64), classes=np.empty(0, dtype=np.int64))
        monkeypatch.setattr(Confident, "__call__", lambda self, counts: nothing)
        run = securefd.run(written(model=model), tmp_path / "run")
        assert run.metrics["votes"]["answered"] == 0
        assert run.metrics["clients.accuracy"] == pytest.approx(run.metrics["local.accuracy"], abs=0.02)

    def test_a_run_of_other_models_resumes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = tmp_path / "run"
        with monkeypatch.context() as patched:
            patched.setattr(runner._Runner, "_result", interrupted)
            with pytest.raises(KeyboardInterrupt):
                securefd.run(written(model="forest"), folder)
        before = [self.released(folder, number).tobytes() for number in (1, 2)]
        run = securefd.run(written(model="forest"), folder)
        assert [self.released(folder, number).tobytes() for number in (1, 2)] == before
        assert run.metrics["votes"]["answered"] > 0

    def test_noise_beyond_the_figures_reach(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(voting, "WIDEST", 1.0)
        run = securefd.run(written(), tmp_path / "run")
        assert "data dependent" not in run.metrics["votes"]
        assert "no figure about these votes" in run.notes[0]

    def test_a_shared_ledger(self, tmp_path: Path) -> None:
        ledger = tmp_path / "ledgers"
        config = written(privacy=f'epsilon = 20.0\nbudget = 45.0\nledger = "{ledger}"')
        for name in ("one", "two"):
            run = securefd.run(config, tmp_path / name)
            assert {c.guarantee.epsilon for c in run.claims if c.guarantee} == {45.0}

    @pytest.mark.parametrize("method", ["votes", "fedct"])
    def test_an_audit(self, tmp_path: Path, method: str) -> None:
        config = written(method=method, rounds=1)
        audit = config.audit.model_copy(update={"shadows": 8})
        run = securefd.run(config.model_copy(update={"audit": audit}), tmp_path / "run")
        claimed = {
            each.observer: each.claim_epsilon
            for each in securefd.audit(run).outcomes
            if isinstance(each, Finding) and each.bound_method
        }
        promised = planned(config).guarantees()["peer"].epsilon
        assert claimed.pop("server") is None
        assert claimed == dict.fromkeys(("peer", "release", "label-only"), promised)


class TestDigest:
    def federations(self, tmp_path: Path, n: int) -> Federations:
        config = samples.config(
            tmp_path,
            name="votes",
            privacy={
                "unit": "client",
                "route": "votes",
                "relation": "replace-one",
                "delta": 1e-3,
                "noise": 0.05,
            },
        )
        recipe = Recipe.of(config, (samples.N_FEATURES,), samples.N_CLASSES)
        public, _ = samples.points(24, seed=9)
        plan = plan_releases(config, recipe, len(public))
        rows = [[np.arange(k, 60, 3) for k in range(3)] for _ in range(n)]
        return Federations(recipe, samples.pool(), rows, public, releases=plan)

    def test_each_federation_learns_from_what_it_was_answered(self, tmp_path: Path) -> None:
        """Side by side as alone, though other queries are answered in each, and none in the last."""
        rng = np.random.default_rng(4)
        totals = [
            3 * np.eye(3, dtype=np.int64)[rng.integers(0, 3, 12)] * (rng.random((12, 1)) < share)
            for share in (0.7, 0.4, 0.0)
        ]

        def played(which: list[int]) -> list[object]:
            made = self.federations(tmp_path, len(which))
            before = [dict(made.students.states[f]) for f in range(len(which))]  # type: ignore[union-attr]
            for number in range(2):
                made.fit(number)
                asked = made.ask(number)
                consensus = made.combine(asked, [totals[k].ravel() for k in which])
                for k, each in zip(which, consensus, strict=True):
                    np.testing.assert_array_equal(each.fresh.any(axis=-1), totals[k].any(axis=-1))
                    assert each.known[totals[k].any(axis=-1)].all()
                made.digest(asked, consensus)
            made.finish()
            assert made.students is not None
            after = [made.students.states[f] for f in range(len(which))]
            moved = [not samples.same(one, other) for one, other in zip(before, after, strict=True)]
            return [moved, [{name: value.numpy() for name, value in state.items()} for state in after]]

        moved, together = played([0, 1, 2])
        assert moved == [True, True, False]
        for k in range(3):
            _, (alone,) = played([k])  # type: ignore[misc]
            for name, value in alone.items():
                np.testing.assert_allclose(together[k][name], value, atol=1e-5)  # type: ignore[index]

    def test_an_earlier_answer_stands_where_a_later_round_has_none(self, tmp_path: Path) -> None:
        made = self.federations(tmp_path, 1)
        made.fit(0)
        first = made.ask(0)
        made.combine(first, [(3 * np.eye(3, dtype=np.int64)[np.zeros(12, dtype=np.int64)]).ravel()])
        second = made.ask(1)
        (later,) = made.combine(second, [np.zeros(36, dtype=np.int64)])
        np.testing.assert_array_equal(later.known, np.isin(second.queries, first.queries))
        assert 0 < later.known.sum() < 12
        assert (later.target[later.known] == [1, 0, 0]).all()
        assert not later.fresh.any()


class TestOutlook:
    @pytest.mark.parametrize("place", range(len(AGREEMENTS)))
    def test_chances_agree_with_the_mechanism(self, place: int) -> None:
        plan = planned(written(count=50, privacy="noise = 1.0\nthreshold = 30"))
        assert plan.confident is not None
        found = outlook(plan, 1)
        assert isinstance(found, ReleasedClasses)
        agreeing = round(AGREEMENTS[place] * 50)
        rest = np.full(9, (50 - agreeing) // 9)
        rest[: (50 - agreeing) % 9] += 1
        answered = plan.confident(np.tile(np.append(agreeing, rest), (60_000, 1)))
        assert len(answered.rows) / 60_000 == pytest.approx(found.answered[place], abs=0.01)
        assert (answered.classes != 0).mean() == pytest.approx(found.label_errors[place], abs=0.015)

    def test_a_hopeless_plan_is_called_so(self) -> None:
        few = outlook(planned(written(privacy="epsilon = 1.0")), 1).caution(6)
        assert few is not None
        assert few.startswith("hopeless: of queries on which all 6 clients agree")
        assert "clients or more" in few
        assert outlook(planned(written(privacy="epsilon = 200.0")), 1).caution(6) is None
