"""One client's private accesses on disk: paid for, then made, then stored, then sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from securefd.checkpoint import pack_state, unpack_state
from securefd.config import PrivacyConfig
from securefd.defenses.claims import Guarantee
from securefd.defenses.ledger import Ledger
from securefd.errors import BudgetExceeded, ModelError
from securefd.fleet import State
from securefd.folder import make, read_arrays, write_arrays
from securefd.models import ModelSpec
from securefd.private import PrivatePlan, train_part


class PrivateClient:
    """Run by one client. Its ledger lies in its own folder, or in the one that is shared across runs."""

    def __init__(self, folder: Path, number: int, plan: PrivatePlan, privacy: PrivacyConfig) -> None:
        self._folder = folder
        self._plan = plan
        self.number = number
        self._model = folder / "private.safetensors"
        self._counts = folder / "counts.safetensors"
        make(folder)
        if privacy.ledger:
            if not Path(privacy.ledger).is_dir():  # one that is there belongs to its owner, rights and all
                make(Path(privacy.ledger))
            self._ledger = Path(privacy.ledger) / f"client-{number}.jsonl"
        else:
            self._ledger = folder / "ledger.jsonl"

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
                write_arrays(path, {"counts": noisy} | _tied(ledger))
        return np.asarray(read_arrays(path)["counts"], dtype=np.float64)

    def train(
        self,
        spec: ModelSpec,
        state: State,
        x: NDArray[np.float32],
        y: NDArray[np.int64],
        *,
        counts: NDArray[np.float64] | None,
        device: str,
        advance: Callable[[int], None],
    ) -> State:
        """The privately trained weights: those that are stored, trained on as far as the budget goes."""
        parts = self._plan.parts
        done = self._done()
        if done:
            state = unpack_state("model", read_arrays(self._model))
        advance(done)
        with self._open() as ledger:
            for part in range(done, len(parts)):
                charge = self._plan.mechanism.part(parts[part]).charge
                try:
                    ledger.charge(charge, f"training, part {part + 1} of {len(parts)}")
                except BudgetExceeded:
                    if part == 0:
                        raise
                    advance(len(parts) - part)
                    break
                state = train_part(
                    spec, state, x, y, self._plan, steps=parts[part], counts=counts, device=device
                )
                self._check_finite(state)
                stored = pack_state("model", state) | {"parts": np.array([part + 1])}
                write_arrays(self._model, stored | _tied(ledger))
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
        """Everything in the ledger, composed."""
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
        ledger = Ledger.open(self._ledger, self._plan.guarantee)
        try:
            for stored in (self._counts, self._model):
                if stored.exists():
                    ledger.check_holds(read_arrays(stored)["ledger"].tobytes().hex(), str(stored))
        except BaseException:
            ledger.close()
            raise
        return ledger


def _tied(ledger: Ledger) -> dict[str, NDArray[np.uint8]]:
    """What ties a stored release to the ledger that paid for it."""
    return {"ledger": np.frombuffer(bytes.fromhex(ledger.head), dtype=np.uint8)}
