"""What a proven claim of a run says besides its figures: mechanism, noise, composition, trust and the rest.

Taken from the configuration and from what the ledgers were charged with, so that nothing is said of a
mechanism that didn't run. The list follows NIST SP 800-226 and the OpenDP deployments registry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import singledispatch

from securefd.config import Config
from securefd.defenses.charges import (
    Charge,
    ConfidentVotes,
    DiscreteGaussian,
    DiscreteLaplace,
    GaussianShares,
    PoissonGaussian,
    RandomisedResponse,
    Skellam,
    Votes,
)
from securefd.defenses.claims import Claim, Guarantee, Relation
from securefd.defenses.ledger import Ledger
from securefd.evaluation import report
from securefd.private_client import ledger_path
from securefd.recipe import Recipe
from securefd.result import Run
from securefd.routes import ROUTES, Route
from securefd.rules import n_clients

EXACT = "Integers, drawn exactly, from AES-256 in counter mode under fresh keys of the operating system"
FLOATING = (
    "On gradients: floating-point numbers of NumPy's Philox generator, keyed with 128 bits of the "
    "operating system. The generator is statistical, not cryptographic, and epsilon is that of ideal "
    "Gaussian noise"
)
TUNING = (
    "Hyper-parameters are assumed to be chosen without the private data: no spending pays for the choice, "
    "and how they were chosen isn't known to this report."
)
POISSON = (
    "Poisson: each step takes each record with the sampling rate, independently, as 64 bits of the operating "
    "system decide; the accounting counts on it."
)
TEACHERS = (
    "Each record is given to one teacher by a uniform draw of its own; no amplification is counted for that."
)


@dataclass(frozen=True, kw_only=True)
class Access:
    """Private accesses of one kind, in sentences without their last full stop."""

    mechanism: str
    sensitivity: str
    noise: str


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What sentences about accesses need besides the charges."""

    config: Config
    route: Route
    relation: Relation
    bits: int


def facts(run: Run, recipe: Recipe, unprotected: Sequence[str]) -> Callable[[Claim], report.Facts | None]:
    """A function from a claim of ``run`` to its facts, None for a claim that proves nothing.

    ``unprotected``: what no claim covers. Reads the ledgers, which must be there, once.
    """
    privacy = run.config.privacy
    proven = [claim.guarantee for claim in run.claims if claim.guarantee is not None]
    if privacy is None or not proven:
        return lambda claim: None
    setting = Setting(
        config=run.config, route=ROUTES[privacy.route], relation=proven[0].relation, bits=recipe.bits
    )
    spent = _spent(run, proven[0])
    accesses = [_access(kind[0], kind, setting) for kind in _by_kind(spent)]

    def of(claim: Claim) -> report.Facts | None:
        if claim.guarantee is None:
            return None
        return report.Facts(
            definition=_definition(claim.guarantee),
            mechanism=_sentences(each.mechanism for each in accesses),
            sensitivity=_sentences(each.sensitivity for each in accesses),
            noise=_sentences(each.noise for each in accesses),
            sampling=_sampling(setting),
            composition=_composition(run, spent),
            trust=_trust(setting.route, claim.assumption),
            contribution=_contribution(claim.guarantee),
            tuning=TUNING,
            tuning_charged=False,
            unprotected=tuple(unprotected),
        )

    return of


def _spent(run: Run, budget: Guarantee) -> list[Charge]:
    """Everything in the clients' ledgers."""
    assert run.config.privacy is not None
    found: list[Charge] = []
    for k in range(n_clients(run.config)):
        with Ledger.open(ledger_path(run.path / "clients" / str(k), k, run.config.privacy), budget) as ledger:
            found += [each.charge for each in ledger.charged]
    return found


def _by_kind(spent: Iterable[Charge]) -> list[list[Charge]]:
    kinds: dict[type[Charge], list[Charge]] = {}
    for charge in spent:
        kinds.setdefault(type(charge), []).append(charge)
    return list(kinds.values())


def _definition(proven: Guarantee) -> str:
    pure = proven.delta == 0
    return (
        f"{'Pure' if pure else 'Approximate'} differential privacy, of all that this run shows the observer."
    )


def _sampling(setting: Setting) -> str:
    """Of records, before a mechanism sees them."""
    special = {"dpsgd": POISSON, "pate": TEACHERS}
    return special.get(setting.route.name, "None is used, and none is counted on.")


