"""Secret sharing against naive Lagrange interpolation, exact counts over a small field and fixed vectors."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import combinations, permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefd.defenses import shamir
from securefd.defenses.shamir import P, draw_secret, recover, split
from securefd.errors import SealingError

HIGH = b"\xff" * 32


def to_bytes(value: int) -> bytes:
    return value.to_bytes(32, "big")


def stream(*draws: bytes) -> Callable[[int], bytes]:
    """The private seam: these draws, in this order, and an error at one more."""
    left = iter(draws)

    def random(size: int) -> bytes:
        draw = next(left)
        assert len(draw) == size
        return draw

    return random


def counter() -> Callable[[int], bytes]:
    """SHA-256 of 0, 1, 2, ... as 8-byte big-endian numbers."""
    numbers: Iterator[int] = iter(range(10**6))
    return lambda size: hashlib.sha256(next(numbers).to_bytes(8, "big")).digest()[:size]


def naive_recover(shares: dict[int, bytes]) -> int:
    """Lagrange interpolation at zero, in fractions of whole numbers; reduced modulo P only at the end."""
    total = Fraction(0)
    for i, share in shares.items():
        term = Fraction(int.from_bytes(share, "big"))
        for j in shares:
            if j != i:
                term *= Fraction(j + 1, (j + 1) - (i + 1))
        total += term
    return total.numerator * pow(total.denominator, -1, P) % P


def test_p_is_prime_and_the_largest_below_2_256() -> None:
    # Miller-Rabin with 40 bases, for P - 1 = 2 * odd
    assert (P - 1) % 4 == 2
    assert all(pow(base, (P - 1) // 2, P) in (1, P - 1) for base in range(2, 42))
    assert not any(pow(3, candidate - 1, candidate) == 1 for candidate in range(P + 2, 2**256, 2))


@pytest.mark.parametrize("n", range(1, 7))
def test_every_subset_recovers(n: int) -> None:
    holders = [7 * k % 23 for k in range(n)]
    for threshold in range(1, n + 1):
        secret = draw_secret()
        shares = split(secret, holders, threshold)
        assert list(shares) == holders
        for size in range(threshold, n + 1):
            for subset in combinations(holders, size):
                assert recover({holder: shares[holder] for holder in subset}, threshold) == secret


def test_fewer_shares_than_the_threshold_interpolate_to_something_else() -> None:
    shares = split(to_bytes(5), [0, 1, 2], 3, _random=counter())
    assert recover({0: shares[0], 1: shares[1]}, 2) != to_bytes(5)


@pytest.mark.parametrize("threshold", [2, 3])
def test_fewer_shares_than_the_threshold_fit_every_secret_equally(
    monkeypatch: pytest.MonkeyPatch, threshold: int
) -> None:
    """All of the polynomials over the field of 7: an exact count, for every set of threshold - 1 holders."""
    monkeypatch.setattr(shamir, "P", 7)
    seen: dict[tuple[int, ...], dict[int, Counter[tuple[bytes, ...]]]] = {}
    for secret, *rest in product(range(7), repeat=threshold):
        shares = split(to_bytes(secret), range(4), threshold, _random=stream(*map(to_bytes, rest)))
        for few in combinations(range(4), threshold - 1):
            counts = seen.setdefault(few, {}).setdefault(secret, Counter())
            counts[tuple(shares[holder] for holder in few)] += 1
    uniform = Counter(dict.fromkeys(product(map(to_bytes, range(7)), repeat=threshold - 1), 1))
    for by_secret in seen.values():
        assert all(counts == uniform for counts in by_secret.values())
        assert len(by_secret) == 7


def test_draws_of_p_and_more_are_drawn_again() -> None:
    assert draw_secret(_random=stream(HIGH, to_bytes(P), to_bytes(P - 1))) == to_bytes(P - 1)
    shares = split(to_bytes(1), [0], 1, _random=stream())
    assert shares == {0: to_bytes(1)}
    again = split(to_bytes(1), [0, 4], 2, _random=stream(to_bytes(P + 5), to_bytes(3)))
    assert again == {0: to_bytes(4), 4: to_bytes(16)}


def test_a_leading_coefficient_may_be_zero() -> None:
    shares = split(to_bytes(9), [0, 1, 2], 2, _random=stream(to_bytes(0)))
    assert set(shares.values()) == {to_bytes(9)}


def test_draws_come_from_the_operating_system() -> None:
    assert split.__kwdefaults__ == {"_random": os.urandom}
    assert draw_secret.__kwdefaults__ == {"_random": os.urandom}
    assert draw_secret() != draw_secret()
    assert split(to_bytes(1), [0, 1], 2) != split(to_bytes(1), [0, 1], 2)


@pytest.mark.parametrize(("threshold", "n"), [(1, 1), (2, 5), (33, 40), (51, 100), (70, 71)])
def test_against_naive_evaluation_and_interpolation(threshold: int, n: int) -> None:
    draw = counter()
    rest = [draw(32) for _ in range(threshold - 1)]
    holders = [3 * k + 1 for k in range(n)]
    secret = to_bytes(P - 1)
    shares = split(secret, holders, threshold, _random=stream(*rest))
    # The coefficients are drawn from the leading one down.
    coefficients = [secret, *reversed(rest)]
    for holder, share in shares.items():
        powers = [int.from_bytes(c, "big") * (holder + 1) ** k for k, c in enumerate(coefficients)]
        assert int.from_bytes(share, "big") == sum(powers) % P
    last = {holder: shares[holder] for holder in holders[-threshold:]}
    assert recover(last, threshold) == to_bytes(naive_recover(last)) == secret


# 3 of 5; secret SHA-256("secret"), coefficients SHA-256 of 0 and 1 as 8 bytes, the leading one first;
# evaluated apart from the code under test as (c0 * x * x + c1 * x + secret) % P.
VECTOR = {
    0: "a833e05e6b0c26113618e11e325a8062c10b02c77b11d4dca1fe6c9a59dfeb64",
    1: "835a95549dfcbf34cf781d724844765ce01f5746fab2e55e6d0154d48068b1df",
    2: "bd2c2c3613ef6f4e57f0b85dec4338751b1de84bf046307c0368a22a68c1f50f",
    10: "dbc0a8572fd02ab03b46dd0b0725fd72e002f33832f0c75150c144c0ecdda316",
    99: "4842d89adeb0751743a8a77bffec7ea7bd80850fd367cd3d43862810e274e8e8",
}


def test_fixed_vector() -> None:
    secret = hashlib.sha256(b"secret").digest()
    expected = {holder: bytes.fromhex(share) for holder, share in VECTOR.items()}
    assert split(secret, list(VECTOR), 3, _random=counter()) == expected
    assert recover(expected, 3) == secret


@given(st.data())
def test_any_threshold_of_any_holders(data: st.DataObject) -> None:
    holders = data.draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=40, unique=True))
    threshold = data.draw(st.integers(1, len(holders)))
    secret = to_bytes(data.draw(st.integers(0, P - 1)))
    shares = split(secret, holders, threshold)
    present = data.draw(st.permutations(holders))[: data.draw(st.integers(threshold, len(holders)))]
    assert recover({holder: shares[holder] for holder in present}, threshold) == secret


def test_only_the_lowest_positions_count() -> None:
    shares = split(to_bytes(77), range(6), 3)
    damaged = {5: to_bytes(1), 4: to_bytes(2), 3: to_bytes(3), **{k: shares[k] for k in (2, 0, 1)}}
    assert recover(damaged, 3) == to_bytes(77)
    assert recover({**shares, 0: to_bytes((int.from_bytes(shares[0], "big") + 1) % P)}, 3) != to_bytes(77)


def test_the_order_of_shares_is_irrelevant() -> None:
    shares = split(to_bytes(77), range(3), 3)
    for order in permutations(shares):
        assert recover({holder: shares[holder] for holder in order}, 3) == to_bytes(77)


def test_the_cache_is_bounded_and_holds_public_values_only() -> None:
    info = shamir._lagrange_at_zero.cache_parameters()
    assert info["maxsize"] is not None
    # one and the same for all secrets of these holders: x = 1 and 2 give 2/(2-1) and 1/(1-2)
    assert shamir._lagrange_at_zero((0, 1)) == (2, P - 1)


@pytest.mark.parametrize(
    ("secret", "holders", "threshold", "message"),
    [
        (to_bytes(1), [0, 1], 0, "threshold must be at least 1, got 0"),
        (to_bytes(1), [0, 1], -3, "threshold must be at least 1"),
        (to_bytes(1), [0, 1], float("nan"), "threshold must be at least 1, got nan"),
        (to_bytes(1), [0, 1], 3, "threshold must be at most the 2 holders, got 3"),
        (to_bytes(1), [], 1, "at most the 0 holders"),
        (to_bytes(1), [4, 1, 4], 2, "distinct"),
        (to_bytes(1), [-1, 1], 2, r"position must be in \[0, 2\*\*32\), got -1"),
        (to_bytes(1), [0, 2**32], 2, "position must be in"),
        (b"", [0, 1], 2, "a secret to split must be 32 bytes, got 0"),
        (bytes(31), [0, 1], 2, "32 bytes, got 31"),
        (bytes(33), [0, 1], 2, "32 bytes, got 33"),
        (to_bytes(P), [0, 1], 2, r"below 2\*\*256 - 189"),
        (HIGH, [0, 1], 2, r"below 2\*\*256 - 189"),
    ],
)
def test_split_refuses(secret: bytes, holders: list[int], threshold: int, message: str) -> None:
    with pytest.raises(SealingError, match=message):
        split(secret, holders, threshold)


@pytest.mark.parametrize(
    ("shares", "threshold", "message"),
    [
        ({0: to_bytes(1)}, 2, "2 shares are needed to recover a secret, got 1"),
        ({}, 1, "1 shares are needed to recover a secret, got 0"),
        ({0: to_bytes(1)}, 0, "threshold must be at least 1"),
        ({0: bytes(31), 1: to_bytes(1)}, 2, "the share of 0 must be 32 bytes, got 31"),
        ({0: to_bytes(1), 1: bytes(33)}, 2, "the share of 1 must be 32 bytes, got 33"),
        ({0: to_bytes(1), 1: to_bytes(P)}, 2, "the share of 1 must be below"),
        ({0: to_bytes(1), 1: to_bytes(1), 2: HIGH}, 2, "the share of 2 must be below"),
        ({-1: to_bytes(1), 1: to_bytes(1)}, 2, "position must be in"),
    ],
)
def test_recover_refuses(shares: dict[int, bytes], threshold: int, message: str) -> None:
    with pytest.raises(SealingError, match=message):
        recover(shares, threshold)


def test_no_refusal_shows_a_secret() -> None:
    with pytest.raises(SealingError) as refused:
        split(HIGH, [0, 1], 2)
    assert "ff" not in str(refused.value)
    assert str(2**256 - 1) not in str(refused.value)
