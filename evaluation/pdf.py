"""The report as a PDF, typeset by Typst: no browser, no LaTeX, no network, only fonts that come with it."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from importlib import resources
from typing import Any

from securefd.errors import ReportError
from securefd.evaluation.document import Block, Document, Drawings, Paragraph, Picture, steady
from securefd.evaluation.drawn import alone, described
from securefd.evaluation.report import Report
from securefd.evaluation.sections import document

TEMPLATE = "report.typ"


def to_pdf(report: Report) -> bytes:
    """The same report gives the same bytes: its date is the one that the report was made at.

    Raises:
        ReportError: what Typst can't set.
    """
    import typst  # 30 MB, which nothing but a PDF needs

    fonts = typst.Fonts(include_system_fonts=False)
    template = resources.files("securefd.evaluation").joinpath(TEMPLATE).read_bytes()
    inputs = {"document": steady(json.dumps(_data(report, document(report)), ensure_ascii=False))}
    try:
        made = typst.compile(
            template,
            font_paths=fonts,
            ignore_system_fonts=True,
            sys_inputs=inputs,
            format="pdf",
        )
    except typst.TypstError as error:
        raise ReportError(
            f"the PDF can't be typeset ({error.message}); choose other formats, and please report it"
        ) from error
    assert isinstance(made, bytes)
    return made


def _data(report: Report, made: Document) -> dict[str, Any]:
    """What the template prints."""
    created = _created(report)
    date = {name: getattr(created, name) for name in ("year", "month", "day", "hour", "minute", "second")}
    data = asdict(made)
    for section, kept in zip(data["sections"], made.sections, strict=True):
        section["blocks"] = list(map(_block, _legible(kept.blocks)))
    return {**data, "date": date, "version": report.provenance.securefd}


def _created(report: Report) -> datetime:
    return datetime.fromisoformat(report.volatile.created)


def _legible(blocks: tuple[Block, ...]) -> Iterator[Block]:
    """Blocks, with words in the place of a picture that is damaged."""
    for block in blocks:
        if isinstance(block, Picture) and not _is_png(block.png):
            yield Paragraph(text=f"A picture that can't be read: {block.alternative}", quiet=True)
        else:
            yield block


def _block(block: Block) -> dict[str, Any]:
    """A picture goes as a list of bytes, which is what JSON and Typst both know."""
    if isinstance(block, Picture):
        return {**asdict(block), "bytes": list(base64.b64decode(block.png))}
    if isinstance(block, Drawings):
        charts = [
            {"svg": alone(each.svg), "alternative": described(each.svg), "title": each.title}
            for each in block.charts
        ]
        return {**asdict(block), "charts": charts}
    return asdict(block)


def _is_png(text: str) -> bool:
    """Whether all of a picture can be decoded."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(base64.b64decode(text, validate=True)), formats=["PNG"]) as image:
            image.load()
    except (binascii.Error, UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return False
    return True
