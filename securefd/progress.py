"""How far a long job is. The engine reports stages; whoever started it decides how they are shown."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

Advance = Callable[[int], None]
"""Called with how many more units are done."""

SECONDS_BETWEEN_LINES = 5.0


class Progress(Protocol):
    """Shows stages. Stages may be nested; they are entered and left by one thread."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Advance]:
        """Open a stage of ``total`` units of work."""


class Silent:
    """Shows nothing."""

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """Nothing is shown."""
        yield lambda units: None


class Lines:
    """Plain lines, at most one every few seconds: for logs and pipes."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._last = float("-inf")
        self._depth = 0

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """An outermost stage always shows its start and end, an inner one only when a line is due."""
        done, start, outermost = 0, self._clock(), self._depth == 0
        self._depth += 1
        self._line(name, due=outermost)

        def advance(units: int) -> None:
            nonlocal done
            done += units
            self._line(f"{name}: {done} of {total}", due=False)

        try:
            yield advance
        finally:
            self._depth -= 1
        self._line(f"{name}: done in {self._clock() - start:.0f} s", due=outermost)

    def _line(self, text: str, *, due: bool) -> None:
        now = self._clock()
        if due or now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            print(text, file=self._stream, flush=True)


class RichProgress:
    """Bars on a terminal, plain lines elsewhere; by default on stderr."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._lines = None if self._stream.isatty() else Lines(self._stream)
        self._bars: Bars | None = None

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Advance]:
        """A bar that goes away with its stage; an outermost stage leaves a line behind."""
        if self._lines is not None:
            with self._lines.stage(name, total) as advance:
                yield advance
            return
        outermost = self._bars is None
        bars = self._bars = self._bars or self._started()
        start = time.monotonic()
        task = bars.add_task(name if outermost else f"  {name}", total=total)
        try:
            yield lambda units: bars.advance(task, units)
            if outermost:
                bars.console.print(f"{name}: done in {time.monotonic() - start:.0f} s", highlight=False)
        finally:
            bars.remove_task(task)
            if outermost:
                bars.stop()
                self._bars = None

    def _started(self) -> Bars:
        from rich.console import Console  # the command line starts faster without it
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        bars = Bars(*columns, console=Console(file=self._stream), transient=True)
        bars.start()
        return bars
