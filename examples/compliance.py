"""Judge a run by a policy, and sign the report: python examples/compliance.py RUN POLICY.toml [SIGNING.key]

Writes report.json and report.html beside RUN. Ends with 0 if all rules pass, 1 if any fails, and 3 if none
fails but some can't be told.
"""

import sys
from pathlib import Path

import securefd as sfd

folder, rules, *key = map(Path, sys.argv[1:])

policy = sfd.load_policy(rules)  # before the audit, which takes longer: a policy with a mistake is refused
run = sfd.load_run(folder)
report = sfd.report(run, sfd.audit(run), policy=policy)
assert report.policy is not None

for rule in report.policy.results:
    print(f"{rule.result:12}  {rule.rule}, {rule.variant}: {rule.requires}")
    print(f"{'':12}  {rule.measured}, {rule.uncertainty}; {rule.reason}")
print(f"{report.verdict} by policy {policy.name!r}, SHA-256 {policy.sha256}")

signed = {"key": key[0]} if key else {}
for path in report.write(folder.parent / "report", formats=["json", "html"], **signed):
    print(f"wrote {path}")
sys.exit({"pass": 0, "fail": 1, "inconclusive": 3}[report.verdict])
