"""What masked vectors look like to those who must not read them: to the server, alone and with colluders.

Each test plays real rounds of the protocol with fixed seeds, so that its outcome is fixed as well. It can't
prove secrecy, only find what is grossly wrong; so every statistic is also shown to find masks that are.
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pytest
import scipy.stats
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from securefd.defenses import carriers, masks, shamir
from securefd.defenses.identity import Identity
from securefd.defenses.masked_client import NONCE, MaskedClient
from securefd.defenses.masked_server import MaskedServer
from securefd.defenses.masks import Derivation, agree, agreement, derivation
from securefd.defenses.neighbourhood import choose
from securefd.defenses.terms import Terms
from securefd.errors import SealingError
from securefd.messages import Advertise, Boxes, Message, Reveal, Signed, Upload, decode

SESSION = b"session-of-tests"
QUESTION = bytes(32)
UNLIKELY = 1e-4
"""A statistic that is less likely than this for uniform words counts as found."""
CERTAIN = 1e-9
"""What the same statistic must fall below where masks are broken."""
BITS = {8: 6, 16: 14, 32: 30, 64: 32}
"""Of a ring: the bits of values whose sums over four clients just fit."""

Words = NDArray[Any]
Change = Callable[[Words], Words]
M = TypeVar("M", bound=Message)


class Recorded(random.Random):
    """The private seam: fixed draws, kept, for a colluder gives away all that it drew."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.draws: list[bytes] = []

    def randbytes(self, n: int) -> bytes:
        self.draws.append(super().randbytes(n))
        return self.draws[-1]


def make_terms(*, n: int, threshold: int, colluders: int, bits: int) -> Terms:
    pinned = tuple(identity(k).public for k in range(n))
    graph = choose(n_clients=n, threshold=threshold, colluders=colluders, honest_minimum=2)
    return Terms(pinned=pinned, neighbourhood=graph, bits=bits)


def identity(k: int) -> Identity:
    return Identity(private=Ed25519PrivateKey.from_private_bytes(bytes([k + 1]) * 32))


def body_of(message: bytes, kind: type[M]) -> M:
    return decode(decode(message, Signed).body, kind)


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """One round: all that the server received, and what each client drew."""

    adverts: Mapping[int, Advertise]
    boxes: Mapping[int, Boxes]
    uploads: Mapping[int, Words]
    reveals: Mapping[int, Reveal]
    draws: Sequence[Sequence[bytes]]
    derive: Derivation
    share_threshold: int


def play(terms: Terms, seed: int, vectors: Sequence[Words], late: int | None = None) -> Transcript:
    """A round with everyone; what client ``late`` uploads reaches the server, but only after the others'."""
    n, size = len(terms.pinned), len(vectors[0])
    drawn = [Recorded(1000 * seed + k) for k in range(n)]
    clients = [MaskedClient(identity(k), terms, _random=drawn[k]) for k in range(n)]
    server = MaskedServer(terms, session=SESSION, round=seed, question=QUESTION, size=size)

    def collect(act: Callable[[MaskedClient, int], bytes], among: Sequence[int]) -> dict[int, bytes]:
        sent = {k: act(clients[k], k) for k in among}
        for k, message in sent.items():
            if not (k == late and server.stage == "upload"):
                server.receive(message)
        return sent

    everyone, alive = range(n), [k for k in range(n) if k != late]
    adverts = collect(lambda one, _: one.advertise(SESSION, seed, question=QUESTION, size=size), everyone)
    place, roster = server._place, server.roster()
    shares = collect(lambda one, _: one.share(roster), everyone)
    relays = server.relays()
    uploads = collect(lambda one, k: one.upload(relays[k], vectors[k]), everyone)
    survivors = server.survivors()
    collect(lambda one, _: one.confirm(survivors), alive)
    confirmations = server.confirmations()
    reveals = collect(lambda one, k: one.unmask(confirmations[k]), alive)
    assert np.array_equal(server.open_sum().total, np.sum([vectors[k] for k in alive], axis=0))
    dtype = terms.ring(size).dtype
    return Transcript(
        adverts={k: body_of(message, Advertise) for k, message in adverts.items()},
        boxes={k: body_of(message, Boxes) for k, message in shares.items()},
        uploads={k: np.frombuffer(body_of(one, Upload).values, dtype) for k, one in uploads.items()},
        reveals={k: body_of(message, Reveal) for k, message in reveals.items()},
        draws=[one.draws for one in drawn],
        derive=derivation(place.at("share", agreement(place, roster))),
        share_threshold=terms.neighbourhood.share_threshold,
    )


