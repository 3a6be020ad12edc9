"""The first page of a report, for whoever has to sign: what could leak at most, did at least, and to whom."""

from __future__ import annotations

from collections.abc import Iterator

from securefd.evaluation import words
from securefd.evaluation.document import Answer, Cell, Table, cell, table
from securefd.evaluation.html import claim_groups, observers
from securefd.evaluation.policy_section import basis
from securefd.evaluation.report import Claim, Report, Variant, strongest


def answers(report: Report) -> tuple[Answer, ...]:
    """Questions and answers in plain words."""
    asked = (
        ("What could have leaked at most?", _at_most),
        ("What leaked at least?", _at_least),
        ("How well do attacks do, where AUC 0.5 is guessing and 1 is certainty?", _attacked),
        ("How good is the student?", _useful),
    )
    several = len(report.variants) > 1
    found = []
    for question, answer in asked:
        said: dict[str, list[str]] = {}
        for variant in report.variants:
            said.setdefault(" ".join(answer(variant)), []).append(variant.name)
        lines = (f"{words.listed(names)}: {text}" if several else text for text, names in said.items())
        found.append(Answer(question=question, lines=tuple(lines)))
    return (*found, Answer(question="What does the verdict rest on?", lines=(_basis(report),)))


def _at_most(variant: Variant) -> Iterator[str]:
    groups = claim_groups(variant.claims)
    if not groups:
        yield "Nothing is promised to anyone, so anything could have."
    for group in groups:
        whom = words.listed(group.observers)
        if group.claim.kind == "proven":
            yield f"Towards {whom}: {words.promise(group.claim)}, proven."
        elif group.claim.kind == "cryptographic":
            yield f"Towards {whom}: {words.promise(group.claim)}; no ε bounds it."
        else:
            yield f"Towards {whom}: no bound is promised, so anything could have."


def _at_least(variant: Variant) -> Iterator[str]:
    best = words.best_bound(variant)
    if best is None:
        yield "Not known: no attack was made that bounds it."
        return
    yield f"To {best.observer}: {words.bound(best, variant.game)}, by {best.attack}."
    if best.epsilon_power is not None:
        yield f"These trials could have certified {words.at_least(best.epsilon_power)} at most."


def _attacked(variant: Variant) -> Iterator[str]:
    top = strongest(variant.findings)
    if top is None:
        yield "Not known: none was measured."
        return
    yield f"The strongest that was measured, {top.attack} by {top.observer}, has AUC {words.figure(top.auc)}."


def _useful(variant: Variant) -> Iterator[str]:
    utility = variant.utility
    if utility.student.value is None:
        yield f"No accuracy: {utility.student.reason}."
        return
    said = f"{words.share(utility.student)} of {utility.test_records} test records right"
    if utility.clients_alone.value is not None:
        said += f"; a client alone, on average, {words.share(utility.clients_alone)}"
    yield f"{said}."


def _basis(report: Report) -> str:
    """What was judged."""
    return "Claims alone: no policy was given." if report.policy is None else basis(report.policy)


def overview(report: Report) -> Table:
    """Observer by observer: promised, found and judged."""
    return table(
        "Claims about private records are upper bounds, and attacks give lower bounds, which are no "
        f"guarantee.{words.shared_terms(report)}",
        ("Observer", "At most", "At least", "Strongest attack, AUC", "Judgement"),
        (2.1, 1.1, 1.2, 1.7, 1.1),
        (
            (variant.name if len(report.variants) > 1 else "", _by_observer(report, variant))
            for variant in report.variants
        ),
    )


def _by_observer(report: Report, variant: Variant) -> Iterator[tuple[Cell, ...]]:
    promised = {claim.observer: claim for claim in variant.claims if claim.subject == "records"}
    if "release" in promised:  # whoever sees less is promised no less
        promised.setdefault("label-only", promised["release"])
    for observer in observers([variant]):
        found = [finding for finding in variant.findings if finding.observer == observer]
        top = strongest(found)
        judged = words.worst_judgement(found)
        yield (
            cell(observer, words.OBSERVERS.get(observer, "")),
            _promised(report, promised.get(observer)),
            _certain(report, variant, observer),
            cell("not measured") if top is None else cell(words.figure(top.auc), top.attack),
            cell(judged or "nothing to judge", mark=judged),
        )


def _promised(report: Report, claim: Claim | None) -> Cell:
    if claim is None or claim.epsilon is None or claim.delta is None:
        return cell("not bounded", "nothing is promised")
    own = words.terms(str(claim.unit), str(claim.relation), claim.delta)
    return cell(f"ε ≤ {words.at_most(claim.epsilon)}", "" if words.common_terms(report) else own)


def _certain(report: Report, variant: Variant, observer: str) -> Cell:
    best = words.best_bound(variant, observer)
    if best is None or best.epsilon_bound is None:
        return cell("no bound")
    return cell(f"ε ≥ {words.at_least(best.epsilon_bound)}", words.bound_terms(report, variant, best))
