"""One client's noised answers on disk: paid for, then drawn, then stored, then sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from securefd.config import PrivacyConfig
from securefd.defenses.claims import Guarantee
from securefd.folder import make, read_arrays, write_arrays, write_bytes
from securefd.private_client import Account, tied
from securefd.releases import ReleasePlan, Vector


class ReleasingClient:
    """Run by one client, under a client-level route. Its ledger lies where a `PrivateClient`'s does."""

    def __init__(self, folder: Path, number: int, plan: ReleasePlan, privacy: PrivacyConfig) -> None:
        """``folder``: ``clients/<number>`` of a run."""
        self._folder = folder
        self._plan = plan
        self.number = number
        self._account = Account.of(folder, number, privacy, planned=plan.guarantee, charges=plan.charges())
        make(folder)

    def check_budget(self) -> None:
        """Refuse, before anything is trained, what the ledger can't pay for: BudgetExceeded, as later.

        That is all rounds; of a run that has begun, those that follow are refused when they come.
        """
        rounds = range(len(self._plan.rounds))
        if any(self._path(number).exists() for number in rounds):
            return
        with self._account.open() as ledger:
            ledger.check_covers(self._plan.charges(), "answers of all rounds")

    def _path(self, round: int) -> Path:  # noqa: A002
        return self._folder / f"release-{round + 1:04d}.safetensors"

    def release(self, vector: Vector, round: int) -> tuple[Vector, Vector | None]:  # noqa: A002
        """What this client seals in a round, and its share of the noise; what is stored is sent again.

        Raises BudgetExceeded, before any noise is drawn, if the ledger doesn't cover the round.
        """
        charge = self._plan.charge(round)
        if charge is None:
            return vector, None
        path = self._path(round)
        with self._account.open() as ledger:
            if path.exists():
                stored = read_arrays(path)
                ledger.check_holds(stored["ledger"].tobytes().hex(), str(path))
                return np.array(stored["vector"]), stored.get("noise")
            ledger.charge(charge, f"answers of round {round + 1}")
            sealed, noise = self._plan.release(vector, round)
            arrays = {"vector": sealed} | tied(ledger)
            write_arrays(path, arrays if noise is None else arrays | {"noise": noise})
        return sealed, noise

    def hear(self, round: int) -> None:  # noqa: A002
        """Note that a trusted server's release of this round is known from now on: before it is told."""
        if not self.has_heard(round):
            write_bytes(self._heard(round), b"")

    def has_heard(self, round: int) -> bool:  # noqa: A002
        """Whether it may be known: then it may not be drawn anew, which nobody would have paid for."""
        return self._heard(round).exists()

    def _heard(self, round: int) -> Path:  # noqa: A002
        return self._folder / f"heard-{round + 1:04d}"

    def spent(self) -> Guarantee:
        """Everything in the ledger, composed."""
        with self._account.open() as ledger:
            return ledger.spent()
