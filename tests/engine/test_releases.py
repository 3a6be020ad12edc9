"""Client-level routes: the noise on answers, what it costs towards whom, and whole runs of them."""

import json
import math
import re
from pathlib import Path

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from scipy.stats import norm

import securefd
from securefd.config import Config, parse_config
from securefd.defenses import accounting
from securefd.defenses.charges import Charge, Votes
from securefd.defenses.ledger import Ledger
from securefd.errors import BudgetExceeded, ConfigError, PrivacyError, SealingError
from securefd.evaluation.findings import Finding
from securefd.folder import read_arrays
from securefd.outlook import AGREEMENTS, label_error, outlook
from securefd.recipe import Recipe
from securefd.releases import ReleasePlan, plan_releases
from securefd.result import Run

SHAPE, CLASSES, PUBLIC = (1, 8, 8), 10, 60

SMALL = """
name = "small"
seed = 3
data = {{ source = "digits", public = 60, test = 60 }}
clients = [{{ count = {clients}, model = "logistic" }}]
method = {{ name = "{method}", rounds = {rounds}, local_steps = 3, digest_steps = 2, queries = 40 }}
student = {{ model = "logistic", steps = 5 }}
[sealing]
{sealing}
[privacy]
unit = "client"
route = "{route}"
relation = "{relation}"
delta = 1e-3
{privacy}
"""
MASKED = 'kind = "masked"'


def written(
    route: str = "distributed",
    *,
    sealing: str | None = None,
    privacy: str = "epsilon = 8.0",
    method: str = "votes",
    relation: str = "replace-one",
    clients: int = 6,
    rounds: int = 2,
) -> Config:
    kind = MASKED if route == "distributed" else 'kind = "plain"'
    return parse_config(
        SMALL.format(
            route=route,
            sealing=kind if sealing is None else sealing,
            privacy=privacy,
            method=method,
            relation=relation,
            clients=clients,
            rounds=rounds,
        )
    )


def planned(config: Config) -> ReleasePlan:
    plan = plan_releases(config, Recipe.of(config, SHAPE, CLASSES), PUBLIC)
    assert plan is not None
    return plan


