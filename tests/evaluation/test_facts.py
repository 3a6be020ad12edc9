from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import get_args

import pytest

from securefd.defenses import charges
from securefd.defenses.claims import Claim, Guarantee
from securefd.defenses.sensitivity import Sensitivity
from securefd.evaluation import facts
from securefd.evaluation.html import render
from securefd.evaluation.report import UNKNOWN, Facts
from securefd.routes import ROUTES
from tests.evaluation import report_samples as samples

MOVED = Sensitivity(added=9, replaced=16, added_l1=3, replaced_l1=4)
PROVEN = Guarantee(epsilon=1.0, delta=1e-5, unit="client", relation="replace-one")
EXAMPLES = {
    "dpsgd": charges.PoissonGaussian(sampling_rate=0.25, noise_multiplier=2.0, steps=10),
    "head": charges.DiscreteGaussian(variance=100.0, sensitivity=MOVED),
    "pate": charges.Votes(variance=25.0, shares=1, answers=50, classes=10, turned=True),
    "distributed": charges.GaussianShares(variance=4.0, shares=25, entries=10, sensitivity=MOVED),
    "local": charges.Skellam(variance=100.0, sensitivity=MOVED),
    "rr": charges.RandomisedResponse(classes=4, noise=0.25, answers=50),
    "central": charges.DiscreteGaussian(variance=100.0, sensitivity=MOVED),
    "votes": charges.ConfidentVotes(check_variance=9.0, answer_variance=4.0, queries=50, classes=10),
}
SAID = {
    "dpsgd": ("noise multiplier 2, sampling rate 0.25, 60 steps", "L2 norm of 1.5", "Philox"),
    "head": ("standard deviation 10 grid steps", "4 grid steps in L2", "AES-256"),
    "pate": ("50 public inputs", "two counts of each histogram", "AES-256"),
    "distributed": ("25 shares of discrete Gaussian noise", "4 grid steps in L2", "AES-256"),
    "local": ("Skellam noise", "4 grid steps in L2", "AES-256"),
    "rr": ("kept with probability 0.75", "may be any other", "Each client draws"),
    "central": ("that the server adds to the sum", "4 grid steps in L2", "AES-256"),
    "votes": ("3 votes on how many agree and 2 on each", "largest count moves by at most 1", "server draws"),
}


@dataclass
class FakeRun:
    """What `facts` needs of a run, without training one."""

    route: str
    ledger: str = ""
    claims: tuple[Claim, ...] = (
        Claim(
            observer="server", subject="records", guarantee=PROVEN, assumption="masks hold", reason="noise."
        ),
        Claim(observer="peer", subject="records", reason="nothing."),
    )
    manifest: dict[str, object] = field(default_factory=lambda: {"versions": {"dp-accounting": "0.6.0"}})

    @property
    def config(self) -> SimpleNamespace:
        privacy = SimpleNamespace(route=self.route, clip=1.5, ledger=self.ledger)
        return SimpleNamespace(privacy=privacy, method=SimpleNamespace(local_steps=60))


@pytest.fixture
def state(monkeypatch):
    def of(route: str, ledger: str = "", spent: object = None):
        monkeypatch.setattr(facts, "_spent", lambda run, budget: spent or [EXAMPLES[route]] * 3)
        run = FakeRun(route=route, ledger=ledger)
        return [facts.facts(run, SimpleNamespace(bits=8), ["who took part"])(claim) for claim in run.claims]

    return of


def test_every_route_that_promises_something_has_an_example():
    assert set(EXAMPLES) == {name for name, row in ROUTES.items() if row.noised is not None}


def test_every_kind_of_charge_has_its_own_words():
    kinds = get_args(charges.Charge)
    assert all(facts._access.dispatch(kind) is not facts._access.dispatch(object) for kind in kinds)


@pytest.mark.parametrize("route", EXAMPLES)
def test_what_was_charged_is_told(route, state):
    told, nothing = state(route)
    assert nothing is None
    for field_, said in zip((told.mechanism, told.sensitivity, told.noise), SAID[route], strict=True):
        assert said in field_
        assert field_.endswith(".")
    assert UNKNOWN not in (told.definition, told.mechanism, told.sensitivity, told.noise, told.sampling)
    assert UNKNOWN not in (told.composition, told.trust, told.contribution, told.tuning)
    assert told.tuning_charged is False
    assert told.unprotected == ("who took part",)


@pytest.mark.parametrize("route", EXAMPLES)
def test_who_is_trusted_follows_from_the_route(route, state):
    trust = state(route)[0].trust
    assert trust.startswith("Central") == ROUTES[route].trusted
    assert trust.endswith("Towards this observer it is assumed that masks hold.")


def test_the_accountant_is_the_one_that_counted(state):
    assert (
        "privacy loss distributions, rounded pessimistically (dp-accounting 0.6.0)"
        in state("dpsgd")[0].composition
    )
    assert "Renyi divergences" in state("local")[0].composition
    assert "Renyi filter" in state("dpsgd", ledger="ledgers")[0].composition


def test_figures_that_differ_are_told_by_their_ends(state):
    spent = [charges.PoissonGaussian(sampling_rate=q, noise_multiplier=2.0, steps=1) for q in (0.5, 0.1, 0.3)]
    assert "noise multiplier 2, sampling rate 0.1 to 0.5" in state("dpsgd", spent=spent)[0].mechanism


def test_counts_are_told_beside_training(state):
    spent = [EXAMPLES["dpsgd"], charges.DiscreteLaplace(parameter=0.4, sensitivity=1)]
    told = state("dpsgd", spent=spent)[0]
    assert "exp(-a |x|) for a = 0.4" in told.mechanism
    assert "DP-SGD" in told.mechanism
    assert "On counts: integers" in told.noise


def test_the_page_tells_them_as_text():
    claim = samples.proven("release").model_copy(update={"facts": Facts(mechanism="<b>noise</b>")})
    page = render(samples.report(variants=(samples.variant("only", claims=(claim,)),)))
    assert "<summary>Statement of differential privacy: towards release</summary>" in page
    assert "<dt>Mechanism</dt><dd>&lt;b&gt;noise&lt;/b&gt;</dd>" in page