@dataclass(frozen=True, kw_only=True)
class Coalition:
    """The server of a round and ``members`` among its clients: what they know together."""

    transcript: Transcript
    members: Sequence[int]

    def private(self, owner: int, public: bytes) -> X25519PrivateKey:
        """Of what a member drew, the private part of a key that it advertised."""
        assert owner in self.members
        keys = [X25519PrivateKey.from_private_bytes(draw) for draw in self.transcript.draws[owner]]
        return next(key for key in keys if key.public_key().public_bytes_raw() == public)

    def shares(self, owner: int) -> dict[int, tuple[bytes, bytes]]:
        """By holder, the shares of a client's mask key and seed in the boxes that members can open."""
        boxes, adverts = self.transcript.boxes[owner], self.transcript.adverts
        found = {}
        for holder, box in zip(boxes.holders, boxes.boxes, strict=True):
            if holder in self.members:
                private = self.private(holder, adverts[holder].share_key)
                secret = agree(private, adverts[owner].share_key, owner)
                key = self.transcript.derive.box_key(secret, owner, holder)
                plain = AESGCM(key).decrypt(NONCE, box, None)
                found[holder] = plain[:32], plain[32:]
        return found

    def recovered(self, owner: int) -> X25519PrivateKey | None:
        """A client's mask key, if enough shares of it were revealed or are in members' boxes."""
        shares = {holder: pair[0] for holder, pair in self.shares(owner).items()}
        for holder, reveal in self.transcript.reveals.items():
            if owner in reveal.dropped:
                shares[holder] = reveal.key_shares[reveal.dropped.index(owner)]
        try:
            secret = shamir.recover(shares, self.transcript.share_threshold)
        except SealingError:
            return None
        private = X25519PrivateKey.from_private_bytes(secret)
        assert private.public_key().public_bytes_raw() == self.transcript.adverts[owner].mask_key
        return private

    def residual(self, client: int, *, seed: bytes | None = None) -> Words:
        """What a client uploaded, less every mask that the coalition can make.

        ``seed``: of that client's own mask, where it isn't revealed.
        """
        one = self.transcript
        added: list[bytes] = []
        subtracted: list[bytes] = []
        if client in one.reveals:
            seed = one.reveals[client].seed
        if seed is not None:
            subtracted.append(one.derive.self_key(seed, client))
        own = self.recovered(client)
        for peer in sorted(one.adverts.keys() - {client}):
            public = one.adverts[peer].mask_key
            if own is not None:
                secret = agree(own, public, peer)
            elif peer in self.members:
                secret = agree(self.private(peer, public), one.adverts[client].mask_key, client)
            else:
                continue
            key = one.derive.pair_key(secret, client, peer)
            # the lower of the two positions has added it
            (subtracted if client < peer else added).append(key)
        words = one.uploads[client].copy()
        # looked up there, because `broken` puts another one in its place
        carriers.apply_masks(words, added, subtracted)  # type: ignore[attr-defined]
        return words


def drawn_seed(transcript: Transcript, client: int) -> bytes:
    """Of what a client drew, the seed of its own mask."""
    wanted = transcript.boxes[client].seed_hash
    return next(draw for draw in transcript.draws[client] if hashlib.sha256(draw).digest() == wanted)


# Masks that are broken on purpose. They still cancel, so that rounds end as they should.


def top_bit_left_out(mask: Words) -> Words:
    kept: Words = mask & ~mask.dtype.type(1 << 8 * mask.dtype.itemsize - 1)
    return kept


BROKEN: dict[str, Change] = {
    "no mask": np.zeros_like,
    "one word for all values": lambda mask: np.full_like(mask, mask[0]),
    "the top bit left out": top_bit_left_out,
    "one mask for all keys": lambda mask: stream(bytes(32), mask),
}


def stream(key: bytes, like: Words) -> Words:
    mask = np.zeros_like(like)
    masks.apply_masks(mask, [key], [])
    return mask


