"""Sealings that hide single answers from the server, each as a whole round between parties in one process.

- ``MaskedSealing``: what ``securefd.defenses.masks`` says. The server sees masked uploads and the sum.
- ``HomomorphicSealing``: what ``securefd.defenses.homomorphic`` says. The server sees ciphertexts, and the
  sum that the key holder opened for it.
- ``MaskedHomomorphicSealing``: what ``securefd.defenses.masked_bfv`` says, both of these. The server sees
  masked ciphertexts and the sum; the key holder sees a masked sum.

Clients may drop out, at every stage that there is, down to the threshold; with fewer the round ends with a
typed error, and nothing is opened. All parties share one process's memory: what is shown is the protocol, not
a separation of trust.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import get_args

from securefd.defenses.carriers import Sealer
from securefd.defenses.homomorphic import HomomorphicClient, HomomorphicServer, KeyHolder
from securefd.defenses.identity import Identity
from securefd.defenses.masked_bfv import BfvAdder, BfvSealer, quorum_of
from securefd.defenses.masked_client import MaskedClient
from securefd.defenses.masked_server import MaskedServer
from securefd.defenses.neighbourhood import Neighbourhood
from securefd.defenses.sealing import (
    NO_QUESTION,
    Codec,
    Kind,
    Opened,
    PlainSealing,
    Record,
    Sealing,
    Vector,
    check_noise,
    check_vectors,
    forget,
)
from securefd.defenses.slots import SlotKeyHolder
from securefd.defenses.terms import Terms
from securefd.errors import SealingError

Attends = Callable[[str, int], bool]
"""Whether a client still answers at a stage of a round; once it doesn't, it has dropped out of that round."""


def _everyone(stage: str, client: int) -> bool:
    return True


class MaskedSealing:
    """Masked sums among clients with these identities, in the order of ``terms``; one object serves a run."""

    def __init__(
        self,
        identities: Sequence[Identity],
        terms: Terms,
        *,
        attends: Attends = _everyone,
        record: Record = forget,
    ) -> None:
        self._terms, self._attends, self._record = terms, attends, record
        self._clients = [MaskedClient(identity, terms) for identity in identities]

    def run_round(
        self,
        session: bytes,
        round: int,  # noqa: A002
        vectors: Sequence[Vector],
        bits: int,
        question: bytes = NO_QUESTION,
        noise: Sequence[Vector] | None = None,
    ) -> Opened:
        """See ``Sealing.run_round``."""
        size = _check_masked(vectors, bits, self._terms)
        shares = check_noise(noise, self._terms.noise_deviation, len(vectors), size)
        server = MaskedServer(self._terms, session=session, round=round, question=question, size=size)
        wire = _Wire(self._clients, server, self._attends, self._record)
        return wire.play(
            lambda client: client.advertise(session, round, question=question, size=size), vectors, shares
        )


class MaskedHomomorphicSealing:
    """Masked sums that are encrypted as well, with a server and a key holder; one object serves a run."""

    def __init__(
        self,
        identities: Sequence[Identity],
        terms: Terms,
        server: Identity,
        holder: Identity,
        *,
        attends: Attends = _everyone,
        record: Record = forget,
    ) -> None:
        self._terms, self._attends, self._record = terms, attends, record
        self._server, self._pinned_holder = server, holder.public
        self._holder = SlotKeyHolder(holder, server.public, quorum_of(terms))
        self._clients = [MaskedClient(identity, terms) for identity in identities]

    def run_round(
        self,
        session: bytes,
        round: int,  # noqa: A002
        vectors: Sequence[Vector],
        bits: int,
        question: bytes = NO_QUESTION,
        noise: Sequence[Vector] | None = None,
    ) -> Opened:
        """See ``Sealing.run_round``."""
        size = _check_masked(vectors, bits, self._terms)
        check_noise(noise, self._terms.noise_deviation, len(vectors), size)
        context = self._holder.context(session, round, question)
        self._record("server", -1, "context", context)

        def ask(message: bytes) -> bytes:
            self._record("keyholder", -1, "sum", message)
            opening = self._holder.open(message).message
            self._record("server", -1, "opening", opening)
            return opening

        adder = BfvAdder(
            self._terms,
            size,
            server=self._server,
            holder=self._pinned_holder,
            context=context,
            session=session,
            round=round,
            question=question,
            ask=ask,
        )
        sealer = BfvSealer(
            terms=self._terms,
            holder=self._pinned_holder,
            context=context,
            session=session,
            round=round,
            question=question,
        )
        server = MaskedServer(
            self._terms, session=session, round=round, question=adder.about, size=size, adder=adder
        )
        wire = _Wire(self._clients, server, self._attends, self._record)
        wire.deliver("context", context)
        return wire.play(
            lambda client: client.advertise(session, round, question=sealer.about, size=size),
            vectors,
            sealer=sealer,
        )


def _check_masked(vectors: Sequence[Vector], bits: int, terms: Terms) -> int:
    """Return the common size of the vectors, one a client, of as many bits as were agreed on."""
    size = check_vectors(vectors, bits, len(terms.pinned))
    if bits != terms.bits:
        raise SealingError(f"values of {terms.bits} bits were agreed on, got {bits}; make new terms")
    return size


class _Wire:
    """Moves the messages of one round between clients and server, and counts their bytes."""

    def __init__(
        self, clients: Sequence[MaskedClient], server: MaskedServer, attends: Attends, record: Record
    ) -> None:
        self._clients, self._server = clients, server
        self._attends, self._record = attends, record
        self._present = list(range(len(clients)))
        self.up, self.down = [0] * len(clients), [0] * len(clients)

    def play(
        self,
        advertise: Callable[[MaskedClient], bytes],
        vectors: Sequence[Vector],
        shares: Sequence[Vector] | None = None,
        *,
        sealer: Sealer | None = None,
    ) -> Opened:
        """All stages of a round, of which ``advertise`` is a client's first step."""
        server = self._server

        def upload(client: MaskedClient, k: int) -> bytes:
            noise = None if shares is None else shares[k]
            return client.upload(relays[k], vectors[k], noise=noise, sealer=sealer)

        self.collect("advertise", lambda client, _: advertise(client))
        roster = self.deliver("roster", server.roster())
        self.collect("share", lambda client, k: client.share(roster[k]))
        relays = self.deliver("relay", server.relays())
        self.collect("upload", upload)
        survivors = self.deliver("survivors", server.survivors())
        self.collect("confirm", lambda client, k: client.confirm(survivors[k]))
        confirmations = self.deliver("confirmations", server.confirmations())
        self.collect("unmask", lambda client, k: client.unmask(confirmations[k]))
        opened = server.open_sum()
        return Opened(
            total=opened.total,
            clients=opened.clients,
            individual=None,
            up=tuple(self.up),
            down=tuple(self.down),
        )

    def collect(self, stage: str, act: Callable[[MaskedClient, int], bytes]) -> None:
        """Every client that is still there acts, and the server takes what it sends."""
        self._present = [k for k in self._present if self._attends(stage, k)]
        for k in self._present:
            message = act(self._clients[k], k)
            self.up[k] += len(message)
            self._record("server", k, stage, message)
            self._server.receive(message)

    def deliver(self, stage: str, sent: bytes | Mapping[int, bytes]) -> Mapping[int, bytes]:
        """The server sends all clients that are still there the same message, or each its own."""
        messages = sent if isinstance(sent, Mapping) else dict.fromkeys(self._present, sent)
        for k in self._present:
            self.down[k] += len(messages[k])
            self._record("client", k, stage, messages[k])
        return messages


