from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from securefd.defenses.identity import Identity
from securefd.defenses.masked_server import STAGES
from securefd.defenses.neighbourhood import Neighbourhood, choose
from securefd.defenses.quantise import Block, dequantise_sum, quantise
from securefd.defenses.sealed import (
    Attends,
    HomomorphicSealing,
    MaskedHomomorphicSealing,
    MaskedSealing,
    make_sealing,
)
from securefd.defenses.sealing import FixedWidth, Kind, Opened, PlainSealing, Receiver, Sealing, value_bits
from securefd.defenses.terms import Terms
from securefd.errors import MessageError, ProtocolError, SealingError
from securefd.messages import Answer, decode

SESSION = b"session-of-tests"
KINDS: tuple[Kind, ...] = ("plain", "masked", "homomorphic", "masked+homomorphic")
IDENTITIES = [Identity.generate() for _ in range(5)]


def graph(n: int, threshold: int | None = None) -> Neighbourhood:
    return choose(n_clients=n, threshold=threshold or n, colluders=0, honest_minimum=2)


def masked(
    n: int, bits: int, *, threshold: int | None = None, attends: Attends | None = None
) -> MaskedSealing:
    pinned = tuple(identity.public for identity in IDENTITIES[:n])
    terms = Terms(pinned=pinned, neighbourhood=graph(n, threshold), bits=bits)
    return MaskedSealing(IDENTITIES[:n], terms, attends=attends or (lambda stage, client: True))


def build(kind: Kind, n: int, bits: int = 8) -> Sealing:
    """The same identities every time, so that only the sealing differs."""
    if kind == "plain":
        return PlainSealing()
    if kind == "masked":
        return masked(n, bits)
    server, holder = Identity.generate(), Identity.generate()
    if kind == "homomorphic":
        return HomomorphicSealing(IDENTITIES[:n], server, holder)
    pinned = tuple(identity.public for identity in IDENTITIES[:n])
    terms = Terms(pinned=pinned, neighbourhood=graph(n), bits=bits, carrier="bfv")
    return MaskedHomomorphicSealing(IDENTITIES[:n], terms, server, holder)


def make_vectors(n: int, size: int, bits: int) -> list[NDArray[np.int64]]:
    rng = np.random.default_rng([n, size, bits])
    return [rng.integers(0, 1 << bits, size) for _ in range(n)]


@pytest.mark.parametrize("kind", KINDS)
class TestEverySealing:
    @pytest.mark.parametrize("n", [3, 5])
    @pytest.mark.parametrize("size", [1, 1000, 13_000])
    def test_equals_the_plain_sum(self, kind: Kind, n: int, size: int) -> None:
        bits = value_bits(kind, n)
        sealing = build(kind, n, bits)
        for number in range(2):
            vectors = make_vectors(n, size + number, bits)
            opened = sealing.run_round(SESSION, number, vectors, bits)
            assert opened.total.dtype == np.int64
            assert np.array_equal(opened.total, np.sum(vectors, axis=0))
            assert opened.clients == tuple(range(n))

    def test_single_vectors_are_seen_in_the_plain_only(self, kind: Kind) -> None:
        vectors = make_vectors(3, 10, 8)
        opened = build(kind, 3).run_round(SESSION, 0, vectors, 8)
        if kind == "plain":
            assert opened.individual is not None
            assert all(map(np.array_equal, opened.individual, vectors))
        else:
            assert opened.individual is None

    def test_answers_come_back(self, kind: Kind) -> None:
        block = Block(name="probabilities", shape=(6, 4), low=0.0, high=1.0)
        n, bits = 3, value_bits(kind, 3)
        answers = np.random.default_rng(0).dirichlet(np.ones(4), (n, 6))
        vectors = [quantise([answer], [block], bits) for answer in answers]
        opened = build(kind, n, bits).run_round(SESSION, 0, vectors, bits)
        (total,) = dequantise_sum(opened.total, [block], bits, n)
        assert np.abs(total - answers.sum(axis=0)).max() <= n / (2**bits - 1) / 2 + 1e-12

    @pytest.mark.parametrize(
        "wrong",
        [np.array([256]), np.array([-1]), np.array([0.5]), np.array([1, 2]), np.zeros(0, np.int64)],
        ids=repr,
    )
    def test_vectors_that_dont_fit(self, kind: Kind, wrong: NDArray[np.int64]) -> None:
        sealing = build(kind, 3)
        with pytest.raises(SealingError):
            sealing.run_round(SESSION, 0, [np.array([1]), np.array([2]), wrong], 8)
        assert sealing.run_round(SESSION, 0, [np.array([1])] * 3, 8).total.tolist() == [3]

    def test_bytes_are_those_of_the_messages(self, kind: Kind) -> None:
        """Values have a known size; the rest is envelopes, and with masks keys, shares and signatures."""
        opened = build(kind, 3, 14).run_round(SESSION, 0, make_vectors(3, 5000, 14), 14)
        # Sums of three take 16 bits; three values share a slot of 54 bits, and 4096 slots a ciphertext.
        payload, most_around, most_down = {
            "plain": (10_000, 350, 0),
            "masked": (10_000, 2000, 2500),
            "homomorphic": (73_728, 350, 140_000),
            "masked+homomorphic": (73_728, 2000, 142_500),
        }[kind]
        assert len(opened.up) == len(opened.down) == 3
        for up, down in zip(opened.up, opened.down, strict=True):
            assert payload < up < payload + most_around
            assert (down == 0) == (most_down == 0)
            assert down <= most_down


