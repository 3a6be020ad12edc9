"""Fixtures that tests of files share."""

import os
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Sets the umask, which is 0 at first, until the test ends."""
    before = os.umask(0)
    yield os.umask
    os.umask(before)
