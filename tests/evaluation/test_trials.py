import math
from dataclasses import replace

import numpy as np
import pytest

from securefd.evaluation.bounding import Terms, bounded
from securefd.evaluation.findings import Finding, Skipped
from securefd.evaluation.game import Game
from securefd.evaluation.gaussian_bounds import gaussian_epsilon, mu_epsilon_bound
from securefd.evaluation.trials import (
    prepare_one_record,
    prepare_one_run,
    trials_of,
    try_one_record,
    try_one_run,
)
from tests.evaluation.made import DELTA, coins, evidence, noise, paired, promise, tried

LEVEL = {"delta": DELTA, "alpha": 0.05}
GAME = Game(membership=coins(160, 12))
NOISE = noise(160, 12)
PLANTED = NOISE + 12.0 * GAME.membership * (np.arange(12) == 7)


def terms(claim=None, alpha: float = 0.05) -> Terms:
    return Terms(promise=claim, delta=DELTA, alpha=alpha)


# One record


def test_the_record_that_leaks_is_singled_out_and_found_again():
    test = prepare_one_record(tried(evidence(PLANTED), GAME), GAME, **LEVEL)
    assert test.coin == 7
    found, fell = try_one_record(test, GAME)
    guessed = found[:, 7] > test.threshold
    np.testing.assert_array_equal(guessed, fell[:, 7])
    np.testing.assert_array_equal(fell, GAME.membership[80:])


def test_trials_never_look_at_the_second_half_to_choose():
    """Changing one trial changes no other trial's score: they are independent given the references."""
    altered = PLANTED.copy()
    altered[159] = -100.0
    first, second = (
        try_one_record(prepare_one_record(tried(evidence(each), GAME, "lira"), GAME, **LEVEL), GAME)[0]
        for each in (PLANTED, altered)
    )
    np.testing.assert_array_equal(first[:-1], second[:-1])
    assert first[-1, 7] != second[-1, 7]
    np.testing.assert_array_equal(trials_of(GAME), np.arange(80, 160))


def test_in_a_game_of_pairs_one_of_two_records_is_guessed():
    game = paired(160, 6)
    leaking = noise(160, 12) + 12.0 * game.membership * (np.arange(12) == 9)
    test = prepare_one_record(tried(evidence(leaking), game), game, **LEVEL)
    assert test.coin == 4  # records 8 and 9
    found, fell = try_one_record(test, game)
    np.testing.assert_array_equal(found[:, 4] > test.threshold, fell[:, 4])


def test_too_few_references_single_out_nothing():
    game, alone = Game(membership=GAME.membership[:8]), evidence(PLANTED[:8])
    assert prepare_one_record(tried(alone, game, "loss"), game, **LEVEL) is None
    found = bounded("release", tried(alone, game, "loss"), game, terms())
    assert isinstance(found.outcomes[0], Skipped)
    assert "too few" in found.outcomes[0].reason
    assert found.risk is None


def test_a_record_that_is_in_every_trial_is_not_singled_out():
    membership = GAME.membership.copy()
    membership[80:, 7] = True
    membership[90, 7] = False
    test = prepare_one_record(tried(evidence(PLANTED), GAME), Game(membership=membership), **LEVEL)
    assert test.coin != 7
    membership[91, 7] = False
    test = prepare_one_record(tried(evidence(PLANTED), GAME), Game(membership=membership), **LEVEL)
    assert test.coin == 7


def test_the_stronger_of_two_pieces_of_evidence_is_used():
    weak, strong = evidence(NOISE, signal="student"), evidence(PLANTED, signal="answers")
    test = prepare_one_record([*tried(weak, GAME), *tried(strong, GAME)], GAME, **LEVEL)
    assert test.tried.piece.signal == "answers"
    test = prepare_one_run([*tried(weak, GAME), *tried(strong, GAME)], GAME, **LEVEL)
    assert test.tried.piece.signal == "answers"


# One run


def test_the_last_federation_is_guessed_with_all_others_for_shadows():
    everyone = noise(40, 300) + 6.0 * coins(40, 300)
    game = Game(membership=coins(40, 300))
    test = prepare_one_run(tried(evidence(everyone), game), game, **LEVEL)
    found, fell = try_one_run(test, game)
    np.testing.assert_array_equal(fell, game.membership[-1])
    assert np.mean((found > np.median(found)) == fell) > 0.95
    assert test.guesses in (6, 15, 30, 60, 150)


def test_where_nothing_would_have_been_certified_the_test_keeps_its_power():
    game = Game(membership=coins(40, 300))
    test = prepare_one_run(tried(evidence(noise(40, 300)), game, "loss", "lira"), game, **LEVEL)
    assert test.guesses == 60


def test_the_one_run_is_not_looked_at_to_choose():
    game = Game(membership=coins(40, 300))
    leaking = noise(40, 300) + 2.0 * game.membership
    altered = leaking.copy()
    altered[20:] = noise(20, 300, 7)
    first, second = (
        prepare_one_run(tried(evidence(each), game, "lira", "loss"), game, **LEVEL)
        for each in (leaking, altered)
    )
    assert (first.tried.name, first.guesses) == (second.tried.name, second.guesses)


