"""What a rule of a policy answers, and how it says so: a bound is printed rounded, and still bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

from securefd.evaluation.report import Estimate, RuleResult, Variant, Verdict


@dataclass(frozen=True, kw_only=True)
class Found:
    """What came of a rule, before it is said of which rule, variant and observer."""

    result: Verdict
    measured: str
    uncertainty: str
    reason: str
    estimate: Estimate | None = None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question of a policy: ``rule`` is its place there, and ``judge`` answers it of a variant."""

    rule: str
    requires: str
    judge: Callable[[Variant], Found]
    observer: str = ""

    def of(self, variant: Variant) -> RuleResult:
        """The answer, as a row of a report."""
        found = self.judge(variant)
        return RuleResult(
            rule=self.rule,
            requires=self.requires,
            variant=variant.name,
            observer=self.observer,
            result=found.result,
            measured=found.measured,
            uncertainty=found.uncertainty,
            estimate=found.estimate,
            reason=found.reason,
        )


def held(holds: bool, measured: str, uncertainty: str) -> Found:
    """What is known for certain, and is as required or isn't."""
    return Found(
        result="pass" if holds else "fail",
        measured=measured,
        uncertainty=uncertainty,
        reason="as required" if holds else "not what is required",
    )


def untold(measured: str, reason: str) -> Found:
    """What can't be told, and why."""
    return Found(result="inconclusive", measured=measured, uncertainty="not enough to tell", reason=reason)


def raised(value: float) -> str:
    """Four significant digits, rounded up."""
    return _digits(value, ROUND_CEILING)


def lowered(value: float) -> str:
    """Four significant digits, rounded down."""
    return _digits(value, ROUND_FLOOR)


def exactly(value: float) -> str:
    """The shortest text that reads back as ``value``; whole numbers have no decimal point."""
    return str(int(value)) if abs(value) < 1e15 and value == int(value) else repr(value)


def percent(share: float) -> str:
    """A share as it is, in per cent."""
    return f"{exactly(float(Decimal(repr(share)) * 100))}%"


def sureness(found: Estimate) -> str:
    """The interval of a share. It must have one."""
    assert found.low is not None
    assert found.high is not None
    low, high = lowered(100 * found.low), raised(100 * found.high)
    return f"{low}% to {high}% with {percent(found.confidence)} confidence"


def _digits(value: float, rounding: str) -> str:
    return exactly(float(Context(prec=4, rounding=rounding).create_decimal(Decimal(repr(value)))))
