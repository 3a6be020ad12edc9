"""IDX files, as MNIST and Fashion-MNIST are published. Format: yann.lecun.com/exdb/mnist, "File formats"."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from securefd.data.records import Features, Records, Tensor, reason
from securefd.errors import DataError

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The array of bytes in an IDX file, gzipped or not; DataError unless it is whole and of this rank."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4 + 4 * dimensions)
            if len(head) < 4 + 4 * dimensions or head[:4] != bytes((0, 0, _UNSIGNED_BYTE, dimensions)):
                raise DataError(
                    f"{path} doesn't start like an IDX file of bytes in {dimensions} dimensions "
                    f"(it starts with {head[:4].hex() or 'nothing'}): download it again"
                )
            shape = struct.unpack(f">{dimensions}I", head[4:])
            size = math.prod(shape)
            body = file.read(size + 1)  # no more than was announced, however much a gzip would unpack to
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} can't be read ({reason(error)}): download it again") from error
    if len(body) != size or not size:
        held = "more" if len(body) > size else len(body)
        raise DataError(f"{path} announces {size} bytes of values and holds {held}: download it again")
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


@dataclass(frozen=True, kw_only=True)
class IdxFolder:
    """`train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, the same for `t10k`; each perhaps with `.gz`."""

    path: str

    def records(self) -> Records:
        """The training files, ``(n, 1, height, width)``."""
        return _pair(_folder(self.path, "data.path"), "train")

    def own_test(self) -> Records | None:
        """The `t10k` files, if the folder has them."""
        folder = _folder(self.path, "data.path")
        return _pair(folder, "t10k") if _has(folder, "t10k") else None

    def test(self, path: str) -> Records:
        """The `t10k` files of another folder, or its training files if it has no others."""
        folder = _folder(path, "data.test")
        return _pair(folder, "t10k" if _has(folder, "t10k") else "train")

    def public(self, path: str) -> Features:
        """A file of images, or a folder with training images (or, without them, `t10k` images)."""
        if Path(path).is_file():
            return _images(Path(path))
        folder = _folder(path, "data.public")
        return _images(_file(folder, f"{'train' if _has(folder, 'train') else 't10k'}-images-idx3-ubyte"))


def _folder(path: str, where: str) -> Path:
    folder = Path(path)
    if not path or not folder.is_dir():
        raise DataError(f"{where} = {path!r} is not a folder: give the folder with the IDX files")
    return folder


def _has(folder: Path, part: str) -> bool:
    return any(folder.glob(f"{part}-images-idx3-ubyte*"))


def _file(folder: Path, stem: str) -> Path:
    for name in (stem, f"{stem}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder} has neither {stem} nor {stem}.gz: put one of them there")


def _images(path: Path) -> Tensor:
    return Tensor(x=read_idx(path, 3)[:, None])


def _pair(folder: Path, part: str) -> Records:
    images = _images(_file(folder, f"{part}-images-idx3-ubyte"))
    labels = read_idx(_file(folder, f"{part}-labels-idx1-ubyte"), 1)
    if len(images) != len(labels):
        raise DataError(
            f"{folder} has {len(images)} {part} images and {len(labels)} labels: download both files again"
        )
    return Records(features=images, labels=labels.astype(np.int64))
