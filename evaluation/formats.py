"""Writes a report to files.

All formats are rendered before the first byte is written, and each file appears whole or not at all.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from securefd.errors import ReportError
from securefd.evaluation.html import render
from securefd.evaluation.report import Report
from securefd.evaluation.report_json import to_json

FORMATS: Mapping[str, Callable[[Report], str]] = MappingProxyType({"json": to_json, "html": render})
"""A format's name, which is also its file's ending, and the function that makes its text."""


def write(report: Report, stem: Path, formats: Sequence[str] = ("json", "html")) -> tuple[Path, ...]:
    """Write ``STEM.json``, ``STEM.html``, … and return their paths, in the order of ``formats``.

    Raises:
        ReportError: an unknown format, or a place that can't be written.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        got = repr(unknown[0]) if unknown else "none"
        raise ReportError(f"formats must be among {', '.join(sorted(FORMATS))}, got {got}")
    texts = {stem.with_name(f"{stem.name}.{name}"): FORMATS[name](report) for name in formats}
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, text.encode())
        except OSError as error:
            raise ReportError(f"{path} can't be written: {error.strerror}; choose another place") from error
    return tuple(texts)


def _replace(path: Path, content: bytes) -> None:
    """Put ``content`` at ``path`` in one step that survives a crash at any moment."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
