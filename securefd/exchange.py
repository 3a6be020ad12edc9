"""What clients and server send each other in a round besides what sealing needs, and what it all weighs.

A run moves these messages and counts their bytes; a plan makes one client's with zeros in them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from msgspec import msgpack
from numpy.typing import NDArray

from securefd.cache import Cache
from securefd.codec import Codec
from securefd.config import Config, SealingConfig
from securefd.data.splits import public_hash
from securefd.defenses.bfv import PART_BYTES, n_parts
from securefd.defenses.homomorphic import HomomorphicClient, KeyHolder
from securefd.defenses.identity import Identity
from securefd.defenses.masked_bfv import quorum_of
from securefd.defenses.masked_weight import masked_weight
from securefd.defenses.neighbourhood import Neighbourhood, choose
from securefd.defenses.sealing import NO_QUESTION, FixedWidth, RingWords
from securefd.defenses.slots import SlotKeyHolder
from securefd.defenses.terms import Terms
from securefd.errors import ConfigError, SealingError
from securefd.messages import Answer, Broadcast, Query, encode
from securefd.recipe import Recipe
from securefd.rules import n_clients

_choose = lru_cache(choose)
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
    if sealing.kind != "plain" or not recipe.method.coded:
        return None
    return Codec(n_classes=recipe.n_classes, bits=recipe.bits)


def answers_all(config: Config) -> bool:
    """Whether every query gets a consensus: a codec has no word for none, a row of zeros does."""
    return config.privacy is None or config.privacy.route != "votes"


def query(recipe: Recipe, session: bytes, round: int, asked: NDArray[np.int64]) -> bytes:  # noqa: A002
    """Server to every client: what to answer; nothing where the method asks about no public inputs."""
    return encode(Query.of(session, round, asked)) if recipe.method.public else b""


def question(
    recipe: Recipe,
    session: bytes,
    round: int,  # noqa: A002
    asked: NDArray[np.int64],
    public: NDArray[np.float32],
) -> bytes:
    """SHA-256 of the query and of the public set that it is about: what a sealed answer is bound to.

    Every client works it out by itself, so that nobody can ask one of them something else.
    """
    return hashlib.sha256(bytes.fromhex(public_hash(public)) + query(recipe, session, round, asked)).digest()


def neighbourhood_of(config: Config) -> Neighbourhood | None:
    """Who holds whose shares where answers are masked, else None.

    Raises ConfigError where no graph of the degree that was asked for keeps secrets and survives dropouts.
    """
    sealing = config.sealing
    if sealing.kind not in ("masked", "masked+homomorphic"):
        return None
    assert sealing.threshold is not None
    try:
        return _choose(
            n_clients=n_clients(config),
            threshold=sealing.threshold,
            colluders=sealing.colluders,
            honest_minimum=sealing.honest_minimum,
            degree=sealing.degree,
        )
    except SealingError as error:
        raise ConfigError(f"sealing.{error}") from None


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


def weigh(recipe: Recipe, config: Config, n_public: int, noise_deviation: float = 0.0) -> list[Weight]:
    """What each round weighs: one client's messages are made, with zeros in place of values, and measured.

    ``noise_deviation``: of the noise that travels with the values, which makes them wider.
    Exact for plain sums, and for masked ones if all attend and the graph is complete; an upper bound where a
    `codec_of` compresses. What goes up encrypted is as exact; a key holder's context, which comes down,
    compresses by chance to a little more or less.
    """
    made: dict[tuple[int, int], Weight] = {}
    weights = []
    for number, count in enumerate(asked_counts(recipe, n_public)):
        # Rounds differ by what they ask, and by how many bytes their number takes in each message.
        key = count, len(msgpack.encode(number))
        if key not in made:
            made[key] = _weight(recipe, config, number, count, noise_deviation)
        weights.append(made[key])
    return weights


def _weight(recipe: Recipe, config: Config, number: int, count: int, deviation: float) -> Weight:
    size = sum(block.size for block in recipe.blocks(count))
    codec = codec_of(recipe, config.sealing)
    if not recipe.method.public:
        body = total_body(np.zeros(size, dtype=np.int64))
    elif codec is None or not answers_all(config):
        body = consensus_body(np.zeros((count, recipe.n_classes)))
    else:
        body = bytes(codec.most_bytes(count))
    down = len(query(recipe, SESSION, number, np.zeros(count, dtype=np.int64)))
    down += len(broadcast(SESSION, number, body))
    if recipe.method.public and not count:
        return Weight(up=0, down=down)
    if codec is not None:
        return Weight(up=_answer(number, len(recipe.models), bytes(codec.most_bytes(count))), down=down)
    sealed = _sealed(config, number, np.zeros(size, dtype=np.int64), recipe.bits, deviation)
    return Weight(up=sealed.up, down=down + sealed.down)


def _answer(number: int, n_clients: int, values: bytes) -> int:
    # The last client's number takes the most bytes.
    return len(encode(Answer(session=SESSION, round=number, sender=n_clients - 1, values=values)))


def _sealed(config: Config, number: int, zeros: NDArray[np.int64], bits: int, deviation: float) -> Weight:
    """One client's part of sealing ``zeros``."""
    clients, kind = n_clients(config), config.sealing.kind
    if kind == "plain":
        words = RingWords(bits=bits, noise_deviation=deviation) if deviation else FixedWidth(bits=bits)
        return Weight(up=_answer(number, clients, words.encode(zeros, None)), down=0)
    if kind == "homomorphic":
        return _encrypted(clients, config.sealing.threshold, number, zeros, bits)
    neighbourhood = neighbourhood_of(config)
    assert neighbourhood is not None
    pinned = tuple(position.to_bytes(32, "big") for position in range(clients))
    if kind == "masked":
        terms = Terms(pinned=pinned, neighbourhood=neighbourhood, bits=bits, noise_deviation=deviation)
        values, context = terms.ring(zeros.size).width * zeros.size, b""
    else:
        terms = Terms(pinned=pinned, neighbourhood=neighbourhood, bits=bits, carrier="bfv")
        holder = SlotKeyHolder(Identity.generate(), Identity.generate().public, quorum_of(terms))
        values, context = n_parts(zeros.size) * PART_BYTES, holder.context(SESSION, number, NO_QUESTION)
    up, down = masked_weight(terms, session=SESSION, round=number, values=values)
    return Weight(up=up, down=down + len(context))


def _encrypted(
    clients: int, threshold: int | None, number: int, zeros: NDArray[np.int64], bits: int
) -> Weight:
    """The last client's part, with keys of this moment."""
    identities, holder = [Identity.generate() for _ in range(clients)], Identity.generate()
    context = KeyHolder(holder, Identity.generate().public, clients, threshold).context(
        SESSION, number, NO_QUESTION
    )
    pinned = [identity.public for identity in identities]
    last = HomomorphicClient(identities[-1], pinned, holder.public, threshold)
    upload = last.upload(context, zeros, session=SESSION, round=number, question=NO_QUESTION, bits=bits)
    return Weight(up=len(upload), down=len(context))
