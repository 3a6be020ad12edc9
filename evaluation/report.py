"""A report as data: what was promised, what attacks found, who saw what. A format is a function of it.

The types here hold plain values only, so that JSON, HTML and any later format come from one place. They
have no field for a seed of noise, a salt, a plain hash of private data or a record's membership.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from securefd.errors import ReportError

SCHEMA_VERSION = "1.0"
Verdict = Literal["pass", "fail", "inconclusive"]
Judgement = Literal["CONSISTENT", "VIOLATED", "INCONCLUSIVE"]

STANDING_LIMITS = (
    "A lower bound is not a guarantee: an attack that found nothing proves only that it found nothing.",
    "A claim holds under its own unit of privacy and neighbouring relation. A person with k records needs "
    "the claim for groups of k, which is weaker.",
    "Secrecy is not privacy: sealing hides single answers, but their sum and the student still leak.",
    "Utility was measured on this test set only, and says nothing about other populations.",
    "Clients that lie within the bound on values are not detected, and a server can deny service.",
)
"""What every report must say; a run adds its own."""
UNKNOWN = "Not known to this report."
"""What a fact says that nobody recorded."""


def _printable(text: str) -> str:
    """Control characters are in no name or sentence, and would make XML and terminals misbehave."""
    if any((ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160 or c in "\ufffe\uffff" for c in text):
        raise ValueError("text must hold no control characters other than newline and tab")
    return text


Text = Annotated[str, AfterValidator(_printable)]
Word = Annotated[str, Field(min_length=1), AfterValidator(_printable)]
Count = Annotated[int, Field(ge=0)]
Number = Annotated[float, AfterValidator(float)]
Epsilon = Annotated[float, Field(ge=0), AfterValidator(float)]
Delta = Annotated[float, Field(ge=0, lt=1), AfterValidator(float)]
Rate = Annotated[float, Field(ge=0, le=1), AfterValidator(float)]
HASH = r"^[0-9a-f]{64}$"
"""What a SHA-256 in hexadecimal matches."""


class Row(BaseModel):
    """Frozen, strict, closed to unknown fields, and finite: NaN and infinity are refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        json_schema_serialization_defaults_required=True,  # what is written holds every field
    )


class Estimate(Row):
    """A measured figure with its interval, or the reason why there is none."""

    value: Number | None = None
    low: Number | None = None
    high: Number | None = None
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    reason: Text = ""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.value is None:
            if not self.reason or self.low is not None or self.high is not None:
                raise ValueError("an estimate without a value needs a reason, and has no interval")
            return self
        if (self.low is None) != (self.high is None):
            raise ValueError("an interval needs both ends")
        if self.low is not None and self.high is not None and not self.low <= self.value <= self.high:
            raise ValueError(
                f"value must lie in its interval, got {self.value} and [{self.low}, {self.high}]"
            )
        return self


def estimate(
    value: float | None,
    low: float | None = None,
    high: float | None = None,
    *,
    confidence: float = 0.95,
    otherwise: str = "could not be computed",
) -> Estimate:
    """An estimate from figures that may be NaN, infinite or None, which become ``otherwise``, the reason."""
    if value is None or not math.isfinite(value):
        return Estimate(confidence=confidence, reason=otherwise)
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return Estimate(value=float(value), confidence=confidence)
    return Estimate(value=float(value), low=float(low), high=float(high), confidence=confidence)


def accuracy(value: float, records: int, *, confidence: float = 0.95) -> Estimate:
    """An accuracy over ``records`` test records, in [0, 1], with its Wilson score interval (Wilson 1927).

    ``value`` may also be the mean accuracy of several models on the same records: the variance of such a
    mean is largest when all err together, so counting each record once gives an interval wide enough.
    """
    if not 0 <= value <= 1:
        raise ReportError(f"accuracy must be in [0, 1], got {value}: give a share, not a percentage")
    if not records > 0:
        raise ReportError(f"records must be > 0, got {records}: an accuracy needs test records")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (value + z * z / (2 * records)) / (1 + z * z / records)
    spread = value * (1 - value) / records + z * z / (4 * records * records)
    half = z * math.sqrt(spread) / (1 + z * z / records)
    # Rounding may push an end past the value or the range by one ulp.
    low, high = max(0.0, min(centre - half, value)), min(1.0, max(centre + half, value))
    return Estimate(value=float(value), low=float(low), high=float(high), confidence=confidence)


