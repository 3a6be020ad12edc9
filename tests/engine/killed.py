"""A run in a process of its own, which the operating system kills: for `test_resume`."""

from __future__ import annotations

import os
import signal

import torch._dynamo  # noqa: F401 - torch imports it late, and each process anew unless it is here

from securefd.config import parse_config
from securefd.runner import run


def play(settings: str, out: str, dies_at: int | None = None) -> None:
    """Run it; die at the ``dies_at``-th time that something is made durable, before it is."""
    durable, calls = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        durable(descriptor)

    os.fsync = fsync
    run(parse_config(settings), out)
