"""What clients and server send each other in a round besides what sealing needs, and what it all weighs.

A run moves these messages and counts their bytes; a plan makes one client's with zeros in them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from msgspec import msgpack
from numpy.typing import NDArray

from securefd.cache import Cache
from securefd.codec import Codec
from securefd.config import SealingConfig
from securefd.defenses.homomorphic import HomomorphicClient, KeyHolder
from securefd.defenses.identity import Identity
from securefd.defenses.masks import MaskedClient, MaskedServer
from securefd.defenses.sealing import FixedWidth
from securefd.messages import Answer, Broadcast, Query, encode
from securefd.recipe import Recipe

SESSION = bytes(32)
"""Stands for a run's session where messages are only weighed."""


@dataclass(frozen=True, kw_only=True)
class Weight:
    """Bytes of one round that one client sends and receives, the largest over the clients."""

    up: int
    down: int


def codec_of(recipe: Recipe, sealing: SealingConfig) -> Codec | None:
    """The codec of answers and broadcasts, or None where they travel as plain words.

    Delta coding shows which answers changed, so it is for unsealed answers only.
    """
    coded = sealing.kind == "plain" and recipe.method.public
    if not coded or recipe.method.grid_bits(recipe.options) is None:
        return None
    return Codec(n_classes=recipe.n_classes, bits=recipe.bits)


def query(recipe: Recipe, session: bytes, round: int, asked: NDArray[np.int64]) -> bytes:  # noqa: A002
    """Server to every client: what to answer; nothing where the method asks about no public inputs."""
    return encode(Query.of(session, round, asked)) if recipe.method.public else b""


def broadcast(session: bytes, round: int, body: bytes) -> bytes:  # noqa: A002
    """Server to every client: what the round came to."""
    return encode(Broadcast(session=session, round=round, body=body))


def consensus_body(fresh: NDArray[np.float64]) -> bytes:
    """``(a, n_classes)`` probabilities or logits as float32."""
    return fresh.astype("<f4").tobytes()


def total_body(total: NDArray[np.int64]) -> bytes:
    """``(d,)`` the opened sum itself: each client of ``fd`` subtracts its own part."""
    return total.astype("<u4").tobytes()


def asked_counts(recipe: Recipe, n_public: int) -> list[int]:
    """How many public inputs each round asks about: those that no valid cache entry answers."""
    cache = Cache.empty(n_public, recipe.n_classes, recipe.options.cache_rounds)
    counts = []
    for number in range(recipe.settings.rounds):
        asked = cache.missing(recipe.queries(number, n_public), number)
        cache = cache.store(asked, np.zeros((len(asked), recipe.n_classes)), number)
        counts.append(len(asked))
    return counts


def weigh(recipe: Recipe, sealing: SealingConfig, n_public: int) -> list[Weight]:
    """What each round weighs: one client's messages are made, with zeros in place of values, and measured.

    Exact for plain and masked sums, and an upper bound where a `codec_of` compresses. Homomorphic
    ciphertexts and keys compress by chance to a little more or less. Takes time linear in the clients.
    """
    made: dict[tuple[int, int], Weight] = {}
    weights = []
    for number, count in enumerate(asked_counts(recipe, n_public)):
        # Rounds differ by what they ask, and by how many bytes their number takes in each message.
        key = count, len(msgpack.encode(number))
        if key not in made:
            made[key] = _weight(recipe, sealing, number, count)
        weights.append(made[key])
    return weights


def _weight(recipe: Recipe, sealing: SealingConfig, number: int, count: int) -> Weight:
    size = sum(block.size for block in recipe.blocks(count))
    codec = codec_of(recipe, sealing)
    if not recipe.method.public:
        body = total_body(np.zeros(size, dtype=np.int64))
    elif codec is None:
        body = consensus_body(np.zeros((count, recipe.n_classes)))
    else:
        body = bytes(codec.most_bytes(count))
    down = len(query(recipe, SESSION, number, np.zeros(count, dtype=np.int64)))
    down += len(broadcast(SESSION, number, body))
    if recipe.method.public and not count:
        return Weight(up=0, down=down)
    if codec is not None:
        return Weight(up=_answer(number, len(recipe.models), bytes(codec.most_bytes(count))), down=down)
    sealed = _sealed(sealing, number, len(recipe.models), np.zeros(size, dtype=np.int64), recipe.bits)
    return Weight(up=sealed.up, down=down + sealed.down)


def _answer(number: int, n_clients: int, values: bytes) -> int:
    # The last client's number takes the most bytes.
    return len(encode(Answer(session=SESSION, round=number, sender=n_clients - 1, values=values)))


def _sealed(
    sealing: SealingConfig, number: int, n_clients: int, zeros: NDArray[np.int64], bits: int
) -> Weight:
    """The last client's part of sealing ``zeros``, with keys of this moment."""
    if sealing.kind == "plain":
        return Weight(up=_answer(number, n_clients, FixedWidth(bits=bits).encode(zeros, None)), down=0)
    identities = [Identity.generate() for _ in range(n_clients)]
    pinned = [identity.public for identity in identities]
    if sealing.kind == "homomorphic":
        holder = Identity.generate()
        context = KeyHolder(holder, Identity.generate().public, n_clients).context(SESSION, number)
        last = HomomorphicClient(identities[-1], pinned, holder.public)
        upload = last.upload(context, zeros, session=SESSION, round=number, bits=bits)
        return Weight(up=len(upload), down=len(context))
    clients = [MaskedClient(identity, pinned) for identity in identities]
    adverts = [client.advertise(SESSION, number) for client in clients]
    server = MaskedServer(pinned, session=SESSION, round=number, bits=bits, size=zeros.size)
    roster = server.roster(adverts)
    return Weight(up=len(adverts[-1]) + len(clients[-1].upload(roster, zeros, bits)), down=len(roster))
