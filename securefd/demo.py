"""The whole story on an embedded data set: one federation run plain, sealed, and sealed with privacy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from securefd.config import (
    AuditConfig,
    ClientGroup,
    Config,
    DataConfig,
    DirichletPartition,
    MethodConfig,
    PrivacyConfig,
    SealingConfig,
    StudentConfig,
)
from securefd.defenses.claims import claim_about_records
from securefd.evaluation.audit import DELTA
from securefd.evaluation.findings import Audit, Finding
from securefd.evaluation.recipe import audit
from securefd.evaluation.shadows import shadows_of
from securefd.evaluation.summary import report
from securefd.folder import locked
from securefd.progress import Progress, Silent
from securefd.result import Run
from securefd.runner import run

SEED = 7
MODELS = ("cnn", "mlp", "mlp", "logistic", "forest")
STAND_IN = "mlp"
"""Trained privately in the place of the forest, which DP-SGD can't train."""


def configurations() -> dict[str, Config]:
    """The same federation three ways: sealing and privacy differ, and what they force.

    DP-SGD can't train a forest, wants larger samples, and leaves nothing to say after the first round.
    """
    data = DataConfig(
        source="digits", public=500, test=300, partition=DirichletPartition(kind="dirichlet", alpha=0.5)
    )
    private = tuple(STAND_IN if model == "forest" else model for model in MODELS)

    def configured(
        name: str, models: Sequence[str], sealing: SealingConfig, privacy: PrivacyConfig | None
    ) -> Config:
        rounds, local, digest, batch = (4, 60, 60, 64) if privacy is None else (1, 100, 240, 128)
        return Config(
            name=name,
            seed=SEED,
            data=data,
            clients=tuple(ClientGroup(model=model) for model in models),
            method=MethodConfig(
                name="balanced",
                rounds=rounds,
                queries=500,
                local_steps=local,
                digest_steps=digest,
                batch_size=batch,
                learning_rate=3e-3,
            ),
            sealing=sealing,
            privacy=privacy,
            student=StudentConfig(model="mlp", steps=300),
            audit=AuditConfig(shadows=64),
        )

    masked = SealingConfig(kind="masked")
    dpsgd = PrivacyConfig(
        unit="record",
        route="dpsgd",
        relation="add-or-remove",
        epsilon=8.0,
        delta=1e-5,
        learning_rate=0.5,
    )
    return {
        "plain": configured("plain", MODELS, SealingConfig(), None),
        "sealed": configured("sealed", MODELS, masked, None),
        "private": configured("sealed and private", private, masked, dpsgd),
    }


def demo(out: str | Path, progress: Progress | None = None) -> list[str]:
    """Run, audit and report, and return what to tell a person; go on where an interrupted demo stopped."""
    folder, shown = Path(out), progress or Silent()
    configs = configurations()
    with shown.stage("demo", 2 * len(configs) + 1) as advance:
        runs = {}
        for name, config in configs.items():
            runs[name] = run(config, folder / "runs" / name, shown)
            advance(1)
        # Plain and sealed learn bit for bit the same, so one set of shadow federations serves both.
        with locked(runs["plain"].path):
            shared = shadows_of(runs["plain"], shown)
        audits = {}
        for name, done in runs.items():
            audits[name] = audit(done, shown, shadows=None if name == "private" else shared)
            advance(1)
        made = report(
            *runs.values(),
            audits=list(audits.values()),
            title="Handwritten digits: one federation, three ways",
            command=f"securefd demo -o {folder}",
            substitutions={
                configs["private"].name: [
                    f"An {STAND_IN} stands in for the forest, which DP-SGD can't train.",
                    "One round in place of four, and larger batches: privately trained clients have nothing "
                    "new to say after their first answers.",
                ]
            },
        )
        made.write(folder / "report", formats=["json", "html"])
        advance(1)
    return _story(runs, audits, folder)


