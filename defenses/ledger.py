"""The ledger: what was spent on one data set, on disk before anything that it paid for leaves.

One JSON object a line. Each line holds the SHA-256 of the line before it and its own content, so an
altered, lost or moved line is noticed; a tail cut at a line's end, or an old copy put back, is not,
as long as nobody else keeps the last hash. ``charge`` returns only after the line is on stable storage,
so a crash can leave something paid for and not released, never the reverse.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal

import msgspec

from securefd.defenses import accounting
from securefd.defenses.charges import Charge
from securefd.defenses.claims import Guarantee, Unit
from securefd.errors import BudgetExceeded, LedgerError, PrivacyError

GENESIS = "0" * 64


class Opened(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="opened"):
    """The first line: a random name, so that no line fits another ledger, and the unit of privacy."""

    version: Literal[1]
    name: str
    unit: Unit


class Charged(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="charged"):
    """One private access: what it was for, and its cost."""

    what: str
    charge: Charge


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``hash``: of the hash before and the bytes of ``entry``."""

    entry: Opened | Charged
    hash: str


def _chained(previous: str, entry: Opened | Charged) -> Line:
    digest = hashlib.sha256(previous.encode() + msgspec.json.encode(entry)).hexdigest()
    return Line(entry=entry, hash=digest)


