"""What a bound says about a claim: CONSISTENT, VIOLATED or INCONCLUSIVE, and why."""

from __future__ import annotations

from securefd.defenses.claims import Guarantee, Relation, Unit
from securefd.errors import PrivacyError
from securefd.evaluation.findings import Judgement

_STEPS: dict[tuple[Unit, Relation], dict[Relation, int]] = {
    ("record", "add-or-remove"): {"add-or-remove": 1, "replace-one": 2},
    ("record", "replace-one"): {"replace-one": 1},
    ("client", "add-or-remove"): {"add-or-remove": 2, "replace-one": 2},
    ("client", "replace-one"): {"add-or-remove": 1, "replace-one": 1},
}
"""How many neighbouring steps of a claim one move of the game on a record takes; absent: none suffice."""


def in_terms_of_game(promise: Guarantee, relation: Relation) -> Guarantee | None:
    """What a promise says about one move of a game on one record; None where it says nothing.

    A promise about clients covers their records; swapping a record is a removal and an addition.
    """
    steps = _STEPS[promise.unit, promise.relation].get(relation)
    if steps is None:
        return None
    try:
        return promise.group(steps)
    except PrivacyError:
        return None


def judge_claim(
    promise: Guarantee | None, relation: Relation, *, bound: float, power: float, remedy: str
) -> tuple[Judgement, str]:
    """What a lower ``bound`` says about ``promise`` in a game of ``relation``, and why.

    ``power``: the largest epsilon that the design could have certified; below the claim nothing is tested,
    however harmless the data. ``remedy``: what would give more power.
    """
    if promise is None:
        return "INCONCLUSIVE", "no claim to hold it against"
    held = in_terms_of_game(promise, relation)
    if held is None:
        return "INCONCLUSIVE", (
            f"the claim is about {promise.relation} of one {promise.unit}; "
            f"it says nothing about {relation} of a record"
        )
    if bound > held.epsilon:
        return "VIOLATED", f"at least {bound:.2f} leaks, and at most {held.epsilon:.2f} was claimed"
    if not power > held.epsilon:
        return "INCONCLUSIVE", (
            f"these trials could have certified {power:.2f} at most, so a claim of {held.epsilon:.2f} "
            f"can't be tested; {remedy}"
        )
    return "CONSISTENT", (
        f"at least {bound:.2f} leaks, which is within the claim of {held.epsilon:.2f}; "
        f"up to {power:.2f} could have been certified"
    )
