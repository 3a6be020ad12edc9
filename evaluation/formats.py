"""Writes a report to files.

All formats are rendered, and signed, before the first byte is written, and all files lie on disk before the
first takes its place. So a format that fails leaves nothing, and each file appears whole or not at all. The
JSON, which may be signed over the others, takes its place last.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from securefd.errors import ReportError
from securefd.evaluation.cyclonedx import to_cyclonedx
from securefd.evaluation.html import render
from securefd.evaluation.markdown import to_markdown
from securefd.evaluation.modelcard import to_model_card
from securefd.evaluation.opendp import to_opendp
from securefd.evaluation.pdf import to_pdf
from securefd.evaluation.report import Report
from securefd.evaluation.report_json import to_json
from securefd.evaluation.signing import sign, signing_key

JSON = "json"


@dataclass(frozen=True, kw_only=True)
class Format:
    """``ending``: of the file, after the stem and a dot. ``render``: makes its content, always the same."""

    ending: str
    render: Callable[[Report], bytes]


def _text(ending: str, render: Callable[[Report], str]) -> Format:
    return Format(ending=ending, render=lambda report: render(report).encode())


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        JSON: _text(JSON, to_json),
        "html": _text("html", render),
        "pdf": Format(ending="pdf", render=to_pdf),
        "md": _text("md", to_markdown),
        "modelcard": _text("modelcard.md", to_model_card),
        "opendp": Format(ending="opendp.yaml", render=to_opendp),
        "cyclonedx": Format(ending="cdx.json", render=to_cyclonedx),
    }
)
"""By the name that ``securefd report --formats`` takes."""


def write(
    report: Report,
    stem: Path,
    formats: Sequence[str] = ("json", "html"),
    key: str | Path | None = None,
) -> tuple[Path, ...]:
    """Write ``STEM.json``, ``STEM.html``, … and return their paths, in the order of ``formats``.

    ``key``: the file of a private key, which makes STEM.json a signed envelope around the report that also
    ties down the bytes of the other forms; see :mod:`securefd.evaluation.signing`.

    Raises:
        ReportError: an unknown format, a key that can't sign, or a place that can't be written.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        got = repr(unknown[0]) if unknown else "none"
        raise ReportError(f"formats must be among {', '.join(sorted(FORMATS))}, got {got}")
    if key is not None and JSON not in formats:
        raise ReportError("a signature is written to STEM.json, so formats must hold json; add it")
    identity = None if key is None else signing_key(key)
    contents = {FORMATS[name].ending: FORMATS[name].render(report) for name in formats}
    if identity is not None:
        others = {ending: content for ending, content in contents.items() if ending != JSON}
        contents[JSON] = sign(report, others, identity)
    made = {stem.with_name(f"{stem.name}.{ending}"): content for ending, content in contents.items()}
    with ExitStack() as stack:
        staged = {path: _staged(path, content, stack) for path, content in made.items()}
        for path in sorted(staged, key=lambda path: path.name == f"{stem.name}.{JSON}"):
            with _named(path):
                staged[path].replace(path)
                _sync(path.parent)
    return tuple(made)


def _staged(path: Path, content: bytes, stack: ExitStack) -> Path:
    """A file with ``content`` beside ``path``, on stable storage; it goes with ``stack`` unless moved."""
    with _named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
        stack.callback(temporary.unlink, missing_ok=True)
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    return temporary


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ReportError(f"{path} can't be written: {error.strerror}; choose another place") from error


def _sync(folder: Path) -> None:
    """A renamed file is there after a crash only once its folder is on stable storage."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
