"""What a report says after its first page, section by section, as `document` has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from securefd.evaluation import charted, words
from securefd.evaluation.document import (
    Block,
    Bullets,
    Cell,
    Code,
    Document,
    Heading,
    Paragraph,
    Section,
    Term,
    Terms,
    cell,
    table,
)
from securefd.evaluation.front import answers, overview
from securefd.evaluation.html import number, observers, shared, size
from securefd.evaluation.policy_section import ruled
from securefd.evaluation.report import Claim, Facts, Report, Variant
from securefd.evaluation.tested import found

Row = tuple[Cell, ...]


def document(report: Report) -> Document:
    """The whole report, the first page first."""
    return Document(
        title=report.title,
        verdict=report.verdict,
        summary=report.summary,
        created=words.created(report),
        answers=answers(report),
        overview=overview(report),
        sections=(
            *ruled(report),
            _sights(report),
            _claims(report),
            _ledger(report),
            _utility(report),
            _communication(report),
            *found(report),
            _limits(report),
            _provenance(report),
        ),
    )


def by_variant(
    report: Report, rows: Callable[[Variant], Iterable[Row]]
) -> Iterator[tuple[str, Iterable[Row]]]:
    """Rows of each variant, under its name where there are several."""
    for variant in report.variants:
        yield variant.name if len(report.variants) > 1 else "", rows(variant)


def _sights(report: Report) -> Section:
    def rows(variant: Variant) -> Iterator[Row]:
        seen = {sight.observer: sight.sees for sight in variant.sights}
        for observer in observers([variant]):
            yield (
                cell(observer, words.OBSERVERS.get(observer, "")),
                cell(seen.get(observer, "not stated")),
            )

    blocks: list[Block] = [
        Bullets(
            items=tuple(
                f"{v.name}: method {v.method}, sealing {v.sealing}, route to privacy {v.privacy}. "
                f"{v.description}".rstrip()
                for v in report.variants
            )
        ),
        table("What reaches each observer.", ("Observer", "Sees"), (1, 3), by_variant(report, rows)),
    ]
    blocks += _sentences(
        report,
        "Quantities that nothing protects",
        [(v.name, tuple(v.unprotected)) for v in report.variants],
    )
    blocks += _sentences(report, "Substitutions", [(v.name, tuple(v.substitutions)) for v in report.variants])
    return Section(
        title="Threat model and who sees what",
        lead="An attack is given what one observer receives in one run, if everyone follows the protocol, "
        "and nothing else.",
        blocks=tuple(blocks),
    )


def _sentences(report: Report, title: str, rows: Iterable[tuple[str, tuple[str, ...]]]) -> list[Block]:
    """Each sentence once, with the variants that it holds for."""
    said = []
    for row in shared(rows):
        everyone = len(row.variants) == len(report.variants)
        whose = f" ({'every variant' if everyone else ', '.join(row.variants)})"
        said.append(row.text + (whose if len(report.variants) > 1 else ""))
    return [Heading(text=title), Bullets(items=tuple(said))] if said else []


def _claims(report: Report) -> Section:
    def rows(variant: Variant) -> Iterator[Row]:
        if not variant.claims:
            yield cell("everyone"), cell("all"), cell("nothing"), cell("–")
        for claim in variant.claims:
            rests = f"if {claim.assumption}" if claim.assumption else "–"
            kind = claim.kind if claim.kind != "none" else ""
            yield cell(claim.observer), cell(claim.subject), cell(words.promise(claim), kind), cell(rests)

    blocks: list[Block] = [
        table(
            "Claims by observer, about private records and about the answers that single clients send. Every "
            "ε is an upper bound, rounded up.",
            ("Towards", "About", "Promised", "Assumed besides mathematics"),
            (0.9, 0.7, 2.1, 2.6),
            by_variant(report, rows),
        )
    ]
    for title, terms in statements(report):
        blocks += [Heading(text=title), Terms(terms=terms)]
    blocks.append(Heading(text="What the claims rest on"))
    blocks.append(Terms(terms=tuple(_reasons(report))))
    return Section(
        title="Claims",
        lead="A claim is an upper bound on what can leak to one observer: proven, resting on an assumption, "
        "or none.",
        blocks=tuple(blocks),
    )


def statements(report: Report) -> Iterator[tuple[str, tuple[Term, ...]]]:
    """Each proven claim in full, with a title; those that differ in their observer alone together."""
    for variant in report.variants:
        proven: dict[str, list[Claim]] = {}
        for claim in variant.claims:
            if claim.kind == "proven":
                key = f"{words.promise(claim)}{claim.subject}{claim.facts}"
                proven.setdefault(key, []).append(claim)
        name = f"{variant.name}, " if len(report.variants) > 1 else ""
        for claims in proven.values():
            whom = words.listed(claim.observer for claim in claims)
            yield f"Statement of differential privacy: {name}towards {whom}", tuple(statement(claims[0]))


def statement(claim: Claim) -> Iterator[Term]:
    """A proven claim in the terms of NIST SP 800-226, whatever is known of each."""
    facts = claim.facts or Facts()
    charged = {True: "charged", False: "not charged", None: "not known to this report"}[facts.tuning_charged]
    said = (
        ("Parameters", f"{words.promise(claim)}."),
        ("Unit of privacy", f"One {claim.unit}. Of people: {facts.contribution}"),
        ("Neighbouring relation", str(claim.relation)),
        ("Definition", facts.definition),
        ("Mechanism", facts.mechanism),
        ("Sensitivity", facts.sensitivity),
        ("Noise and its generator", facts.noise),
        ("Sampling of records", facts.sampling),
        ("Composition", facts.composition),
        ("Trust model", facts.trust),
        ("Tuning of hyper-parameters", f"{charged[0].upper()}{charged[1:]}. {facts.tuning}"),
        ("Not protected", "; ".join(facts.unprotected) or "Nothing is listed."),
    )
    return (Term(term=term, text=text) for term, text in said)


def _reasons(report: Report) -> Iterator[Term]:
    reasons: dict[str, list[str]] = {}
    for variant in report.variants:
        for claim in variant.claims:
            who = f"{claim.observer}, {claim.subject}"
            name = f"{variant.name}: {who}" if len(report.variants) > 1 else who
            reasons.setdefault(claim.reason, []).append(name)
    for reason, names in reasons.items():
        yield Term(term="; ".join(names), text=reason)


def _ledger(report: Report) -> Section:
    def rows(variant: Variant) -> Iterator[Row]:
        for charge in variant.ledger:
            yield (
                cell(charge.holder),
                cell(charge.event),
                cell(str(charge.count)),
                cell(
                    f"ε ≤ {words.at_most(charge.epsilon)}",
                    words.terms(charge.unit, charge.relation, charge.delta),
                ),
            )

    spent = any(variant.ledger for variant in report.variants)
    block: Block = table(
        "Spent, by the data holders' own ledgers, which are written before anything is released; towards the "
        "observer who knows most of the noise.",
        ("Holder", "Charged for", "Times", "Spent"),
        (0.9, 3, 0.6, 2.2),
        by_variant(report, rows),
    )
    nothing = Paragraph(text="Nothing was charged: no noise was added anywhere.")
    return Section(
        title="Ledger",
        lead="What each data holder has spent of its privacy.",
        blocks=(block if spent else nothing, *charted.budgets(report)),
    )


def _utility(report: Report) -> Section:
    def rows(variant: Variant) -> Iterator[Row]:
        utility = variant.utility
        measured = (
            ("student", "the model that is released", utility.student),
            (
                "clients together",
                "mean over clients, after learning from one another",
                utility.clients_together,
            ),
            ("clients alone", "mean over clients, before", utility.clients_alone),
            ("pooled data", "all data in one place, which federation avoids", utility.pooled),
            ("FedAvg", "sharing weights instead of answers", utility.fedavg),
        )
        for name, what, estimate in measured:
            yield cell(name, what), cell(words.share(estimate)), cell(str(utility.test_records))
        for kind, parts in (("class", utility.classes), (utility.grouped_by, utility.groups)):
            for part in sorted(parts, key=lambda each: each.accuracy.value or 0.0):
                what = f"the student, on records of this {kind}"
                yield cell(part.name, what), cell(words.share(part.accuracy)), cell(str(part.records))
        if utility.classes:
            what = "of the student: mean distance of confidence and accuracy, over 15 bins of equal width"
            found = words.share(utility.calibration_error)
            yield cell("calibration error", what), cell(found), cell(str(utility.test_records))

    return Section(
        title="Utility",
        lead="Accuracy on records that nobody trained on.",
        blocks=(
            table(
                "Accuracy in per cent, with Wilson intervals at 95 % unless another level is given.",
                ("Model", "Accuracy", "Test records"),
                (3, 2, 1),
                by_variant(report, rows),
            ),
            *charted.utility(report),
        ),
    )


def _communication(report: Report) -> Section:
    def rows(variant: Variant) -> Iterator[Row]:
        c = variant.communication
        times = f"{number(c.weights / c.up)} times the bytes up" if c.weights and c.up else ""
        yield (
            cell(variant.name, c.note),
            cell(size(c.up)),
            cell(size(c.down)),
            cell(f"{c.clients}"),
            cell(f"{c.rounds}"),
            cell("–" if c.weights is None else size(c.weights), times),
        )

    return Section(
        title="Communication",
        lead="Counted from the messages that travelled, so without uncertainty. 1 kB is 1,000 bytes.",
        blocks=(
            table(
                "Bytes a client and round, means over clients and rounds.",
                ("Variant", "Up", "Down", "Clients", "Rounds", "Weights, if shared instead"),
                (2, 1, 1, 0.8, 0.8, 1.6),
                [("", (row for variant in report.variants for row in rows(variant)))],
            ),
            *charted.traffic(report),
        ),
    )


def _limits(report: Report) -> Section:
    return Section(
        title="Limits",
        lead="What this report does not show.",
        blocks=(Bullets(items=tuple(report.limits)),),
    )


def _provenance(report: Report) -> Section:
    p, when = report.provenance, report.volatile
    terms = [
        ("Created", words.created(report)),
        ("Software", f"securefd {p.securefd} on Python {p.python}; report schema {report.schema_version}"),
        ("Dependencies", ", ".join(f"{each.name} {each.version}" for each in p.packages)),
        ("Public seeds", "; ".join(f"{each.purpose}: {each.value}" for each in p.seeds)),
        ("Public set, SHA-256", p.public_set),
        (
            "Student, SHA-256",
            "; ".join(f"{v.name}: {v.student_sha256}" for v in report.variants if v.student_sha256),
        ),
        ("Reproducibility", p.reproducibility),
        ("Time taken", ", ".join(f"{each.stage} {each.seconds:.1f} s" for each in when.timings)),
    ]
    return Section(
        title="Provenance",
        lead="Where the figures come from, and how to get them again. The JSON form of this report holds the "
        "same figures for machines.",
        blocks=(
            Terms(terms=tuple(Term(term=term, text=text) for term, text in terms if text)),
            Heading(text="Commands that make it again"),
            Code(text=p.command),
            Heading(text="Configuration"),
            Code(text=p.configuration),
        ),
    )