class Ledger:
    """An open ledger, locked against every other process until it is closed.

    ``spent`` composes by PLD, which is proven for schedules that were fixed before the first access;
    noise or steps chosen by looking at earlier results are outside it.
    """

    def __init__(self, path: Path, descriptor: int, budget: Guarantee) -> None:
        """Use ``Ledger.open``."""
        self.path = path
        self.budget = budget
        self._descriptor = descriptor
        self._charged: list[Charged] = []
        self._last = GENESIS
        self._hashes = {GENESIS}

    @classmethod
    def open(cls, path: str | os.PathLike[str], budget: Guarantee) -> Ledger:
        """Open or create the ledger, lock it and verify every line.

        A last line without its line feed is the trace of a crash inside ``charge``, before anything was
        released: if it is whole it counts as spent, else it is removed. Raises LedgerError if
        another process has the ledger open, or names the first line that isn't as it was written;
        PrivacyError for a budget of nothing.
        """
        path = Path(path)
        if not budget.epsilon > 0 or not budget.delta > 0:
            raise PrivacyError(f"budget must have epsilon > 0 and delta > 0, got {budget}")
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LedgerError(f"ledger {path} can't be opened: {error.strerror}") from error
        ledger = cls(path, descriptor, budget)
        try:
            ledger._lock()
            ledger._load()
        except BaseException:
            ledger.close()
            raise
        return ledger

    @property
    def charged(self) -> Sequence[Charged]:
        """Everything spent, oldest first."""
        return tuple(self._charged)

    @property
    def head(self) -> str:
        """The hash of the last line, in hex: what a stored release is tied to."""
        return self._last

    def check_holds(self, head: str, what: str) -> None:
        """Refuse a ledger that hasn't the line which paid for ``what``: it is another, an older or a new
        one.
        """
        if head not in self._hashes:
            raise LedgerError(
                f"ledger {self.path} doesn't hold what was paid for {what}, which is stored; restore the "
                "ledger, or name the one that was used: without it, what was spent isn't known"
            )

    def spent(self) -> Guarantee:
        """Return everything spent, composed at the budget's delta and relation."""
        return self._guarantee(self._price([entry.charge for entry in self._charged]))

    def charge(self, charge: Charge, what: str) -> Guarantee:
        """Write the cost of one private access, or refuse it; return everything spent by then.

        Call it before noise is drawn or anything is released. Raises BudgetExceeded, with nothing written,
        if the budget doesn't cover it, and LedgerError if it can't be written; the ledger is then closed.
        """
        if self._descriptor < 0:
            raise LedgerError(f"ledger {self.path} is closed; open it again before charging {what!r}")
        before = [entry.charge for entry in self._charged]
        total = self._price([*before, charge])
        if not total <= self.budget.epsilon:
            raise BudgetExceeded(
                f"{what!r} costs epsilon = {self._price([charge]):.4g} by itself and would bring ledger "
                f"{self.path} from {self._price(before):.4g} to {total:.4g}, towards any observer, above its "
                f"budget of {self.budget}; use fewer steps or more noise, or grant a larger budget"
            )
        entry = Charged(what=what, charge=charge)
        self._append(entry)
        self._charged.append(entry)
        return self._guarantee(total)

    def close(self) -> None:
        """Release the lock. Closing twice does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _price(self, charges: list[Charge]) -> float:
        event = accounting.compose(charge.event for charge in charges)
        return accounting.epsilon(event, self.budget.delta, self.budget.relation)

    def _guarantee(self, epsilon: float) -> Guarantee:
        budget = self.budget
        return Guarantee(epsilon=epsilon, delta=budget.delta, unit=budget.unit, relation=budget.relation)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LedgerError(
                f"ledger {self.path} is in use by another process; wait until it ends"
            ) from error

    def _load(self) -> None:
        content = _read_all(self._descriptor)
        whole, _, tail = content.rpartition(b"\n")
        kept = len(whole) + 1 if b"\n" in content else 0
        lines = content[:kept].splitlines(keepends=True)
        for number, raw in enumerate(lines, start=1):
            self._accept(number, _parse(raw[:-1]))
        if tail:
            self._mend(len(lines) + 1, kept, tail)
        if self._last == GENESIS:
            self._append(Opened(version=1, name=secrets.token_hex(16), unit=self.budget.unit))

    def _accept(self, number: int, line: Line | None) -> None:
        """Follow the chain by one line."""
        if line is None or line != _chained(self._last, line.entry):
            raise LedgerError(
                f"line {number} of ledger {self.path} is not as it was written: it, or a line before it, was "
                "altered, lost or moved; restore the ledger, or treat its data set as spent"
            )
        first = number == 1
        if isinstance(line.entry, Opened) is not first:
            raise LedgerError(f"line {number} of ledger {self.path} is out of place; restore the ledger")
        if isinstance(line.entry, Charged):
            self._charged.append(line.entry)
        elif line.entry.unit != self.budget.unit:
            raise LedgerError(
                f"ledger {self.path} counts by {line.entry.unit}, and the budget is for one "
                f"{self.budget.unit}; use another ledger or budget"
            )
        self._follow(line)

    def _mend(self, number: int, kept: int, tail: bytes) -> None:
        """Settle a last line that a crash cut short."""
        line = _parse(tail)
        if line is not None:
            self._accept(number, line)
            self._write(b"\n", kept + len(tail))
        else:
            self._truncate(kept)

    def _append(self, entry: Opened | Charged) -> None:
        line = _chained(self._last, entry)
        self._write(msgspec.json.encode(line) + b"\n", os.fstat(self._descriptor).st_size)
        self._follow(line)

    def _follow(self, line: Line) -> None:
        self._last = line.hash
        self._hashes.add(line.hash)

    def _write(self, content: bytes, offset: int) -> None:
        """Put ``content`` at ``offset`` and wait for the disk; after a failure nobody knows what it holds."""
        try:
            while content:
                written = os.pwrite(self._descriptor, content, offset)
                content, offset = content[written:], offset + written
            self._sync()
        except OSError as error:
            self.close()
            raise LedgerError(
                f"ledger {self.path} can't be written: {error.strerror}; nothing may be released; mend "
                "the disk and open the ledger again"
            ) from error

    def _truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)
        self._sync()

    def _sync(self) -> None:
        _flush(self._descriptor)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _flush(descriptor: int) -> None:
    # macOS keeps fsynced data in the drive's cache; this call empties that too.
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is None:
        os.fsync(descriptor)
    else:
        fcntl.fcntl(descriptor, full)


def _read_all(descriptor: int) -> bytes:
    size = os.fstat(descriptor).st_size
    chunks, offset = [], 0
    while offset < size:
        chunk = os.pread(descriptor, size - offset, offset)
        chunks.append(chunk)
        offset += len(chunk)
    return b"".join(chunks)


def _parse(raw: bytes) -> Line | None:
    """Return the line, or None if it isn't one in exactly the bytes that this module writes."""
    try:
        line = msgspec.json.decode(raw, type=Line)
    except (msgspec.DecodeError, PrivacyError):
        return None
    return line if msgspec.json.encode(line) == raw else None
