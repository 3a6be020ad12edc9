"""A report as JSON and back: the same report gives the same text, and nothing else is read."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import ValidationError

from securefd.errors import ReportError
from securefd.evaluation.report import SCHEMA_VERSION, Report


def to_json(report: Report) -> str:
    """The same report gives the same text: sorted keys, shortest floats that read back the same."""
    return json.dumps(fields_of(report), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def fields_of(report: Report) -> dict[str, Any]:
    """The report as plain tables, every field there."""
    return report.model_dump(mode="python")


def schema_id() -> str:
    """What the published schema is called: it changes when the schema does."""
    return f"urn:securefd:schema:report:{SCHEMA_VERSION}"


def schema() -> dict[str, Any]:
    """The JSON Schema, draft 2020-12, of what :func:`to_json` writes and a signed report holds."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": schema_id(),
        "version": SCHEMA_VERSION,
        **Report.model_json_schema(mode="serialization"),
        "title": f"securefd report {SCHEMA_VERSION}",
    }


def from_json(text: str, source: str = "report") -> Report:
    """Read what :func:`to_json` wrote; ``source`` names the file in errors.

    Raises:
        ReportError: not JSON, a newer schema, or a field that is missing, unknown or of the wrong kind.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ReportError(f"{source}: a field occurs twice in one object; each may occur once")
        return dict(pairs)

    def finite(constant: str) -> float:
        raise ReportError(f"{source}: {constant} is not a JSON number; use null with a reason")

    try:
        fields = json.loads(text, object_pairs_hook=unique, parse_constant=finite)
    except (ValueError, RecursionError) as error:
        raise ReportError(f"{source}: not JSON ({error}); give the .json file that securefd wrote") from None
    if not isinstance(fields, dict):
        raise ReportError(f"{source}: a report must be a JSON object, got {type(fields).__name__}")
    check_version(fields.get("schema_version"), source)
    try:
        return Report.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "report"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise ReportError(
            f"{source}: {field}: {first['msg']}{more}; the file was edited or damaged"
        ) from None


def check_version(version: object, source: str) -> None:
    """Raise ReportError for a report of a schema that this version doesn't read."""
    if version == SCHEMA_VERSION:
        return
    known = tuple(map(int, SCHEMA_VERSION.split(".")))
    given = (
        version if isinstance(version, str) and re.fullmatch(r"[0-9]{1,6}\.[0-9]{1,6}", version) else "0.0"
    )
    if tuple(map(int, given.split("."))) > known:
        raise ReportError(
            f"{source}: schema_version: {version} is newer than {SCHEMA_VERSION}, the newest this "
            "securefd reads; upgrade securefd"
        )
    raise ReportError(f"{source}: schema_version must be {SCHEMA_VERSION!r}, got {version!r}")
