"""The ledger: what was spent on one data set, on disk before anything that it paid for leaves.

One JSON object a line. Each line holds the SHA-256 of the line before it and its own content, so an
altered, lost or moved line is noticed; a tail cut at a line's end, or an old copy put back, is noticed by
the receipts of a witness (``securefd.defenses.witness``). ``charge`` returns only after the line is on stable
storage and countersigned, so a crash can leave something paid for and not released, never the reverse.

Spending is counted in one of two ways, which the first line fixes:

- As a schedule, all of which was fixed before the first access: composed by PLD, or by Renyi curves where a
  charge has only that.
- By a Renyi filter (``securefd.defenses.filters``), whose budget and order are preset: accesses may be chosen
  by looking at what was released before, as those of a later run on the same data always are.
"""

from __future__ import annotations

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
from securefd.defenses.filters import RenyiFilter
from securefd.defenses.journal import Journal
from securefd.defenses.witness import Head, Receipts
from securefd.errors import BudgetExceeded, LedgerError, PrivacyError

GENESIS = "0" * 64
VERSION: Literal[2] = 2
"""Of ledgers that are made. Version 1 had no filters, and is read as what it was: a schedule."""


class Opened(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="opened"
):
    """The first line: a random name, so that no line fits another ledger, and how it counts."""

    version: Literal[1, 2]
    name: str
    unit: Unit
    filter: RenyiFilter | None = None


class Charged(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag="charged"
):
    """One private access: what it was for, and its cost.

    ``nonce``: random, so that no access is taken for another: a ledger that was put back and charged with the
    same again has another head. Version 1 had none.
    """

    what: str
    charge: Charge
    nonce: str = ""


