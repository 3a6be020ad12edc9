"""Rules on what a run promises, how it was protected, and what it was made with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from securefd.evaluation.policy import ClaimRule, FederationRule, PrivacyRule
from securefd.evaluation.report import Claim, Estimate, Variant
from securefd.evaluation.rulings import Asked, Found, exactly, held, raised, untold

CONFIGURED = "exact, as the run was configured"


def on_privacy(rule: str, asks: PrivacyRule) -> Iterator[Asked]:
    """One question for each observer."""
    limit = f"epsilon at most {exactly(asks.epsilon)} and delta at most {exactly(asks.delta)}"
    for observer in asks.observers:
        yield Asked(
            rule=rule,
            requires=f"{limit}, proven of one {asks.unit}, {asks.relation}, to observer {observer}",
            judge=partial(privacy, asks, observer),
            observer=observer,
        )


def privacy(asks: PrivacyRule, observer: str, variant: Variant) -> Found:
    """What is proven of records to one observer, in the unit and relation that are asked for.

    A claim in other terms is never converted: it may be better or worse than it looks.
    """
    about = _about(variant, "records", observer)
    proven = [claim for claim in about if claim.kind == "proven"]
    if not proven or len(proven) < len(about):
        return _unpromised(about, "nothing is proven of records to this observer")
    terms = [claim for claim in proven if (claim.unit, claim.relation) == (asks.unit, asks.relation)]
    if not terms:
        other = proven[0]
        return Found(
            result="inconclusive",
            measured=_guarantee(other),
            uncertainty=_rests_on(other),
            reason=f"what is proven is about one {other.unit}, {other.relation}, which isn't compared with a "
            f"limit for one {asks.unit}, {asks.relation}",
        )
    beyond = [claim for claim in terms if not _within(claim, asks)]
    worst = max(beyond or terms, key=lambda claim: claim.epsilon or 0.0)
    return Found(
        result="fail" if beyond else "pass",
        measured=_guarantee(worst),
        uncertainty=_rests_on(worst),
        estimate=Estimate(value=worst.epsilon),
        reason="a figure is above its limit" if beyond else "within both limits",
    )


def on_claims(rule: str, asks: ClaimRule) -> Iterator[Asked]:
    """One question for each observer."""
    for observer in asks.observers:
        yield Asked(
            rule=rule,
            requires=f"a {' or '.join(asks.kinds)} claim about {asks.subject}, to observer {observer}",
            judge=partial(promised, asks, observer),
            observer=observer,
        )


def promised(asks: ClaimRule, observer: str, variant: Variant) -> Found:
    """Whether something is promised to one observer, in one of the ways that count."""
    about = _about(variant, asks.subject, observer)
    kept = [claim for claim in about if claim.kind in asks.kinds]
    if not kept or any(claim.kind == "none" for claim in about):
        return _unpromised(about, f"no {' or '.join(asks.kinds)} claim about {asks.subject} is made")
    claim = kept[0]
    return Found(
        result="pass",
        measured=_guarantee(claim) if claim.kind == "proven" else "a cryptographic claim",
        uncertainty=_rests_on(claim),
        reason=claim.reason,
    )


def on_federation(asks: FederationRule) -> Iterator[Asked]:
    """One question for each key that is given."""
    if asks.sealing is not None:
        yield Asked(
            rule="federation.sealing",
            requires=f"sealing {' or '.join(asks.sealing)}",
            judge=partial(sealing, asks.sealing),
        )
    if asks.clients is not None:
        yield Asked(
            rule="federation.clients",
            requires=f"at least {asks.clients} clients",
            judge=partial(clients, asks.clients),
        )
    if asks.threshold is not None:
        yield Asked(
            rule="federation.threshold",
            requires=f"an opened sum covers at least {asks.threshold} clients",
            judge=partial(threshold, asks.threshold),
        )


def sealing(allowed: Sequence[str], variant: Variant) -> Found:
    """How answers were sealed."""
    return held(variant.sealing in allowed, f"sealing {variant.sealing}", CONFIGURED)


def clients(fewest: int, variant: Variant) -> Found:
    """How many clients took part."""
    count = variant.communication.clients
    return held(count >= fewest, f"{count} clients", CONFIGURED)


def threshold(fewest: int, variant: Variant) -> Found:
    """How many clients an opened sum covers at the least."""
    if variant.sealing == "plain":
        return held(False, "nothing is sealed: the server has each client's answers", CONFIGURED)
    if variant.threshold is None:
        return untold("no threshold", "how many clients a sum covers isn't recorded; make the report again")
    return held(variant.threshold >= fewest, f"at least {variant.threshold} clients", CONFIGURED)


def on_dependencies(oldest: Mapping[str, str], versions: Mapping[str, str]) -> Iterator[Asked]:
    """One question for each package."""
    for name, version in oldest.items():
        yield Asked(
            rule=f"dependencies.{name}",
            requires=f"{name} {version} or later",
            judge=partial(recent, name, version, versions),
        )


def recent(name: str, oldest: str, versions: Mapping[str, str], _: Variant) -> Found:
    """The version that ran, in the order of PEP 440: a release candidate is older than its release.

    All runs of a report share one, so the variant doesn't matter.
    """
    known = {canonicalize_name(each): version for each, version in versions.items()}
    ran = known.get(canonicalize_name(name))
    if ran is None:
        return untold(
            "no version", f"which version of {name} ran isn't recorded; name one of {', '.join(known)}"
        )
    try:
        return held(Version(ran) >= Version(oldest), f"{name} {ran}", "exact, as the run recorded it")
    except InvalidVersion:
        return untold(f"{name} {ran}", "this can't be read as a version")


def _about(variant: Variant, subject: str, observer: str) -> list[Claim]:
    return [each for each in variant.claims if (each.subject, each.observer) == (subject, observer)]


def _within(claim: Claim, asks: PrivacyRule) -> bool:
    assert claim.epsilon is not None
    assert claim.delta is not None
    return claim.epsilon <= asks.epsilon and claim.delta <= asks.delta


def _unpromised(about: Sequence[Claim], why: str) -> Found:
    lacking = next((claim for claim in about if claim.kind == "none"), None) or next(iter(about), None)
    return Found(
        result="fail",
        measured="no claim" if lacking is None or lacking.kind == "none" else f"a {lacking.kind} claim",
        uncertainty="as the run states it",
        reason=why if lacking is None else f"{why}: {lacking.reason}",
    )


def _guarantee(claim: Claim) -> str:
    assert claim.epsilon is not None
    assert claim.delta is not None
    terms = f"one {claim.unit}, {claim.relation}"
    return f"epsilon {raised(claim.epsilon)} and delta {raised(claim.delta)} of {terms}"


def _rests_on(claim: Claim) -> str:
    sure = ["a proven upper bound"] if claim.kind == "proven" else []
    return ", ".join([*sure, f"if {claim.assumption}"] if claim.assumption else sure or ["not stated"])
