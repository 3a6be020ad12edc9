"""One client's private accesses on disk: paid for, then made, then stored, then sent.

What was paid is countersigned before it is made: by the run's server, or a witness that is kept across runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securefd.checkpoint import pack_state, unpack_state
from securefd.config import PrivacyConfig
from securefd.defenses import filters
from securefd.defenses.charges import Charge
from securefd.defenses.claims import Guarantee
from securefd.defenses.ledger import Ledger
from securefd.defenses.witness import FolderWitness, Receipts
from securefd.errors import BudgetExceeded, ConfigError, ModelError
from securefd.fleet import State
from securefd.folder import make, read_arrays, write_arrays
from securefd.given import Given
from securefd.private import PrivatePlan, charges_of


@dataclass(frozen=True, kw_only=True)
class Account:
    """Where one client's spending is kept, what it may come to, and who countersigns it.

    A ledger that is shared across runs counts by a filter of the Renyi order ``order``, since a later run is
    decided by whoever saw the earlier ones. One of a single run counts that run's schedule, which is fixed
    before it starts.

    The witness is the server of the run, whose folder lies beside the clients', unless ``privacy.witness``
    names another. A run's own server knows no other run: only a witness that is kept notices what was cut
    from a shared ledger between two runs.
    """

    path: Path
    budget: Guarantee
    order: float | None
    receipts: Receipts

    @classmethod
    def of(
        cls,
        folder: Path,
        number: int,
        privacy: PrivacyConfig,
        *,
        planned: Guarantee,
        charges: Sequence[Charge],
    ) -> Account:
        """``folder``: ``clients/<number>`` of a run. ``planned``, ``charges``: what the run is to cost.

        Raises ConfigError for a budget that doesn't cover the run.
        """
        budget = _budget(planned, privacy)
        path, receipts = ledger_path(folder, number, privacy), folder / "receipts.jsonl"
        order = None
        if privacy.ledger:
            order = filters.best_order(charges, budget.delta, budget.relation, budget.epsilon)
        if privacy.witness:  # its receipts serve the next run too
            receipts = path.with_suffix(".receipts.jsonl")
        witness = Path(privacy.witness) if privacy.witness else folder.parent.parent / "server"
        return cls(path=path, budget=budget, order=order, receipts=Receipts(receipts, FolderWitness(witness)))

    def open(self) -> Ledger:
        """The ledger, in a folder that is made if it isn't there."""
        if not self.path.parent.is_dir():  # one that is there belongs to its owner, rights and all
            make(self.path.parent)
        return Ledger.open(self.path, self.budget, order=self.order, receipts=self.receipts)


class PrivateClient:
    """Run by one client. Its ledger lies in its own folder, or in the one that is shared across runs."""

    def __init__(self, folder: Path, number: int, plan: PrivatePlan, privacy: PrivacyConfig) -> None:
        """``folder``: ``clients/<number>`` of a run."""
        self._plan = plan
        self.number = number
        self._model = folder / "private.safetensors"
        self._counts = folder / "counts.safetensors"
        self._account = Account.of(
            folder,
            number,
            privacy,
            planned=plan.guarantee,
            charges=charges_of(plan),
        )
        make(folder)

    def check_budget(self) -> None:
        """Refuse, before anything is trained, what the ledger can't pay for: BudgetExceeded, as later.

        That is the first access; of a training that has begun, the last parts may be left out.
        """
        if self._done():
            return
        parts = self._plan.parts
        first = [self._plan.charge(parts[0])]
        if self._plan.counts is not None and not self._counts.exists():
            first = [self._plan.counts.charge, *first]
        with self._open() as ledger:
            ledger.check_covers(first, f"training, part 1 of {len(parts)}")

    def counts(self, labels: NDArray[np.int64], n_classes: int) -> NDArray[np.float64] | None:
        """Noisy class counts, drawn and paid for once; None where the method uses none."""
        plan = self._plan.counts
        if plan is None:
            return None
        path = self._counts
        if not path.exists():
            with self._open() as ledger:
                ledger.charge(plan.charge, "class counts")
                noisy = plan(np.bincount(labels, minlength=n_classes))
                write_arrays(path, {"counts": noisy} | tied(ledger))
        return np.asarray(read_arrays(path)["counts"], dtype=np.float64)

    def train(self, given: Given, state: State, *, advance: Callable[[int], None]) -> State:
        """The privately trained weights: those that are stored, trained on as far as the budget goes."""
        parts = self._plan.parts
        done = self._done()
        if done:
            state = unpack_state("model", read_arrays(self._model))
        advance(done)
        with self._open() as ledger:
            for part in range(done, len(parts)):
                try:
                    ledger.charge(
                        self._plan.charge(parts[part]), f"training, part {part + 1} of {len(parts)}"
                    )
                except BudgetExceeded:
                    if part == 0:
                        raise
                    advance(len(parts) - part)
                    break
                state = self._plan.train(given, state, parts[part])
                self._check_finite(state)
                stored = pack_state("model", state) | {"parts": np.array([part + 1])}
                write_arrays(self._model, stored | tied(ledger))
                advance(1)
        return state

    @property
    def note(self) -> str | None:
        """What must be said of its training once it is over, or None where all of it took place."""
        done, parts = self._done(), len(self._plan.parts)
        if done == parts:
            return None
        return (
            f"client {self.number} trained {done} of {parts} parts, and its budget didn't cover the others: "
            "what an interruption loses is paid for again, and a shared ledger holds what other runs spent"
        )

    def spent(self) -> Guarantee:
        """What is proven of everything in the ledger: of a shared one, its whole preset budget."""
        with self._open() as ledger:
            return ledger.spent()

    def charges(self) -> list[str]:
        """What each line of the ledger paid for."""
        with self._open() as ledger:
            return [charged.what for charged in ledger.charged]

    def _done(self) -> int:
        """Parts that are trained and stored."""
        return int(read_arrays(self._model)["parts"][0]) if self._model.exists() else 0

    def _check_finite(self, state: State) -> None:
        if not all(bool(value.isfinite().all()) for value in state.values()):
            raise ModelError(
                f"the private training of client {self.number} diverged: its weights aren't finite; lower "
                "privacy.learning_rate, in a new folder"
            )

    def _open(self) -> Ledger:
        """The ledger, if it holds what paid for everything that is stored."""
        ledger = self._account.open()
        try:
            for stored in (self._counts, self._model):
                if stored.exists():
                    ledger.check_holds(read_arrays(stored)["ledger"].tobytes().hex(), str(stored))
        except BaseException:
            ledger.close()
            raise
        return ledger


def ledger_path(folder: Path, number: int, privacy: PrivacyConfig) -> Path:
    """Where the ledger of the client in ``folder`` lies."""
    if privacy.ledger:
        return Path(privacy.ledger) / f"client-{number}.jsonl"
    return folder / "ledger.jsonl"


def _budget(planned: Guarantee, privacy: PrivacyConfig) -> Guarantee:
    """What the ledger may come to."""
    if privacy.budget is None:
        return planned
    if not privacy.budget >= planned.epsilon:
        raise ConfigError(
            f"privacy.budget must cover what one run costs towards any observer, {planned}, got "
            f"{privacy.budget:g}; raise it, or use more noise"
        )
    return replace(planned, epsilon=privacy.budget)


def tied(ledger: Ledger) -> dict[str, NDArray[Any]]:
    """What ties a stored release to the ledger that paid for it."""
    return {"ledger": np.frombuffer(bytes.fromhex(ledger.head), dtype=np.uint8)}
