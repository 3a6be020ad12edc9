"""All membership attacks: one table, of pure functions of what an observer can know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from securefd.attacks import signals
from securefd.attacks.answers import Answers, Records, References
from securefd.attacks.known import LEAST_SHADOWS, attackable, confidences, finite, needed, signal_of
from securefd.attacks.lira import lira, lira_offline
from securefd.attacks.peers import above_peers
from securefd.attacks.quantile import excess_over_quantile
from securefd.attacks.ranks import population_rank, reference_rank
from securefd.attacks.rmia import rmia, rmia_offline
from securefd.attacks.shadow_classifier import shadow_classifier
from securefd.attacks.simple import confidence_attack, loss_attack
from securefd.attacks.vector_lira import vector_lira
from securefd.errors import AuditError

__all__ = ["ATTACKS", "LEAST_SHADOWS", "Attack", "attack_named", "attackable"]

Floats = NDArray[np.float64]
Score = Callable[[Answers, Records, References | None], Floats]


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One row: what an attack needs, and how it scores.

    ``needs``: of ``references``, ``population``, ``features``, ``rounds``, ``nearby``, ``others`` and
    ``resampled``. ``label_only``: whether decisions alone feed it without references. ``score``: from
    targets with one leading axis of t models, records, and references (None where it needs none) to
    ``(t, n)`` scores: higher, more likely a member; NaN where references say too little of a record.
    It raises AuditError for what doesn't fit.
    """

    name: str
    what: str
    needs: frozenset[str] = frozenset()
    label_only: bool = False
    source: str
    score: Score


def attack_named(name: str) -> Attack:
    """The row of that name. AuditError for a name that no row has."""
    for attack in ATTACKS:
        if attack.name == name:
            return attack
    raise AuditError(f"attack must be one of {', '.join(attack.name for attack in ATTACKS)}, got {name!r}")


def _on_confidence(read: Callable[[Floats], Floats]) -> Score:
    return lambda targets, records, _: read(confidences(targets, records))


def _on_probabilities(
    read: Callable[[NDArray[np.floating], NDArray[np.integer]], Floats], *, sign: float
) -> Score:
    def score(targets: Answers, records: Records, _: References | None) -> Floats:
        confidences(targets, records)
        return np.asarray(sign * read(targets.probabilities, targets.labels), dtype=np.float64)

    return score


def _on_shadows(read: Callable[[Floats, Floats, NDArray[np.bool_]], Floats]) -> Score:
    def score(targets: Answers, records: Records, references: References | None) -> Floats:
        known = needed(references)
        return read(confidences(targets, records), known.answers.confidence, known.membership)

    return score


def _on_shadows_and_population(
    read: Callable[[Floats, Floats, Floats, Floats, NDArray[np.bool_]], Floats],
) -> Score:
    def score(targets: Answers, records: Records, references: References | None) -> Floats:
        known = needed(references)
        return read(
            confidences(targets, records),
            targets.population_confidence,
            known.answers.confidence,
            finite(known.answers.population_confidence, "the shadows' population"),
            known.membership,
        )

    return score


def _on_vectors(name: str) -> Score:
    def score(targets: Answers, records: Records, references: References | None) -> Floats:
        known, n = needed(references), len(records.labels)
        return vector_lira(signal_of(targets, name, n), signal_of(known.answers, name, n), known.membership)

    return score


def _on_peers(name: str) -> Score:
    return lambda targets, records, _: above_peers(
        confidences(targets, records), signal_of(targets, name, len(records.labels))
    )


def _population(targets: Answers, records: Records, _: References | None) -> Floats:
    return population_rank(confidences(targets, records), targets.population_confidence)


def _quantile(targets: Answers, records: Records, _: References | None) -> Floats:
    return excess_over_quantile(confidences(targets, records), targets.population_confidence, records)


def _classifier(targets: Answers, records: Records, references: References | None) -> Floats:
    confidences(targets, records)
    return shadow_classifier(targets, needed(references))


