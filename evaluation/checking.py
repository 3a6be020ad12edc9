"""A run against a policy, from its small files: nothing large is read or imported, so that it is quick."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import ValidationError

from securefd.config import config_hash
from securefd.errors import RunMismatch
from securefd.evaluation.findings import Audit
from securefd.evaluation.findings_json import stored
from securefd.evaluation.judged import judged
from securefd.evaluation.policy import Policy
from securefd.evaluation.policy_rules import judge_policy
from securefd.evaluation.report import PolicyResult, RuleResult
from securefd.result import Run

EXIT_CODES = {"pass": 0, "fail": 1, "inconclusive": 3}


def check(run: Run, policy: Policy, audit: Audit | None = None) -> PolicyResult:
    """Hold a run and its audit, by default the one in its folder, against a policy, as a report would.

    Raises:
        RunMismatch: files of the run that don't belong together, since one was edited.
        AuditError: stored findings that aren't what an audit wrote.
    """
    check_unedited(run)
    found = stored(run.path) if audit is None else audit
    try:
        variant = judged(run, found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or first["msg"]
        raise RunMismatch(
            f"run {run.path} holds what no run or audit writes ({field}: {first['msg']}); restore its files"
        ) from None
    return judge_policy(policy, (variant,), run.manifest["versions"])


def check_unedited(run: Run) -> None:
    """Raise RunMismatch unless the configuration is the one that the run says it was made with.

    It notices a file that was changed alone. Whoever changes all of them is noticed by a signed report only.
    """
    if config_hash(run.config) != run.manifest["configuration"]:
        raise RunMismatch(
            f"{run.path / 'config.toml'} isn't the configuration whose hash is in manifest.json: one of them "
            "was edited, or another version of securefd made the run; restore them, or use that version"
        )


def lines(result: PolicyResult) -> Iterator[str]:
    """The result as text, three lines a rule, worst first; the verdict comes last."""
    for each in sorted(result.results, key=lambda row: ("fail", "inconclusive", "pass").index(row.result)):
        yield from _rule(each)
    yield f"policy: {result.name}, sha256 {result.sha256}"
    yield f"verdict: {result.verdict}"


def _rule(row: RuleResult) -> Iterable[str]:
    return (
        f"{row.result.upper():12}  {row.rule}, {row.variant}: {row.requires}",
        f"{'':12}  measured: {row.measured} ({row.uncertainty})",
        f"{'':12}  why: {row.reason}",
    )
