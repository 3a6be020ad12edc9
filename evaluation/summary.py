"""The report of one or several runs and their audits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from pydantic import ValidationError

from securefd.config import to_toml
from securefd.errors import ReportError
from securefd.evaluation import report as types
from securefd.evaluation.checking import check_unedited
from securefd.evaluation.findings import Audit
from securefd.evaluation.findings_json import stored
from securefd.evaluation.policy import Policy
from securefd.evaluation.policy_rules import judge_policy
from securefd.evaluation.report import STANDING_LIMITS, Report, Variant, judge, strongest
from securefd.evaluation.run_files import files_of
from securefd.evaluation.variants import by_name, variant
from securefd.result import Run
from securefd.rules import EMBEDDED

COMMAND = "securefd run federation.toml -o RUN; securefd audit RUN; securefd report RUN -o report"

SIMULATED = (
    "All parties ran in one process: this shows the protocol at work and separates nobody from anybody. The "
    "audit pools the records of all clients, which in a real federation nobody could."
)
RECIPE = (
    "Shadow federations play the recipe on about half of the records each, with the run's public set, "
    "queries, initial weights and order of training, which are taken to be known to whoever attacks."
)
ATTENDANCE = (
    "A sealed sum opens only if as many clients as its threshold attend the round; the server can keep it "
    "from opening at will."
)


def report(
    *given: Run | Audit,
    audits: Sequence[Audit | None] | None = None,
    title: str | None = None,
    command: str = COMMAND,
    substitutions: Mapping[str, Sequence[str]] | None = None,
    policy: Policy | None = None,
) -> Report:
    """The report of runs, each a variant, in the order given.

    An audit belongs to the run before it, or comes by position in ``audits``; else the one that is stored in
    the run's folder counts. A run without any is reported as not audited, which passes nothing.
    ``substitutions``: by name of a run, what stands in it for something else. ``command``: what makes all
    this again. ``policy``: what decides the verdict, instead of the claims alone.

    Raises:
        ReportError: no run, runs of one name, of different public sets or versions, or a ledger that is gone.
        AuditError: stored findings that aren't what an audit wrote.
    """
    runs, paired = _paired(given, audits)
    _check(runs)
    instead = by_name(runs, substitutions or {})
    try:
        variants = tuple(
            variant(run, audit, description=_description(run), substitutions=instead.get(run.config.name, ()))
            for run, audit in zip(runs, paired, strict=True)
        )
        judged = None if policy is None else _judged(policy, runs, variants)
        verdict = judge(variants) if judged is None else judged.verdict
        return Report(
            title=title or ", ".join(run.config.name for run in runs),
            verdict=verdict,
            summary=_summary(verdict, variants, judged),
            variants=variants,
            policy=judged,
            limits=_limits(runs, paired),
            provenance=_provenance(runs, paired, command),
            volatile=types.Volatile(
                created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                timings=tuple(map(_timing, runs)),
                runs=tuple(map(files_of, runs)),
            ),
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "report"
        raise ReportError(f"{field}: {first['msg']}; correct it in the configuration of the run") from None


def _paired(
    given: Sequence[Run | Audit], audits: Sequence[Audit | None] | None
) -> tuple[list[Run], list[Audit | None]]:
    runs = [each for each in given if isinstance(each, Run)]
    paired: list[Audit | None] = [None] * len(runs)
    before = -1
    for each in given:
        if isinstance(each, Run):
            before += 1
        elif before < 0 or paired[before] is not None:
            raise ReportError("an audit must come after the run that it belongs to, and one at most")
        else:
            paired[before] = each
    if audits is not None:
        if len(audits) != len(runs) or any(audit is not None for audit in paired):
            raise ReportError(
                f"audits must be one for each of {len(runs)} runs, or follow their runs, got {len(audits)}; "
                "give each audit once"
            )
        paired = list(audits)
    found = [stored(run.path) if audit is None else audit for run, audit in zip(runs, paired, strict=True)]
    return runs, found


def _check(runs: Sequence[Run]) -> None:
    if not runs:
        raise ReportError("a report needs at least one run; open one with load_run")
    names = [run.config.name for run in runs]
    if len(set(names)) < len(names):
        raise ReportError(
            f"runs must have different names, got {', '.join(names)}; rename one in its federation.toml"
        )
    for run in runs[1:]:
        for key in ("public set", "versions"):
            if run.manifest[key] != runs[0].manifest[key]:
                raise ReportError(
                    f"runs of one report must share one {key}, and {run.path} has another than "
                    f"{runs[0].path}; report them separately, or run them again"
                )


def _description(run: Run) -> str:
    rounds = run.config.method.rounds
    models = [group.model for group in run.config.clients for _ in range(group.count)]
    kinds = ", ".join(f"{models.count(model)} × {model}" for model in dict.fromkeys(models))
    student = run.config.student.model
    return f"{len(models)} clients ({kinds}), {rounds} round{'s' * (rounds > 1)}, student {student}."


def _judged(policy: Policy, runs: Sequence[Run], variants: Sequence[Variant]) -> types.PolicyResult:
    for run in runs:
        check_unedited(run)
    return judge_policy(policy, variants, runs[0].manifest["versions"])


def _summary(
    verdict: types.Verdict, variants: Sequence[Variant], judged: types.PolicyResult | None = None
) -> str:
    """Why the verdict is what it is, and the strongest attack."""
    findings = [(each, finding) for each in variants for finding in each.findings]
    top = strongest(finding for _, finding in findings)
    best = ""
    if top is not None:
        name = next(each.name for each, finding in findings if finding is top)
        who = f"{top.attack} by the {top.observer} on {name}"
        best = f" The strongest attack, {who}, has AUC {top.auc.value:.3f}."
    why = _why(verdict, variants) if judged is None else _by_policy(judged)
    return f"{why}{best}"


def _by_policy(judged: types.PolicyResult) -> str:
    """How many rules came out how, and the first of the worst."""
    count = Counter(each.result for each in judged.results)
    met = f"Policy {judged.name}: {count['pass']} of {len(judged.results)} checks passed"
    if judged.verdict == "pass":
        return f"{met}."
    first = next(each for each in judged.results if each.result == judged.verdict)
    return (
        f"{met}, {count['fail']} failed and {count['inconclusive']} can't be told. Of {first.variant}, "
        f"{first.rule} asks for {first.requires}; measured: {first.measured}; "
        f"{first.reason.removesuffix('.')}."
    )


def _why(verdict: types.Verdict, variants: Sequence[Variant]) -> str:
    if verdict == "pass":
        return (
            "Every proven claim was attacked by every observer to whom it is made, and none is contradicted."
        )
    if verdict == "fail":
        each, finding = next((v, f) for v in variants for f in v.findings if f.judgement == "VIOLATED")
        return f"A claim is violated: {each.name}, {finding.observer}, {finding.attack}: {finding.reason}."
    claiming = [v for v in variants if any(c.kind == "proven" and c.subject == "records" for c in v.claims)]
    if not claiming:
        return "No claim about records is proven, so there is nothing that could pass or fail."
    for each in claiming:
        if not each.findings:
            return f"{each.name} claims something, and no attack on it was made: it is not audited."
        if failed := [control for control in each.controls if not control.passed]:
            return f"The audit of {each.name} can't be trusted: {failed[0].measured}."
        if each.skipped:
            return f"The audit of {each.name} isn't whole: {each.skipped[0].reason}."
    held = [f for v in claiming for f in v.findings if f.claim_epsilon is not None]
    open_ = [finding for finding in held if finding.judgement == "INCONCLUSIVE"]
    if not open_:
        return "Not every claim was tested."
    nearest = max(open_, key=lambda finding: finding.epsilon_power or 0.0)
    return f"No attack contradicts a claim, but {nearest.reason}."


VIEWS = (
    "Attacks use less than the observers have: a peer isn't given the student and doesn't subtract "
    "its own answers, "
    "and class counts that travel beside answers aren't used."
)
LEVEL = (
    "The bounds of one audit hold together with 95% confidence; over several audits in one report "
    "the chances of an "
    "error add up."
)


def _limits(runs: Sequence[Run], audits: Sequence[Audit | None]) -> tuple[str, ...]:
    limits = [*STANDING_LIMITS, SIMULATED]
    if any(audit is not None and audit.federations for audit in audits):
        limits.extend((RECIPE, VIEWS, LEVEL))
    if any(run.config.sealing.kind != "plain" for run in runs):
        limits.append(ATTENDANCE)
    return tuple(limits)


def _timing(run: Run) -> types.Timing:
    seconds = sum(line["seconds"] for line in run.rounds)
    return types.Timing(stage=f"rounds of {run.config.name}", seconds=round(float(seconds), 3))


def _provenance(runs: Sequence[Run], audits: Sequence[Audit | None], command: str) -> types.Provenance:
    """Seeds of embedded data only: there the split is public by design. Elsewhere it says who holds what."""
    versions = dict(runs[0].manifest["versions"])
    seeds = {run.config.seed: None for run in runs if _public_by_design(run)}
    return types.Provenance(
        securefd=versions.pop("securefd"),
        python=versions.pop("python"),
        packages=tuple(types.Package(name=name, version=version) for name, version in versions.items()),
        seeds=tuple(types.Seed(purpose="splits, initial weights, order", value=seed) for seed in seeds),
        public_set=runs[0].manifest["public set"]["sha256"],
        configuration="\n".join(f"# {run.config.name}\n{_configuration(run)}" for run in runs),
        command=command,
        reproducibility=_reproducibility(runs, audits),
    )


def _public_by_design(run: Run) -> bool:
    return run.config.data.source in EMBEDDED


def _configuration(run: Run) -> str:
    text = to_toml(run.config)
    return text if _public_by_design(run) else re.sub(r"(?m)^seed = \d+\n", "", text, count=1)


def _draws(run: Run) -> bool:
    """Whether what comes out depends on anything that comes fresh from the operating system."""
    privacy = run.config.privacy
    return (privacy is not None and privacy.route != "none") or run.config.audit.canaries is not None


def _reproducibility(runs: Sequence[Run], audits: Sequence[Audit | None]) -> str:
    drawn = [run.config.name for run in runs if _draws(run)]
    said = [
        "The same configuration, seed, data and versions on one machine give the same report, byte for byte, "
        "where nothing is drawn that must stay unknown, apart from the block `volatile`."
    ]
    if drawn:
        said.append(
            f"Of {', '.join(drawn)} the noise, samples or coins come fresh from the operating system, so its "
            "figures are the same in distribution, not byte for byte."
        )
    if any(audit is not None for audit in audits):
        said.append("An audit draws its coins anew, so what it finds is the same in distribution.")
    if not all(map(_public_by_design, runs)):
        said.append("The seed says who holds what, so it stays with the run.")
    said += [
        f"The coins of the audit of {run.config.name} came fresh from the operating system; their seed stays "
        f"with the run, its salted hash is {audit.commitment}."
        for run, audit in zip(runs, audits, strict=True)
        if audit is not None and audit.commitment
    ]
    return " ".join(said)