@settings(max_examples=10, deadline=None)
@given(st.integers(3, 5), st.integers(1, 100), st.integers(1, 13), st.integers(0, 2**32 - 1))
def test_all_sealings_give_the_same_sum(n: int, size: int, bits: int, seed: int) -> None:
    vectors = list(np.random.default_rng(seed).integers(0, 1 << bits, (n, size)))
    first, *others = (build(kind, n, bits).run_round(SESSION, 0, vectors, bits).total for kind in KINDS)
    assert all(np.array_equal(first, other) for other in others)


@pytest.mark.parametrize("kind", KINDS[1:])
class TestEverySecretSealing:
    def test_every_client_must_be_present(self, kind: Kind) -> None:
        for n in (0, 2, 4):
            with pytest.raises(
                ProtocolError, match=f"every one of 3 clients must take part in a round, got {n}"
            ):
                build(kind, 3).run_round(SESSION, 0, [np.array([1])] * n, 8)

    def test_one_client_cant_be_hidden(self, kind: Kind) -> None:
        with pytest.raises(SealingError, match="clients"):
            make_sealing(kind, 1, 8, neighbourhood=graph(3) if "masked" in kind else None)

    def test_rounds_arent_repeated(self, kind: Kind) -> None:
        sealing = build(kind, 3)
        sealing.run_round(SESSION, 1, [np.array([1])] * 3, 8)
        with pytest.raises(ProtocolError, match="can't follow round 1"):
            sealing.run_round(SESSION, 1, [np.array([1])] * 3, 8)
        assert sealing.run_round(SESSION, 2, [np.array([1])] * 3, 8).total.tolist() == [3]

    def test_no_codec(self, kind: Kind) -> None:
        with pytest.raises(SealingError, match="codec"):
            make_sealing(kind, 3, 8, neighbourhood=graph(3), codec=FixedWidth(bits=8))


DROPS = [(stage, STAGES.index(stage) > STAGES.index("upload")) for stage in STAGES]
"""By the first stage at which a client isn't there: whether its values are in the sum, having been sent."""


