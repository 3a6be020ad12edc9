"""Makes one_run.json: ``pip install jax-privacy==2.0.0 && python one_run.py > one_run.json``."""

import json
from importlib.metadata import version

import jax_privacy.auditing as theirs
import numpy as np

CASES = [
    (1000, 1000, 600, 0.05, 0.0),
    (1000, 1000, 600, 0.05, 1e-5),
    (1000, 1000, 600, 0.05, 1e-3),
    (1000, 100, 95, 0.05, 1e-5),
    (1000, 100, 100, 0.05, 1e-5),
    (1000, 1000, 510, 0.05, 1e-5),
    (5000, 500, 400, 0.05, 1e-5),
    (5000, 2000, 1500, 0.001, 1e-6),
    (100, 100, 100, 0.05, 0.0),
    (100, 40, 33, 0.01, 1e-4),
    (20, 10, 9, 0.1, 0.01),
    (50, 7, 7, 0.2, 1e-3),
    (2, 1, 1, 0.05, 0.0),
    (20_000, 20_000, 11_000, 0.05, 1e-6),
]
THRESHOLDS = [-0.85, 0.05, 0.55, 1.25, 2.45]


def main() -> None:
    rng = np.random.default_rng(7)
    members, others = np.round(rng.normal(1.3, 1, 80), 1), np.round(rng.normal(0, 1, 120), 1)
    auditor = theirs.CanaryScoreAuditor(members, others)
    found = {
        "made by": "pip install jax-privacy==2.0.0 && python one_run.py > one_run.json",
        "versions": {name: version(name) for name in ("jax-privacy", "scipy", "numpy")},
        "one run": [
            {
                "m": m,
                "r": r,
                "v": v,
                "alpha": alpha,
                "delta": delta,
                "epsilon": theirs._epsilon_one_run(0, m, r, v, alpha, delta),
                "gaussian": theirs._epsilon_one_run_fdp(0, m, r, v, alpha, delta) if delta else None,
            }
            for m, r, v, alpha, delta in CASES
        ],
        "members": members.tolist(),
        "others": others.tolist(),
        "clopper-pearson": [
            {
                "threshold": threshold,
                "alpha": alpha,
                "delta": delta,
                "epsilon": float(
                    auditor.epsilon_clopper_pearson(
                        alpha, delta, one_sided=False, threshold_strategy=theirs.Explicit(threshold)
                    )
                ),
            }
            for threshold in THRESHOLDS
            for alpha, delta in ((0.05, 0.0), (0.05, 1e-5), (0.01, 0.02))
        ],
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
