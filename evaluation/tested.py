"""The sections of a report about attacks: on membership, on single records, others, and clients that lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from securefd.evaluation import charted, words
from securefd.evaluation.document import (
    Block,
    Cell,
    Heading,
    Paragraph,
    Picture,
    Section,
    cell,
    table,
)
from securefd.evaluation.html import number, observers
from securefd.evaluation.report import Estimate, Finding, Report, Skipped, Variant

Row = tuple[Cell, ...]
DRAWN = (
    "From top to bottom: private means of classes, what the attack drew, and what the student alone gives; "
    "the eight cases where the attack gained most"
)


def found(report: Report) -> tuple[Section, ...]:
    """Sections in the order of reading."""
    return _membership(report), _risks(report), _others(report), _poisoned(report)


def _by_variant(
    report: Report, rows: Callable[[Variant], Iterable[Row]]
) -> Iterator[tuple[str, Iterable[Row]]]:
    for variant in report.variants:
        yield variant.name if len(report.variants) > 1 else "", rows(variant)


def _by_observer(variant: Variant) -> list[Finding]:
    """Findings in the order of observers, which is fixed."""
    order = observers([variant])
    return sorted(variant.findings, key=lambda finding: order.index(finding.observer))


def _membership(report: Report) -> Section:
    blocks: list[Block] = [
        Heading(text="Lower bounds, held against claims"),
        table(
            "What certainly leaked, from independent trials, beside the most that these could have certified "
            "(power) and what was promised. Lower bounds are rounded down, claims up. A bound that is weaker "
            f"than the claim, by trials that could not have found more, is inconclusive."
            f"{words.shared_terms(report)}",
            ("Observer and test", "AUC", "At least", "Power", "Claimed", "Judgement"),
            (1.9, 1.0, 1.4, 0.6, 0.8, 2.0),
            _by_variant(report, lambda variant: _bounds(report, variant)),
        ),
    ]
    if not any(finding.bound_method for variant in report.variants for finding in variant.findings):
        blocks[1] = Paragraph(text="No bound was made.")
    rules = dict.fromkeys(f.threshold_rule for v in report.variants for f in v.findings if f.threshold_rule)
    blocks += [Paragraph(text=f"How a test is fixed: {rule}.", quiet=True) for rule in rules]
    blocks += charted.curves(report)
    blocks += _measured(report)
    blocks += _skipped(report)
    blocks += _controls(report)
    return Section(
        title="Attacks on membership",
        lead="Was this record among those that were trained on? An attack bounds the leak from below. A "
        "lower bound is not a guarantee.",
        blocks=tuple(blocks),
    )


def _bounds(report: Report, variant: Variant) -> Iterator[Row]:
    for each in _by_observer(variant):
        if each.epsilon_bound is None:
            continue
        credible = each.epsilon_credible
        notes = (
            words.bound_terms(report, variant, each),
            f"{each.trials_in} + {each.trials_out} trials",
            "" if credible is None else f"credible, not proven: {number(credible)}",
        )
        yield (
            cell(each.observer, f"{each.attack}; {each.bound_method}"),
            _split(words.figure(each.auc)),
            cell(f"ε ≥ {words.at_least(each.epsilon_bound)}", "; ".join(filter(None, notes))),
            cell("–" if each.epsilon_power is None else words.at_least(each.epsilon_power)),
            cell("nothing" if each.claim_epsilon is None else f"ε ≤ {words.at_most(each.claim_epsilon)}"),
            cell(each.judgement.lower(), each.reason, mark=each.judgement.lower()),
        )


def _measured(report: Report) -> Iterator[Block]:
    yield Heading(text="Every attack that was measured")
    measured = [f for v in report.variants for f in v.findings if not f.bound_method]
    if not measured:
        yield Paragraph(text="No attack was run.")
        return
    fprs = sorted({rate.fpr for finding in measured for rate in finding.rates}, reverse=True)
    yield table(
        "AUC is how often an attack ranks a member above a non-member: 0.5 is guessing, 1 is certainty. "
        "Beside it, the share of members found (in per cent) while so many non-members are taken for "
        "members. Intervals are at 95 % unless another level is given.",
        ("Observer", "Attack", "AUC", *(f"Found at {number(100 * fpr)} %" for fpr in fprs)),
        (0.9, 2.0, 1.2, *(1.2 for _ in fprs)),
        _by_variant(report, lambda variant: _attacks(variant, fprs)),
    )
    missing = [(rate.fpr, rate.tpr.reason) for f in measured for rate in f.rates if rate.tpr.value is None]
    for fpr, reason in dict.fromkeys(missing):
        yield Paragraph(text=f"– at {number(100 * fpr)} %: {reason}.", quiet=True)
    for reason in dict.fromkeys(finding.reason for finding in measured):
        yield Paragraph(text=f"Why an attack alone decides nothing: {reason}.", quiet=True)


def _attacks(variant: Variant, fprs: Iterable[float]) -> Iterator[Row]:
    for each in _by_observer(variant):
        if each.bound_method:
            continue
        rates = {rate.fpr: rate.tpr for rate in each.rates}
        yield (
            cell(each.observer),
            cell(each.attack, f"{each.subject}; {each.n_in} in, {each.n_out} out"),
            _split(words.figure(each.auc)),
            *(_rate(rates.get(fpr)) for fpr in fprs),
        )


def _rate(rate: Estimate | None) -> Cell:
    return cell("–") if rate is None or rate.value is None else _split(words.share(rate))


def _split(text: str) -> Cell:
    """A figure, and its interval under it."""
    value, bracket, rest = text.partition(" [")
    return cell(value, f"[{rest}" if bracket else "")


def _skipped(report: Report) -> Iterator[Block]:
    yield Heading(text="Checks that were skipped")
    if not any(variant.skipped for variant in report.variants):
        yield Paragraph(text="None.")
        return
    yield table(
        "A skipped check does not pass.",
        ("Observer", "Attack", "Subject", "Why"),
        (0.9, 1.4, 1, 3),
        _by_variant(report, lambda variant: map(_reasoned, variant.skipped)),
    )


def _reasoned(each: Skipped) -> Row:
    return cell(each.observer), cell(each.attack), cell(each.subject), cell(each.reason)


def _controls(report: Report) -> Iterator[Block]:
    yield Heading(text="Controls of the audit")
    if not any(variant.controls for variant in report.variants):
        yield Paragraph(text="No control was run, so nothing shows that this audit would notice a leak.")
        return

    def rows(variant: Variant) -> Iterator[Row]:
        for each in variant.controls:
            outcome = "pass" if each.passed else "fail"
            yield cell(each.attack), cell(each.kind), cell(each.measured), cell(outcome, mark=outcome)

    yield table(
        "A null control must find nothing where nothing is; a positive control must find what was planted.",
        ("Attack", "Control", "Measured", "Outcome"),
        (2, 0.8, 3, 0.8),
        _by_variant(report, rows),
    )


def _risks(report: Report) -> Section:
    def rows(variant: Variant) -> Iterator[Row]:
        for each in variant.risks:
            yield (
                cell(each.observer),
                cell(each.attack),
                _split(words.figure(each.highest)),
                cell(f"{each.average:.3f}", f"over {each.records} records"),
            )

    measured = any(variant.risks for variant in report.variants)
    block: Block = table(
        "What the best attack by each observer gains: true positives less false positives, 0 for guessing "
        "and 1 for certainty. Highest: of the record that looked most exposed beforehand, with an interval.",
        ("Observer", "Attack", "Highest", "Average"),
        (1, 2.5, 1.5, 1.2),
        _by_variant(report, rows),
    )
    return Section(
        title="Risk of single records",
        lead="The highest and the average.",
        blocks=(block if measured else Paragraph(text="Not measured."),),
    )


def _others(report: Report) -> Section:
    blocks: list[Block] = []
    if any(variant.others for variant in report.variants):
        blocks.append(
            table(
                "What was made of this run's answers, beside what would be known without them.",
                ("Observer", "Attack", "Measured", "Found", "Without it"),
                (0.9, 1.3, 2.4, 1.2, 0.8),
                _by_variant(report, _achieved),
            )
        )
    for variant in report.variants:
        for each in variant.others:
            if each.picture:
                name = f"{variant.name}, " if len(report.variants) > 1 else ""
                blocks.append(
                    Picture(png=each.picture, alternative=f"{name}{each.attack} by {each.observer}. {DRAWN}.")
                )
    if any(variant.not_made for variant in report.variants):
        blocks.append(
            table(
                "Not possible.",
                ("Observer", "Attack", "Subject", "Why"),
                (0.9, 1.4, 1, 3),
                _by_variant(report, lambda variant: map(_reasoned, variant.not_made)),
            )
        )
    return Section(
        title="Attacks other than on membership",
        lead="What can be told of data, rather than of whose they were. No claim rests on these.",
        blocks=tuple(blocks) or (Paragraph(text="No such attack was made."),),
    )


def _achieved(variant: Variant) -> Iterator[Row]:
    for each in variant.others:
        found = _split(words.figure(each.value))
        yield (
            cell(each.observer),
            cell(each.attack),
            cell(each.measure, each.what),
            cell(found.text, f"{found.note} over {each.cases}".strip()),
            cell(f"{each.baseline:.3f}"),
        )


def _poisoned(report: Report) -> Section:
    blocks: list[Block] = []
    alike: list[Variant] = []
    for variant in report.variants:
        if not variant.poisoned:
            continue
        if variant.poisoned in [other.poisoned for other in alike]:
            continue
        alike.append(variant)
        rules = tuple(dict.fromkeys(each.rule for each in variant.poisoned))
        shares = tuple(dict.fromkeys(each.fraction for each in variant.poisoned))
        told = {(p.attack, p.rule, p.fraction): p.agreement for p in variant.poisoned}
        same = words.listed(v.name for v in report.variants if v.poisoned == variant.poisoned)
        name = f"{same}: share" if len(report.variants) > 1 else "Share"
        rows = []
        for attack in dict.fromkeys(each.attack for each in variant.poisoned):
            cells = []
            for rule in rules:
                agreed = [told.get((attack, rule, fraction)) for fraction in shares]
                cells.append(cell(" · ".join("–" if a is None else f"{100 * a:.0f}" for a in agreed)))
            rows.append((cell(attack), *cells))
        lying = words.listed(f"{number(100 * fraction)}" for fraction in shares)
        blocks.append(
            table(
                f"{name} of public inputs whose likeliest class stays as honest clients have it, in per "
                f"cent, with {lying} % of all clients lying. Counted once, so without intervals.",
                ("Attack", *rules),
                (1.6, *(1.0 for _ in rules)),
                [("", rows)],
            )
        )
    return Section(
        title="Clients that lie",
        lead="What wrong answers do to the consensus, by the rule that combines them.",
        blocks=tuple(blocks) or (Paragraph(text="Not measured."),),
    )
