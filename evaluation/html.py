"""The report as one HTML page that stands alone: no network, legible in print, dark and without script."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from securefd.evaluation import drawing, figures
from securefd.evaluation.report import Claim, Estimate, Finding, Report, Sight, Skipped, Variant, strongest

_ORDER = ("server", "peer", "keyholder", "coalition", "release", "label-only")
HEAT = ((0.55, "guessing"), (0.6, "faint"), (0.7, "weak"), (0.8, "clear"), (0.9, "strong"), (1.01, "severe"))
"""Upper ends of the AUC's shades, and their words: a reading aid, not a test."""


@dataclass(frozen=True, kw_only=True)
class ClaimGroup:
    """The same promise to several observers."""

    claim: Claim
    observers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Shared:
    """A sentence and the variants that it holds for."""

    text: str
    variants: tuple[str, ...]


def render(report: Report) -> str:
    """The page. Every text of the report is escaped; only our own drawings, style and script are markup."""
    from securefd.evaluation.sections import statements  # which words its figures as this module does

    style = f"{_resource('report.css')}{_even(len(report.variants))}"
    script = _resource("report.js")
    who, names = observers(report.variants), anchors(report.variants)
    return _template().render(
        report=report,
        observers=who,
        findings=[finding for variant in report.variants for finding in variant.findings],
        anchor=lambda finding: names[id(finding)],
        utility=figures.privacy_utility(report.variants),
        frontier=figures.frontier(report.variants),
        curves=figures.curves(report.variants, who),
        budgets=figures.budgets(report.variants),
        traffic=figures.traffic(report.variants, size),
        style=_ours(style),
        script=_ours(script),
        policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'",
        statements=tuple(statements(report)),
        unprotected=shared((v.name, v.unprotected) for v in report.variants),
        substitutions=shared((v.name, v.substitutions) for v in report.variants),
    )


def anchors(variants: Iterable[Variant]) -> Mapping[int, str]:
    """A name for each finding, by its ``id()``, that a link can end in: letters, digits and hyphens only.

    It is made of what was attacked, by whom and how, so that it stays the same when other findings join.
    """
    names: dict[int, str] = {}
    taken: set[str] = set()
    for variant in variants:
        for finding in variant.findings:
            said = (variant.name, finding.observer, finding.attack, finding.bound_method, finding.subject)
            start = re.sub("[^a-z0-9]+", "-", " ".join(said).lower()).strip("-")[:80]
            name, count = f"f-{start}", 1
            while name in taken:
                count += 1
                name = f"f-{start}-{count}"
            taken.add(name)
            names[id(finding)] = name
    return names


def _even(variants: int) -> str:
    """Equal columns, however many there are: what a page without inline styles can't say in its table."""
    return f".even {{ min-width: {8.5 * (1 + variants):g}rem; }}\n"


def _hash(text: str) -> str:
    """How a content security policy names an inline style sheet or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def observers(variants: Iterable[Variant]) -> tuple[str, ...]:
    """Everyone whom the report names as an observer, in a fixed order."""
    rows: list[Sight | Claim | Finding | Skipped] = []
    for variant in variants:
        rows += (*variant.sights, *variant.claims, *variant.findings, *variant.skipped)
    names = dict.fromkeys(row.observer for row in rows)
    return tuple(sorted(names, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER)))


def claim_groups(claims: Iterable[Claim]) -> tuple[ClaimGroup, ...]:
    """Claims about records that differ in their observer and reason only, put together."""
    groups: dict[tuple[object, ...], list[Claim]] = {}
    for claim in claims:
        if claim.subject != "records":
            continue
        key = (claim.kind, claim.unit, claim.relation, claim.epsilon, claim.delta)
        groups.setdefault(key, []).append(claim)
    return tuple(ClaimGroup(claim=g[0], observers=tuple(c.observer for c in g)) for g in groups.values())


def shared(rows: Iterable[tuple[str, tuple[str, ...]]]) -> tuple[Shared, ...]:
    """Each sentence once, with the variants that it holds for."""
    held: dict[str, list[str]] = {}
    for name, sentences in rows:
        for sentence in sentences:
            held.setdefault(sentence, []).append(name)
    return tuple(Shared(text=text, variants=tuple(names)) for text, names in held.items())


def heat(auc: float) -> tuple[int, str]:
    """The shade of an AUC, 0 to 5, and its word."""
    return next((i, word) for i, (end, word) in enumerate(HEAT) if auc < end)


def size(count: int) -> str:
    """Bytes in decimal units, three significant digits."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5 or unit == "GB":
            break
        value /= 1000
    digits = 0 if unit == "B" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}\u00a0{unit}"


def number(value: float) -> str:
    """Three significant digits, small powers of ten as ``1e-5``."""
    text = f"{value:.3g}"
    if "e" not in text:
        return text
    mantissa, exponent = text.split("e")
    return f"{mantissa}e{int(exponent)}"


def interval(estimate: Estimate, scale: float = 1.0, digits: int = 3) -> str:
    """``[low, high]``, or an empty text without one."""
    if estimate.low is None or estimate.high is None:
        return ""
    return f"[{scale * estimate.low:.{digits}f}, {scale * estimate.high:.{digits}f}]"


def _ours(markup: str) -> Markup:
    """Markup of our own making, in which every foreign text is escaped already."""
    return Markup(markup)  # noqa: S704


def _by_observer(variant: Variant, observer: str) -> Finding | None:
    return strongest(finding for finding in variant.findings if finding.observer == observer)


def _resource(name: str) -> str:
    return resources.files("securefd.evaluation").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = Environment(
        autoescape=True,
        loader=FunctionLoader(_resource),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        number=number, size=size, interval=interval, heat=heat, claim_groups=claim_groups
    )
    environment.globals.update(
        strongest=_by_observer, marker=lambda i: _ours(drawing.marker(i)), ours=_ours, HEAT=HEAT
    )
    return environment.get_template("report.html.j2")