class Sight(Row):
    """What one observer sees, as a sentence."""

    observer: Word
    sees: Word


class Facts(Row):
    """What a statement of differential privacy says besides epsilon, delta, unit and relation.

    After NIST SP 800-226 and the fields of the OpenDP deployments registry. Each is a sentence; what isn't
    known is said to be unknown. ``noise``: who draws it, how, and from which generator. ``sampling``: of
    records, and whether it is counted. ``composition``: over what, and by which accountant. ``trust``: who is
    trusted with what. ``tuning``: of hyper-parameters, and ``tuning_charged`` whether it was paid for, None
    where there is nothing to say. ``contribution``: what of a person with several units. ``unprotected``:
    what the claim doesn't cover.
    """

    definition: Word = UNKNOWN
    mechanism: Word = UNKNOWN
    sensitivity: Word = UNKNOWN
    noise: Word = UNKNOWN
    sampling: Word = UNKNOWN
    composition: Word = UNKNOWN
    trust: Word = UNKNOWN
    contribution: Word = UNKNOWN
    tuning: Word = UNKNOWN
    tuning_charged: bool | None = None
    unprotected: tuple[Word, ...] = ()


class Claim(Row):
    """What is promised to one observer: a proven (epsilon, delta), a cryptographic assumption, or nothing.

    ``subject``: private records, or the answers that single clients sent. ``assumption``: what must hold
    besides mathematics. ``reason``: what the claim rests on, or why nothing can be promised. ``facts``: of a
    proven claim, or None where no one recorded them.
    """

    observer: Word
    subject: Literal["records", "answers"] = "records"
    kind: Literal["proven", "cryptographic", "none"]
    unit: Literal["record", "client"] | None = None
    relation: Literal["add-or-remove", "replace-one"] | None = None
    epsilon: Epsilon | None = None
    delta: Delta | None = None
    assumption: Text = ""
    reason: Word
    facts: Facts | None = None

    @model_validator(mode="after")
    def _stated(self) -> Self:
        if self.kind == "proven" and None in (self.epsilon, self.delta, self.unit, self.relation):
            raise ValueError("a proven claim states epsilon, delta, unit and relation")
        if self.kind != "proven" and (self.epsilon is not None or self.delta is not None):
            raise ValueError(f"a claim of kind {self.kind} has no epsilon and no delta")
        return self


_NOT_RUN = Estimate(reason="not part of this run")


class Part(Row):
    """The student's accuracy on the test records of one class or group."""

    name: Word
    records: Annotated[int, Field(ge=1)]
    accuracy: Estimate


class Utility(Row):
    """Accuracies on the test set. Together and alone are means over clients.

    ``calibration_error``: of the student, expected, over 15 bins of equal width (Guo et al. 2017), in [0, 1].
    ``groups``: its accuracy by ``grouped_by``, a column of the data or the owner.
    """

    test_records: Count
    student: Estimate = _NOT_RUN
    clients_together: Estimate = _NOT_RUN
    clients_alone: Estimate = _NOT_RUN
    pooled: Estimate = _NOT_RUN
    fedavg: Estimate = _NOT_RUN
    calibration_error: Estimate = _NOT_RUN
    classes: tuple[Part, ...] = ()
    groups: tuple[Part, ...] = ()
    grouped_by: Text = ""


class Communication(Row):
    """Bytes a client and round, means over both, counted from the messages that travelled."""

    up: Count
    down: Count
    clients: Annotated[int, Field(ge=1)]
    rounds: Count
    weights: Count | None = None
    """Bytes of the student's weights: what sharing weights would send up a client and round."""
    up_by_round: tuple[Count, ...] = ()
    down_by_round: tuple[Count, ...] = ()
    note: Text = ""


