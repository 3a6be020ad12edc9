"""What clients agree on: whatever differs gives another digest, and so another place for each message."""

import hashlib
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from msgspec import msgpack

from securefd.defenses.neighbourhood import choose
from securefd.defenses.ring import Ring, narrowest
from securefd.defenses.terms import PROTOCOL, Terms
from securefd.errors import SealingError
from tests.defenses.masked_parties import IDENTITIES, QUESTION, make_graph, make_terms

GRAPH = choose(n_clients=5, threshold=4, colluders=1, honest_minimum=2)
PINNED = tuple(identity.public for identity in IDENTITIES[:5])
TERMS = Terms(pinned=PINNED, neighbourhood=GRAPH, bits=8)
MORE_NOISE = replace(TERMS, noise_deviation=3.0)


def changed_graph(**changes: int) -> Terms:
    return replace(TERMS, neighbourhood=replace(GRAPH, **changes))


OTHERS: dict[str, Terms] = {
    "noise": MORE_NOISE,
    "a little more noise": replace(TERMS, noise_deviation=3.0000000000000004),
    "so little that the ring is the same": replace(TERMS, noise_deviation=1e-300),
    "bits, in a ring of the same width": replace(TERMS, bits=9),
    "bits": replace(TERMS, bits=20),
    "carrier": replace(TERMS, carrier="bfv"),
    "threshold": changed_graph(threshold=5),
    "colluders": changed_graph(colluders=2),
    "honest_minimum": changed_graph(honest_minimum=3),
    "degree": changed_graph(degree=3),
    "share_threshold": changed_graph(share_threshold=2),
    "checked": changed_graph(checked=3),
    "order of the pinned": replace(TERMS, pinned=(PINNED[1], PINNED[0], *PINNED[2:])),
    "one identity": replace(TERMS, pinned=(*PINNED[:4], IDENTITIES[6].public)),
    "one client more": make_terms(make_graph(6, 4, colluders=1, degree=4, share_threshold=3)),
}


class TestDigest:
    def test_by_hand(self) -> None:
        agreed = [
            b"securefd/masked/2",
            "ring",
            list(PINNED),
            [4, 1, 2],
            [4, 3, GRAPH.checked],
            [8, 16, 0.0],
            [QUESTION, 6],
        ]
        expected = hashlib.sha256(msgpack.encode(agreed)).digest()
        assert TERMS.digest(question=QUESTION, size=6) == expected
        assert agreed[0] == PROTOCOL

    def test_all_different(self) -> None:
        digests = {name: terms.digest(question=QUESTION, size=6) for name, terms in OTHERS.items()}
        digests["itself"] = TERMS.digest(question=QUESTION, size=6)
        digests["another question"] = TERMS.digest(question=bytes(32), size=6)
        digests["another size"] = TERMS.digest(question=QUESTION, size=7)
        for one, other in combinations(digests, 2):
            assert digests[one] != digests[other], (one, other)

    def test_names_every_field(self) -> None:
        """A field that is new needs a case above, and a place in the digest."""
        fields = {*Terms.__dataclass_fields__, *type(GRAPH).__dataclass_fields__}
        assert fields == {
            *("pinned", "neighbourhood", "bits", "noise_deviation", "carrier"),
            *(
                "n_clients",
                "threshold",
                "colluders",
                "honest_minimum",
                "degree",
                "share_threshold",
                "checked",
            ),
            *("secrecy_failure", "unneeded_abort"),
        }

    def test_what_was_computed_doesnt_count(self) -> None:
        """Two versions may compute slightly different bounds; clients agree on what follows from them."""
        other = replace(TERMS, neighbourhood=replace(GRAPH, secrecy_failure=0.5, unneeded_abort=0.5))
        assert other.digest(question=QUESTION, size=6) == TERMS.digest(question=QUESTION, size=6)

    def test_equal_terms_have_equal_digests(self) -> None:
        for one, other in ((0, 0.0), (-0.0, 0.0), (3, 3.0), (np.float64(3), 3.0)):
            twins = [replace(TERMS, noise_deviation=noise) for noise in (one, other)]
            assert twins[0] == twins[1]
            assert len({twin.digest(question=QUESTION, size=6) for twin in twins}) == 1

    @pytest.mark.parametrize("question", [b"", bytes(31), bytes(33), "q" * 32, bytearray(32)])
    def test_questions_are_hashes(self, question: Any) -> None:
        got = f"got {len(question)} in {type(question).__name__}; hash what was asked"
        with pytest.raises(SealingError, match=f"must be a hash of 32 bytes, {got}"):
            TERMS.digest(question=question, size=6)

    @pytest.mark.parametrize("size", [0, -1, 2**32, True, 6.0, np.int64(6), "6", None])
    def test_sizes(self, size: Any) -> None:
        with pytest.raises(SealingError, match=r"size must be .*, got .*; give"):
            TERMS.digest(question=QUESTION, size=size)


