"""One thread an operation, as in a run: small models are slower with more, and results are then the same."""

from collections.abc import Iterator

import pytest

from securefd.runner import one_thread


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield
