"""Bad messages against the three parties of a homomorphic sum: typed errors only, and no change of state.

One client's key is the fuzzer's, and so are the server's towards the key holder and the key holder's towards
clients: nothing is promised about what such a party makes of its own part, but it is refused or it fits.
"""

from functools import partial
from random import Random
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from securefd.defenses.homomorphic import HomomorphicClient, HomomorphicServer, KeyHolder, OpenedSum
from securefd.defenses.identity import Identity, Place, sign_message
from securefd.messages import Ciphertexts, EncryptedSum, KeyContext, Signed, decode
from tests.defenses.fuzzing import Tally, fingerprint, mutate, raise_sites

SESSION = b"session-of-tests"
QUESTION = bytes(range(32))


def at(number: int, session: bytes = SESSION, question: bytes = QUESTION) -> dict[str, Any]:
    return {"session": session, "round": number, "question": question}


SIZE, BITS, N, THRESHOLD = 5, 8, 4, 3
IDENTITIES = [Identity(private=Ed25519PrivateKey.from_private_bytes(bytes([k + 1]) * 32)) for k in range(6)]
CLIENTS, SERVER, HOLDER = IDENTITIES[:N], IDENTITIES[N], IDENTITIES[N + 1]
PINNED = tuple(client.public for client in CLIENTS)
LIAR = 1
SITES = raise_sites(
    "defenses/homomorphic.py", "defenses/slots.py", "defenses/bfv.py", "defenses/identity.py", "messages.py"
)


class Fuzzer:
    """Rounds in which each message is also sent in many bad forms."""

    def __init__(self, seed: int) -> None:
        self.random, self.tally = Random(seed), Tally(sites=SITES)
        self.holder = KeyHolder(HOLDER, SERVER.public, N, THRESHOLD)
        self.kept = [b"\x90"]

    def run(self, messages: int) -> None:
        """Whole rounds, until so many messages were tried."""
        number = 0
        while self.tally.tried.total() < messages:
            self.number = number = number + 1
            self.play_round(30)

    def play_round(self, budget: int) -> None:
        context = self.holder.context(SESSION, self.number, QUESTION)
        for _ in range(budget):
            self.to_client(context)
        rng = np.random.default_rng(self.number)
        vectors = [rng.integers(0, 1 << BITS, SIZE) for _ in range(N)]
        uploads = [
            client.upload(context, vector, **at(self.number), bits=BITS)
            for client, vector in zip(map(self.client, range(N)), vectors, strict=True)
        ]
        for _ in range(budget):
            self.to_server(context, uploads)
        server = self.server()
        total = self.add(server, context, uploads)
        for _ in range(budget):
            self.to_holder(total)
        opening = self.holder.open(total, BITS).message
        self.tally.refuse(partial(self.holder.open, total, BITS))
        for _ in range(budget):
            self.to_reader(server, opening)
        assert np.array_equal(server.read(opening, BITS).total, np.sum(vectors, axis=0))
        self.tally.refuse(partial(server.read, opening, BITS))
        self.kept = [context, total, opening, *uploads]

    def client(self, position: int) -> HomomorphicClient:
        return HomomorphicClient(CLIENTS[position], PINNED, HOLDER.public, THRESHOLD)

    def server(self) -> HomomorphicServer:
        return HomomorphicServer(SERVER, PINNED, HOLDER.public, THRESHOLD)

    def add(self, server: HomomorphicServer, context: bytes, uploads: list[bytes]) -> bytes:
        return server.add(context, uploads, **at(self.number), size=SIZE)

    def to_client(self, context: bytes) -> None:
        """A context, from the network or from the key holder."""
        client = self.client(0)
        kind, message = self.spoil(context, HOLDER, 0)
        upload = partial(client.upload, **at(self.number), bits=BITS)
        before = fingerprint(client._rounds)
        for sent in self.tally.count(f"context: {kind}", partial(upload, message, np.arange(SIZE))):
            assert decode(decode(message, Signed).body, KeyContext).threshold >= THRESHOLD
            assert decode(decode(sent, Signed).body, Ciphertexts).size == SIZE
            return
        assert fingerprint(client._rounds) == before

    def to_server(self, context: bytes, uploads: list[bytes]) -> None:
        """A client's upload, from the network or from that client, or another selection of uploads."""
        random, server = self.random, self.server()
        kind, message = self.spoil(uploads[LIAR], CLIENTS[LIAR], LIAR)
        sent = [message if k == LIAR else upload for k, upload in enumerate(uploads)]
        if random.random() < 0.1:
            kind, sent = "another selection", random.sample(uploads * 2, random.randrange(N + 2))
        before = fingerprint(server._rounds)
        accepted = self.tally.count(f"upload: {kind}", partial(self.add, server, context, sent))
        for total in accepted:
            contributors = decode(decode(total, Signed).body, EncryptedSum).contributors
            assert len(contributors) == len(sent) >= THRESHOLD
        assert accepted or fingerprint(server._rounds) == before

    def to_holder(self, total: bytes) -> None:
        """A sum, from the network or from the server. Where its key is used up, it gets it back."""
        slots = self.holder._slots
        key, place, rounds = slots._key, slots._place, fingerprint(slots._rounds)
        kind, message = self.spoil(total, SERVER, 0)
        for opened in self.tally.count(f"sum: {kind}", partial(self.holder.open, message, BITS)):
            assert slots._key is None
            self.check_opened(opened)
        if slots._key is None:
            self.tally.refuse(partial(self.holder.open, total, BITS))
            slots._key, slots._place = key, place
        assert (slots._key, slots._place, fingerprint(slots._rounds)) == (key, place, rounds)

    def to_reader(self, server: HomomorphicServer, opening: bytes) -> None:
        """An answer, from the network or from the key holder. A server that took it waits for it again."""
        before = server._expected
        kind, message = self.spoil(opening, HOLDER, 0)
        for opened in self.tally.count(f"opening: {kind}", partial(server.read, message, BITS)):
            assert server._expected is None
            assert opened.contributors == tuple(range(N))
            self.check_opened(opened)
            server._expected = before
        assert server._expected is before

    def check_opened(self, opened: OpenedSum) -> None:
        assert len({*opened.contributors}) >= THRESHOLD
        assert 0 <= opened.total.min() <= opened.total.max() <= N * ((1 << BITS) - 1)

    def spoil(self, message: bytes, signer: Identity, sender: int) -> tuple[str, bytes]:
        """Another message in place of this one: as the network could alter it, or signed."""
        random, donor = self.random, self.random.choice(self.kept)
        family = random.random()
        if family < 0.05:
            return "from elsewhere", donor
        if family < 0.3:
            return mutate(random, message, donor)
        honest = decode(message, Signed)
        kind, body = mutate(random, honest.body, donor)
        place = Place(
            protocol=self.holder._slots._quorum.protocol,
            session=honest.session,
            round=honest.round,
            stage=honest.stage,
            roster=honest.roster,
        )
        return f"{kind}, signed", sign_message(signer, place, sender, body)


def run(seed: int, messages: int) -> Tally:
    fuzzer = Fuzzer(seed)
    fuzzer.run(messages)
    print(fuzzer.tally)
    return fuzzer.tally


def test_some_messages() -> None:
    tally = run(1, 400)
    assert len(tally.refused) > 10


@pytest.mark.fuzz
def test_many_messages() -> None:
    run(2, 8000)
