"""An audit as JSON and back: what RUN/audit/findings.json holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from securefd.defenses.claims import Relation
from securefd.errors import AuditError
from securefd.evaluation.findings import (
    Audit,
    Control,
    Finding,
    OtherFinding,
    Outcome,
    Poisoned,
    Risk,
    Skipped,
)
from securefd.folder import read_bytes

FINDINGS = "findings.json"
"""Where the folder ``audit`` of a run keeps what was found."""

_KINDS: Mapping[str, TypeAdapter[Any]] = {
    "finding": TypeAdapter(Finding),
    "other": TypeAdapter(OtherFinding),
    "skipped": TypeAdapter(Skipped),
}
_NAMES = {Finding: "finding", OtherFinding: "other", Skipped: "skipped"}
_CONTROLS = TypeAdapter(tuple[Control, ...])
_RISKS = TypeAdapter(tuple[Risk, ...])
_POISONED = TypeAdapter(tuple[Poisoned, ...])
_GAME: TypeAdapter[Relation] = TypeAdapter(Relation)


def to_json(audit: Audit) -> str:
    """The same audit gives the same text."""
    tables = {
        "outcomes": [_tagged(outcome) for outcome in audit.outcomes],
        "controls": to_jsonable_python(audit.controls),
        "error_level": audit.error_level,
        "federations": audit.federations,
        "commitment": audit.commitment,
        "game": audit.game,
        "risks": to_jsonable_python(audit.risks),
        "others": [_tagged(other) for other in audit.others],
        "poisoned": to_jsonable_python(audit.poisoned),
    }
    return json.dumps(tables, indent=2, allow_nan=False) + "\n"


def from_json(text: str, source: str = "findings") -> Audit:
    """Read what :func:`to_json` wrote; ``source`` names the file in errors. Raises AuditError."""
    try:
        tables = json.loads(text, parse_constant=_refuse)
        return Audit(
            outcomes=tuple(_untagged(dict(table)) for table in tables["outcomes"]),
            controls=_CONTROLS.validate_python(tables["controls"]),
            error_level=float(tables["error_level"]),
            federations=int(tables["federations"]),
            commitment=str(tables["commitment"]),
            game=_GAME.validate_python(tables["game"]),
            risks=_RISKS.validate_json(json.dumps(tables["risks"])),
            others=tuple(_untagged(dict(table)) for table in tables["others"]),
            poisoned=_POISONED.validate_json(json.dumps(tables["poisoned"])),
        )
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise AuditError(f"{source} isn't what an audit wrote ({reason}); audit the run again") from None


def _refuse(constant: str) -> float:
    raise ValueError(f"{constant} is no number that an audit writes")


def stored(run: Path) -> Audit | None:
    """The audit that is kept in the folder of a run, or None. Raises AuditError if it isn't one."""
    path = run / "audit" / FINDINGS
    return from_json(read_bytes(path).decode(errors="replace"), str(path)) if path.exists() else None


def _tagged(outcome: Outcome | OtherFinding) -> dict[str, Any]:
    table: dict[str, Any] = to_jsonable_python(outcome)
    return table | {"kind": _NAMES[type(outcome)]}


def _untagged(table: dict[str, Any]) -> Any:
    return _KINDS[table.pop("kind")].validate_json(json.dumps(table))
