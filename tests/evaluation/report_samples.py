"""A small report for tests: three variants, one without any finding."""

from __future__ import annotations

from securefd.evaluation.report import (
    Charge,
    Claim,
    Communication,
    Control,
    Estimate,
    Finding,
    OtherFinding,
    Package,
    Part,
    Poisoned,
    Provenance,
    RateAt,
    Report,
    Risk,
    Seed,
    Sight,
    Skipped,
    Timing,
    Utility,
    Variant,
    Volatile,
    accuracy,
    estimate,
)

OBSERVERS = ("server", "peer", "release")


def finding(**changes: object) -> Finding:
    fields = {
        "subject": "the recipe",
        "observer": "server",
        "attack": "LiRA on answers",
        "n_in": 40,
        "n_out": 44,
        "auc": estimate(0.71, 0.66, 0.75),
        "rates": (
            RateAt(fpr=0.1, tpr=estimate(0.21, 0.1, 0.3)),
            RateAt(fpr=0.001, tpr=Estimate(reason="not measurable")),
        ),
        "trials_in": 16,
        "trials_out": 15,
        "bound_method": "one record",
        "epsilon_bound": 0.4,
        "epsilon_power": 1.62,
        "confidence": 0.992,
        "threshold_rule": "fixed on the first half",
        "claim_epsilon": 8.0,
        "delta": 1e-5,
        "judgement": "INCONCLUSIVE",
        "reason": "power is below the claim",
    }
    return Finding.model_validate(fields | changes)


def measured(**changes: object) -> Finding:
    """An attack that bounds nothing."""
    nothing = {
        "trials_in": 0,
        "trials_out": 0,
        "bound_method": "",
        "epsilon_bound": None,
        "epsilon_power": None,
        "confidence": None,
        "threshold_rule": "",
        "claim_epsilon": None,
        "reason": "turns bound nothing",
    }
    return finding(**(nothing | changes))


def proven(observer: str) -> Claim:
    return Claim(
        observer=observer,
        kind="proven",
        unit="record",
        relation="add-or-remove",
        epsilon=8.0,
        delta=1e-5,
        reason=f"{observer}: DP-SGD",
    )


def variant(name: str, **changes: object) -> Variant:
    fields = {
        "name": name,
        "method": "balanced",
        "sealing": "masked",
        "privacy": "dpsgd",
        "sights": tuple(Sight(observer=o, sees=f"{name}: what {o} sees") for o in OBSERVERS),
        "claims": tuple(map(proven, OBSERVERS)),
        "utility": Utility(
            test_records=300,
            student=accuracy(0.9, 300),
            clients_alone=accuracy(0.7, 300),
            calibration_error=Estimate(value=0.04, low=0.02, high=0.07),
            classes=(Part(name="seven", records=30, accuracy=accuracy(0.8, 30)),),
            groups=(Part(name="ward 3", records=10, accuracy=accuracy(0.6, 10)),),
            grouped_by="ward",
        ),
        "communication": Communication(up=20_133, down=999, clients=5, rounds=5, weights=424_488),
        "ledger": (
            Charge(
                holder="client 0",
                event="DP-SGD",
                count=1,
                unit="record",
                relation="add-or-remove",
                epsilon=7.9,
                delta=1e-5,
            ),
        ),
        "findings": (
            *(measured(observer=o) for o in OBSERVERS),
            *(finding(observer=o, reason=f"{name}: why for {o}") for o in OBSERVERS),
        ),
        "skipped": (
            Skipped(subject="this run", observer="peer", attack="all", reason=f"{name}: saw nothing"),
        ),
        "controls": (Control(kind="null", attack="LiRA", measured=f"{name}: nothing found", passed=True),),
        "risks": (
            Risk(
                observer="server",
                attack="lira on answers",
                highest=Estimate(value=0.8, low=0.5, high=0.9),
                average=0.1,
                records=200,
            ),
        ),
        "others": (
            OtherFinding(
                observer="server",
                attack="label distribution",
                measure="divergence, nats",
                value=Estimate(value=0.08, low=0.01, high=0.2),
                baseline=0.5,
                cases=5,
                what="mean over clients",
                picture="iVBORw0KGgo=",
            ),
        ),
        "not_made": (
            Skipped(subject="this run", observer="server", attack="inversion", reason="nothing was seen"),
        ),
        "poisoned": tuple(
            Poisoned(rule=rule, attack="rank-shift", fraction=0.4, liars=2, agreement=agreed, shift=0.3)
            for rule, agreed in (("mean", 0.4), ("median", 0.9))
        ),
        "unprotected": ("who took part",),
        "substitutions": (f"{name}: an MLP stands in",),
    }
    return Variant.model_validate(fields | changes)


def report(**changes: object) -> Report:
    bare = dict.fromkeys(("claims", "findings", "skipped", "controls", "ledger", "substitutions"), ())
    bare |= dict.fromkeys(("risks", "others", "not_made", "poisoned"), ())
    fields = {
        "title": "A federation",
        "verdict": "inconclusive",
        "summary": "Too few trials.",
        "variants": (variant("plain"), variant("sealed"), variant("bare", **bare)),
        "provenance": Provenance(
            securefd="0.1.0",
            python="3.11.9",
            packages=(Package(name="torch", version="2.13.0"),),
            seeds=(Seed(purpose="splits", value=7),),
            public_set="ab" * 32,
            configuration='name = "x"\nseed = 7\n',
            command="securefd demo",
        ),
        "volatile": Volatile(created="2025-01-31T10:22:33Z", timings=(Timing(stage="audit", seconds=1.5),)),
    }
    return Report.model_validate(fields | changes)


def many(attacks: int = 20) -> Report:
    """One variant, with ``attacks`` attacks and two bounds by each of four observers."""
    observers = (*OBSERVERS, "label-only")
    names = [f"attack {i} on answers" for i in range(attacks)]
    bounds = ("one record", "one run")
    findings = [
        *(measured(observer=o, attack=name) for o in observers for name in names),
        *(finding(observer=o, attack=names[-1], bound_method=method) for o in observers for method in bounds),
    ]
    return report(variants=(variant("many", findings=tuple(findings)),))
