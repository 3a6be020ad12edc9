"""What an audit found: plain data, fit for a report. Nothing in here says which record was a member."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Self

from securefd.defenses.claims import Relation
from securefd.evaluation.curves import Points
from securefd.evaluation.statistics import Interval, Rate

Subject = Literal["this run", "the recipe"]
Judgement = Literal["CONSISTENT", "VIOLATED", "INCONCLUSIVE"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What one attack by one observer found.

    ``n_in``, ``n_out``: members and non-members that ``auc`` and ``tpr`` rest on; for the recipe, the fewest
    in any federation. ``tpr``: by false-positive rate. ``roc``: points of a curve that tell of no single
    record. ``trials_in``, ``trials_out``: independent trials
    behind ``epsilon_bound``, which ``bound_method`` gave and which holds at level ``confidence``; None where
    there can be no bound. ``epsilon_credible``: the same trials' Bayesian bound, which no verdict rests on.
    ``epsilon_power``: the largest epsilon that these trials could have certified. ``claim_epsilon``: what
    was promised in the terms of the game that was played, or None. ``delta``: that of claim and bound.
    """

    subject: Subject
    observer: str
    attack: str
    n_in: int
    n_out: int
    auc: float
    auc_interval: Interval
    tpr: dict[float, Rate]
    roc: Points = ()
    trials_in: int = 0
    trials_out: int = 0
    bound_method: str = ""
    epsilon_bound: float | None = None
    epsilon_credible: float | None = None
    epsilon_power: float | None = None
    confidence: float | None = None
    threshold_rule: str = ""
    claim_epsilon: float | None = None
    delta: float
    judgement: Judgement
    reason: str


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A check that was not made, and why. It does not pass."""

    subject: Subject
    observer: str
    attack: str
    reason: str


Outcome = Finding | Skipped


@dataclass(frozen=True, kw_only=True)
class OtherFinding:
    """What an attack other than on membership achieved in this run.

    ``measure``: what ``value`` is, with its unit; ``interval`` at 95% over ``cases``, or None. ``baseline``:
    the same measure of whoever knows only what isn't private. ``picture``: a PNG in base64, or empty; of
    embedded data only.
    """

    observer: str
    attack: str
    measure: str
    value: float
    interval: Interval | None
    baseline: float
    cases: int
    what: str
    picture: str = ""


@dataclass(frozen=True, kw_only=True)
class Poisoned:
    """``fraction`` of all clients make ``attack``, and ``rule`` combines.

    ``agreement``: share of inputs whose likeliest class is still what honest clients alone agree on, by the
    same rule. ``shift``: mean L1 distance between both consensuses, at most 2.
    """

    rule: str
    attack: str
    fraction: float
    liars: int
    agreement: float
    shift: float


@dataclass(frozen=True, kw_only=True)
class Risk:
    """How much the best attack by one observer gains on single records: TPR - FPR, 0 for guessing.

    ``highest``: of the record that looked most exposed beforehand, over trials of it alone, with a 95%
    interval. ``average``: over ``records`` records, at the same threshold and in the same federations.
    """

    observer: str
    attack: str
    highest: float
    highest_interval: Interval
    average: float
    records: int


@dataclass(frozen=True, kw_only=True)
class Control:
    """A test of the audit itself: it must find nothing where nothing is, and a leak where one was put."""

    kind: Literal["null", "positive"]
    attack: str
    measured: str
    passed: bool


@dataclass(frozen=True, kw_only=True)
class Audit:
    """All outcomes and the controls that they stand on.

    ``error_level``: chance that any epsilon bound in here is above the truth. ``federations``: how many
    re-runs of the recipe there were. ``commitment``: salted hash of the seed of who took part in which, or
    empty where it is unknown. ``game``: the neighbouring relation whose game the coins played. ``others``:
    attacks that aren't on membership; ``poisoned``: what liars would do to the consensus, by each rule.
    """

    outcomes: tuple[Outcome, ...]
    controls: tuple[Control, ...]
    error_level: float
    federations: int
    commitment: str = ""
    game: Relation = "add-or-remove"
    risks: tuple[Risk, ...] = ()
    others: tuple[OtherFinding | Skipped, ...] = ()
    poisoned: tuple[Poisoned, ...] = ()

    def including(self, outcomes: Iterable[Outcome]) -> Self:
        """The same audit with further outcomes, such as those about this run."""
        return replace(self, outcomes=(*self.outcomes, *outcomes))

    @property
    def judgement(self) -> Judgement:
        """The worst of what was held against a claim; without controls, checks or a claim nothing passes.

        A claim to one observer may be tested by several designs: it is CONSISTENT if one of them had the
        power to contradict it, and none did.
        """
        findings = [outcome for outcome in self.outcomes if isinstance(outcome, Finding)]
        judged = [finding for finding in findings if finding.claim_epsilon is not None]
        if any(finding.judgement == "VIOLATED" for finding in judged):
            return "VIOLATED"
        sound = bool(self.controls) and all(control.passed for control in self.controls)
        whole = len(findings) == len(self.outcomes)
        observers = {finding.observer for finding in judged}
        tested = {finding.observer for finding in judged if finding.judgement == "CONSISTENT"}
        return "CONSISTENT" if sound and whole and judged and observers == tested else "INCONCLUSIVE"

    @property
    def exit_code(self) -> int:
        """What ``securefd audit`` ends with."""
        return {"CONSISTENT": 0, "VIOLATED": 1, "INCONCLUSIVE": 3}[self.judgement]
