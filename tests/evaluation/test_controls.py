import numpy as np
import pytest

from securefd.evaluation.controls import controls, null_control, planted_control, unprotected_control
from securefd.evaluation.game import Game
from tests.evaluation.made import DELTA, coins, evidence, noise, paired


@pytest.mark.parametrize("game", [Game(membership=coins(24, 60)), paired(24, 40)], ids=["in", "pairs"])
def test_controls_of_a_sound_audit_pass(game):
    for seed in range(2):
        made = controls(game, delta=DELTA, alpha=0.01, rng=np.random.default_rng(seed))
        assert [(check.kind, check.passed) for check in made] == [("null", True), ("positive", True)], made
        assert all("all 17 attacks" in check.attack for check in made)


def test_the_null_control_rarely_fails():
    """A thousandth of audits; here with the attacks that bare confidences feed."""
    failed = 0
    for seed in range(40):
        game = Game(membership=coins(12, 30, seed))
        failed += not null_control(evidence(noise(12, 30, seed)), game, delta=DELTA).passed
    assert failed <= 1


def test_the_null_control_notices_a_signal_that_knows():
    game = Game(membership=coins(40, 30))
    check = null_control(evidence(noise(40, 30) + 0.7 * game.membership), game, delta=DELTA)
    assert not check.passed
    assert check.kind == "null"


def test_the_positive_control_notices_attacks_that_are_blind():
    game = Game(membership=coins(40, 30))
    assert not planted_control(evidence(noise(40, 30)), game, delta=DELTA, alpha=0.01).passed


def test_attacks_that_fail_fail_their_control():
    """Four federations can't even be scored by LiRA: the controls say so."""
    game = Game(membership=coins(4, 30))
    for check in controls(game, delta=DELTA, alpha=0.01, rng=np.random.default_rng(0)):
        assert not check.passed


def test_what_no_protection_leaves_is_found_or_the_audit_is_blind():
    game = Game(membership=coins(24, 200))
    found = unprotected_control(evidence(noise(24, 200) + game.membership), game)
    assert (found.kind, found.passed) == ("positive", True)
    assert "without protection" in found.attack
    assert not unprotected_control(evidence(noise(24, 200)), game).passed
    backwards = unprotected_control(evidence(noise(24, 200) - game.membership), game)
    assert "loss" not in backwards.measured  # worse than guessing is no finding