def _composition(run: Run, spent: Sequence[Charge]) -> str:
    """Over what, and by which accountant."""
    assert run.config.privacy is not None
    version = run.manifest["versions"].get("dp-accounting")
    library = "dp-accounting" if version is None else f"dp-accounting {version}"
    if run.config.privacy.ledger:
        return (
            "All accesses of all runs that share the ledger, chosen adaptively, by a Renyi filter with a "
            "preset order and budget (securefd)."
        )
    over = "All accesses of the run, a schedule that was fixed beforehand"
    if any(charge.event is None for charge in spent):
        return f"{over}, by Renyi divergences of whole vectors (securefd)."
    if any(isinstance(charge, Votes | ConfidentVotes) for charge in spent):
        return (
            f"{over}, by privacy loss distributions of votes with integer noise, rounded pessimistically "
            f"({library}), or by Renyi divergences (securefd) where these can't be had."
        )
    return f"{over}, by privacy loss distributions, rounded pessimistically ({library})."


def _trust(route: Route, assumption: str | None) -> str:
    also = "" if assumption is None else f" Towards this observer it is assumed that {assumption}."
    if route.trusted:
        return f"Central: the server is trusted to add the noise, and sees what it adds it to.{also}"
    if route.noised == "training":
        return f"Each client noises its own training, and nobody else is trusted with records.{also}"
    if route.name == "distributed":
        return (
            "Distributed: each client adds a share of the noise under masks. What is counted is the noise "
            f"that this observer doesn't know, of the fewest clients whose sum opens.{also}"
        )
    return f"Local: each client noises its own answers before they leave it, and nobody is trusted.{also}"


def _contribution(proven: Guarantee) -> str:
    if proven.unit == "record":
        return (
            "whoever has k records at one client needs the claim for groups of k, which is weaker; for "
            "whoever has records at several clients, the clients' costs add up."
        )
    return (
        "however many records somebody has at one client, its whole data set is the unit; whoever has "
        "records at k clients needs the claim for groups of k, which is weaker."
    )


@singledispatch
def _access(first: Charge, every: Sequence[Charge], setting: Setting) -> Access:
    """What all of ``every``, which are of one kind, are. Charges without a row of their own are named."""
    unknown = report.UNKNOWN.rstrip(".")
    return Access(mechanism=str(first), sensitivity=unknown, noise=unknown)


@_access.register
def _(first: PoissonGaussian, every: Sequence[PoissonGaussian], setting: Setting) -> Access:
    privacy = setting.config.privacy
    assert privacy is not None
    return Access(
        mechanism=(
            "DP-SGD (Abadi et al. 2016): each step sums the clipped gradients of sampled records and adds "
            f"Gaussian noise; noise multiplier {_range(c.noise_multiplier for c in every)}, sampling rate "
            f"{_range(c.sampling_rate for c in every)}, {setting.config.method.local_steps} steps a client"
        ),
        sensitivity=(
            f"Each record's gradient is clipped to an L2 norm of {privacy.clip:g}, by which the sum moves at "
            "most if a record is added or removed, and by twice as much if it is replaced"
        ),
        noise=FLOATING,
    )


@_access.register
def _(first: DiscreteLaplace, every: Sequence[DiscreteLaplace], setting: Setting) -> Access:
    return Access(
        mechanism=(
            "One histogram of class counts a client, with discrete Laplace noise, P(x) proportional to "
            f"exp(-a |x|) for a = {_range(c.parameter for c in every)}"
        ),
        sensitivity="A record adds 1 to one count: the histogram moves by 1 in L1, or by 2 if it is replaced",
        noise=f"On counts: {_lower(EXACT)}",
    )


@_access.register
def _(first: DiscreteGaussian, every: Sequence[DiscreteGaussian], setting: Setting) -> Access:
    deviation = _range(math.sqrt(c.variance) for c in every)
    moved = _range(math.sqrt(c.sensitivity.squared(setting.relation)) for c in every)
    if setting.route.noised == "training":
        return Access(
            mechanism=(
                "One sum a client, of its records' public features by class, with discrete Gaussian noise of "
                f"standard deviation {deviation} grid steps on each entry; the linear model is made of it"
            ),
            sensitivity=f"{moved} grid steps in L2, of one record under {setting.relation}",
            noise=EXACT,
        )
    return _on_answers("discrete Gaussian", deviation, moved, setting)