class HomomorphicSealing:
    """Homomorphic sums among clients with these identities, in roster order, a server and a key holder.

    ``threshold``: the fewest clients whose sum is opened; default all of them. A client drops out by not
    attending stage "upload", the only one.
    """

    def __init__(
        self,
        identities: Sequence[Identity],
        server: Identity,
        holder: Identity,
        threshold: int | None = None,
        *,
        attends: Attends = _everyone,
        record: Record = forget,
    ) -> None:
        pinned = tuple(identity.public for identity in identities)
        self._attends, self._record = attends, record
        self._clients = [
            HomomorphicClient(identity, pinned, holder.public, threshold) for identity in identities
        ]
        self._server = HomomorphicServer(server, pinned, holder.public, threshold)
        self._holder = KeyHolder(holder, server.public, len(pinned), threshold)

    def run_round(
        self,
        session: bytes,
        round: int,  # noqa: A002
        vectors: Sequence[Vector],
        bits: int,
        question: bytes = NO_QUESTION,
        noise: Sequence[Vector] | None = None,
    ) -> Opened:
        """See ``Sealing.run_round``."""
        size = check_vectors(vectors, bits, len(self._clients))
        check_noise(noise, 0.0, len(vectors), size)
        context = self._holder.context(session, round, question)
        self._record("server", -1, "context", context)
        uploads: dict[int, bytes] = {}
        for k, client in enumerate(self._clients):
            self._record("client", k, "context", context)
            if self._attends("upload", k):
                uploads[k] = client.upload(
                    context, vectors[k], session=session, round=round, question=question, bits=bits
                )
                self._record("server", k, "upload", uploads[k])
        asked = self._server.add(
            context, list(uploads.values()), session=session, round=round, question=question, size=size
        )
        self._record("keyholder", -1, "sum", asked)
        opening = self._holder.open(asked, bits).message
        self._record("server", -1, "opening", opening)
        opened = self._server.read(opening, bits)
        return Opened(
            total=opened.total,
            clients=opened.contributors,
            individual=None,
            up=tuple(len(uploads.get(k, b"")) for k in range(len(vectors))),
            down=(len(context),) * len(vectors),
        )


def make_sealing(
    kind: Kind,
    n_clients: int,
    bits: int,
    *,
    neighbourhood: Neighbourhood | None = None,
    threshold: int | None = None,
    codec: Codec | None = None,
    noise_deviation: float = 0.0,
    record: Record = forget,
) -> Sealing:
    """Return a sealing of this kind among ``n_clients`` with new identities.

    ``bits``: of every value. ``neighbourhood``: for masks, with their threshold. ``threshold``: the fewest
    clients whose sum is opened, for homomorphic; default all. ``codec``: for plain only. ``noise_deviation``:
    of the noise on each value of the sum (plain: of each vector), for plain and masked only.
    """
    if kind == "plain":
        return PlainSealing(codec, noise_deviation=noise_deviation, record=record)
    if codec is not None:
        raise SealingError(f"a codec needs sealing plain, got {kind}: what it saves would show the values")
    identities = [Identity.generate() for _ in range(n_clients)]
    if kind not in get_args(Kind):
        raise SealingError(f"sealing must be one of {', '.join(get_args(Kind))}, got {kind!r}")
    if noise_deviation and kind != "masked":
        raise SealingError(
            f"noise needs sealing plain or masked, got {kind}, whose fields hold no negative sums"
        )
    if kind == "homomorphic":
        return HomomorphicSealing(
            identities, Identity.generate(), Identity.generate(), threshold, record=record
        )
    if neighbourhood is None:
        raise SealingError(f"sealing {kind} needs a neighbourhood, got None; make one with choose")
    pinned = tuple(identity.public for identity in identities)
    if kind == "masked":
        terms = Terms(pinned=pinned, neighbourhood=neighbourhood, bits=bits, noise_deviation=noise_deviation)
        return MaskedSealing(identities, terms, record=record)
    terms = Terms(pinned=pinned, neighbourhood=neighbourhood, bits=bits, carrier="bfv")
    return MaskedHomomorphicSealing(
        identities, terms, Identity.generate(), Identity.generate(), record=record
    )
