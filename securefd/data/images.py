"""Image files in one folder a class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from securefd.data.records import Features, Records, Tensor, reason
from securefd.errors import DataError

_MODES = {
    "1": "L",
    "L": "L",
    "LA": "L",
    "RGB": "RGB",
    "RGBA": "RGB",
    "P": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
}
_LITTER = {"Thumbs.db", "desktop.ini"}


@dataclass(frozen=True, kw_only=True)
class ImageFolder:
    """`path/class/file`: every file an image, all grayscale or all colour, all of the same size."""

    path: str

    def records(self) -> Records:
        """The whole folder, ``(n, 1 or 3, height, width)``, labels by folder name."""
        return _by_class(self.path, "data.path")

    def own_test(self) -> Records | None:
        """There is none."""
        return None

    def test(self, path: str) -> Records:
        """Another folder by class."""
        return _by_class(path, "data.test")

    def public(self, path: str) -> Features:
        """A folder of images, without folders by class."""
        return _stack(_entries(path, "data.public"))


def _by_class(path: str, where: str) -> Records:
    files: list[Path] = []
    labels: list[str] = []
    for folder in _entries(path, where):
        if not folder.is_dir():
            raise DataError(f"{folder} is a file, {where} must hold one folder a class: move it into one")
        inside = _entries(str(folder), where)
        files += inside
        labels += [folder.name] * len(inside)
    return Records(features=_stack(files), labels=np.array(labels, dtype=object))


def _entries(path: str, where: str) -> list[Path]:
    """What is in a folder, sorted by name, without hidden files and what file managers leave behind."""
    if not path or not Path(path).is_dir():
        raise DataError(f"{where} = {path!r} is not a folder: give the folder of images")
    entries = sorted(p for p in Path(path).iterdir() if not p.name.startswith(".") and p.name not in _LITTER)
    if not entries:
        raise DataError(f"folder {path} is empty: put images there or remove it")
    return entries


def _stack(files: list[Path]) -> Tensor:
    first = _decode(files[0])
    pixels = np.empty((len(files), *first.shape), dtype=np.uint8)
    for i, file in enumerate(files):
        image = _decode(file)
        if image.shape != first.shape:
            raise DataError(
                f"{file} has shape {image.shape}, {files[0]} has {first.shape} (channels, height, width): "
                "convert all images to one size, all grayscale or all colour"
            )
        pixels[i] = image
    return Tensor(x=pixels)


def _decode(file: Path) -> NDArray[np.uint8]:
    """``(channels, height, width)`` uint8; transparency is ignored."""
    from PIL import Image  # only needed here

    if file.is_dir():
        raise DataError(f"{file} is a folder, must be an image: keep images directly in their folder")
    try:
        with Image.open(file) as image:
            if image.mode not in _MODES:
                raise DataError(f"{file} has mode {image.mode}: convert it to 8-bit grayscale or RGB")
            pixels = np.asarray(image.convert(_MODES[image.mode]), dtype=np.uint8)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(
            f"{file} can't be read as an image ({reason(error)}): replace or remove it"
        ) from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
