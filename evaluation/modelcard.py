"""A model card of the student, in Markdown, under the headings of Mitchell et al. 2019.

It says what the report knows. What only people can say, such as what the model is for, is left to them, and
the card says so.
"""

from __future__ import annotations

from collections.abc import Iterator

from securefd.evaluation import words
from securefd.evaluation.front import answers
from securefd.evaluation.html import shared
from securefd.evaluation.markdown import bullets, fenced, plain, rows
from securefd.evaluation.report import Report, Variant
from securefd.evaluation.sections import statement

NOT_SAID = "Not stated: securefd doesn't know it. Whoever releases the student has to."


def to_model_card(report: Report) -> str:
    """The same report gives the same card: one for each variant's student, under one title."""
    return "\n\n".join(_parts(report)) + "\n"


def _parts(report: Report) -> Iterator[str]:
    several = len(report.variants) > 1
    yield f"# Model card: {plain(report.title)}"
    yield "## Model details"
    for variant in report.variants:
        yield from _details(report, variant, several=several)
    yield bullets(
        [
            f"Made by securefd {report.provenance.securefd} on Python {report.provenance.python}",
            f"This card: {words.created(report)}",
            "Licence, owners and contact: not stated",
        ]
    )
    yield "## Intended use"
    yield NOT_SAID
    yield "## Training data"
    yield (
        "Private records of the clients, which never left them, and public inputs without labels, which the "
        "clients answered and the student learnt from."
    )
    yield bullets([f"Public inputs, SHA-256: {report.provenance.public_set}"])
    yield "The configuration says where the data came from and how they were split:"
    yield fenced(report.provenance.configuration)
    yield "## Metrics and evaluation data"
    yield (
        "Accuracy is the share of test records that are classified rightly, with Wilson intervals at 95 %. "
        "The test records were nobody's training data; they say nothing about other populations."
    )
    for variant in report.variants:
        yield from _measured(variant, several=several)
    yield "## Privacy"
    yield f"Verdict of the privacy report: **{report.verdict}**. {plain(report.summary)}"
    for each in answers(report):
        if each.question.startswith(("What could", "What leaked", "What does")):
            yield f"**{plain(each.question)}**"
            yield bullets(each.lines)
    for variant in report.variants:
        yield from _promised(variant, several=several)
    yield "What nothing protects:"
    yield (
        bullets(
            f"{row.text} ({', '.join(row.variants)})" if several else row.text
            for row in shared((variant.name, tuple(variant.unprotected)) for variant in report.variants)
        )
        or "- nothing is listed"
    )
    yield "## Caveats and recommendations"
    yield bullets(report.limits)
    yield f"Made again by: {plain(report.provenance.command)}"


def _details(report: Report, variant: Variant, *, several: bool) -> Iterator[str]:
    if several:
        yield f"### {plain(variant.name)}"
    digest = variant.student_sha256
    yield bullets(
        [
            f"A student distilled by federated distillation, method {variant.method}, sealing "
            f"{variant.sealing}, route to privacy {variant.privacy}",
            variant.description or "No description is recorded",
            f"Weights, SHA-256: {digest}" if digest else "Hash of the weights: not known to this report",
        ]
    )


def _measured(variant: Variant, *, several: bool) -> Iterator[str]:
    utility = variant.utility
    if several:
        yield f"### {plain(variant.name)}"
    figures = [
        ("student, accuracy", words.share(utility.student), str(utility.test_records)),
        (
            "student, expected calibration error",
            words.share(utility.calibration_error),
            str(utility.test_records),
        ),
        ("clients alone, mean accuracy", words.share(utility.clients_alone), str(utility.test_records)),
    ]
    figures += [(f"class {p.name}", words.share(p.accuracy), str(p.records)) for p in utility.classes]
    groups = utility.grouped_by or "group"
    figures += [(f"{groups}: {p.name}", words.share(p.accuracy), str(p.records)) for p in utility.groups]
    yield rows(("What", "Measured", "Test records"), figures)


def _promised(variant: Variant, *, several: bool) -> Iterator[str]:
    """The statement of differential privacy about the student: to whoever may query it."""
    proven = [
        claim
        for claim in variant.claims
        if (claim.kind, claim.subject, claim.observer) == ("proven", "records", "release")
    ]
    name = f"{plain(variant.name)}: " if several else ""
    if not proven:
        yield f"{name}Nothing is proven about records towards whoever may query the student."
    for claim in proven:
        yield f"{name}Statement of differential privacy towards whoever may query the student:"
        yield "\n".join(f"- **{plain(each.term)}**: {plain(each.text)}" for each in statement(claim))
