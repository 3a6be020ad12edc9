"""Makes joint_beta.json: ``pip install privacy-estimates==0.1.0.post1 && python joint_beta.py > it``."""

import json
from importlib.metadata import version

from privacy_estimates import AttackResults
from privacy_estimates.joint_density import Beta

CASES = [
    (487, 487, 512, 513, 1e-5, 0.05),
    (130, 669, 8, 731, 1e-5, 0.05),
    (40, 50, 20, 50, 1e-5, 0.05),
    (5, 40, 1, 30, 0.01, 0.05),
    (25, 30, 4, 20, 0.0, 0.1),
]


def main() -> None:
    rows = [
        {
            "true_positives": hits,
            "n_in": n_in,
            "false_positives": misses,
            "n_out": n_out,
            "delta": delta,
            "alpha": alpha,
            "epsilon": Beta(AttackResults(TP=hits, FN=n_in - hits, FP=misses, TN=n_out - misses)).eps_lo(
                delta, alpha, xtol=1e-4
            ),
        }
        for hits, n_in, misses, n_out, delta, alpha in CASES
    ]
    made = "pip install privacy-estimates==0.1.0.post1 && python joint_beta.py > joint_beta.json"
    versions = {name: version(name) for name in ("privacy-estimates", "scipy", "numpy")}
    print(json.dumps({"made by": made, "versions": versions, "joint beta": rows}, indent=1))


if __name__ == "__main__":
    main()