@_access.register
def _(first: GaussianShares, every: Sequence[GaussianShares], setting: Setting) -> Access:
    deviation = _range(math.sqrt(c.variance * c.shares) for c in every)
    moved = _range(math.sqrt(c.sensitivity.squared(setting.relation)) for c in every)
    shares = _range(c.shares for c in every)
    return _on_answers(f"{shares} shares of discrete Gaussian", deviation, moved, setting)


@_access.register
def _(first: Skellam, every: Sequence[Skellam], setting: Setting) -> Access:
    deviation = _range(math.sqrt(c.variance) for c in every)
    moved = _range(math.sqrt(c.sensitivity.squared(setting.relation)) for c in every)
    return _on_answers("Skellam", deviation, moved, setting)


@_access.register
def _(first: Votes, every: Sequence[Votes], setting: Setting) -> Access:
    deviation = _range(math.sqrt(c.variance * c.shares) for c in every)
    if first.turned:
        return Access(
            mechanism=(
                "PATE (Papernot et al. 2017, 2018) within each client: teachers' votes on "
                f"{_range(c.answers for c in every)} public inputs are counted with discrete Gaussian noise "
                f"of standard deviation {deviation} votes on each count"
            ),
            sensitivity=(
                "One record teaches one teacher, whose vote on every input may turn: two counts of each "
                "histogram move by 1, under either relation"
            ),
            noise=EXACT,
        )
    moved = _range(math.sqrt(c.as_shares.sensitivity.squared(setting.relation)) for c in every)
    return Access(
        mechanism=(
            f"Histograms of the clients' top classes each round, with discrete Gaussian noise{_by(setting)}; "
            f"standard deviation {deviation} votes on each count towards whoever knows most of it"
        ),
        sensitivity=(
            f"{moved} votes in L2, of one client's votes on all queries of a round under {setting.relation}"
        ),
        noise=EXACT,
    )


@_access.register
def _(first: ConfidentVotes, every: Sequence[ConfidentVotes], setting: Setting) -> Access:
    check, answer = (
        _range(math.sqrt(getattr(c, name)) for c in every) for name in ("check_variance", "answer_variance")
    )
    return Access(
        mechanism=(
            "Confident-GNMax (Papernot et al. 2018): the server releases a query's top class where enough "
            f"clients agree, with discrete Gaussian noise of standard deviation {check} votes on how many "
            f"agree and {answer} on each count; every query is charged as if it were answered"
        ),
        sensitivity=(
            "One client has one vote on each query: the largest count moves by at most 1, and of all counts "
            "one if it is added or removed, or two if it is replaced, by 1 each"
        ),
        noise=f"The server draws it: {_lower(EXACT)}",
    )


@_access.register
def _(first: RandomisedResponse, every: Sequence[RandomisedResponse], setting: Setting) -> Access:
    return Access(
        mechanism=(
            "Randomised response (Warner 1965) on each client's top classes: each of "
            f"{_range(c.answers for c in every)} labels a round is kept with probability "
            f"{_range(1 - c.noise for c in every)}, else drawn anew among {first.classes} classes"
        ),
        sensitivity="Each label may be any other where the client is another one",
        noise="Each client draws, from AES-256 in counter mode under fresh keys of the operating system",
    )


def _on_answers(noise: str, deviation: str, moved: str, setting: Setting) -> Access:
    return Access(
        mechanism=(
            f"{noise[0].upper()}{noise[1:]} noise on every value of the answers each round{_by(setting)}; "
            f"standard deviation {deviation} grid steps towards whoever knows most of it, where a "
            f"probability of 1 is {2**setting.bits - 1} steps"
        ),
        sensitivity=(
            f"{moved} grid steps in L2, rounding included, of one client's whole answer of a round under "
            f"{setting.relation}"
        ),
        noise=EXACT,
    )


def _by(setting: Setting) -> str:
    if setting.route.trusted:
        return " that the server adds to the sum"
    return ", a share from each client" if setting.route.name == "distributed" else ", all from each client"


def _range(values: Iterable[float]) -> str:
    """Three significant digits: one figure, or the two ends."""
    texts = list(dict.fromkeys(f"{value:.3g}" for value in sorted(values)))
    return texts[0] if len(texts) == 1 else f"{texts[0]} to {texts[-1]}"


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _sentences(parts: Iterable[str]) -> str:
    """Each once, with its full stop."""
    return " ".join(f"{part}." for part in dict.fromkeys(parts)) or report.UNKNOWN
