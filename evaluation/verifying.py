"""Whether a report is what was signed, its other forms those of the same report, and the run unchanged.

Nothing is believed before it was checked, and nothing is written: a run may lie on a read-only disk, as long
as its ledgers needn't be opened to be priced again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from securefd import __version__
from securefd.defenses.files import read_file
from securefd.errors import ReportError, RunError, SealingError, SecurefdError
from securefd.evaluation.findings_json import stored
from securefd.evaluation.formats import FORMATS
from securefd.evaluation.report import Report, RunFiles, Variant, judge
from securefd.evaluation.report_json import check_version, from_json, to_json
from securefd.evaluation.run_files import chain_differences, differences, likeness
from securefd.evaluation.signing import (
    Envelope,
    canonical,
    fingerprint_of,
    open_envelope,
    statement,
    trusted_key,
)
from securefd.evaluation.variants import variant
from securefd.result import load_run

LARGEST_REPORT = 256 << 20
"""Bytes of the largest file that is read."""
INSIDE = "the report inside {path}"


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found.

    ``altered``: what isn't as it was signed or reported. ``missing``: forms that were signed and aren't here.
    ``checked``: what was compared, and fits unless ``altered`` says otherwise. ``keyid``: the fingerprint of
    the key that signed, or is said to have; empty where nobody did. ``trusted``: whether that was checked by
    a key that was given.
    """

    altered: tuple[str, ...]
    missing: tuple[str, ...]
    checked: tuple[str, ...]
    keyid: str
    trusted: bool
    report: Report | None

    @property
    def outcome(self) -> Literal["valid", "altered", "not trusted"]:
        """In one word."""
        if self.altered:
            return "altered"
        return "valid" if self.trusted else "not trusted"

    @property
    def exit_code(self) -> int:
        """What ``securefd verify`` ends with."""
        return {"valid": 0, "altered": 1, "not trusted": 3}[self.outcome]


def verify(
    path: str | Path, *, key: str | Path | None = None, runs: Sequence[str | Path] = ()
) -> Verification:
    """Check STEM.json, the forms beside it, and the folders of ``runs``.

    ``key``: the public key that is trusted: NAME.pub, or PEM. Without one nobody vouches for the report, and
    the outcome is at best ``not trusted``.

    Raises:
        ReportError: a file or key that can't be read, or a report of a schema that this version doesn't read.
        RunError: a folder that isn't a run.
    """
    path = Path(path)
    public = None if key is None else trusted_key(key)
    for each in runs:
        if not Path(each).is_dir():
            raise RunError(f"{each} isn't a folder; name one that `securefd run` made")
    try:
        content = read_file(path, LARGEST_REPORT, "report")
    except SealingError as error:
        raise ReportError(str(error)) from None
    try:
        envelope = None if _is_plain(content) else open_envelope(content)
        if envelope is not None and public is not None:
            envelope.check(public)
        if envelope is None and public is not None:
            raise ReportError("it isn't signed at all")
        found, forms = _opened(path, content, envelope)
    except _NotRead as error:
        raise ReportError(str(error)) from None
    except ReportError as error:
        return Verification(
            altered=(f"{path}: {error}",), missing=(), checked=(), keyid="", trusted=False, report=None
        )
    altered: list[str] = [] if envelope is None else list(_unlike(path, forms))
    missing = tuple(_absent(path, forms))
    for each in runs:
        altered += _run_differences(Path(each), found)
    return Verification(
        altered=tuple(altered),
        missing=missing,
        checked=tuple(_checked(envelope, public, forms, missing, runs)),
        keyid="" if envelope is None else envelope.keyid,
        trusted=public is not None,
        report=found,
    )


class _NotRead(ReportError):
    """A report that may well be sound, and that this version can't read."""


def _is_plain(content: bytes) -> bool:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(fields, dict) and "schema_version" in fields


def _opened(path: Path, content: bytes, envelope: Envelope | None) -> tuple[Report, Mapping[str, str]]:
    """The report, and the SHA-256 of each other form by its ending. Raises ReportError if it isn't whole."""
    if envelope is None:
        return _plain(path, content), {}
    try:
        fields = json.loads(envelope.payload)
        told = fields["predicate"]["report"]
        version = told["schema_version"]
        forms = {
            str(each["annotations"]["form"]): str(each["digest"]["sha256"])
            for each in fields["subject"]
            if "annotations" in each
        }
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ReportError("what was signed isn't the statement of a report") from None
    _check_version(version, path)
    found = from_json(json.dumps(told), INSIDE.format(path=path))
    if canonical(statement(found, forms)) != envelope.payload:
        raise ReportError("the statement that was signed isn't that of the report inside it")
    return found, forms