def test_one_run_certifies_more_than_one_record_where_all_records_leak():
    game = Game(membership=coins(40, 400))
    leaking = noise(40, 400) + 8.0 * game.membership
    one_record, one_run = bounded("release", tried(evidence(leaking), game), game, terms()).outcomes
    assert (one_record.bound_method[:10], one_run.bound_method[:7]) == ("one record", "one run")
    assert one_run.epsilon_bound > one_record.epsilon_power
    assert (one_run.trials_in + one_run.trials_out, one_run.n_in) == (400, game.membership[-1].sum())
    assert one_record.trials_in + one_record.trials_out == 20


# What is proven


def test_of_a_gaussian_mechanism_both_designs_prove_more_from_the_same_trials():
    game = Game(membership=coins(160, 300))
    leaking = noise(160, 300) + 3.0 * game.membership
    claimed = replace(terms(promise(3.5)), mechanism="gaussian")
    found = bounded("release", tried(evidence(leaking), game), game, claimed)
    record, gaussian_record, run, gaussian_run = found.outcomes
    assert [each.bound_method.split(",")[0] for each in found.outcomes] == [
        "one record",
        "one record of a Gaussian mechanism",
        "one run",
        "one run of a Gaussian mechanism",
    ]
    truth = gaussian_epsilon(3.0, delta=DELTA)
    for plain, gaussian in ((record, gaussian_record), (run, gaussian_run)):
        assert plain.epsilon_bound < gaussian.epsilon_bound < truth
        assert plain.epsilon_power < gaussian.epsilon_power
        assert (plain.n_in, plain.attack, plain.confidence) == (
            gaussian.n_in,
            gaussian.attack,
            gaussian.confidence,
        )
    test = prepare_one_record(tried(evidence(leaking), game), game, **LEVEL)
    scored, fell = (each[:, test.coin] for each in try_one_record(test, game))
    hits, misses = (int((scored[side] > test.threshold).sum()) for side in (fell, ~fell))
    assert gaussian_record.epsilon_bound == mu_epsilon_bound(
        hits, int(fell.sum()), misses, int((~fell).sum()), mechanism="gaussian", **LEVEL
    )


def test_bounds_are_within_power_and_beside_the_claim():
    found = bounded("release", tried(evidence(PLANTED), GAME), GAME, terms(promise(1.0), alpha=0.025))
    one_record = found.outcomes[0]
    assert (one_record.judgement, one_record.claim_epsilon) == ("VIOLATED", 1.0)
    assert 1.0 < one_record.epsilon_bound <= one_record.epsilon_power
    assert one_record.confidence == 0.975
    assert one_record.epsilon_credible > one_record.epsilon_bound
    assert one_record.auc == 1.0
    assert found.risk.highest == 1.0
    assert found.risk.highest_interval[0] > 0.7
    assert abs(found.risk.average) < 0.3
    assert found.risk.records == 12


def test_exposure_tells_records_apart():
    exposure = bounded("release", tried(evidence(PLANTED), GAME), GAME, terms()).exposure
    assert exposure.argmax() == 7
    assert exposure[7] > 0.99
    assert np.abs(np.delete(exposure, 7) - 0.5).max() < 0.15
    part = np.array([7, 2, 9, 0, 4, 11])
    partial = bounded("peer", tried(evidence(PLANTED[:, part], candidates=part), GAME), GAME, terms())
    assert np.isnan(np.delete(partial.exposure, part)).all()
    assert partial.exposure[7] > 0.99


def test_whoever_could_attack_nothing_proves_nothing():
    found = bounded("peer", [], GAME, terms())
    assert (found.outcomes, found.risk) == ((), None)
    assert np.isnan(found.exposure).all()


def test_a_guarantee_that_holds_is_rarely_called_violated():
    """Randomised response at exactly epsilon = 1, by both designs and all attacks together."""
    runs, wrong, designs = 60, {}, ("one record", "one run")
    for seed in range(runs):
        rng = np.random.default_rng([7, seed])
        membership = rng.random((60, 40)) < 0.5
        honest = rng.random(membership.shape) < math.e / (1 + math.e)
        told = np.where(honest, membership, ~membership) + 0.01 * rng.standard_normal(membership.shape)
        game = Game(membership=membership)
        found = bounded("release", tried(evidence(told), game, "loss", "lira"), game, terms())
        for design, outcome in zip(designs, found.outcomes, strict=True):
            assert isinstance(outcome, Finding)
            wrong[design] = wrong.get(design, 0) + (outcome.epsilon_bound > 1.0)
    assert max(wrong.values()) / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def test_null_data_rarely_has_a_positive_bound():
    runs, positive = 60, [0, 0]
    for seed in range(runs):
        game = Game(membership=coins(40, 40, seed))
        made = tried(evidence(noise(40, 40, seed)), game, "loss", "lira", "reference", "gap")
        found = bounded("release", made, game, terms())
        for place, outcome in enumerate(found.outcomes):
            positive[place] += outcome.epsilon_bound > 0
    assert max(positive) / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize("unit", ["record", "client"])
def test_delta_is_the_claims_in_terms_of_the_game(unit):
    claim = promise(1.0, unit=unit)
    assert terms(claim).delta_in(GAME) == claim.group(1 if unit == "record" else 2).delta
    assert terms(promise(1.0, relation="replace-one")).delta_in(GAME) == DELTA