class TestDropouts:
    @pytest.mark.parametrize(("stage", "counted"), DROPS)
    @pytest.mark.parametrize("gone", [0, 4])
    def test_the_sum_is_over_the_survivors(self, stage: str, counted: bool, gone: int) -> None:
        sealing = masked(5, 8, threshold=4, attends=lambda now, client: (now, client) != (stage, gone))
        vectors = make_vectors(5, 40, 8)
        opened = sealing.run_round(SESSION, 0, vectors, 8)
        survivors = tuple(k for k in range(5) if counted or k != gone)
        assert opened.clients == survivors
        assert opened.individual is None
        assert np.array_equal(opened.total, np.sum([vectors[k] for k in survivors], axis=0))

    @pytest.mark.parametrize(("stage", "counted"), DROPS)
    def test_whoever_dropped_out_is_back_in_the_next_round(self, stage: str, counted: bool) -> None:
        gone = {2}
        sealing = masked(5, 8, threshold=4, attends=lambda now, client: now != stage or client not in gone)
        vectors = make_vectors(5, 40, 8)
        first = sealing.run_round(SESSION, 0, vectors, 8)
        gone.clear()
        second = sealing.run_round(SESSION, 1, vectors, 8)
        assert (2 in first.clients) == counted
        assert second.clients == (0, 1, 2, 3, 4)
        assert np.array_equal(second.total, np.sum(vectors, axis=0))

    @pytest.mark.parametrize("stage", STAGES)
    def test_too_few_open_nothing(self, stage: str) -> None:
        sealing = masked(5, 8, threshold=4, attends=lambda now, client: now != stage or client > 1)
        with pytest.raises(ProtocolError):
            sealing.run_round(SESSION, 0, make_vectors(5, 40, 8), 8)

    def test_bytes_are_counted_as_far_as_a_client_came(self) -> None:
        sealing = masked(5, 8, threshold=4, attends=lambda stage, client: client != 3 or stage == "advertise")
        opened = sealing.run_round(SESSION, 0, make_vectors(5, 1000, 8), 8)
        assert 0 < opened.up[3] < 1000 < min(opened.up[k] for k in opened.clients)
        assert 0 < opened.down[3] < min(opened.down[k] for k in opened.clients)

    def test_nobody_needs_to_stay_away(self) -> None:
        opened = masked(5, 8, threshold=4).run_round(SESSION, 0, make_vectors(5, 40, 8), 8)
        assert opened.clients == (0, 1, 2, 3, 4)


def test_other_bits_than_were_agreed_on() -> None:
    with pytest.raises(SealingError, match="values of 8 bits were agreed on, got 7"):
        masked(3, 8).run_round(SESSION, 0, [np.array([1])] * 3, 7)


def test_bits_too_many_for_a_field() -> None:
    with pytest.raises(SealingError, match=r"1\.\.14"):
        build("homomorphic", 3).run_round(SESSION, 0, [np.array([1])] * 3, 15)


class TestValueBits:
    @pytest.mark.parametrize(("n", "bits"), [(1, 20), (2, 20), (4096, 20), (4097, 19), (8193, 18)])
    def test_plain_and_masked_agree(self, n: int, bits: int) -> None:
        assert value_bits("plain", n) == value_bits("masked", n) == bits
        assert n * (2**bits - 1) < 2**32

    @pytest.mark.parametrize(("n", "bits"), [(2, 15), (5, 13), (1000, 6)])
    def test_homomorphic(self, n: int, bits: int) -> None:
        assert value_bits("homomorphic", n) == bits

    def test_refused(self) -> None:
        with pytest.raises(SealingError, match="n_clients"):
            value_bits("plain", 0)
        with pytest.raises(SealingError, match="sealing must be"):
            value_bits("ckks", 3)  # type: ignore[arg-type]
        with pytest.raises(SealingError, match="sealing must be"):
            make_sealing("ckks", 3, 8)  # type: ignore[arg-type]


def test_make_sealing() -> None:
    made = (PlainSealing, MaskedSealing, HomomorphicSealing, MaskedHomomorphicSealing)
    for kind, expected in zip(KINDS, made, strict=True):
        sealing = make_sealing(kind, 3, 8, neighbourhood=graph(3) if "masked" in kind else None)
        assert type(sealing) is expected
        assert sealing.run_round(SESSION, 0, [np.array([7])] * 3, 8).total.tolist() == [21]


def homomorphic(n: int, threshold: int | None, attends: Attends) -> HomomorphicSealing:
    return HomomorphicSealing(
        IDENTITIES[:n], Identity.generate(), Identity.generate(), threshold, attends=attends
    )


class TestHomomorphicDropouts:
    @pytest.mark.parametrize("gone", [set(), {0}, {4}, {1, 3}], ids=repr)
    def test_a_sum_of_those_who_came(self, gone: set[int]) -> None:
        vectors = make_vectors(5, 20, 8)
        opened = homomorphic(5, 3, lambda stage, k: k not in gone).run_round(SESSION, 0, vectors, 8)
        came = tuple(k for k in range(5) if k not in gone)
        assert opened.clients == came
        assert np.array_equal(opened.total, np.sum([vectors[k] for k in came], axis=0))
        assert [up == 0 for up in opened.up] == [k in gone for k in range(5)]

    @pytest.mark.parametrize("threshold", [None, 4])
    def test_nothing_below_the_threshold(self, threshold: int | None) -> None:
        few = threshold or 5
        sealing = homomorphic(5, threshold, lambda stage, k: k < few - 1)
        with pytest.raises(ProtocolError, match=f"at least {few} clients, got {few - 1}"):
            sealing.run_round(SESSION, 0, make_vectors(5, 20, 8), 8)


