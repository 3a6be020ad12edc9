"""Audit a scikit-learn model that was never federated: python examples/audit_sklearn.py [FILE.npz]

Whoever trained a model can train others like it, its shadows, and so learn how a model answers records that
it saw, and records that it didn't. A fair coin for each record and model decides who sees what. The bound on
epsilon rests on the coins of the target, and holds for this target, not for every model of its recipe.
"""

import sys

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier

import securefd as sfd
from securefd.evaluation.findings import Skipped

SHADOWS = 32

x, labels = load_breast_cancer(return_X_y=True)
rng = np.random.default_rng()  # no seed: who could know the coins proves nothing by guessing them
coins = rng.random((SHADOWS + 1, len(x))) < 0.5  # one row a model, one column a record

# The same recipe for all: a shadow of another kind, or tuned otherwise, says little of the target.
models = [RandomForestClassifier(50).fit(x[chosen], labels[chosen]) for chosen in coins]
answers = np.stack([model.predict_proba(x) for model in models])  # models x records x classes

scores = {
    "target": answers[-1],  # the last model is the one that is audited
    "shadows": answers[:-1],
    "membership": coins[:-1],
    "member": coins[-1],
    "labels": labels,
}
if len(sys.argv) > 1:
    np.savez(sys.argv[1], **scores)  # for: securefd audit --scores FILE.npz --coin-flips

audit = sfd.audit_scores(**scores, coin_flips=True)
for outcome in audit.outcomes:
    if isinstance(outcome, Skipped):
        print(f"{outcome.attack}: SKIPPED, {outcome.reason}")
    elif outcome.epsilon_bound is None:
        low, high = outcome.auc_interval
        print(f"{outcome.attack}: AUC {outcome.auc:.3f} [{low:.3f}, {high:.3f}]")
    else:
        print(
            f"epsilon is at least {outcome.epsilon_bound:.2f} ({outcome.confidence:.0%} confidence, delta = "
            f"{outcome.delta:g}; {outcome.epsilon_power:.2f} could have been certified), by {outcome.attack}"
        )
print(f"judgement: {audit.judgement}")  # INCONCLUSIVE: nothing is claimed that this could contradict