@contextmanager
def broken(change: Change) -> Iterator[None]:
    """Clients, server and coalition alike use what ``change`` makes of each keystream."""

    def apply(words: Words, added: Sequence[bytes], subtracted: Sequence[bytes]) -> None:
        for key in added:
            words += change(stream(key, words))
        for key in subtracted:
            words -= change(stream(key, words))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(carriers, "apply_masks", apply)
        yield


# Statistics: each returns the probability of what it saw, or of worse, were the words uniform


def lanes(words: Words) -> NDArray[np.uint8]:
    """``(width, d)``: the lowest bytes of all words first."""
    return words.view(np.uint8).reshape(words.size, -1).T


def counted(lane: NDArray[np.uint8]) -> NDArray[np.int64]:
    return np.bincount(lane, minlength=256)


def uniformity(words: Words) -> float:
    """The worst lane's chi-square, times the number of lanes (Bonferroni's bound)."""
    found = [float(scipy.stats.chisquare(counted(lane)).pvalue) for lane in lanes(words)]
    return min(1.0, len(found) * min(found))


def difference(one: Words, other: Words) -> float:
    """Two samples, lane by lane: chi-square of the table of counts."""
    found = []
    for lane, second in zip(lanes(one), lanes(other), strict=True):
        table = np.array([counted(lane), counted(second)])
        found.append(float(scipy.stats.chi2_contingency(table[:, table.any(axis=0)]).pvalue))
    return min(1.0, len(found) * min(found))


def dependence(one: Words, other: Words) -> float:
    """Pairs of words: correlation, and chi-square of the pairs of lowest, and of highest, bytes."""
    correlation = float(scipy.stats.pearsonr(one.astype(np.float64), other.astype(np.float64)).pvalue)
    found = [correlation]
    for lane in (0, -1):
        pairs = 256 * lanes(one)[lane].astype(np.int64) + lanes(other)[lane]
        found.append(float(scipy.stats.chisquare(np.bincount(pairs, minlength=1 << 16)).pvalue))
    return min(1.0, len(found) * min(found))


def neighbours(words: Words) -> float:
    """``dependence`` of words that follow one another."""
    return dependence(words[:-1:2].copy(), words[1::2].copy())