class Line(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``hash``: of the hash before and the bytes of ``entry``."""

    entry: Opened | Charged
    hash: str


def _chained(previous: str, entry: Opened | Charged) -> Line:
    digest = hashlib.sha256(previous.encode() + msgspec.json.encode(entry)).hexdigest()
    return Line(entry=entry, hash=digest)


def read_chain(content: bytes, source: str) -> tuple[str, ...]:
    """The hash of each line of a ledger's bytes, oldest first; ``source`` names it in errors.

    For whoever checks a ledger that isn't theirs to spend from: nothing is locked, created or mended. Raises
    LedgerError for the first line that isn't as it was written, and for a last one without its line feed.
    """
    *lines, tail = content.split(b"\n")
    hashes = [GENESIS]
    for number, raw in enumerate(lines, start=1):
        line = _parse(raw)
        fits = line is not None and line == _chained(hashes[-1], line.entry)
        if line is None or not fits or isinstance(line.entry, Opened) is not (number == 1):
            raise LedgerError(
                f"line {number} of ledger {source} is not as it was written; restore the ledger"
            )
        hashes.append(line.hash)
    if tail or not lines:
        raise LedgerError(f"ledger {source} ends in half a line, or holds none; restore the ledger")
    return tuple(hashes[1:])


class Ledger:
    """An open ledger, locked against every other process until it is closed."""

    def __init__(self, path: Path, journal: Journal, budget: Guarantee, receipts: Receipts | None) -> None:
        """Use ``Ledger.open``."""
        self.path = path
        self.budget = budget
        self._journal = journal
        self._receipts = receipts
        self._opened: Opened | None = None
        self._charged: list[Charged] = []
        self._hashes: list[str] = []

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        budget: Guarantee,
        *,
        order: float | None = None,
        receipts: Receipts | None = None,
    ) -> Ledger:
        """Open or create the ledger, lock it, verify every line, and compare it with its receipts.

        ``order``: for accesses that are chosen adaptively; of the filter (``filters.best_order``), if the
        ledger is made now: its budget is fixed then too, and the filter's own order counts from then on.
        Without one, a filter that is there is opened as it is, and stops where it was made to.
        ``receipts``: what a witness signed; without them a cut tail or an old copy isn't noticed.

        A last line without its line feed is the trace of a crash inside ``charge``, before anything was
        released: if it is whole it counts as spent, else it is removed. Raises LedgerError if
        another process has the ledger open, names the first line that isn't as it was written, or says what
        the witness saw that isn't there; PrivacyError for a budget of nothing, or that an order says
        nothing about.
        """
        path = Path(path)
        if not budget.epsilon > 0 or not budget.delta > 0:
            raise PrivacyError(f"budget must have epsilon > 0 and delta > 0, got {budget}")
        preset = None if order is None else _preset(order, budget)
        ledger = cls(path, Journal.open(path, "ledger"), budget, receipts)
        try:
            ledger._load(preset)
        except BaseException:
            ledger.close()
            raise
        return ledger

    @property
    def charged(self) -> Sequence[Charged]:
        """Everything spent, oldest first."""
        return tuple(self._charged)

    @property
    def filter(self) -> RenyiFilter | None:
        """The preset filter, or None where the ledger counts a schedule."""
        return self._first.filter

    @property
    def head(self) -> str:
        """The hash of the last line, in hex: what a stored release is tied to."""
        return self._hashes[-1]

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
        """Return what is proven of everything that was spent.

        Of a schedule, its composition at the budget's delta and relation. Of a filter, its whole preset
        budget, however little was spent, but for nothing at all: who stops because of what was released
        doesn't earn less.
        """
        return self._proven(self._price([entry.charge for entry in self._charged]))

    def price(self, charges: Sequence[Charge]) -> float:
        """Return the epsilon of ``charges`` by themselves, by this ledger's way of counting."""
        return self._price(list(charges))

    def charge(self, charge: Charge, what: str) -> Guarantee:
        """Write the cost of one private access, or refuse it; return what is proven by then.

        Call it before noise is drawn or anything is released. Raises BudgetExceeded, with nothing written,
        if the budget doesn't cover it, and LedgerError if it can't be written or countersigned; the ledger
        is then closed.
        """
        if not self._journal.is_open:
            raise LedgerError(f"ledger {self.path} is closed; open it again before charging {what!r}")
        total = self._allowed([charge], what)
        entry = Charged(what=what, charge=charge, nonce=secrets.token_hex(16))
        self._append(entry)
        self._charged.append(entry)
        if self._receipts is not None:
            self._countersign(self._receipts)
        return self._proven(total)

    def check_covers(self, charges: Sequence[Charge], what: str) -> None:
        """Refuse, with nothing written, what a later ``charge`` for each of ``charges`` couldn't pay for.

        Raises BudgetExceeded.
        """
        self._allowed(charges, what)

    def close(self) -> None:
        """Release the lock. Closing twice does nothing."""
        self._journal.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _first(self) -> Opened:
        assert self._opened is not None
        return self._opened

    def _price(self, charges: list[Charge]) -> float:
        if self.filter is not None:
            return self.filter.price(charges)
        return accounting.spent(charges, self.budget.delta, self.budget.relation)

    def _allowed(self, charges: Sequence[Charge], what: str) -> float:
        """The price of everything with ``charges``, if the budget covers it."""
        before = [entry.charge for entry in self._charged]
        total = self._price([*before, *charges])
        if not self._allows([*before, *charges], total):
            raise BudgetExceeded(self._excess(what, charges, before))
        return total

    def _allows(self, charges: list[Charge], price: float) -> bool:
        if self.filter is not None:
            return self.filter.cost(charges) <= self.filter.limit(self.budget)
        return price <= self.budget.epsilon

    def _excess(self, what: str, charges: Sequence[Charge], before: list[Charge]) -> str:
        """Why ``charges`` are refused, and what can be done."""
        steps = [[*charges], before, [*before, *charges]]
        if self.filter is not None:
            # An epsilon of a part says little: converting costs most of a small one.
            limit = self.filter.limit(self.budget)
            alone, spent, total = (
                f"{self.filter.cost(some) / limit:.2%}" if limit > 0 else "all" for some in steps
            )
            costs = f"{alone} of the budget"
            remedy = f"grant as much as it was made for, epsilon = {self.filter.epsilon:.4g}, and never more"
        else:
            alone, spent, total = (f"{self._price(some):.4g}" for some in steps)
            costs = f"epsilon = {alone}"
            remedy = "grant a larger budget"
        return (
            f"{what!r} costs {costs} by itself and would bring ledger {self.path} from {spent} to {total}, "
            f"towards any observer, above its budget of {self.budget}; use fewer steps or more noise, or "
            f"{remedy}"
        )

    def _proven(self, epsilon: float) -> Guarantee:
        budget = self.budget
        if self.filter is not None and self._charged:
            return _guarantee(self.filter, budget.unit)
        return Guarantee(epsilon=epsilon, delta=budget.delta, unit=budget.unit, relation=budget.relation)

    def _load(self, preset: RenyiFilter | None) -> None:
        for raw in self._journal.lines:
            self._accept(raw)
        self._journal.settle(self._accept_last)
        if self._opened is None:
            opened = Opened(version=VERSION, name=secrets.token_hex(16), unit=self.budget.unit, filter=preset)
            self._append(opened)
            self._opened = opened
        if self._receipts is not None:
            self._receipts.check(self.path, self._first.name, self._hashes)
        self._check_counting(preset)

    def _accept(self, raw: bytes) -> None:
        """Follow the chain by one line."""
        number, line = len(self._hashes) + 1, _parse(raw)
        if line is None or line != _chained(self._hashes[-1] if self._hashes else GENESIS, line.entry):
            if number == 1 and (version := _version(raw)) > VERSION:
                raise LedgerError(
                    f"ledger {self.path} has version {version}, and this program reads up to {VERSION}; use "
                    "the one that wrote it, or a later one"
                )
            raise LedgerError(
                f"line {number} of ledger {self.path} is not as it was written: it, or a line before it, was "
                "altered, lost or moved; restore the ledger, or treat its data set as spent"
            )
        if isinstance(line.entry, Opened) is not (number == 1):
            raise LedgerError(f"line {number} of ledger {self.path} is out of place; restore the ledger")
        if isinstance(line.entry, Charged):
            self._charged.append(line.entry)
        else:
            self._opened = line.entry
        self._hashes.append(line.hash)

    def _accept_last(self, raw: bytes) -> bool:
        """The same for a last line that a crash may have cut short; False if it did."""
        if _parse(raw) is None:
            return False
        self._accept(raw)
        return True

    def _check_counting(self, preset: RenyiFilter | None) -> None:
        """Refuse a budget that the ledger wasn't made for."""
        first, budget = self._first, self.budget
        if first.unit != budget.unit:
            raise LedgerError(
                f"ledger {self.path} counts by {first.unit}, and the budget is for one "
                f"{budget.unit}; use another ledger or budget"
            )
        if first.filter is None:
            if preset is not None:
                raise LedgerError(
                    f"ledger {self.path} counts schedules that were fixed before the first access, and a run "
                    "that is decided after another isn't; name another folder in privacy.ledger, and what "
                    f"{self.path} holds comes on top of the budget there"
                )
            return
        made = _guarantee(first.filter, first.unit)
        if budget.relation != made.relation:
            raise LedgerError(
                f"ledger {self.path} was made for {made}, and the budget is {budget}; a filter keeps its "
                "relation: give that one"
            )
        if preset is not None and (budget.epsilon > made.epsilon or budget.delta > made.delta):
            raise LedgerError(
                f"ledger {self.path} was made for {made}, and the budget is {budget}; what is spent "
                "adaptively is proven for a budget that was set before the first access, so it can't grow: "
                "give no more than that"
            )
        first.filter.allowance()

    def _countersign(self, receipts: Receipts) -> None:
        try:
            receipts.countersign(Head(name=self._first.name, lines=len(self._hashes), hash=self.head))
        except BaseException:
            self.close()
            raise

    def _append(self, entry: Opened | Charged) -> None:
        line = _chained(self._hashes[-1] if self._hashes else GENESIS, entry)
        self._journal.append(msgspec.json.encode(line))
        self._hashes.append(line.hash)


def _preset(order: float, budget: Guarantee) -> RenyiFilter:
    preset = RenyiFilter(order=order, epsilon=budget.epsilon, delta=budget.delta, relation=budget.relation)
    preset.allowance()
    return preset


def _guarantee(preset: RenyiFilter, unit: Unit) -> Guarantee:
    return Guarantee(epsilon=preset.epsilon, delta=preset.delta, unit=unit, relation=preset.relation)


def _parse(raw: bytes) -> Line | None:
    """Return the line, or None if it isn't one in exactly the bytes that this module writes."""
    try:
        line = msgspec.json.decode(raw, type=Line)
    except (msgspec.DecodeError, UnicodeDecodeError, PrivacyError):
        return None
    return line if msgspec.json.encode(line) == raw else None


def _version(raw: bytes) -> int:
    """The version that a first line says it is of, or 0."""
    try:
        return int(msgspec.json.decode(raw)["entry"]["version"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return 0
