"""The public face: what it lists is there, and importing it imports nothing heavy."""

import importlib.util
import inspect
import subprocess
import sys

import pytest

import securefd
from securefd import errors


@pytest.mark.parametrize("name", securefd.__all__)
def test_every_name_resolves(name: str) -> None:
    value = getattr(securefd, name)
    assert value.__name__ == name
    assert not inspect.ismodule(value)


@pytest.mark.parametrize("name", securefd.__all__)
def test_no_module_hides_a_name(name: str) -> None:
    # importing securefd.run would set the attribute `run` of the package to the module
    assert importlib.util.find_spec(f"securefd.{name}") is None


def test_every_error_is_exported() -> None:
    defined = {name for name, value in vars(errors).items() if inspect.isclass(value)}
    assert defined <= set(securefd.__all__)


def test_dir_lists_the_face() -> None:
    assert set(dir(securefd)) == {*securefd.__all__, "__version__"}


def test_names_are_listed_once() -> None:
    assert len(set(securefd.__all__)) == len(securefd.__all__)


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = securefd.nothing


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import securefd, sys; print({'torch', 'numpy', 'pydantic', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