def _story(runs: dict[str, Run], audits: dict[str, Audit], folder: Path) -> list[str]:
    """Eleven lines that a person understands."""
    plain, sealed, private = (runs[name].metrics for name in ("plain", "sealed", "private"))
    return [
        f"Five clients with four kinds of model; accuracy on {plain['test.records']} test images in per "
        f"cent:",
        f"Plain: a client alone {_percent(plain['local.accuracy'])} on average, "
        f"together {_percent(plain['clients.accuracy'])}, "
        f"the distilled student {_percent(plain['student.accuracy'])}.",
        "Sealed by masks: the server opens only sums, "
        f"the student has {_percent(sealed['student.accuracy'])} ({_same_student(runs)}).",
        f"Sealed and private: alone {_percent(private['local.accuracy'])}, together "
        f"{_percent(private['clients.accuracy'])}, the student {_percent(private['student.accuracy'])}; "
        f"an {STAND_IN} stands in for the forest, which DP-SGD can't train.",
        f"A client sends {_kib(plain)} a round plain, {_kib(sealed)} sealed.",
        f"Promised about a record, plain and sealed: {_promise(runs['plain'])} and "
        f"{_promise(runs['sealed'])}; "
        "hiding single answers is not privacy.",
        f"Promised about a record, sealed and private: {_promise(runs['private'])}.",
        f"Strongest membership attack (AUC, 0.5 is guessing): {_attacks(audits)}.",
        f"Leaked for certain (for one record, add-or-remove, delta = {DELTA:g}, 95% confidence an audit): "
        f"{_leaked(audits)}.",
        f"The audit of the private one: {_judgement(audits['private'])}.",
        f"The report: {folder / 'report.html'} and {folder / 'report.json'}",
    ]


def _percent(share: float | None) -> str:
    return "nothing" if share is None else f"{100 * share:.1f}"


def _kib(metrics: Mapping[str, Any]) -> str:
    return f"{metrics['bytes']['up'] / 1024:.1f} KiB"


def _same_student(runs: dict[str, Run]) -> str:
    """Masks cancel exactly; say so only if they did."""
    plain, sealed = (
        (runs[name].path / "models" / "student.safetensors").read_bytes() for name in ("plain", "sealed")
    )
    return "the same weights, byte for byte" if plain == sealed else "other weights than the plain one's"


def _promise(run: Run) -> str:
    """What every observer is promised; the weakest where they differ."""
    guarantees = [
        claim_about_records(run.claims, observer).guarantee
        for observer in run.config.audit.observers
        if observer != "label-only"  # decisions follow from the release
    ]
    given = [guarantee for guarantee in guarantees if guarantee is not None]
    if len(given) < len(guarantees):
        return "nothing"
    weakest = max(given, key=lambda guarantee: guarantee.epsilon)
    return f"{weakest}, against {', '.join(run.config.audit.observers)}"


def _attacks(audits: dict[str, Audit]) -> str:
    """The largest AUC on each variant's recipe, with its 95% interval."""
    found = []
    for name, done in audits.items():
        # Bounds are made on one record or federation each, whose AUCs aren't the attacks'.
        measured = [each for each in _of_recipe(done) if not each.bound_method]
        best = max(measured, key=lambda each: each.auc, default=None)
        if best is None:
            found.append(f"{name} none ran")
            continue
        low, high = best.auc_interval
        found.append(f"{name} {best.auc:.2f} [{low:.2f}, {high:.2f}] by the {best.observer}")
    return ", ".join(found)


def _leaked(audits: dict[str, Audit]) -> str:
    """The largest bound of each variant's recipe."""
    found = []
    for name, done in audits.items():
        bounds = [each for each in _of_recipe(done) if each.epsilon_bound]
        most = max(bounds, key=lambda each: each.epsilon_bound or 0.0, default=None)
        found.append(
            f"{name} nothing"
            if most is None
            else f"{name} epsilon = {most.epsilon_bound:.2f} at least, to the {most.observer}"
        )
    return ", ".join(found)


def _judgement(done: Audit) -> str:
    findings = [each for each in _of_recipe(done) if each.bound_method]
    if not findings:
        return f"{done.judgement}; no bound could be made"
    most = max(findings, key=lambda each: each.epsilon_bound or 0.0)
    power = max(each.epsilon_power or 0.0 for each in findings)
    game = f"for one record, add-or-remove, delta = {most.delta:g}, 95% confidence"
    shown = (
        f"at least epsilon = {most.epsilon_bound:.2f} leaked to the {most.observer} ({game})"
        if most.epsilon_bound
        else "no leak could be certified"
    )
    return (
        f"{done.judgement}; {shown}, where {done.federations} federations could have certified "
        f"epsilon = {power:.2f} at most ({game})"
    )


def _of_recipe(done: Audit) -> list[Finding]:
    return [each for each in done.outcomes if isinstance(each, Finding) and each.subject == "the recipe"]
