"""Audits: how long the demo's takes, and what each observer gets out of each protection, on MNIST.

Each protection is one cell, kept as a small JSON file and not run again: a killed benchmark goes on with the
cells that are left. Nothing about single records is kept.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.store import keep, kept
from benchmarks.tables import NOT_RUN, Found, Row, at_most, table, where

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "audits"
CACHE = HERE / "cache" / "audits"
DEMO = RESULTS / "demo.json"

DEMO_SECONDS = 180.0
OBSERVERS = ("server", "peer", "release", "label-only")

CLIENTS, RECORDS, PUBLIC, TEST = 10, 300, 1_000, 1_000
FEDERATIONS, CANDIDATES = 64, 2_000
SAMPLE = 30
PROTECTIONS = {
    "plain": "none: the server gets every client's answers",
    "masked": "masks: the server opens sums only",
    "head": "noised linear heads, replace-one",
    "dpsgd": "DP-SGD, add-or-remove",
    "nfdp": f"each client trains on {SAMPLE} of its records, drawn at random; no noise",
}
EPSILON = {"head": 2.0, "dpsgd": 8.0}
DELTA = 1e-4
METHOD: dict[str, Any] = {
    "name": "feddf",
    "rounds": 1,
    "queries": PUBLIC,
    "local_steps": 150,
    "digest_steps": 0,
    "batch_size": 64,
    "learning_rate": 3e-3,
}
STUDENT: dict[str, Any] = {"model": "mlp", "steps": 300}


def measure_demo() -> None:
    """Audit the demo's plain run afresh, with all attacks of all observers, in two processes."""
    from securefd.demo import configurations
    from securefd.evaluation.findings import Finding
    from securefd.evaluation.recipe import audit
    from securefd.runner import run

    with tempfile.TemporaryDirectory() as folder:
        done = run(configurations()["plain"], Path(folder) / "run")
        began = time.monotonic()
        found = audit(done, workers=2)
        seconds = time.monotonic() - began
    attacks = [each for each in found.outcomes if isinstance(each, Finding) and not each.bound_method]
    keep(DEMO, {"seconds": seconds, "federations": found.federations, "attacks": len(attacks)})
    print(f"audits: {len(attacks)} attacks on the demo's recipe and run in {seconds:.0f} s", flush=True)


def settings(name: str) -> dict[str, Any]:
    """What decides a cell's figures."""
    return {
        "clients": CLIENTS,
        "records": RECORDS,
        "public": PUBLIC,
        "federations": FEDERATIONS,
        "candidates": CANDIDATES,
        "epsilon": EPSILON.get(name),
        "delta": DELTA,
        "sample": SAMPLE if name == "nfdp" else None,
        "method": METHOD,
        "student": STUDENT,
    }


def results() -> dict[str, Found]:
    """What has been audited, by protection."""
    found = {name: kept(RESULTS / f"{name}.json") for name in PROTECTIONS}
    return {name: each for name, each in found.items() if each is not None}


def measure(mnist: Path, names: Sequence[str] = tuple(PROTECTIONS)) -> None:
    """Audit what isn't there: the same records and public inputs under each protection."""
    left = [name for name in names if results().get(name, {}).get("settings") != settings(name)]
    if left:
        _write_data(mnist)
    for name in left:
        began = time.monotonic()
        found = _audited(name)
        seconds = round(time.monotonic() - began)
        keep(RESULTS / f"{name}.json", {**found, "settings": settings(name), "seconds": seconds})
        print(f"audits: {name} in {seconds} s", flush=True)
    shutil.rmtree(CACHE, ignore_errors=True)  # shadows hold for today's code only


def configured(name: str) -> Any:
    """The configuration of one protection."""
    from securefd.config import (
        AuditConfig,
        ClientGroup,
        Config,
        DataConfig,
        DirichletPartition,
        MethodConfig,
        PerformanceConfig,
        PrivacyConfig,
        SealingConfig,
        StudentConfig,
    )

    common = {"unit": "record", "delta": DELTA}
    privacy = {
        "head": {"route": "head", "relation": "replace-one", "epsilon": EPSILON["head"], **common},
        "dpsgd": {
            "route": "dpsgd",
            "relation": "add-or-remove",
            "epsilon": EPSILON["dpsgd"],
            "learning_rate": 1.0,
            **common,
        },
        "nfdp": {"unit": "record", "route": "nfdp", "relation": "add-or-remove", "sample": SAMPLE},
    }.get(name)
    return Config(
        name=name,
        seed=1,
        data=DataConfig(
            source="npz",
            path=str(CACHE / "clients.npz"),
            public=str(CACHE / "public.npz"),
            test=str(CACHE / "test.npz"),
            partition=DirichletPartition(kind="dirichlet", alpha=0.5),
        ),
        clients=(ClientGroup(count=CLIENTS, model="head" if name == "head" else "mlp"),),
        method=MethodConfig(**METHOD),
        sealing=SealingConfig(kind="masked" if name == "masked" else "plain"),
        privacy=None if privacy is None else PrivacyConfig(**privacy),
        student=StudentConfig(**STUDENT),
        audit=AuditConfig(shadows=FEDERATIONS, candidates=CANDIDATES),
        performance=PerformanceConfig(workers=2),
    )


