"""The report as a CycloneDX 1.6 bill of materials for machine learning: each student with its model card.

The maintained library, cyclonedx-python-lib, has no model cards yet, so the document is made here; the
library checks it against the published schema before anything is written.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from typing import Any

from securefd.errors import ReportError
from securefd.evaluation.report import Claim, Estimate, Finding, Report, Variant
from securefd.evaluation.report_json import to_json

SPEC = "1.6"
_SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, _SCHEMA)

Json = dict[str, Any]


def to_cyclonedx(report: Report) -> bytes:
    """The document, UTF-8. Raises ReportError where there is no model, or where it would break the schema."""
    models = [variant for variant in report.variants if variant.utility.student.value is not None]
    if not models:
        raise ReportError("no variant has a student, so there is no model to list; leave out cyclonedx")
    text = json.dumps(_document(report, models), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    _check(text)
    return text.encode()


def _check(text: str) -> None:
    # Loads the schemas, which takes longer than everything else here.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if wrong is not None:
        reason = str(wrong).splitlines()[0]
        raise ReportError(f"the report can't be told in CycloneDX {SPEC} ({reason}); leave out cyclonedx")


def _document(report: Report, models: list[Variant]) -> Json:
    packages = [_package(each.name, each.version) for each in report.provenance.packages]
    tool = _package("securefd", report.provenance.securefd)
    digest = hashlib.sha256(to_json(report).encode()).hexdigest()
    return {
        "$schema": _SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, digest)}",
        "version": 1,
        "metadata": {
            "timestamp": report.volatile.created,
            "tools": {"components": [tool]},
            "component": {
                "type": "application",
                "bom-ref": "federation",
                "name": report.title,
                "description": report.summary,
                "properties": [
                    {"name": "securefd:verdict", "value": report.verdict},
                    {"name": "securefd:schema_version", "value": report.schema_version},
                ],
            },
        },
        "components": [*(_model(each, report) for each in models), _public_set(report), *packages],
        "dependencies": [
            {"ref": "federation", "dependsOn": [_ref(each) for each in models]},
            *(
                {"ref": _ref(each), "dependsOn": ["public-set", *(p["bom-ref"] for p in packages)]}
                for each in models
            ),
        ],
        "declarations": {"claims": [claim for each in models for claim in _claims(each)]},
    }


def _ref(variant: Variant) -> str:
    return f"student of {variant.name}"


def _package(name: str, version: str) -> Json:
    purl = f"pkg:pypi/{name}@{version.replace('+', '%2B')}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _public_set(report: Report) -> Json:
    return {
        "type": "data",
        "bom-ref": "public-set",
        "name": "public set",
        "hashes": [{"alg": "SHA-256", "content": report.provenance.public_set}],
        "data": [{"type": "dataset", "name": "public set", "classification": "public"}],
    }


def _model(variant: Variant, report: Report) -> Json:
    hashes = {}
    if variant.student_sha256 is not None:
        hashes = {"hashes": [{"alg": "SHA-256", "content": variant.student_sha256}]}
    return {
        "type": "machine-learning-model",
        "bom-ref": _ref(variant),
        "name": _ref(variant),
        **({"description": variant.description} if variant.description else {}),
        **hashes,
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "classification",
                "datasets": [{"ref": "public-set"}],
            },
            "quantitativeAnalysis": {"performanceMetrics": list(_metrics(variant))},
            "considerations": {
                "technicalLimitations": list(report.limits),
                "performanceTradeoffs": [
                    f"method {variant.method}, sealing {variant.sealing}, privacy {variant.privacy}"
                ],
                "ethicalConsiderations": [{"name": f"Not protected: {what}"} for what in variant.unprotected],
            },
        },
    }


def _metrics(variant: Variant) -> Iterator[Json]:
    """Accuracy, and what attacks achieved, each with its interval at 95% confidence where there is one."""
    utility = variant.utility
    yield from _metric("accuracy", utility.student, f"{utility.test_records} test records")
    yield from _metric(
        "expected calibration error", utility.calibration_error, f"{utility.test_records} test records"
    )
    for kind, parts in (("class", utility.classes), (utility.grouped_by, utility.groups)):
        for part in parts:
            yield from _metric("accuracy", part.accuracy, f"{kind} {part.name}, {part.records} test records")
    for finding in variant.findings:
        yield from _of_finding(finding)
    for risk in variant.risks:
        to = f"{risk.observer}, {risk.attack}, the record that looked most exposed"
        yield from _metric("TPR - FPR of membership inference", risk.highest, to)


def _of_finding(finding: Finding) -> Iterator[Json]:
    by = f"{finding.subject}, {finding.observer}, {finding.attack}"
    yield from _metric("AUC of membership inference", finding.auc, by)
    for rate in finding.rates:
        yield from _metric(f"TPR of membership inference at FPR {rate.fpr:g}", rate.tpr, by)
    if finding.epsilon_bound is not None:
        bound = Estimate(value=finding.epsilon_bound)
        held = f"{by}, {finding.bound_method}, delta {finding.delta:g}, confidence {finding.confidence:g}"
        yield from _metric("lower bound on epsilon", bound, held)


def _metric(kind: str, measured: Estimate, part: str) -> Iterator[Json]:
    if measured.value is None:
        return
    metric: Json = {"type": kind, "value": repr(measured.value), "slice": part}
    if measured.low is not None and measured.high is not None:
        metric["confidenceInterval"] = {
            "lowerBound": repr(measured.low),
            "upperBound": repr(measured.high),
        }
    yield metric


def _claims(variant: Variant) -> Iterator[Json]:
    for number, claim in enumerate(variant.claims):
        yield {
            "bom-ref": f"claim {number} of {variant.name}",
            "target": _ref(variant),
            "predicate": _predicate(claim),
            "reasoning": claim.reason,
        }


def _predicate(claim: Claim) -> str:
    to = f"towards the observer {claim.observer!r}, about {claim.subject}"
    if claim.kind == "none":
        return f"Nothing is promised {to}."
    if claim.kind == "cryptographic":
        return f"Hidden {to}, if: {claim.assumption}"
    return (
        f"Differential privacy {to}: epsilon {claim.epsilon!r}, delta {claim.delta!r}, unit {claim.unit}, "
        f"neighbouring relation {claim.relation}."
    )
