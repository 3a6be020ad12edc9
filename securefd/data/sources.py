"""Which reader stands behind ``data.source``."""

from __future__ import annotations

import re

from securefd.config import DataConfig
from securefd.data.arrays import Function, Npz
from securefd.data.embedded import BreastCancer, Digits
from securefd.data.idx import IdxFolder
from securefd.data.images import ImageFolder
from securefd.data.records import Reader
from securefd.data.tables import TableFile
from securefd.errors import DataError

_KINDS = ("digits", "breast-cancer", "idx", "npz", "csv", "parquet", "images")


def open_source(config: DataConfig) -> Reader:
    """The reader of a source; nothing is read yet. DataError for a source that doesn't exist."""
    match config.source:
        case "digits":
            return Digits()
        case "breast-cancer":
            return BreastCancer()
        case "idx":
            return IdxFolder(path=config.path)
        case "npz":
            return Npz(path=config.path)
        case "csv" | "parquet":
            return TableFile(
                kind=config.source,
                path=config.path,
                label=config.label,
                owner=config.owner,
                group=config.group or "",
            )
        case "images":
            return ImageFolder(path=config.path)
    if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", config.source):
        return Function(name=config.source)
    raise DataError(
        f"data.source = {config.source!r} is unknown: use {', '.join(_KINDS)} or 'package.module:function'"
    )