class TestUpload:
    """What the server sees of one client, and of two."""

    SIZE = 1 << 18

    def uploads(self, ring: int, seed: int, value: int) -> Mapping[int, Words]:
        terms = make_terms(n=4, threshold=4, colluders=2, bits=BITS[ring])
        assert terms.ring(self.SIZE).bits == ring
        return play(terms, seed, [np.full(self.SIZE, value)] * 4).uploads

    @pytest.mark.parametrize("ring", BITS)
    @pytest.mark.parametrize("largest", [False, True])
    def test_of_a_constant_is_uniform(self, ring: int, largest: bool) -> None:
        for words in self.uploads(ring, 1, largest * (2 ** BITS[ring] - 1)).values():
            assert uniformity(words) > UNLIKELY
            assert neighbours(words) > UNLIKELY

    @pytest.mark.parametrize("ring", BITS)
    def test_of_zeros_is_like_that_of_the_largest_values(self, ring: int) -> None:
        zeros, largest = self.uploads(ring, 2, 0), self.uploads(ring, 3, 2 ** BITS[ring] - 1)
        for k in range(4):
            assert difference(zeros[k], largest[k]) > UNLIKELY

    @pytest.mark.parametrize("ring", BITS)
    def test_of_two_clients_are_independent(self, ring: int) -> None:
        uploads = self.uploads(ring, 4, 0)
        for one in range(4):
            for other in range(one):
                assert dependence(uploads[one], uploads[other]) > UNLIKELY

    @pytest.mark.parametrize("ring", BITS)
    def test_broken_masks_are_found(self, ring: int) -> None:
        with broken(BROKEN["no mask"]):
            zeros, largest = self.uploads(ring, 2, 0), self.uploads(ring, 3, 2 ** BITS[ring] - 1)
            assert difference(zeros[0], largest[0]) < CERTAIN
        for name in ("no mask", "one word for all values", "the top bit left out"):
            with broken(BROKEN[name]):
                words = self.uploads(ring, 1, 0)[0]
                assert uniformity(words) < CERTAIN, name
        with broken(BROKEN["one mask for all keys"]):
            uploads = self.uploads(ring, 4, 0)
            assert dependence(uploads[0], uploads[1]) < CERTAIN

    def test_words_that_repeat_are_found(self) -> None:
        """Each byte is as likely as any other, and yet half of the words tell the rest."""
        with broken(lambda mask: np.repeat(mask[: mask.size // 2], 2)):
            words = self.uploads(32, 1, 0)[0]
        assert uniformity(words[::2].copy()) > UNLIKELY
        assert neighbours(words) < CERTAIN


# Two worlds: can anyone tell in which of them the rounds took place?

SIZE = 256
PATTERN = np.repeat([31, 0], SIZE // 2)
"""What one client has in one world, and another one, or nobody, in the other."""
Residuals = Sequence[Words]


@dataclass(frozen=True, kw_only=True)
class Rounds:
    """``worlds`` ``(m,)``: True where client 1 had the pattern; ``residuals``: what was left of uploads."""

    worlds: NDArray[np.bool_]
    residuals: Sequence[Residuals]

    @property
    def features(self) -> NDArray[np.float64]:
        """``(m, k)``: moments, parity, histogram of both halves of each residual, and of their difference."""
        return np.array([np.concatenate([describe(one) for one in all_]) for all_ in self.residuals])

    def guessed(self) -> float:
        """Learn on the first half of the rounds; the probability of as many right guesses on the second."""
        half, features = len(self.worlds) // 2, self.features
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
        model.fit(features[:half], self.worlds[:half])
        right = int((model.predict(features[half:]) == self.worlds[half:]).sum())
        # each round's world was a fair coin's, so that a guess without knowledge is one as well
        test = scipy.stats.binomtest(right, len(self.worlds) - half, 0.5, alternative="greater")
        return float(test.pvalue)

    def permuted(self, permutations: int = 999) -> float:
        """A permutation test of the largest difference between the worlds' means of a feature."""
        features = self.features
        spread = features.std(axis=0)
        standard = (features - features.mean(axis=0)) / np.where(spread > 0, spread, 1)
        rng = np.random.default_rng(5)
        labels = [self.worlds, *(rng.permutation(self.worlds) for _ in range(permutations))]
        largest = [np.abs(standard[one].mean(axis=0) - standard[~one].mean(axis=0)).max() for one in labels]
        return float(np.mean(largest >= largest[0]))


def describe(words: Words) -> NDArray[np.float64]:
    half = words.size // 2
    parts = []
    for part in (words[:half], words[half:], words[:half] - words[half:]):
        histogram = np.bincount(part >> 4, minlength=16) / half
        parts += [part.mean() / 256, part.std() / 256, (part & 1).mean(), *histogram]
    return np.array(parts)


def assert_hidden(rounds: Rounds) -> None:
    for world in (False, True):
        chosen = [all_ for all_, one in zip(rounds.residuals, rounds.worlds, strict=True) if one == world]
        for residual in map(np.concatenate, zip(*chosen, strict=True)):
            assert uniformity(residual) > UNLIKELY
            assert neighbours(residual) > UNLIKELY
    assert rounds.guessed() > 0.01
    assert rounds.permuted() > 0.01


def assert_found(rounds: Rounds) -> None:
    assert rounds.guessed() < CERTAIN
    assert rounds.permuted() == 1 / 1000


class TestCoalition:
    """The server and n - 2 clients, 0 and 2, against the other two, whose sum is the same in both worlds."""

    TERMS = make_terms(n=4, threshold=4, colluders=2, bits=5)

    def round(self, number: int, world: bool) -> Transcript:
        zeros = np.zeros(SIZE, np.int64)
        mine, other = (PATTERN, zeros) if world else (zeros, PATTERN)
        return play(self.TERMS, number, [np.full(SIZE, 10), mine, np.full(SIZE, 20), other])

    def rounds(self, count: int, members: Sequence[int] = (0, 2)) -> Rounds:
        worlds = np.random.default_rng(11).random(count) < 0.5
        played = [self.round(number, bool(world)) for number, world in enumerate(worlds)]
        coalitions = [Coalition(transcript=one, members=members) for one in played]
        return Rounds(worlds=worlds, residuals=[(one.residual(1), one.residual(3)) for one in coalitions])

    @pytest.mark.parametrize("world", [False, True])
    def test_takes_off_all_masks_but_one(self, world: bool) -> None:
        """What is left cancels in the sum: the test's coalition leaves out nothing that it could remove."""
        transcript = self.round(1, world)
        coalition = Coalition(transcript=transcript, members=(0, 2))
        mine, other = coalition.residual(1), coalition.residual(3)
        assert np.array_equal(mine + other, PATTERN.astype(np.uint8))
        everyone = Coalition(transcript=transcript, members=(0, 1, 2, 3))
        keys = transcript.adverts
        secret = agree(everyone.private(1, keys[1].mask_key), keys[3].mask_key, 3)
        left = stream(transcript.derive.pair_key(secret, 1, 3), mine)
        assert np.array_equal(mine - left, world * PATTERN.astype(np.uint8))

    def test_holds_too_few_shares(self) -> None:
        transcript = self.round(1, True)
        for client in (1, 3):
            assert Coalition(transcript=transcript, members=(0, 2)).recovered(client) is None
            others = [k for k in range(4) if k != client]
            assert Coalition(transcript=transcript, members=others).recovered(client) is not None
        # and no honest client hands out a share of a survivor's mask key
        assert not any(reveal.dropped or reveal.key_shares for reveal in transcript.reveals.values())

    def test_learns_nothing_but_the_sum(self) -> None:
        assert_hidden(self.rounds(300))

    def test_with_one_more_member_learns_all(self) -> None:
        rounds = self.rounds(80, members=(0, 2, 3))
        for (mine, _), world in zip(rounds.residuals, rounds.worlds, strict=True):
            assert np.array_equal(mine, world * PATTERN.astype(np.uint8))
        assert_found(rounds)

    @pytest.mark.parametrize("name", BROKEN)
    def test_broken_masks_are_found(self, name: str) -> None:
        with broken(BROKEN[name]):
            assert_found(self.rounds(80))


class TestLateUpload:
    """Client 1's upload arrives after it was called dropped out: then its pairwise masks can be removed."""

    TERMS = make_terms(n=5, threshold=4, colluders=2, bits=5)

    def round(self, number: int, world: bool) -> Transcript:
        vectors = [np.full(SIZE, 7 * k) for k in range(5)]
        vectors[1] = PATTERN if world else np.zeros(SIZE, np.int64)
        return play(self.TERMS, number, vectors, late=1)

    def rounds(self, count: int, *, with_seed: bool = False) -> Rounds:
        worlds = np.random.default_rng(12).random(count) < 0.5
        residuals = []
        for number, world in enumerate(worlds):
            transcript = self.round(number, bool(world))
            seed = drawn_seed(transcript, 1) if with_seed else None
            residuals.append((Coalition(transcript=transcript, members=(0, 4)).residual(1, seed=seed),))
        return Rounds(worlds=worlds, residuals=residuals)

    @pytest.mark.parametrize("world", [False, True])
    def test_only_its_own_mask_is_left(self, world: bool) -> None:
        transcript = self.round(1, world)
        server = Coalition(transcript=transcript, members=())
        assert server.recovered(1) is not None
        left = server.residual(1)
        # colluders add nothing to what the survivors have revealed
        assert np.array_equal(left, Coalition(transcript=transcript, members=(0, 4)).residual(1))
        own = stream(transcript.derive.self_key(drawn_seed(transcript, 1), 1), left)
        assert np.array_equal(left - own, world * PATTERN.astype(np.uint8))

    def test_its_seed_stays_secret(self) -> None:
        """Only colluders' boxes hold shares of it, one too few; survivors reveal none."""
        transcript = self.round(1, True)
        assert len(Coalition(transcript=transcript, members=(0, 4)).shares(1)) < transcript.share_threshold
        for reveal in transcript.reveals.values():
            assert 1 not in reveal.survivors
            assert reveal.dropped == (1,)

    def test_its_own_mask_hides_it(self) -> None:
        assert_hidden(self.rounds(240))

    def test_both_of_its_secrets_would_open_it(self) -> None:
        assert_found(self.rounds(80, with_seed=True))

    @pytest.mark.parametrize("name", ["no mask", "the top bit left out"])
    def test_broken_masks_are_found(self, name: str) -> None:
        with broken(BROKEN[name]):
            assert_found(self.rounds(80))
