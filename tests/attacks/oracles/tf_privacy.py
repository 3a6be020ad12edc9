"""Records what TF-Privacy computes, for test_lira.py.

    pip download --no-deps tensorflow-privacy==0.8.12
    unzip tensorflow_privacy-0.8.12-py3-none-any.whl -d unpacked
    python tests/attacks/oracles/tf_privacy.py unpacked tests/attacks/oracles/tf_privacy.npz

Its module of LiRA needs NumPy and SciPy only, once the package around it, which imports TensorFlow, and
a loss that LiRA doesn't use are left out.
"""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np

MODELS, FEWER, RECORDS, CLASSES = 80, 20, 40, 4


def advanced_mia(unpacked: Path):
    parts = ["tensorflow_privacy", "privacy", "privacy_tests", "utils"]
    for depth in range(1, len(parts) + 1):
        sys.modules[".".join(parts[:depth])] = types.ModuleType(parts[depth - 1])
    sys.modules[".".join(parts)].log_loss = None
    place = "tensorflow_privacy/privacy/privacy_tests/membership_inference_attack/advanced_mia.py"
    spec = importlib.util.spec_from_file_location("advanced_mia", unpacked / place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(unpacked: str, place: str) -> None:
    theirs = advanced_mia(Path(unpacked))
    rng = np.random.default_rng(5)
    labels = rng.integers(0, CLASSES, RECORDS)
    # Half of all models trained on each record, and half of the first few.
    membership = np.empty((MODELS, RECORDS), dtype=bool)
    for rows in (slice(0, FEWER), slice(FEWER, MODELS)):
        size = len(membership[rows])
        membership[rows] = np.argsort(rng.random((size, RECORDS)), axis=0) < size // 2
    logits = rng.normal(0, 1 + rng.random((RECORDS, 1)), (MODELS + 1, RECORDS, CLASSES))
    logits[:, np.arange(RECORDS), labels] += rng.normal(1, 3, RECORDS)
    logits[:-1, np.arange(RECORDS), labels] += 2 * membership
    logits[0, 0, labels[0]] = 200  # certain: no probability of another class is left
    logits = logits.astype(np.float32)

    statistic = np.stack([theirs.calculate_statistic(of.astype(np.float64), labels) for of in logits])
    found = {"logits": logits, "labels": labels, "membership": membership, "confidence": statistic}
    for name, models, fix_variance in (("own", MODELS, False), ("pooled", FEWER, True)):
        shadows, known = statistic[:models], membership[:models]
        found[name] = -theirs.compute_score_lira(
            statistic[-1][:, None],
            [shadows[known[:, i], i][:, None] for i in range(RECORDS)],
            [shadows[~known[:, i], i][:, None] for i in range(RECORDS)],
            option="both",
            fix_variance=fix_variance,
        )
    np.savez_compressed(place, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