def _plain(path: Path, content: bytes) -> Report:
    _check_version(json.loads(content)["schema_version"], path)
    found = from_json(content.decode(errors="replace"), str(path))
    if to_json(found).encode() != content:
        raise ReportError("it isn't written as securefd writes it: something was added or rewritten")
    return found


def _check_version(version: object, path: Path) -> None:
    try:
        check_version(version, str(path))
    except ReportError as error:
        raise _NotRead(str(error)) from None


def _endings() -> tuple[str, ...]:
    return tuple(each.ending for each in FORMATS.values())


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(f"{path.name.removesuffix('.json')}.{ending}")


def _unlike(path: Path, forms: Mapping[str, str]) -> Iterator[str]:
    """Forms beside the report that aren't of the same report."""
    for ending in _endings():
        form = _beside(path, ending)
        if ending == "json" or not form.exists():
            continue
        if ending not in forms:
            yield f"{form} isn't one of the forms that were signed"
        elif _digest(form) != forms[ending]:
            yield f"{form} isn't the form that was signed"


def _absent(path: Path, forms: Mapping[str, str]) -> Iterator[str]:
    for ending in forms:
        if ending not in _endings():
            yield f"the form {ending!r}, which this version doesn't know"
        elif not _beside(path, ending).exists():
            yield str(_beside(path, ending))


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ReportError(f"{path} can't be read ({error.strerror}); check its permissions") from None


def _run_differences(folder: Path, report: Report) -> tuple[str, ...]:
    """What in the folder isn't as the report has it."""
    if not report.volatile.runs:
        raise ReportError("the report says nothing of any run's files; it can't be compared with a run")
    written = max(report.volatile.runs, key=lambda each: likeness(folder, each))
    if found := differences(folder, written):
        return found
    told = next((each for each in report.variants if each.name == written.run), None)
    if told is None:
        return (f"the report has no variant {written.run!r}, whose files it names",)
    try:
        return tuple(_contents(folder, written, told, report))
    except SecurefdError as error:
        return (str(error),)


def _contents(folder: Path, written: RunFiles, told: Variant, report: Report) -> Iterator[str]:
    """The files are those that were there: do they, and the ledgers, say what the report says?"""
    run = load_run(folder)
    chains = tuple(chain_differences(run, written))
    yield from chains
    if chains or report.provenance.securefd != __version__:  # other versions say it in other words
        return
    notes = told.substitutions[len(run.notes) :]
    again = variant(run, stored(run.path), description=told.description, substitutions=notes)
    if report.policy is None and report.verdict != judge(report.variants):
        yield f"the verdict, {report.verdict}, isn't what the findings in the report come to"
    for name, value in again:
        if value != getattr(told, name):
            yield f"{name} of {told.name} isn't in the report what it is in {folder}"


def _checked(
    envelope: Envelope | None,
    public: bytes | None,
    forms: Iterable[str],
    missing: Sequence[str],
    runs: Iterable[str | Path],
) -> Iterator[str]:
    if envelope is None:
        yield "the report isn't signed"
    elif public is None:
        yield f"said to be signed by {envelope.keyid}; not checked, for want of a trusted key"
    else:
        yield f"signed by {fingerprint_of(public)}"
    if here := [ending for ending in forms if not any(name.endswith(f".{ending}") for name in missing)]:
        yield f"forms beside it compared: {', '.join(here)}"
    yield from (f"run compared: {run}" for run in runs)


def lines(found: Verification) -> list[str]:
    """For people."""
    verdict: dict[str, Any] = {
        "valid": "valid",
        "altered": "ALTERED",
        "not trusted": "not trusted: give the signer's public key with --key",
    }
    return [
        *found.checked,
        *(f"missing: {name}, which was signed and isn't here" for name in found.missing),
        *(f"altered: {what}" for what in found.altered),
        f"verification: {verdict[found.outcome]}",
    ]