class TestNoise:
    """Noise is part of the sum, whole, negative or beyond the values' bound."""

    def sealing(self, kind: Kind, deviation: float) -> Sealing:
        near = graph(3) if kind == "masked" else None
        return make_sealing(kind, 3, 8, neighbourhood=near, noise_deviation=deviation)

    @pytest.mark.parametrize("kind", ["plain", "masked"])
    def test_it_is_added_and_never_cut(self, kind: Kind) -> None:
        vectors = make_vectors(3, 6, 8)
        noise = [np.array([-900, 900, 0, 5, -5, k], dtype=np.int64) for k in range(3)]
        opened = self.sealing(kind, 600.0).run_round(SESSION, 0, vectors, 8, noise=noise)
        assert np.array_equal(opened.total, np.sum(vectors, axis=0) + np.sum(noise, axis=0))
        if kind == "plain":
            assert opened.individual is not None
            assert np.array_equal(opened.individual[2], vectors[2] + noise[2])

    @pytest.mark.parametrize("kind", ["plain", "masked"])
    def test_it_is_there_exactly_if_agreed_on(self, kind: Kind) -> None:
        vectors, noise = make_vectors(3, 6, 8), [np.zeros(6, np.int64)] * 3
        with pytest.raises(SealingError, match="none was given"):
            self.sealing(kind, 5.0).run_round(SESSION, 0, vectors, 8)
        with pytest.raises(SealingError, match="some was given"):
            self.sealing(kind, 0.0).run_round(SESSION, 0, vectors, 8, noise=noise)
        for wrong in (noise[:2], [np.zeros(5, np.int64)] * 3, [np.zeros(6)] * 3):
            with pytest.raises(SealingError, match="every one of 3"):
                self.sealing(kind, 5.0).run_round(SESSION, 0, vectors, 8, noise=wrong)

    @pytest.mark.parametrize("kind", ["homomorphic", "masked+homomorphic"])
    def test_encrypted_sums_hold_none(self, kind: Kind) -> None:
        with pytest.raises(SealingError, match="plain or masked"):
            make_sealing(kind, 3, 8, neighbourhood=graph(3), noise_deviation=1.0)
        with pytest.raises(SealingError, match="some was given"):
            build(kind, 3).run_round(SESSION, 0, make_vectors(3, 6, 8), 8, noise=[np.zeros(6, np.int64)] * 3)


Seen = list[tuple[Receiver, int, str, bytes]]


class TestRecords:
    """What each party received, byte for byte, and nothing that it didn't."""

    def play(self, kind: Kind) -> tuple[Seen, Opened]:
        seen: Seen = []
        near = graph(3) if "masked" in kind else None
        sealing = make_sealing(kind, 3, 8, neighbourhood=near, record=lambda *received: seen.append(received))
        return seen, sealing.run_round(SESSION, 0, make_vectors(3, 10, 8), 8)

    @pytest.mark.parametrize("kind", KINDS)
    def test_as_many_bytes_as_are_counted(self, kind: Kind) -> None:
        seen, opened = self.play(kind)
        for k in range(3):
            assert sum(len(m) for to, who, _, m in seen if (to, who) == ("server", k)) == opened.up[k]
            assert sum(len(m) for to, who, _, m in seen if (to, who) == ("client", k)) == opened.down[k]

    def test_stages(self) -> None:
        stages = {kind: {(to, stage) for to, _, stage, _ in self.play(kind)[0]} for kind in KINDS}
        masked = {("server", stage) for stage in STAGES} | {
            ("client", stage) for stage in ("roster", "relay", "survivors", "confirmations")
        }
        keys = {("server", "context"), ("client", "context"), ("keyholder", "sum"), ("server", "opening")}
        assert stages == {
            "plain": {("server", "answer")},
            "masked": masked,
            "homomorphic": {("server", "upload"), *keys},
            "masked+homomorphic": masked | keys,
        }

    def test_a_plain_record_holds_the_answers(self) -> None:
        seen, opened = self.play("plain")
        assert opened.individual is not None
        for (_, _, _, message), own in zip(seen, opened.individual, strict=True):
            assert np.array_equal(np.frombuffer(decode(message, Answer).values, np.uint8), own)