class Charge(Row):
    """What a data holder's ledger says was spent, composed over everything of one kind."""

    holder: Word
    event: Word
    count: Count
    unit: Literal["record", "client"]
    relation: Literal["add-or-remove", "replace-one"]
    epsilon: Epsilon
    delta: Delta


class Spent(Row):
    """What a data holder had spent by and by: ``epsilon`` after each of its accesses, in their order.

    Towards the observer who knows most, with ``delta`` and in terms of unit and relation of its charges.
    ``limit``: what is promised, which the ledger holds to.
    """

    holder: Word
    accesses: Annotated[tuple[Word, ...], Field(min_length=1)]
    epsilon: tuple[Epsilon, ...]
    delta: Delta
    limit: Epsilon

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if len(self.epsilon) != len(self.accesses):
            raise ValueError("every access needs the epsilon that was spent after it")
        return self


class RateAt(Row):
    """True-positive rate at a false-positive rate that was fixed beforehand."""

    fpr: Annotated[float, Field(gt=0, lt=1)]
    tpr: Estimate


class Roc(Row):
    """Points of a receiver operating characteristic: true-positive rates ``tpr`` at rates ``fpr``."""

    fpr: tuple[Rate, ...] = ()
    tpr: tuple[Rate, ...] = ()

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if len(self.fpr) != len(self.tpr):
            raise ValueError(f"a curve needs as many tpr as fpr, got {len(self.tpr)} and {len(self.fpr)}")
        if list(self.fpr) != sorted(set(self.fpr)) or list(self.tpr) != sorted(self.tpr):
            raise ValueError("the points of a curve must rise")
        return self


class Finding(Row):
    """What one attack by one observer found.

    ``n_in``, ``n_out``: members and non-members behind AUC and rates. ``trials_in``, ``trials_out``:
    independent trials behind ``epsilon_bound``, which ``bound_method`` gave and which holds at level
    ``confidence``; None where there can be none. ``epsilon_credible``: a Bayesian bound from the same
    trials, beside it; no verdict rests on it. ``epsilon_power``: the largest epsilon that these trials could
    have certified. ``claim_epsilon``: what was promised to this observer in the terms of the game, or None.
    ``delta``: that of claim and bound.
    """

    subject: Literal["this run", "the recipe"]
    observer: Word
    attack: Word
    n_in: Count
    n_out: Count
    auc: Estimate
    rates: tuple[RateAt, ...] = ()
    roc: Roc = Roc()
    trials_in: Count = 0
    trials_out: Count = 0
    bound_method: Text = ""
    epsilon_bound: Epsilon | None = None
    epsilon_credible: Epsilon | None = None
    epsilon_power: Epsilon | None = None
    confidence: Annotated[float, Field(gt=0, lt=1)] | None = None
    threshold_rule: Text = ""
    claim_epsilon: Epsilon | None = None
    delta: Delta | None = None
    judgement: Judgement
    reason: Word

    @model_validator(mode="after")
    def _supported(self) -> Self:
        bound, power, claim = self.epsilon_bound, self.epsilon_power, self.claim_epsilon
        if bound is not None and (None in (self.confidence, self.delta) or not self.bound_method):
            raise ValueError("epsilon_bound needs its method, confidence and delta")
        held = bound is not None and power is not None and claim is not None and bound <= claim < power
        if self.judgement == "CONSISTENT" and not held:
            raise ValueError("CONSISTENT needs a bound within a claim, and power above the claim")
        if self.judgement == "VIOLATED" and (bound is None or claim is None or bound <= claim):
            raise ValueError("VIOLATED needs a bound above a claim")
        return self


class Risk(Row):
    """What the best attack by one observer gains on single records: TPR - FPR, 0 for guessing.

    ``highest``: of the record that looked most exposed beforehand. ``average``: over ``records`` records.
    """

    observer: Word
    attack: Word
    highest: Estimate
    average: Number
    records: Count


class OtherFinding(Row):
    """What an attack other than on membership achieved in this run: ``value`` of ``measure``.

    ``baseline``: the same measure of whoever knows only what isn't private. ``picture``: a PNG in base64, or
    empty: rows of private class means, of what the attack drew, and of the baseline's drawings.
    """

    observer: Word
    attack: Word
    measure: Word
    value: Estimate
    baseline: Number
    cases: Count
    what: Word
    picture: Annotated[str, Field(pattern=r"^[A-Za-z0-9+/=]*$")] = ""


