"""Audit a scikit-learn model that was never federated: python examples/audit_sklearn.py [FILE.npz]

Whoever trained a model can train others like it, its shadows, and then knows what a model says of records
that it saw and of those that it didn't. Coins decide who sees what, since only then can a bound on epsilon be
proven.
"""

import sys

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

import securefd as sfd

SHADOWS = 32

x, labels = load_breast_cancer(return_X_y=True)
rng = np.random.default_rng()
# One row a model, one column a record. The last row is the model that is audited.
member = rng.random((SHADOWS + 1, len(x))) < 0.5

answers = []
for number, chosen in enumerate(member):
    # The same recipe for all of them: a shadow of another kind says nothing of the target.
    model = RandomForestClassifier(50, random_state=number)
    answers.append(model.fit(x[chosen], labels[chosen]).predict_proba(x))
answers = np.stack(answers).astype(np.float32)

scores = {
    "target": answers[-1],
    "shadows": answers[:-1],
    "membership": member[:-1],
    "member": member[-1],
    "labels": labels,
}
if len(sys.argv) > 1:
    np.savez(sys.argv[1], **scores)  # for: securefd audit --scores FILE.npz --coin-flips

audit = sfd.audit_scores(**scores, coin_flips=True)
for finding in audit.outcomes:
    if finding.bound_method:
        print(
            f"epsilon is at least {finding.epsilon_bound:.2f} (95% confidence, delta = {finding.delta:g}; "
            f"{finding.epsilon_power:.2f} could have been certified), by {finding.attack}"
        )
    else:
        low, high = finding.auc_interval
        print(f"{finding.attack}: AUC {finding.auc:.3f} [{low:.3f}, {high:.3f}]")
print(f"judgement: {audit.judgement}")  # inconclusive: nothing was claimed that could be contradicted
