"""Holds what was measured against a policy: each rule passes, fails, or can't be told, of each variant.

A rule passes on evidence alone. What isn't there, isn't sound, or is in other terms than the rule's is
inconclusive; what should have been promised and wasn't fails. The verdict is that of the worst rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from securefd.evaluation.policy import Policy
from securefd.evaluation.policy_evidence import on_accuracy, on_attacks, on_audits, on_violations
from securefd.evaluation.policy_promises import on_claims, on_dependencies, on_federation, on_privacy
from securefd.evaluation.report import PolicyResult, Report, Variant, Verdict
from securefd.evaluation.rulings import Asked


def judge_report(policy: Policy, report: Report) -> PolicyResult:
    """Hold a report against a policy, whatever verdict or policy it already has."""
    source = report.provenance
    versions = {each.name: each.version for each in source.packages}
    return judge_policy(
        policy, report.variants, {**versions, "securefd": source.securefd, "python": source.python}
    )


def judge_policy(policy: Policy, variants: Sequence[Variant], versions: Mapping[str, str]) -> PolicyResult:
    """Hold each variant against every rule. ``versions``: that the runs used, by name of a package."""
    questions = tuple(asked(policy, versions))
    results = tuple(question.of(variant) for variant in variants for question in questions)
    found = {each.result for each in results}
    verdict: Verdict = "fail" if "fail" in found else "inconclusive" if "inconclusive" in found else "pass"
    return PolicyResult(name=policy.name, sha256=policy.sha256, verdict=verdict, results=results)


def asked(policy: Policy, versions: Mapping[str, str]) -> Iterator[Asked]:
    """All questions of a policy, and the one that each policy asks."""
    yield from on_violations()
    for i, privacy in enumerate(policy.privacy):
        yield from on_privacy(f"privacy[{i}]", privacy)
    for i, claim in enumerate(policy.claims):
        yield from on_claims(f"claims[{i}]", claim)
    yield from on_federation(policy.federation)
    for i, attack in enumerate(policy.attacks):
        yield from on_attacks(f"attacks[{i}]", attack)
    for i, audit in enumerate(policy.audits):
        yield from on_audits(f"audits[{i}]", audit)
    yield from on_accuracy(policy.accuracy)
    yield from on_dependencies(policy.dependencies, versions)