class Poisoned(Row):
    """What liars, ``fraction`` of all clients, do to the consensus that ``rule`` makes.

    ``agreement``: share of inputs whose likeliest class stays as honest clients alone have it. ``shift``:
    mean L1 distance that the consensus moves, at most 2.
    """

    rule: Word
    attack: Word
    fraction: Rate
    liars: Count
    agreement: Rate
    shift: Number


class Skipped(Row):
    """A check that was not made, and why."""

    subject: Literal["this run", "the recipe"]
    observer: Word
    attack: Word
    reason: Word


class Control(Row):
    """A test of the audit itself: it must find nothing where nothing is, and a leak where one was put."""

    kind: Literal["null", "positive"]
    attack: Word
    measured: Word
    passed: bool


class Variant(Row):
    """One run of the federation that the report compares with the others."""

    name: Word
    method: Word
    sealing: Word
    threshold: Count | None = None
    """Least number of clients that an opened sum covers; None where nothing is sealed, or it isn't known."""
    privacy: Word
    description: Text = ""
    sights: tuple[Sight, ...] = ()
    claims: tuple[Claim, ...] = ()
    utility: Utility
    communication: Communication
    ledger: tuple[Charge, ...] = ()
    spent: Spent | None = None
    findings: tuple[Finding, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    controls: tuple[Control, ...] = ()
    game: Literal["add-or-remove", "replace-one"] = "add-or-remove"
    """The neighbouring relation whose game the coins of shadow federations played."""
    risks: tuple[Risk, ...] = ()
    others: tuple[OtherFinding, ...] = ()
    not_made: tuple[Skipped, ...] = ()
    """Attacks other than on membership that couldn't be made, and why: no claim rests on them."""
    poisoned: tuple[Poisoned, ...] = ()
    unprotected: tuple[Word, ...] = ()
    substitutions: tuple[Word, ...] = ()
    student_sha256: Annotated[str, Field(pattern=HASH)] | None = None
    """Of the file of the student's weights; None where there is no student."""


class Package(Row):
    """A dependency and the version that ran."""

    name: Word
    version: Word


class Seed(Row):
    """A seed that anyone may know. Noise, keys and coin flips of audits never come from one."""

    purpose: Word
    value: int


class Provenance(Row):
    """Where the figures come from, and how to get them again."""

    securefd: Word
    python: Word
    packages: tuple[Package, ...] = ()
    seeds: tuple[Seed, ...] = ()
    public_set: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of the public set, which everyone may see."""
    configuration: Text
    command: Word
    reproducibility: Text = ""


class Timing(Row):
    """How long a stage took."""

    stage: Word
    seconds: Annotated[float, Field(ge=0), AfterValidator(float)]


class FileCommitment(Row):
    """A file of a run's folder: HMAC-SHA256 of its name and content, keyed by the run's own secret salt.

    Whoever has the folder can check it; nobody else can guess the content from it.
    """

    name: Word
    hmac_sha256: Annotated[str, Field(pattern=HASH)]


class LedgerHead(Row):
    """How far a holder's ledger had come: its lines, and the hash of the last, which all before lead to."""

    holder: Word
    lines: Annotated[int, Field(ge=1)]
    head: Annotated[str, Field(pattern=HASH)]


class RunFiles(Row):
    """What the folder of one run held when it was reported; ``run``: the variant that it is."""

    run: Word
    files: tuple[FileCommitment, ...]
    ledgers: tuple[LedgerHead, ...] = ()


class Volatile(Row):
    """All that differs between two reports of runs that are alike: times, and what secret salts tie down."""

    created: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    """UTC, ISO 8601, whole seconds."""
    timings: tuple[Timing, ...] = ()
    runs: tuple[RunFiles, ...] = ()


class RuleResult(Row):
    """What came of one rule of a policy for one variant, towards one observer where the rule names any.

    ``rule``: its place in the policy. ``requires``: the rule as a sentence, its limit included. ``measured``:
    what it was held against, and ``uncertainty``: how sure that is. ``estimate``: the same as figures, where
    it is one; None elsewhere. ``reason``: why it passes, fails, or can't be told.
    """

    rule: Word
    requires: Word
    variant: Word
    observer: Text = ""
    result: Verdict
    measured: Word
    uncertainty: Word
    estimate: Estimate | None = None
    reason: Word


class PolicyResult(Row):
    """A policy, by name and SHA-256 of its content, and what came of all its rules for all variants."""

    name: Word
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    verdict: Verdict
    results: Annotated[tuple[RuleResult, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _worst(self) -> Self:
        found = {each.result for each in self.results}
        worst = next(verdict for verdict in ("fail", "inconclusive", "pass") if verdict in found)
        if self.verdict != worst:
            raise ValueError(f"a policy's verdict is that of its worst rule, {worst}, got {self.verdict}")
        return self


class Report(Row):
    """All of it. With a ``policy`` the verdict is the policy's, and else that of :func:`judge`."""

    schema_version: Literal["1.0"] = "1.0"
    title: Word
    verdict: Verdict
    summary: Word
    variants: Annotated[tuple[Variant, ...], Field(min_length=1)]
    policy: PolicyResult | None = None
    limits: tuple[Word, ...] = STANDING_LIMITS
    provenance: Provenance
    volatile: Volatile

    @model_validator(mode="after")
    def _honest(self) -> Self:
        names = [variant.name for variant in self.variants]
        if len(set(names)) != len(names):
            raise ValueError("variants must have different names")
        findings = [finding for variant in self.variants for finding in variant.findings]
        if self.verdict != "fail" and any(finding.judgement == "VIOLATED" for finding in findings):
            raise ValueError("a violated claim makes the verdict fail")
        if self.verdict == "pass" and not findings:
            raise ValueError("a report without findings does not pass")
        if self.policy is not None:
            if self.verdict != self.policy.verdict:
                raise ValueError("with a policy, the verdict is the policy's")
            if {each.variant for each in self.policy.results} != set(names):
                raise ValueError("a policy must be judged for every variant, and for no other")
        return self

    def write(
        self,
        stem: str | Path,
        formats: Sequence[str] = ("json", "html"),
        key: str | Path | None = None,
    ) -> tuple[Path, ...]:
        """Write ``STEM.json``, ``STEM.html``, …; see :func:`securefd.evaluation.formats.write`."""
        from securefd.evaluation.formats import write  # formats are functions of this type, so they import it

        return write(self, Path(stem), formats, key)


def strongest(findings: Iterable[Finding]) -> Finding | None:
    """The finding with the largest measured AUC, or None where none was measured.

    AUCs of bounds are of one record or one federation that was chosen for them, and aren't compared.
    """
    measured = [finding for finding in findings if finding.auc.value is not None and not finding.bound_method]
    return max(measured, key=lambda finding: finding.auc.value or 0.0, default=None)


def judge(variants: Iterable[Variant]) -> Verdict:
    """The verdict by claims alone: pass only if every proven claim was tested, soundly and fully, and held.

    A variant that promises nothing can neither pass nor fail. No claim at all is inconclusive.
    """
    found = [_judge_claims(variant) for variant in variants]
    for verdict in ("fail", "inconclusive"):
        if verdict in found:
            return verdict
    return "pass" if "pass" in found else "inconclusive"


def _judge_claims(variant: Variant) -> Verdict | None:
    """None where nothing is promised."""
    promised = {c.observer for c in variant.claims if c.kind == "proven" and c.subject == "records"}
    tested = [finding for finding in variant.findings if finding.claim_epsilon is not None]
    if not promised and not tested:
        return None
    if any(finding.judgement == "VIOLATED" for finding in tested):
        return "fail"
    sound = bool(variant.controls) and all(control.passed for control in variant.controls)
    whole = not variant.skipped and promised <= {finding.observer for finding in tested}
    held = {finding.observer for finding in tested if finding.judgement == "CONSISTENT"}
    return "pass" if sound and whole and promised <= held else "inconclusive"
