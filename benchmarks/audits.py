"""Audits: how long the demo's takes, and what each observer gets out of each protection, on MNIST.

Each protection is one cell, kept as a small JSON file and not run again: a killed benchmark goes on with the
cells that are left. Nothing about single records is kept.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.store import keep, kept
from benchmarks.tables import Found

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "audits"
CACHE = HERE / "cache" / "audits"
DEMO = RESULTS / "demo.json"

DEMO_SECONDS = 180.0
OBSERVERS = ("server", "peer", "release", "label-only")

CLIENTS, RECORDS, PUBLIC, TEST = 10, 300, 1_000, 1_000
ALPHA = 0.5
"""Of the Dirichlet distribution by which classes are dealt out to clients."""
FEDERATIONS = 64
WORKERS = 2
SAMPLE = 60
PROTECTIONS = ("plain", "masked", "head", "dpsgd", "nfdp", "drawn")
"""``drawn``: what ``nfdp`` does not protect. Clients have about SAMPLE records, and coins decide which of
these are trained on, without protection: in the terms of ``nfdp``, which records were drawn. Shadow
federations of either train on as many."""
EPSILON = {"head": 2.0, "dpsgd": 8.0}
DELTA = 1e-4
RELATION = "add-or-remove"
"""Of every claim, and so of every game: a table that mixes relations compares nothing."""
METHOD: dict[str, Any] = {
    "name": "feddf",
    "rounds": 1,
    "queries": PUBLIC,
    "local_steps": 150,
    "digest_steps": 0,
    "batch_size": 64,
    "learning_rate": 3e-3,
}
DPSGD: dict[str, Any] = {"local_steps": 40}
"""Of 40 and 60 steps, of lengths 1 and 2 and of batches of 64 and 128, these taught the student most."""
DPSGD_STEP = 1.0
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
        found = audit(done, workers=WORKERS)
        seconds = time.monotonic() - began
    attacks = [each for each in found.outcomes if isinstance(each, Finding) and not each.bound_method]
    keep(DEMO, {"seconds": seconds, "federations": found.federations, "attacks": len(attacks)})
    print(f"audits: {len(attacks)} attacks on the demo's recipe and run in {seconds:.0f} s", flush=True)


def settings(name: str) -> dict[str, Any]:
    """What decides a cell's figures."""
    return {
        "clients": CLIENTS,
        "records": SAMPLE if name == "drawn" else RECORDS,
        "public": PUBLIC,
        "test": TEST,
        "alpha": ALPHA,
        "federations": FEDERATIONS,
        "relation": RELATION,
        "epsilon": EPSILON.get(name),
        "delta": DELTA,
        "sample": SAMPLE if name == "nfdp" else None,
        "model": "head" if name == "head" else "mlp",
        "method": METHOD | (DPSGD if name == "dpsgd" else {}),
        "step": DPSGD_STEP if name == "dpsgd" else None,
        "student": STUDENT,
    }


def results() -> dict[str, Found]:
    """What has been audited, by protection."""
    found = {name: kept(RESULTS / f"{name}.json") for name in PROTECTIONS}
    return {name: each for name, each in found.items() if each is not None}


def measure(mnist: Path, names: Sequence[str] = PROTECTIONS) -> None:
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

    chosen = settings(name)
    privacy: dict[str, Any] | None = None
    if name in EPSILON:
        privacy = {"route": name, "epsilon": EPSILON[name], "delta": DELTA}
        privacy |= {"learning_rate": DPSGD_STEP} if name == "dpsgd" else {}
    elif name == "nfdp":
        privacy = {"route": "nfdp", "sample": SAMPLE}
    return Config(
        name=name,
        seed=1,
        data=DataConfig(
            source="npz",
            path=str(CACHE / f"clients-{chosen['records']}.npz"),
            public=str(CACHE / "public.npz"),
            test=str(CACHE / "test.npz"),
            partition=DirichletPartition(kind="dirichlet", alpha=ALPHA),
        ),
        clients=(ClientGroup(count=CLIENTS, model=chosen["model"]),),
        method=MethodConfig(**chosen["method"]),
        sealing=SealingConfig(kind="masked" if name == "masked" else "plain"),
        privacy=None if privacy is None else PrivacyConfig(unit="record", relation=RELATION, **privacy),
        student=StudentConfig(**STUDENT),
        audit=AuditConfig(shadows=FEDERATIONS, candidates=CLIENTS * chosen["records"]),
        performance=PerformanceConfig(workers=WORKERS),
    )