class TestRefused:
    """Bad terms never become a client or a server."""

    @pytest.mark.parametrize(
        ("changes", "rule"),
        [
            ({"pinned": ()}, "at least 2 clients, got 0"),
            ({"pinned": PINNED[:1]}, "at least 2 clients, got 1"),
            ({"pinned": PINNED[:4]}, "5 clients were agreed on, and 4 identities are pinned"),
            ({"pinned": (*PINNED, IDENTITIES[5].public)}, "5 clients were agreed on, and 6 identities"),
            ({"pinned": (*PINNED[:4], PINNED[0])}, "an identity is pinned twice"),
            ({"pinned": (PINNED[0],) * 5}, "an identity is pinned twice"),
            ({"pinned": (*PINNED[:4], bytes(31))}, "must have 32 bytes"),
            ({"bits": 0}, r"bits must be in 1\.\.32, got 0"),
            ({"bits": 33}, r"bits must be in 1\.\.32, got 33"),
            ({"bits": True}, "bits must be a whole number, got True; give an int"),
            ({"bits": np.int64(8)}, "bits must be a whole number, got .*8.*; give an int"),
            ({"bits": 8.0}, r"bits must be a whole number, got 8\.0; give an int"),
            ({"bits": "8"}, "bits must be a whole number, got '8'; give an int"),
            ({"pinned": list(PINNED)}, "must be a tuple of public keys in bytes, got list of bytes; convert"),
            ({"pinned": (*PINNED[:4], "k" * 32)}, "got tuple of bytes, str; convert"),
            ({"pinned": (*PINNED[:4], bytearray(32))}, "got tuple of bytearray, bytes; convert"),
            ({"neighbourhood": None}, "must be a Neighbourhood, got None; let choose make one"),
            ({"carrier": "pigeon"}, "carrier must be one of ring, bfv, got 'pigeon'; choose one"),
            ({"carrier": None}, "carrier must be one of ring, bfv, got None; choose one"),
            ({"carrier": ["ring"]}, r"carrier must be one of ring, bfv, got \['ring'\]; choose one"),
        ],
    )
    def test_at_once(self, changes: dict[str, Any], rule: str) -> None:
        with pytest.raises(SealingError, match=rule):
            replace(TERMS, **changes)

    @pytest.mark.parametrize(
        "deviation",
        [
            *(float("nan"), -1.0, -5e-324, float("inf"), -float("inf"), 2.0**63, 10**400),
            *(True, False, "3", None, 3j, np.float32(3), np.int64(3)),
        ],
    )
    def test_noise_that_is_none(self, deviation: Any) -> None:
        with pytest.raises(SealingError, match=r"noise_deviation must be a number in \[0, 2\*\*63\), got"):
            replace(TERMS, noise_deviation=deviation)

    def test_noise_too_wide_for_any_ring(self) -> None:
        with pytest.raises(SealingError, match="lower the bits or the noise"):
            replace(TERMS, noise_deviation=1e18)

    def test_noise_too_wide_for_so_many_values(self) -> None:
        """The tail of more values is longer, so that this shows only when their number is known."""
        terms = replace(TERMS, noise_deviation=6e17)
        with pytest.raises(SealingError, match="lower the bits or the noise"):
            terms.digest(question=QUESTION, size=2**32 - 1)


@pytest.mark.parametrize("bits", [1, 5, 6, 13, 14, 29, 30, 32])
@pytest.mark.parametrize("noise", [0.0, 1.0, 1e4])
def test_ring_and_bounds(bits: int, noise: float) -> None:
    terms = replace(TERMS, bits=bits, noise_deviation=noise)
    assert terms.largest_value == 2**bits - 1
    assert terms.threshold == 4
    for size in (1, 10**6):
        assert terms.ring(size) == narrowest(bits=bits, n_clients=5, size=size, noise_deviation=noise)
        assert terms.ring(size).span > 5 * terms.largest_value
    if not noise:
        widths = (
            ring.bits
            for ring in (Ring(bits=width) for width in (8, 16, 32, 64))
            if ring.span > 5 * (2**bits - 1)
        )
        assert terms.ring(1).bits == next(widths)


def test_nothing_secret_is_in_them() -> None:
    assert str(PINNED[0]) in repr(TERMS)
    assert hash(TERMS) == hash(replace(TERMS))
