"""What a benchmark found: a small JSON file, with where and when it was found."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def keep(path: Path, found: Mapping[str, Any]) -> None:
    """Put ``found`` and `where` in place of what ``path`` holds, wholly or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({**found, "where": where()}, indent=1, sort_keys=True) + "\n")
    os.replace(partial, path)


def kept(path: Path) -> dict[str, Any] | None:
    """What was found, or None if it wasn't looked for yet."""
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def where() -> dict[str, str]:
    """Machine, versions and day."""
    packages = {name: version(name) for name in ("torch", "numpy", "scikit-learn")}
    return {
        "machine": f"{_processor()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "versions": ", ".join(f"{name} {number}" for name, number in packages.items()),
        "day": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
