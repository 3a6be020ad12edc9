"""``python -m benchmarks [--only NAME] [--mnist DIR]``: measure, and write RESULTS.md anew."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import (
    audits,
    calibration,
    client,
    communication,
    fleet,
    homomorphic,
    mnist,
    noise,
    pairs,
    record,
    report,
    scale,
    scoring,
    sealing,
    sweep,
)
from securefd.errors import SecurefdError

ON_MNIST = ("scale", "audits", "client", "record", "mnist")
PARTS = (
    "fleet",
    "communication",
    "sealing",
    "homomorphic",
    "noise",
    "calibration",
    "scoring",
    "pairs",
    "sweep",
    "demo",
    *ON_MNIST,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 measured, 2 could not, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", help=f"{', '.join(PARTS)}, mnist:METHOD, or report: only write RESULTS.md")
    parser.add_argument("--mnist", help="folder of MNIST's IDX files")
    given = parser.parse_args(arguments)
    try:
        chosen, method = _selected(given.only)
        if given.mnist is None and set(chosen) & set(ON_MNIST):
            raise _Refused(
                f"{', '.join(part for part in chosen if part in ON_MNIST)} must be given the folder of "
                "MNIST's IDX files: add MNIST=folder to make bench (--mnist folder), or choose ONLY=fleet"
            )
        for part in chosen:
            _measure(part, method, Path(given.mnist or ""))
            report.write()
        report.write()
    except (_Refused, SecurefdError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


class _Refused(Exception):
    """What was asked for can't be measured; one sentence."""


def _selected(only: str | None) -> tuple[tuple[str, ...], str | None]:
    """The parts to measure, and the one method of MNIST if only one is wanted."""
    if only is None:
        return PARTS, None
    part, _, method = only.partition(":")
    if part == "report" and not method:
        return (), None
    methods = (*mnist.METHODS, *mnist.BASELINES)
    if part not in PARTS or (method and (part != "mnist" or method not in methods)):
        raise _Refused(
            f"--only must be {', '.join(PARTS)}, report, or mnist: with one of {', '.join(methods)}, "
            f"got {only!r}; choose one of them"
        )
    return (part,), method or None


def _measure(part: str, method: str | None, folder: Path) -> None:
    if part == "fleet":
        fleet.measure()
    elif part == "communication":
        communication.measure()
    elif part == "sealing":
        sealing.measure()
    elif part == "homomorphic":
        homomorphic.measure()
    elif part == "noise":
        noise.measure()
    elif part == "calibration":
        calibration.measure()
    elif part == "scoring":
        scoring.measure()
    elif part == "pairs":
        pairs.measure()
    elif part == "sweep":
        sweep.measure()
    elif part == "demo":
        audits.measure_demo()
    elif part == "audits":
        audits.measure(folder)
    elif part == "scale":
        scale.measure(folder)
    elif part == "client":
        client.measure(folder)
    elif part == "record":
        record.measure(folder)
    else:
        mnist.measure(folder, method)


if __name__ == "__main__":
    sys.exit(main())