def _write_data(mnist: Path) -> None:
    """The first training images for clients, and the first test images: public, then for the test."""
    import numpy as np

    from securefd.data.idx import IdxFolder

    source = IdxFolder(path=str(mnist))
    train, test = source.records(), source.own_test()
    assert test is not None
    parts = {
        "clients": (train, np.arange(CLIENTS * RECORDS)),
        "public": (test, np.arange(PUBLIC)),
        "test": (test, np.arange(PUBLIC, PUBLIC + TEST)),
    }
    CACHE.mkdir(parents=True, exist_ok=True)
    for name, (records, rows) in parts.items():
        arrays = {"x": records.features.take(rows).x.astype(np.float32) / 255}
        if name != "public":
            arrays["y"] = np.asarray(records.labels)[rows].astype(np.int64)
        np.savez(CACHE / f"{name}.npz", **arrays)


def _audited(name: str) -> dict[str, Any]:
    """The run and its audit, reduced to what the table shows. Masks leave plain's shadows as they are."""
    from securefd.evaluation.findings import Finding, OtherFinding
    from securefd.evaluation.recipe import audit
    from securefd.evaluation.shadows import shadows_of
    from securefd.folder import locked
    from securefd.runner import run

    done, shadows = run(configured(name), CACHE / name), None
    if name == "masked":
        plain = run(configured("plain"), CACHE / "plain")
        with locked(plain.path):
            shadows = shadows_of(plain)
    found = audit(done, shadows=shadows)
    findings = [each for each in found.outcomes if isinstance(each, Finding) and each.subject == "the recipe"]
    mixes = [
        each for each in found.others if isinstance(each, OtherFinding) and each.measure.startswith("Kull")
    ]
    return {
        "observers": {
            observer: _row([each for each in findings if each.observer == observer])
            for observer in dict.fromkeys(each.observer for each in findings)
        },
        "divergence": None if not mixes else [mixes[0].value, mixes[0].baseline],
        "accuracy": done.metrics["student.accuracy"],
        "alone": done.metrics["local.accuracy"],
        "judgement": found.judgement,
        "game": found.game,
        "controls": [f"{each.kind}: {each.measured}" for each in found.controls],
        "sound": all(each.passed for each in found.controls),
    }


def _row(findings: Sequence[Any]) -> dict[str, Any]:
    """The strongest attack by one observer, and the largest bound that was proven."""
    measured = [each for each in findings if not each.bound_method]
    bounds = [each for each in findings if each.bound_method]
    best = max(measured, key=lambda each: each.auc)
    most = max(bounds, key=lambda each: each.epsilon_bound)
    return {
        "attack": best.attack,
        "auc": best.auc,
        "auc interval": list(best.auc_interval),
        "tpr": {f"{fpr:g}": [rate.value, rate.interval] for fpr, rate in best.tpr.items()},
        "bound": most.epsilon_bound,
        "power": max(each.epsilon_power for each in bounds),
        "claim": most.claim_epsilon,
        "judgement": sorted({each.judgement for each in bounds}),
    }


def targets(demo: Found | None) -> list[Row]:
    """Rows of the table of targets."""
    name = "auditing the demo's recipe: 64 shadow federations, all attacks and observers, two processes"
    if demo is None:
        return [(name, f"≤ {DEMO_SECONDS:g} s", None, "", None)]
    return [at_most(name, DEMO_SECONDS, demo["seconds"], ".0f", " s")]


def section(found: dict[str, Found]) -> str:
    """The part of RESULTS.md on what each protection buys against whom."""
    head = "## What each protection buys, against whom\n\n`make bench ONLY=audits MNIST=folder`\n\n"
    if not found:
        return head + f"{NOT_RUN}\n"
    rows = []
    for name, what in PROTECTIONS.items():
        if name not in found:
            rows.append([f"`{name}`", NOT_RUN, *[""] * 6])
            continue
        cell = found[name]
        seen = sorted(cell["observers"].items(), key=lambda item: OBSERVERS.index(item[0]))
        for place, (observer, each) in enumerate(seen):
            told = f"`{name}`, {what}; student {cell['accuracy']:.1%}" if not place else ""
            divergence = cell["divergence"] if observer == "server" else None
            rows.append(
                [
                    told,
                    observer,
                    f"{each['auc']:.3f} [{each['auc interval'][0]:.3f}, {each['auc interval'][1]:.3f}] "
                    f"({each['attack']})",
                    _rate(each["tpr"]["0.01"]),
                    _rate(each["tpr"]["0.001"]),
                    f"{each['bound']:.2f} of {each['power']:.2f}",
                    "none" if each["claim"] is None else f"{each['claim']:.2f}",
                    "–" if divergence is None else f"{divergence[0]:.2f} ({divergence[1]:.2f})",
                ]
            )
    unsound = [name for name, cell in found.items() if not cell["sound"]]
    return (
        head
        + f"{CLIENTS} clients of about {RECORDS} training images each (Dirichlet 0.5), {PUBLIC:,} public "
        f"test images, one round; {FEDERATIONS} shadow federations, {CANDIDATES:,} candidates. AUC of the "
        "strongest attack that an observer could make, its TPR at 1% and 0.1% false positives, "
        "what epsilon is at least "
        "and what could have been certified at most (one record, in the game of the claim's relation: "
        f"replace-one for `head`, else add-or-remove; delta = {DELTA:g} where claimed), what is claimed, and "
        "the divergence of label distributions that the server infers (beside knowing only their mean).\n\n"
        + table(
            ["protection", "observer", "AUC", "TPR at 1%", "at 0.1%", "ε at least", "claimed", "label KL"],
            rows,
        )
        + (f"\nControls failed, so nothing follows from: {', '.join(unsound)}.\n" if unsound else "")
        + "\n"
        + where(list(found.values()))
        + "\n"
    )


def _rate(rate: Sequence[Any]) -> str:
    value, interval = rate
    return "not measurable" if value is None else f"{value:.1%} [{interval[0]:.1%}, {interval[1]:.1%}]"