class TestFixedWidth:
    @pytest.mark.parametrize(("bits", "width"), [(1, 1), (8, 1), (9, 2), (16, 2), (17, 4), (32, 4)])
    def test_width(self, bits: int, width: int) -> None:
        vector = np.array([0, 1, 2**bits - 1])
        data = FixedWidth(bits=bits).encode(vector, None)
        assert data == b"".join(int(value).to_bytes(width, "little") for value in vector)
        assert np.array_equal(FixedWidth(bits=bits).decode(data, None, 3), vector)
        for wrong in (data[:-1], data + b"\x00", b""):
            with pytest.raises(MessageError, match="bytes"):
                FixedWidth(bits=bits).decode(wrong, None, 3)

    def test_wrong_bits(self) -> None:
        with pytest.raises(SealingError):
            FixedWidth(bits=33)


@dataclass
class Difference:
    """A delta codec that records what it was given."""

    given: list[tuple[str, list[int] | None]] = field(default_factory=list)

    def encode(self, vector: NDArray[np.int64], previous: NDArray[np.int64] | None) -> bytes:
        self.given.append(("encode", None if previous is None else previous.tolist()))
        return (vector - (0 if previous is None else previous)).tobytes()

    def decode(self, data: bytes, previous: NDArray[np.int64] | None, size: int) -> NDArray[np.int64]:
        self.given.append(("decode", None if previous is None else previous.tolist()))
        return np.frombuffer(data, np.int64) + (0 if previous is None else previous)


class TestPlain:
    def test_a_delta_codec_gets_the_round_before(self) -> None:
        codec = Difference()
        sealing = PlainSealing(codec)
        rounds = [make_vectors(2, 3, bits) for bits in (4, 5, 6)]
        for number, vectors in enumerate(rounds):
            opened = sealing.run_round(SESSION, number, vectors, 8)
            assert np.array_equal(opened.total, np.sum(vectors, axis=0))
        before = [[None, None], *([vector.tolist() for vector in vectors] for vectors in rounds[:2])]
        expected = [(step, old) for olds in before for step in ("encode", "decode") for old in olds]
        assert codec.given == expected

    def test_resumed(self) -> None:
        first, resumed = PlainSealing(Difference()), PlainSealing(Difference())
        vectors = make_vectors(2, 3, 4)
        first.run_round(SESSION, 0, vectors, 8)
        resumed = PlainSealing(Difference(), previous=first.previous)
        again = [sealing.run_round(SESSION, 1, vectors[::-1], 8) for sealing in (first, resumed)]
        assert np.array_equal(again[0].total, again[1].total)
        assert again[0].up == again[1].up

    def test_a_codec_that_breaks_values(self) -> None:
        class Broken(Difference):
            def decode(self, data: bytes, previous: NDArray[np.int64] | None, size: int) -> NDArray[np.int64]:
                return super().decode(data, previous, size) + 256

        with pytest.raises(SealingError, match="in \\[0, 2"):
            PlainSealing(Broken()).run_round(SESSION, 0, make_vectors(2, 3, 4), 8)

    def test_a_client_that_comes_later(self) -> None:
        sealing = PlainSealing()
        sealing.run_round(SESSION, 0, make_vectors(2, 3, 4), 8)
        with pytest.raises(ProtocolError, match="2 clients took part before, now 3"):
            sealing.run_round(SESSION, 1, make_vectors(3, 3, 4), 8)

    def test_no_client(self) -> None:
        with pytest.raises(ProtocolError, match="at least one"):
            PlainSealing().run_round(SESSION, 0, [], 8)

    @pytest.mark.parametrize(("session", "number"), [(b"short", 0), (SESSION, -1), (SESSION, 2**32)])
    def test_impossible_rounds(self, session: bytes, number: int) -> None:
        with pytest.raises(MessageError):
            PlainSealing().run_round(session, number, make_vectors(2, 3, 4), 8)