def _write_data(mnist: Path) -> None:
    """The first training images for clients, and the first test images: public, then for the test."""
    import numpy as np

    from securefd.data.idx import IdxFolder

    source = IdxFolder(path=str(mnist))
    train, test = source.records(), source.own_test()
    assert test is not None
    parts = {
        f"clients-{RECORDS}": (train, np.arange(CLIENTS * RECORDS)),
        f"clients-{SAMPLE}": (train, np.arange(CLIENTS * SAMPLE)),
        "public": (test, np.arange(PUBLIC)),
        "test": (test, np.arange(PUBLIC, PUBLIC + TEST)),
    }
    CACHE.mkdir(parents=True, exist_ok=True)
    for name, (records, rows) in parts.items():
        arrays = {"x": records.features.take(rows).x.astype(np.float32) / 255}
        if name != "public":
            arrays["y"] = np.asarray(records.labels)[rows].astype(np.int64)
        np.savez(CACHE / f"{name}.npz", **arrays)


def _folder(name: str) -> Path:
    """Where a protection is run: with other settings elsewhere, so that a killed benchmark can go on."""
    digest = hashlib.sha256(json.dumps(settings(name), sort_keys=True).encode()).hexdigest()
    return CACHE / f"{name}-{digest[:12]}"


def _audited(name: str) -> dict[str, Any]:
    """The run and its audit, reduced to what the table shows. Masks leave plain's shadows as they are."""
    from securefd.evaluation.findings import Finding
    from securefd.evaluation.recipe import audit
    from securefd.evaluation.shadows import shadows_of
    from securefd.folder import locked
    from securefd.runner import run

    done, shadows = run(configured(name), _folder(name)), None
    if name == "masked":
        plain = run(configured("plain"), _folder("plain"))
        with locked(plain.path):
            shadows = shadows_of(plain)
    found = audit(done, shadows=shadows)
    findings = [each for each in found.outcomes if isinstance(each, Finding) and each.subject == "the recipe"]
    return {
        "observers": {
            observer: _row([each for each in findings if each.observer == observer])
            for observer in dict.fromkeys(each.observer for each in findings)
        },
        "divergence": _divergence(found.others),
        "accuracy": done.metrics["student.accuracy"],
        "alone": done.metrics["local.accuracy"],
        "sizes": [len(client) for client in done.split.clients],
        "game": found.game,
        "controls": [
            {"kind": each.kind, "attack": each.attack, "measured": each.measured, "passed": each.passed}
            for each in found.controls
        ],
    }


def _divergence(others: Sequence[Any]) -> dict[str, Any] | None:
    """From what the server infers of clients' classes to the truth; None where it tells none apart."""
    from securefd.evaluation.findings import OtherFinding

    for each in others:
        if isinstance(each, OtherFinding) and each.measure.startswith("Kullback-Leibler"):
            return {"value": each.value, "interval": each.interval, "baseline": each.baseline}
    return None


def _row(findings: Sequence[Any]) -> dict[str, Any]:
    """The strongest attack by one observer, and the largest bound that was proven."""
    measured = [each for each in findings if not each.bound_method]
    bounds = [each for each in findings if each.bound_method]
    best = max(measured, key=lambda each: each.auc)
    judged = {each.judgement for each in bounds}
    return {
        "attack": best.attack,
        "attacks": len(measured),
        "auc": best.auc,
        "auc interval": list(best.auc_interval),
        "tpr": {f"{fpr:g}": [rate.value, rate.interval] for fpr, rate in best.tpr.items()},
        "bound": max((each.epsilon_bound for each in bounds), default=None),
        "power": max((each.epsilon_power for each in bounds), default=None),
        "claim": max((each.claim_epsilon for each in bounds if each.claim_epsilon is not None), default=None),
        "judgement": next((word for word in ("VIOLATED", "CONSISTENT") if word in judged), "INCONCLUSIVE"),
    }