class TestPlan:
    @pytest.mark.parametrize("route", ["distributed", "local", "rr", "central"])
    @pytest.mark.parametrize("epsilon", [0.5, 8.0])
    def test_the_noise_is_what_epsilon_needs(self, route: str, epsilon: float) -> None:
        plan = planned(written(route, privacy=f"epsilon = {epsilon}"))
        found = plan.guarantees()
        assert 0.99 * epsilon <= max(each.epsilon for each in found.values()) <= epsilon
        assert {(g.unit, g.relation, g.delta) for g in found.values()} == {("client", "replace-one", 1e-3)}

    def test_by_hand(self) -> None:
        """6 clients, 2 rounds of 40 votes, in the limit of much noise: mu^2 = 2 * (2 * 40) / (5 * variance)
        towards a peer, of a Gaussian; answers with probabilities by rho = mu^2 / 2.
        """
        plan = planned(written(privacy="epsilon = 0.5"))
        assert plan.share is not None
        mu = math.sqrt(2 * 80 / (5 * plan.share.variance))
        epsilon = plan.guarantees()["peer"].epsilon
        second = math.exp(epsilon + norm.logcdf(-epsilon / mu - mu / 2))
        assert norm.cdf(-epsilon / mu + mu / 2) - second == pytest.approx(1e-3, rel=0.02)

        soft = planned(written(method="dsfl", privacy="epsilon = 0.5"))
        assert soft.share is not None
        rho = 2 * 80 * 255**2 / (2 * 5 * soft.share.variance)
        alphas = 1 + np.geomspace(1e-2, 1e3, 20_000)
        best = np.min(
            rho * alphas + np.log((alphas - 1) / alphas) - (math.log(1e-3) + np.log(alphas)) / (alphas - 1)
        )
        assert soft.guarantees()["peer"].epsilon == pytest.approx(best, rel=0.01)

    def test_who_knows_more_noise_is_promised_less(self) -> None:
        plan = planned(written(sealing=f"{MASKED}\nthreshold = 5\ncolluders = 2"))
        assert plan.unknown == {"server": 5, "peer": 4, "release": 5, "coalition": 3}
        epsilons = {observer: each.epsilon for observer, each in plan.guarantees().items()}
        assert epsilons["coalition"] > epsilons["peer"] > epsilons["server"] == epsilons["release"]
        charge = plan.charge(0)
        assert isinstance(charge, Votes)
        assert charge.shares == 3

    def test_a_sparse_graph_is_charged_for_what_it_surely_hides(self) -> None:
        sealing = f"{MASKED}\nthreshold = 54\ncolluders = 3\nhonest_minimum = 10"
        plan = planned(written(clients=60, sealing=sealing))
        assert plan.unknown == {"server": 10, "peer": 9, "release": 10, "coalition": 10}

    def test_local_noise_is_every_clients_own_and_central_noise_isnt_for_the_server(self) -> None:
        assert set(planned(written("local")).unknown.values()) == {1}
        assert planned(written("central")).unknown == {"peer": 1, "release": 1}

    def test_noise_may_be_given_instead(self) -> None:
        once = planned(written(privacy="noise = 3.0", rounds=1))
        assert once.share is not None
        assert once.share.variance * 5 == pytest.approx(9 * 80)
        assert once.guarantee.epsilon == max(each.epsilon for each in once.guarantees().values())
        twice = planned(written(privacy="noise = 3.0", rounds=2))
        assert twice.guarantee.epsilon > once.guarantee.epsilon

    @pytest.mark.parametrize("mechanism", ["discrete-gaussian", "skellam"])
    @pytest.mark.parametrize("method", ["dsfl", "fedmd", "balanced", "feddf", "fedct"])
    def test_every_method_with_one_sum(self, mechanism: str, method: str) -> None:
        plan = planned(written(method=method, privacy=f'epsilon = 4.0\nmechanism = "{mechanism}"'))
        assert max(each.epsilon for each in plan.guarantees().values()) <= 4.0

    def test_a_delta_that_publishes_a_client_is_refused(self) -> None:
        config = written(privacy="epsilon = 1.0", clients=1001 if False else 6)
        bad = config.model_copy(update={"privacy": config.privacy.model_copy(update={"delta": 0.2})})  # type: ignore[union-attr]
        with pytest.raises(PrivacyError, match="below 1/6 for 6 units"):
            planned(bad)

    @pytest.mark.parametrize(
        ("sealing", "privacy", "error", "sentence"),
        [
            (MASKED, 'noise = 1e6\nmechanism = "skellam"', PrivacyError, "at most 1.07374e.09 grid steps"),
            (f"{MASKED}\nbits = 20", "noise = 1e6", PrivacyError, "use fewer bits"),
            ('kind = "plain"\nbits = 20', "noise = 1e6", PrivacyError, "use fewer bits"),
        ],
    )
    def test_noise_that_cant_be_drawn_is_refused_before_anything_is_trained(
        self, tmp_path: Path, sealing: str, privacy: str, error: type[Exception], sentence: str
    ) -> None:
        route = "local" if "plain" in sealing else "distributed"
        config = written(route, sealing=sealing, privacy=privacy, method="dsfl")
        for refused in (planned, securefd.plan, lambda given: securefd.run(given, tmp_path / "run")):
            with pytest.raises(error, match=sentence):
                refused(config)
        assert not (tmp_path / "run").exists()

    def test_no_ring_holds_so_much_noise(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the samplers could draw it, the ring is what refuses."""
        from securefd.defenses import ring

        monkeypatch.setattr(ring, "BITS", (8, 16))
        with pytest.raises(SealingError, match="lower the bits or the noise"):
            planned(written(method="dsfl", privacy="epsilon = 0.1"))

    def test_a_plan_over_a_shared_ledger_promises_its_whole_budget(self, tmp_path: Path) -> None:
        ledger = tmp_path / "ledgers"
        config = written(privacy=f'epsilon = 2.0\nbudget = 9.0\nledger = "{ledger}"')
        promised = [c.guarantee for c in securefd.plan(config).claims if c.guarantee is not None]
        assert [each.epsilon for each in promised] == [9.0] * 3
        run = securefd.run(config, tmp_path / "run")
        assert [c.guarantee for c in run.claims if c.guarantee is not None] == promised

    def test_no_plan_without_noise_on_answers(self) -> None:
        config = written()
        plain = config.model_copy(update={"privacy": None})
        assert plan_releases(plain, Recipe.of(plain, SHAPE, CLASSES), PUBLIC) is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"relation": "add-or-remove", "route": "rr"}, "privacy.relation must be replace-one"),
        ({"sealing": 'kind = "plain"'}, "sealing.kind must be masked for privacy.route = 'distributed'"),
        ({"sealing": 'kind = "homomorphic"'}, "sealing.kind must be masked"),
        ({"route": "local", "sealing": 'kind = "homomorphic"'}, "sealing.kind must be plain or masked"),
        ({"route": "rr", "method": "dsfl"}, "method.name doesn't fit privacy.route = 'rr'"),
        ({"method": "cfd", "route": "local"}, "method.name doesn't fit privacy.route = 'local'"),
        ({"method": "median", "route": "local"}, "method.name doesn't fit"),
        ({"privacy": ""}, "privacy.epsilon must be given"),
        ({"privacy": "epsilon = 0.0"}, "privacy.epsilon"),
        ({"privacy": "epsilon = nan"}, "privacy.epsilon"),
        ({"privacy": 'epsilon = 1.0\nmechanism = "skellam"', "route": "rr"}, "privacy.mechanism"),
    ],
)
def test_what_cant_be_is_refused_with_a_remedy(changes: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        written(**changes)  # type: ignore[arg-type]
    assert sentence in str(caught.value)
    assert ";" in str(caught.value)


class TestRun:
    def run(self, config: Config, folder: Path) -> Run:
        return securefd.run(config, folder)

    def ledger(self, folder: Path, client: int) -> list[Charge]:
        lines = (folder / "clients" / str(client) / "ledger.jsonl").read_text().splitlines()
        return [line for line in map(json.loads, lines) if line["entry"]["type"] == "charged"]

    @pytest.mark.parametrize("route", ["distributed", "local", "rr", "central"])
    def test_rounds_are_paid_for_by_every_client(self, tmp_path: Path, route: str) -> None:
        run = self.run(written(route), tmp_path / "run")
        for client in range(6):
            assert len(self.ledger(tmp_path / "run", client)) == 2
        plan = planned(written(route))
        proven = {c.observer: c.guarantee for c in run.claims if c.subject == "records" and c.guarantee}
        assert set(proven) == {"peer", "release"} | ({"server"} if route != "central" else set())
        for observer, guarantee in proven.items():
            assert guarantee == plan.guarantees()[observer]
        assert run.student.predict_proba(run.split.test.x).shape == (60, 10)

    def test_what_is_opened_is_the_noisy_sum_of_what_is_stored(self, tmp_path: Path) -> None:
        """Shares are there, whole, and masks hide each of them."""
        self.run(written(rounds=1), tmp_path / "run")
        stored = [
            read_arrays(tmp_path / "run" / "clients" / str(k) / "release-0001.safetensors") for k in range(6)
        ]
        assert len({each["noise"].tobytes() for each in stored}) == 6
        total = sum(each["vector"] + each["noise"] for each in stored)
        seen = read_arrays(tmp_path / "run" / "views" / "round-001.safetensors")
        np.testing.assert_allclose(seen["total"], total.reshape(40, 10) / 6)
        assert (total < 0).any()

    def test_the_server_of_a_central_route_saw_the_sum_itself(self, tmp_path: Path) -> None:
        self.run(written("central", rounds=1), tmp_path / "run")
        seen = read_arrays(tmp_path / "run" / "views" / "round-001.safetensors")
        np.testing.assert_allclose(seen["total"].sum(axis=-1), 1.0)
        assert not np.allclose(seen["consensus"], seen["total"], atol=0.05)

    def test_a_release_is_stored_and_never_drawn_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Killed after answers were stored, before the round was: the same noise goes out, unpaid for."""
        from securefd import runner

        with monkeypatch.context() as patched:

            def interrupted(*_: object) -> None:
                raise KeyboardInterrupt

            patched.setattr(runner._Runner, "_save_round", interrupted)
            with pytest.raises(KeyboardInterrupt):
                self.run(written(), tmp_path / "run")
        paths = [tmp_path / "run" / "clients" / str(k) / "release-0001.safetensors" for k in range(6)]
        before = [path.read_bytes() for path in paths]
        self.run(written(), tmp_path / "run")
        assert [path.read_bytes() for path in paths] == before
        assert all(len(self.ledger(tmp_path / "run", k)) == 2 for k in range(6))

    def test_a_budget_that_is_used_up_refuses_before_noise_is_drawn(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        drawn: list[object] = []
        monkeypatch.setattr(ReleasePlan, "release", lambda *arguments: drawn.append(arguments))

        def refuse(self: Ledger, charge: Charge, what: str) -> None:
            raise BudgetExceeded("no")

        monkeypatch.setattr(Ledger, "charge", refuse)
        with pytest.raises(BudgetExceeded):
            self.run(written(), tmp_path / "run")
        assert not drawn

    def test_an_audit_of_a_noised_run(self, tmp_path: Path) -> None:
        config = written(rounds=1)
        audit = config.audit.model_copy(update={"shadows": 8})
        run = self.run(config.model_copy(update={"audit": audit}), tmp_path / "run")
        found = securefd.audit(run)
        plan = planned(config)
        claimed = {
            each.observer: each.claim_epsilon
            for each in found.outcomes
            if isinstance(each, Finding) and each.bound_method
        }
        # A record more or less is another client in its place: the promise holds as it is.
        promised = {observer: each.epsilon for observer, each in plan.guarantees().items()}
        assert claimed.pop("label-only") == promised["release"]  # decisions follow from the release
        assert claimed == {observer: promised[observer] for observer in ("server", "peer", "release")}

    def test_an_audit_holds_a_promise_to_added_clients_twice_or_not_at_all(self, tmp_path: Path) -> None:
        """A record more or less replaces its client: one client less and another one more."""
        from types import SimpleNamespace

        from securefd.evaluation.recipe import _promise

        for epsilon, kept in ((1.0, True), (8.0, False)):
            plan = planned(written("local", relation="add-or-remove", privacy=f"epsilon = {epsilon}"))
            shadows = SimpleNamespace(setup=SimpleNamespace(releases=plan))
            found = _promise(shadows, "server")  # type: ignore[arg-type]
            assert (found is not None) == kept
            if found is not None:
                assert found.epsilon == 2 * plan.guarantees()["server"].epsilon
                assert (found.unit, found.relation) == ("record", "add-or-remove")


class TestOutlook:
    @pytest.mark.parametrize("top", AGREEMENTS)
    @pytest.mark.parametrize("deviation", [0.02, 0.2, 1.0])
    def test_label_errors_agree_with_simulation(self, top: float, deviation: float) -> None:
        rng, classes, trials = np.random.default_rng(1), 10, 200_000
        mean = np.full(classes, (1 - top) / (classes - 1))
        mean[3] = top
        noisy = mean + deviation * rng.standard_normal((trials, classes))
        simulated = (noisy.argmax(axis=1) != 3).mean()
        found = label_error(deviation, top, classes)
        assert abs(found - simulated) < 5 * math.sqrt(max(found * (1 - found), 1e-6) / trials) + 1e-6

    @pytest.mark.parametrize("route", ["distributed", "local", "rr"])
    def test_the_deviation_is_that_of_a_simulated_round(self, route: str) -> None:
        config = written(route, rounds=1)
        plan = planned(config)
        votes = np.zeros((40, 10), dtype=np.int64)
        votes[:, 2] = 1
        means = []
        for _ in range(300):
            total = np.zeros(400)
            for _ in range(6):
                vector, noise = plan.release(votes.ravel(), 0)
                total += vector if noise is None else vector + noise
            means.append(plan.unbiased(total.reshape(40, 10) / 6))
        found = np.std(means, axis=(0, 1))
        expected = outlook(plan, 1).deviation
        assert found.max() == pytest.approx(expected, rel=0.05)

    def test_a_hopeless_plan_is_called_so(self) -> None:
        few = outlook(planned(written(privacy="epsilon = 1.0")), 1).caution(6)
        assert few is not None
        assert few.startswith("hopeless: noise for whole clients over 6 of them")
        assert "dpsgd" in few
        assert "clients or more" in few
        easy = written(privacy="epsilon = 200.0")
        assert outlook(planned(easy), 1).caution(6) is None

    def test_a_plan_prints_it(self) -> None:
        lines = "\n".join(securefd.plan(written(privacy="epsilon = 1.0")).lines())
        assert "noise on answers" in lines
        assert "epsilon at delta = 0.001 for one client, replace-one, towards each observer" in lines
        assert "hopeless" in lines

    @pytest.mark.parametrize("route", ["distributed", "local", "central"])
    @pytest.mark.parametrize("relation", ["add-or-remove", "replace-one"])
    def test_a_plan_prints_the_other_relation_in_a_table_of_its_own(self, route: str, relation: str) -> None:
        """Of 80 histograms an added vote moves 80 entries by 1, a replaced one 160: nearly Gaussian."""
        config = written(route, relation=relation)
        plan, found = planned(config), securefd.plan(config)
        own, other = found.spending
        assert (own.relation, own.promised, other.promised) == (relation, True, False)
        assert own.epsilons == tuple(each.epsilon for each in plan.guarantees().values())
        for spent in (own, other):
            assert spent.rows == spent.observers == tuple(plan.unknown)
            assert (spent.unit, spent.delta) == ("client", 1e-3)
            # A sum of shares is a little more than one discrete Gaussian, at every order.
            assert [rho is None for rho in spent.rhos] == [route == "distributed"] * len(spent.rows)
            moved = {"add-or-remove": 80, "replace-one": 160}[spent.relation]
            for observer, epsilon in zip(spent.rows, spent.epsilons, strict=True):
                assert plan.share is not None
                variance = plan.share.variance * plan.unknown[observer]  # type: ignore[index]
                accountant = PLDAccountant(dp.NeighboringRelation.ADD_OR_REMOVE_ONE)
                accountant.compose(dp.GaussianDpEvent(math.sqrt(variance / moved)))
                assert epsilon == pytest.approx(accountant.get_epsilon(1e-3), rel=0.02)
        tables = [t for t in "\n".join(found.lines()).split("\n\n") if "epsilon at delta" in t]
        assert len(tables) == 2
        for table, spent in zip(tables, (own, other), strict=True):
            assert re.findall("add-or-remove|replace-one", table) == [spent.relation]
            assert f"for one client, {spent.relation}, towards each observer\n" in table
            assert re.findall(r"^  (\w+): [\d.]+(?:, or rho|$)", table, re.M) == list(spent.rows)

    def test_a_plan_has_no_table_of_a_relation_that_is_not_defined(self) -> None:
        (spent,) = securefd.plan(written("rr")).spending
        assert (spent.relation, spent.promised) == ("replace-one", True)

    def test_bytes_are_those_of_the_run(self, tmp_path: Path) -> None:
        for route in ("distributed", "local", "rr"):
            config = written(route, rounds=1)
            run = securefd.run(config, tmp_path / route)
            assert run.metrics["bytes"]["up"] == securefd.plan(config).largest.up


def test_epsilon_of_a_run_is_the_ledgers(tmp_path: Path) -> None:
    run = securefd.run(written(), tmp_path / "run")
    plan = planned(written())
    with Ledger.open(tmp_path / "run" / "clients" / "0" / "ledger.jsonl", plan.guarantee) as ledger:
        charged = [each.charge for each in ledger.charged]
    assert charged == plan.charges()
    peer = next(c.guarantee for c in run.claims if c.observer == "peer" and c.guarantee)
    assert peer.epsilon == accounting.spent(charged, 1e-3, "replace-one")
