"""One round of a masked sum in one process: what either side computes, and what each client uploads."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from securefd.defenses.neighbourhood import Neighbourhood

STAGES = ("advertise", "share", "upload", "confirm", "unmask")
BITS = 8
"""Of every value."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """How many take part in a round, and of what size: a tenth may drop, and does; a twentieth may collude.

    ``degree``: holders of each client; None for the fewest that are sound.
    """

    clients: int
    values: int
    degree: int | None = None

    @property
    def dropped(self) -> int:
        """Clients that share, and don't upload."""
        return self.clients // 10

    def graph(self) -> Neighbourhood:
        """Return the parameters that follow; ``SealingError`` for a degree that isn't sound."""
        from securefd.defenses.neighbourhood import choose

        return choose(
            n_clients=self.clients,
            threshold=self.clients - self.dropped,
            colluders=self.clients // 20,
            degree=self.degree,
        )


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one round, by stage: processor seconds of all clients and of the server, and who took part.

    ``bytes``: what a client uploads, the mean of those who took part. ``most_bytes``: what the client that
    uploaded most did in all stages together.
    """

    clients: dict[str, float]
    server: dict[str, float]
    present: dict[str, int]
    bytes: dict[str, float]
    most_bytes: int

    def a_client(self, n_clients: int) -> float:
        """Seconds of all clients, those who dropped out too, divided by their number."""
        return sum(self.clients.values()) / n_clients

    def stayed(self) -> float:
        """Seconds of a client that took part in every stage."""
        return sum(seconds / self.present[stage] for stage, seconds in self.clients.items())


def play(case: Case, graph: Neighbourhood) -> Cost:
    """Run the round, and check its sum. Not timed: making identities and vectors, and sending.

    As ``timeit`` does it, garbage isn't collected meanwhile: how much of it there is would depend on how many
    clients share this process.
    """
    gc.collect()
    gc.disable()
    try:
        return _play(case, graph)
    finally:
        gc.enable()


def _play(case: Case, graph: Neighbourhood) -> Cost:
    import numpy as np

    from securefd.defenses.identity import Identity
    from securefd.defenses.masked_client import MaskedClient
    from securefd.defenses.masked_server import MaskedServer
    from securefd.defenses.terms import Terms

    identities = [Identity.generate() for _ in range(case.clients)]
    terms = Terms(pinned=tuple(each.public for each in identities), neighbourhood=graph, bits=BITS)
    clients = [MaskedClient(identity, terms) for identity in identities]
    session, question = os.urandom(32), os.urandom(32)
    server = MaskedServer(terms, session=session, round=0, question=question, size=case.values)
    everyone = range(case.clients)
    gone = set(np.random.default_rng(1).choice(case.clients, case.dropped, replace=False).tolist())
    left = [k for k in everyone if k not in gone]
    expected = np.zeros(case.values, dtype=np.int64)
    clock = _Clock(server)

    clock.stage(
        "advertise",
        everyone,
        lambda k, _: clients[k].advertise(session, 0, question=question, size=case.values),
    )
    roster = clock.close("advertise", server.roster)
    clock.stage("share", everyone, lambda k, _: clients[k].share(roster))
    relays = clock.close("share", server.relays)

    def vector(k: int) -> Any:
        values = np.random.default_rng(k).integers(0, 1 << BITS, case.values)
        np.add(expected, values, out=expected)
        return values

    clock.stage("upload", left, lambda k, values: clients[k].upload(relays[k], values), vector)
    survivors = clock.close("upload", server.survivors)
    clock.stage("confirm", left, lambda k, _: clients[k].confirm(survivors))
    confirmations = clock.close("confirm", server.confirmations)
    clock.stage("unmask", left, lambda k, _: clients[k].unmask(confirmations[k]))
    opened = clock.close("unmask", server.open_sum)
    if not (opened.clients == tuple(left) and np.array_equal(opened.total, expected)):
        raise RuntimeError("the opened sum isn't the sum of the survivors' vectors; nothing was measured")
    return clock.cost()


class _Clock:
    """Times both sides' parts of a round in turn; one vector and one upload are in memory at a time."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._clients, self._closing = dict.fromkeys(STAGES, 0.0), dict.fromkeys(STAGES, 0.0)
        self._sent: dict[str, dict[int, int]] = {}

    def stage(
        self,
        name: str,
        present: Sequence[int],
        act: Callable[[int, Any], bytes],
        given: Callable[[int], Any] = lambda _: None,
    ) -> None:
        """Each client acts on what it is ``given``, untimed, and the server takes what it sends."""
        sent = self._sent[name] = {}
        for k in present:
            has = given(k)
            began = time.process_time()
            message = act(k, has)
            acted = time.process_time()
            self._server.receive(message)
            self._closing[name] += time.process_time() - acted
            self._clients[name] += acted - began
            sent[k] = len(message)

    def close(self, name: str, act: Callable[[], Any]) -> Any:
        """The server ends a stage."""
        began = time.process_time()
        result = act()
        self._closing[name] += time.process_time() - began
        return result

    def cost(self) -> Cost:
        everyone = self._sent["advertise"]
        return Cost(
            clients=self._clients,
            server=self._closing,
            present={stage: len(sent) for stage, sent in self._sent.items()},
            bytes={stage: sum(sent.values()) / len(sent) for stage, sent in self._sent.items()},
            most_bytes=max(sum(sent.get(k, 0) for sent in self._sent.values()) for k in everyone),
        )
