"""The report as a record for the OpenDP deployments registry: one YAML document for each private variant.

What a report can't know, such as who publishes the student and what for, is left to be filled in: the first
lines of the file say which fields. Everything is checked against the registry's schema before it is written.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import resources
from typing import Any

from securefd.errors import ReportError
from securefd.evaluation.report import UNKNOWN, Claim, Facts, Report, Variant

FILL_IN = "To be filled in."
HEADER = f"""\
# A draft for the OpenDP deployments registry, a document for each record. Before you submit one, fill in what
# says {FILL_IN!r} and check data_curator_type (Government, Industry or Nonprofit) and publication_date.
"""
_RELATIONS = {
    "add-or-remove": "Two data sets are adjacent if one is the other with one {unit} added or removed.",
    "replace-one": "Two data sets are adjacent if one is the other with one {unit} replaced by another.",
}
_UNITS = {
    "record": "one training record of one client",
    "client": "all records of one client",
}
_MODELS = {"local": "Local", "rr": "Local", "central": "Central"}
"""Registry's name of the deployment model by route; every other route is Federated."""

Json = dict[str, Any]


def to_opendp(report: Report) -> bytes:
    """The records, UTF-8. Raises ReportError where nothing is proven, or a record would break the schema."""
    private = [variant for variant in report.variants if _proven(variant)]
    if not private:
        raise ReportError(
            "no variant has a proven claim about records, and the registry holds deployments of differential "
            "privacy alone; leave out opendp"
        )
    records = [_record(variant, report) for variant in private]
    for record in records:
        _check(record)
    return f"{HEADER}{_yaml(records)}".encode()


@cache
def registry_schema() -> Json:
    """What the registry asks of a record."""
    text = resources.files("securefd.evaluation").joinpath("opendp.schema.json").read_text(encoding="utf-8")
    found: Json = json.loads(text)
    return found


def _yaml(records: list[Json]) -> str:
    """One document for each record; texts of several lines stand as they are, as the registry wants them."""
    import yaml

    class Dumper(yaml.SafeDumper):  # type: ignore[misc]  # yaml has no types
        """Its own, since what is registered with a dumper counts everywhere."""

    Dumper.add_representer(
        str,
        lambda to, text: to.represent_scalar(
            "tag:yaml.org,2002:str", text, style="|" if "\n" in text else None
        ),
    )
    written = yaml.dump_all(
        records, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100, explicit_start=True
    )
    return str(written)


def _check(record: Json) -> None:
    from jsonschema import Draft202012Validator, FormatChecker

    check = Draft202012Validator(registry_schema(), format_checker=FormatChecker())
    for wrong in check.iter_errors(record):
        where = ".".join(map(str, wrong.absolute_path))
        raise ReportError(
            f"the report can't be told to the registry ({where}: {wrong.message}); leave out opendp"
        )


def _proven(variant: Variant) -> list[Claim]:
    """Proven claims about records, the weakest first."""
    held = [each for each in variant.claims if each.kind == "proven" and each.subject == "records"]
    return sorted(held, key=lambda claim: claim.epsilon or 0.0, reverse=True)


def _record(variant: Variant, report: Report) -> Json:
    claims = _proven(variant)
    weakest = claims[0]
    stated = weakest.facts or Facts()
    assert weakest.unit is not None
    assert weakest.relation is not None
    unit = _UNITS[weakest.unit]
    details = [
        f"Towards {each.observer}: epsilon {each.epsilon!r} at delta {each.delta!r}." for each in claims
    ]
    return {
        "url_slug": re.sub(r"[^a-z0-9]+", "-", f"{report.title} {variant.name}".lower()).strip("-")
        or "report",
        "deployment": {
            "basic": {
                "name": f"{report.title}: student of {variant.name}",
                "data_curators": [{"data_curator_name": FILL_IN, "data_curator_type": "Industry"}],
                "description": variant.description
                or f"A model distilled by the method {variant.method} from the answers of clients.",
                "intended_use": FILL_IN,
                "data_product_type": "Machine learning model",
                "data_product_region": FILL_IN,
                "publication_date": report.volatile.created[:10],
            },
            "dp_variant": {
                "variant_name": "Pure DP" if weakest.delta == 0 else "Approximate DP",
                "data_domain": "Any private data of the clients, in the form that the run takes.",
                "unprotected_quantities": _listed(stated.unprotected or variant.unprotected),
            },
            "privacy_loss": {
                "privacy_unit": f"{weakest.unit}: {unit}",
                "privacy_unit_details": " ".join(
                    _known(_RELATIONS[weakest.relation].format(unit=weakest.unit), stated.contribution)
                ),
                "privacy_parameters": {"epsilon": weakest.epsilon, "delta": weakest.delta},
                "privacy_parameters_details": " ".join(["The weakest claim is given.", *details]),
            },
            "deployment_model": {
                "model_name": _MODELS.get(variant.privacy, "Federated"),
                "model_name_details": f"Route {variant.privacy}, sealing {variant.sealing}.",
                "trust_assumptions": " ".join(_known(weakest.reason, stated.trust, weakest.assumption)),
                "actors": _listed([f"{each.observer} sees {each.sees}" for each in variant.sights]),
                "release_type": "One release",
                "data_source_type": "Static",
                "access_type": "Non-interactive",
            },
            "implementation": {
                "preprocessing_and_hyperparameter_tuning": stated.tuning,
                "mechanisms": " ".join(
                    _known(
                        f"securefd {report.provenance.securefd}, route {variant.privacy}.",
                        stated.mechanism,
                        stated.sensitivity,
                        stated.noise,
                        stated.sampling,
                    )
                ),
                "composition": stated.composition,
                "post_processing": (
                    "What was released is combined and distilled without another look at private records."
                ),
                "justification": f"The verdict of the report: {report.verdict}. {report.summary}",
                "utility": _utility(variant),
            },
            "administrative": {
                "status": "Draft",
                "registry_authors": [FILL_IN],
                "tier": 2 if weakest.facts is None else 3,
            },
        },
    }


def _known(*sentences: str) -> list[str]:
    told = [sentence for sentence in sentences if sentence and sentence != UNKNOWN]
    return [f"{sentence[0].upper()}{sentence[1:]}" for sentence in told]


def _listed(entries: Any) -> str:
    return "\n".join(f"- {entry}" for entry in entries) or "- none"


def _utility(variant: Variant) -> str:
    student = variant.utility.student
    if student.value is None:
        return f"Accuracy of the student: {student.reason}."
    between = "" if student.low is None else f" ({student.low:.4f} to {student.high:.4f} at 95% confidence)"
    return f"Accuracy of the student: {student.value:.4f}{between}, {variant.utility.test_records} records."
