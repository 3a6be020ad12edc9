"""Imports flow one way: read from the syntax tree, so that lazy imports inside functions count too."""

import ast
from pathlib import Path

import pytest

import securefd

ROOT = Path(securefd.__file__).parent

BASE = ("errors", "messages", "views")
TOP = ("__init__", "__main__", "cli", "demo")

# What each layer may import from the package, besides itself.
MAY_IMPORT = {
    "base": set(),
    "defenses": {"base"},
    "engine": {"base", "defenses"},
    "attacks": {"base"},
    "evaluation": {"base", "defenses", "engine", "attacks"},
    "top": {"base", "defenses", "engine", "attacks", "evaluation"},
}


def layer(module: str) -> str:
    """``securefd.data.splits`` is the engine, ``securefd.attacks.signals`` is attacks."""
    part = module.split(".")[1] if "." in module else "__init__"
    if part in ("attacks", "defenses", "evaluation"):
        return part
    if part in BASE:
        return "base"
    return "top" if part in TOP else "engine"


def module_name(path: Path) -> str:
    parts = ("securefd", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def imported(source: str, module: str, *, package: bool) -> set[str]:
    """Modules of the package that ``source`` imports; ``from securefd import x`` counts as securefd.x."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            above = parts[: len(parts) - node.level + package] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            if origin == "securefd":
                # the version is a constant of the package, not a part of its public face
                found |= {f"securefd.{alias.name}" for alias in node.names if alias.name != "__version__"}
            else:
                found.add(origin)
    return {name for name in found if name == "securefd" or name.startswith("securefd.")}


def violations(source: str, module: str, *, package: bool = False) -> list[str]:
    own = layer(module)
    targets = {name: layer(name) for name in imported(source, module, package=package)}
    return [name for name, other in targets.items() if other != own and other not in MAY_IMPORT[own]]


def sources() -> list[Path]:
    folders = [ROOT, *(ROOT / name for name in ("attacks", "defenses", "evaluation"))]
    # rglob doesn't follow links to folders on every version of Python
    return sorted({path for folder in folders for path in folder.rglob("*.py")})


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_flow_one_way(path: Path) -> None:
    module = module_name(path)
    found = violations(path.read_text(), module, package=path.name == "__init__.py")
    assert not found, f"{module} ({layer(module)}) must not import {', '.join(found)}"


def test_every_part_is_looked_at() -> None:
    assert {layer(module_name(path)) for path in sources()} == set(MAY_IMPORT)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("securefd.attacks.membership", "from securefd.evaluation.statistics import rate"),
        ("securefd.attacks.membership", "from securefd import config"),
        ("securefd.attacks.membership", "from securefd.defenses.masks import Masks"),
        ("securefd.attacks.membership", "from ..config import Config"),
        ("securefd.attacks.membership", "def f():\n    import securefd.fleet"),
        ("securefd.defenses.masks", "from securefd.fleet import train"),
        ("securefd.fleet", "from securefd.attacks.membership import LiRA"),
        ("securefd.fleet", "from securefd import load_config, cli"),
        ("securefd.data.splits", "from securefd.evaluation.report import Report"),
        ("securefd.views", "from .defenses.masks import Masks"),
        ("securefd.evaluation.audit", "from securefd.cli import main"),
    ],
)
def test_an_import_against_the_flow_is_found(module: str, line: str) -> None:
    assert violations(line, module)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("securefd.attacks.membership", "from securefd.views import View\nfrom .signals import loss"),
        ("securefd.fleet", "from securefd.defenses.masks import Masks\nfrom securefd import __version__"),
        ("securefd.cli", "import securefd\nfrom securefd.evaluation.report import Report"),
    ],
)
def test_an_import_with_the_flow_is_not(module: str, line: str) -> None:
    assert not violations(line, module)
