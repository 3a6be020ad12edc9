import numpy as np
import pytest

from securefd.errors import AuditError
from securefd.evaluation.coins import Coins
from securefd.evaluation.tossing import toss

COINS = Coins(seed=b"s" * 32, salt=b"t" * 32)
ROWS = [np.arange(0, 51), np.arange(51, 100), np.arange(100, 160)]
LABELS = np.arange(160) % 4


def tossed(relation="add-or-remove", most=1000, coins=COINS, rows=ROWS, labels=LABELS):
    return toss(coins, labels, rows, federations=6, most=most, relation=relation)


def test_whoever_has_a_coin_takes_part_as_it_fell():
    found = tossed(most=40)
    assert len(found.candidates) == 40
    for drawn, membership in zip(found.drawn, found.game.membership, strict=True):
        taken = np.concatenate(drawn)
        np.testing.assert_array_equal(np.isin(found.candidates, taken), membership)
        everyone_else = np.setdiff1d(np.arange(160), found.candidates)
        assert np.isin(everyone_else, taken).all()
        for own, rows in zip(drawn, ROWS, strict=True):
            assert np.isin(own, rows).all()


def test_all_records_are_candidates_where_so_many_are_wanted():
    np.testing.assert_array_equal(tossed().candidates, np.arange(160))


def test_candidates_follow_from_the_coins_alone():
    np.testing.assert_array_equal(tossed(most=40).candidates, tossed(most=40).candidates)
    other = tossed(most=40, coins=Coins(seed=b"u" * 32, salt=b"t" * 32))
    assert not np.array_equal(other.candidates, tossed(most=40).candidates)


@pytest.mark.parametrize("most", [40, 41, 1000])
def test_of_each_pair_exactly_one_takes_part(most):
    found = tossed("replace-one", most)
    pairs = found.candidates[found.game.pairs]
    assert len(np.unique(pairs)) == pairs.size == len(found.candidates)
    for first, second in pairs:
        assert sum(np.isin([first, second], own).all() for own in ROWS) == 1
    sizes = {tuple(map(len, drawn)) for drawn in found.drawn}
    assert len(sizes) == 1  # nobody is added or removed
    for drawn, fell in zip(found.drawn, found.game.coins(np.arange(len(found.candidates))), strict=True):
        taken = np.concatenate(drawn)
        np.testing.assert_array_equal(np.isin(pairs[:, 0], taken), fell)
        np.testing.assert_array_equal(np.isin(pairs[:, 1], taken), ~fell)


def test_coins_of_pairs_are_fair():
    rows = [np.arange(4000)]
    found = toss(COINS, np.arange(4000) % 4, rows, federations=10, most=9000, relation="replace-one")
    fell = found.game.coins(np.arange(4000))
    assert abs(fell.mean() - 0.5) < 5 * 0.5 / np.sqrt(fell.size)


def test_tiny_clients_have_nobody_to_toss_for():
    with pytest.raises(AuditError, match="no client has more than 2 records"):
        tossed(rows=[np.arange(2), np.arange(2, 4)], labels=LABELS[:4])
    with pytest.raises(AuditError, match="no client has more than 2 records"):
        tossed("replace-one", rows=[np.arange(2), np.arange(2, 4)], labels=LABELS[:4])