ATTACKS: tuple[Attack, ...] = (
    Attack(
        name="loss",
        what="how small the loss on the record is",
        source="Yeom et al. 2018",
        score=_on_confidence(loss_attack),
    ),
    Attack(
        name="confidence",
        what="the probability given to the record's label; of decisions, how many noisy copies get it",
        label_only=True,
        source="Salem et al. 2019; Choquette-Choo et al. 2021",
        score=_on_confidence(confidence_attack),
    ),
    Attack(
        name="entropy",
        what="how decided the model is, whatever the label",
        source="Salem et al. 2019",
        score=_on_probabilities(signals.entropy, sign=-1.0),
    ),
    Attack(
        name="modified entropy",
        what="how decided the model is for the label, and against every other class",
        source="Song and Mittal 2021",
        score=_on_probabilities(signals.modified_entropy, sign=-1.0),
    ),
    Attack(
        name="gap",
        what="whether the likeliest class is the label",
        label_only=True,
        source="Yeom et al. 2018",
        score=_on_probabilities(signals.is_right, sign=1.0),
    ),
    Attack(
        name="population",
        what="the share of reserved non-members that the same model fits worse",
        needs=frozenset({"population"}),
        source="Ye et al. 2022, Attack P",
        score=_population,
    ),
    Attack(
        name="reference",
        what="the share of models without the record that are less sure of it",
        needs=frozenset({"references"}),
        source="Ye et al. 2022, Attack R",
        score=_on_shadows(reference_rank),
    ),
    Attack(
        name="lira",
        what=(
            "how much likelier the confidence is with the record than without it, from models of both kinds; "
            "on a student, with its teachers' membership"
        ),
        needs=frozenset({"references"}),
        source="Carlini et al. 2022; on students, Jagielski et al. 2023",
        score=_on_shadows(lira),
    ),
    Attack(
        name="lira offline",
        what="how far the confidence lies above that of models without the record",
        needs=frozenset({"references"}),
        source="Carlini et al. 2022",
        score=_on_shadows(lira_offline),
    ),
    Attack(
        name="rmia",
        what="the share of reserved non-members that gain less than the record against models of both kinds",
        needs=frozenset({"references", "population"}),
        source="Zarifzadeh et al. 2024",
        score=_on_shadows_and_population(rmia),
    ),
    Attack(
        name="rmia offline",
        what="the share of reserved non-members that gain less than the record against models without it",
        needs=frozenset({"references", "population"}),
        source="Zarifzadeh et al. 2024",
        score=_on_shadows_and_population(rmia_offline),
    ),
    Attack(
        name="quantile regression",
        what="by how much the confidence exceeds what most non-members like the record reach",
        needs=frozenset({"population", "features"}),
        source="Bertran et al. 2023",
        score=_quantile,
    ),
    Attack(
        name="shadow classifier",
        what="a classifier that has learnt from shadow models what answers about members look like",
        needs=frozenset({"references"}),
        source="Shokri et al. 2017",
        score=_classifier,
    ),
    Attack(
        name="trajectory",
        what="the likelihood ratio of the confidences of all rounds together",
        needs=frozenset({"references", "rounds"}),
        source="Liu et al. 2022, with LiRA's likelihood ratio",
        score=_on_vectors("rounds"),
    ),
    Attack(
        name="indirect queries",
        what="the likelihood ratio of the confidences at public inputs like the record, which is never asked",
        needs=frozenset({"references", "nearby"}),
        source="Jagielski et al. 2023",
        score=_on_vectors("nearby"),
    ),
    Attack(
        name="cooperative lira",
        what="how far the confidence lies above that of other clients, which hold other records",
        needs=frozenset({"others"}),
        source="Shi et al. 2025",
        score=_on_peers("others"),
    ),
    Attack(
        name="distillation lira",
        what="how far the confidence lies above that of surrogates distilled from part of the answers",
        needs=frozenset({"resampled"}),
        source="Shi et al. 2025; Galichin et al. 2024",
        score=_on_peers("resampled"),
    ),
)
