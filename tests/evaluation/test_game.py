import numpy as np
import pytest

from securefd.errors import AuditError
from securefd.evaluation.game import Game
from tests.evaluation.made import coins, noise, paired


def test_in_a_game_of_add_or_remove_every_record_has_a_coin():
    game = Game(membership=coins(6, 5))
    assert game.relation == "add-or-remove"
    some = np.array([3, 1])
    np.testing.assert_array_equal(game.coins(some), game.membership[:, some])
    scores = noise(2, 2)
    np.testing.assert_array_equal(game.told(scores, some), scores)
    np.testing.assert_array_equal(
        game.by_candidate(np.array([7.0, 8.0]), some), [np.nan, 8.0, np.nan, 7.0, np.nan]
    )


def test_in_a_game_of_replace_one_two_records_share_a_coin():
    game = paired(6, 3)
    assert game.relation == "replace-one"
    candidates = np.array([5, 0, 4, 1])  # the pairs (0, 1) and (4, 5), in another order
    np.testing.assert_array_equal(game.coins(candidates), game.membership[:, [0, 4]])
    scores = np.array([[5.0, 0.5, 4.0, 1.0]])
    np.testing.assert_array_equal(game.told(scores, candidates), [[0.5 - 1.0, 4.0 - 5.0]])
    np.testing.assert_array_equal(
        game.by_candidate(np.array([7.0, 8.0]), candidates), [7, 7, np.nan, np.nan, 8, 8]
    )


def test_half_a_pair_has_no_coin():
    game = paired(6, 3)
    lone = np.array([0, 2, 3])
    np.testing.assert_array_equal(game.coins(lone), game.membership[:, [2]])
    np.testing.assert_array_equal(game.told(np.array([[1.0, 5.0, 2.0]]), lone), [[3.0]])


def test_a_smaller_game_keeps_its_coins():
    game = paired(6, 4)
    small = game.first(2)
    np.testing.assert_array_equal(small.membership, game.membership[:, :4])
    np.testing.assert_array_equal(small.pairs, [[0, 1], [2, 3]])
    assert Game(membership=coins(6, 5)).first(3).membership.shape == (6, 3)


def test_neither_membership_nor_pairs_are_printed():
    assert repr(paired(6, 2)) == "Game()"


@pytest.mark.parametrize(
    ("membership", "match"),
    [
        (np.ones((10, 5), dtype=bool), "all True"),
        (np.zeros((10, 5), dtype=bool), "all False"),
        (coins(10, 5).astype(float), "boolean"),
        (coins(10, 5)[0], r"\(F, n\)"),
    ],
)
def test_membership_that_plays_no_game_is_refused(membership, match):
    with pytest.raises(AuditError, match=match):
        Game(membership=membership)


def test_both_of_a_pair_can_not_take_part():
    game = paired(6, 2)
    both = game.membership.copy()
    both[0, :2] = True
    with pytest.raises(AuditError, match="exactly one of each pair"):
        Game(membership=both, pairs=game.pairs)
