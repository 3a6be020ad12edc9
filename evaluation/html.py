"""The report as one HTML page that stands alone: no script, no network, legible in print and in the dark."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from securefd.evaluation import charts
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
    """The page. Every text of the report is escaped; only our own drawings and style sheet are markup."""
    points = [_point(index, variant) for index, variant in enumerate(report.variants)]
    drawn = [point for point in points if point is not None]
    return _template().render(
        report=report,
        observers=observers(report.variants),
        findings=[finding for variant in report.variants for finding in variant.findings],
        undrawn=[v.name for v, point in zip(report.variants, points, strict=True) if point is None],
        wide=_ours(charts.privacy_utility(drawn, width=720, prefix="wide")),
        narrow=_ours(charts.privacy_utility(drawn, width=360, prefix="narrow")),
        style=_ours(_resource("report.css")),
        unprotected=shared((v.name, v.unprotected) for v in report.variants),
        substitutions=shared((v.name, v.substitutions) for v in report.variants),
    )


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


def _point(index: int, variant: Variant) -> charts.Point | None:
    top = strongest(variant.findings)
    if top is None or variant.utility.student.value is None:
        return None
    return charts.Point(label=variant.name, x=top.auc, y=variant.utility.student, series=index)


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
    environment.globals.update(strongest=_by_observer, marker=lambda i: _ours(charts.marker(i)), HEAT=HEAT)
    return environment.get_template("report.html.j2")
