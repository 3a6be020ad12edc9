from dataclasses import replace

import numpy as np
import pytest

from securefd.attacks.answers import Answers, Records
from securefd.attacks.candidates import Evidence, Part
from securefd.attacks.lira import lira
from securefd.attacks.table import attack_named
from securefd.errors import AuditError
from securefd.evaluation.game import Game
from securefd.evaluation.scoring import Tried, attacks_on, check_evidence, measurable, measure, scores, turns
from tests.evaluation.made import coins, evidence, noise, paired, probabilities, tried

LIRA = attack_named("lira")
GAME = Game(membership=coins(20, 12))
PIECE = evidence(noise(20, 12))


def test_each_turn_is_scored_by_all_the_others():
    """With 16 groups of 20 federations, the first four have two."""
    found = turns(LIRA, PIECE, GAME, np.arange(20))
    confidence = PIECE.confidence
    for group in ([0, 1], [6, 7], [9], [19]):
        rest = np.delete(np.arange(20), group)
        alone = lira(confidence[group], confidence[rest], GAME.membership[rest])
        np.testing.assert_allclose(found[group], alone)


def test_turns_among_some_use_these_alone():
    some = np.arange(10)
    alone = turns(LIRA, evidence(noise(20, 12)[:10]), Game(membership=GAME.membership[:10]), some)
    np.testing.assert_array_equal(turns(LIRA, PIECE, GAME, some), alone)


def test_a_record_without_enough_shadows_is_left_out_and_the_rest_is_scored():
    membership = GAME.membership.copy()
    membership[:, 3] = True
    found = turns(LIRA, PIECE, Game(membership=membership), np.arange(20))
    assert np.isnan(found[:, 3]).all()
    assert not np.isnan(np.delete(found, 3, axis=1)).any()


def test_parts_are_scored_by_themselves_and_put_side_by_side():
    confidence = noise(20, 12)
    first, second = np.array([4, 0, 7]), np.array([1, 2])
    piece = Evidence(
        observer="server",
        signal="answers",
        parts=(
            evidence(confidence[:, first], candidates=first).parts[0],
            evidence(confidence[:, second], candidates=second).parts[0],
        ),
    )
    targets, known = np.arange(3), np.arange(3, 20)
    found = scores(LIRA, piece, GAME, targets, known)
    for columns, own in ((slice(0, 3), first), (slice(3, 5), second)):
        alone = lira(confidence[targets][:, own], confidence[known][:, own], GAME.membership[known][:, own])
        np.testing.assert_allclose(found[:, columns], alone)


def test_in_a_game_of_pairs_two_scores_are_compared():
    game = paired(20, 6)
    found = scores(LIRA, PIECE, game, np.arange(3), np.arange(3, 20))
    records = lira(PIECE.confidence[:3], PIECE.confidence[3:], game.membership[3:])
    np.testing.assert_allclose(found, records[:, ::2] - records[:, 1::2])


def test_evidence_feeds_the_attacks_that_it_can():
    bare = {attack.name for attack in attacks_on(PIECE)}
    assert {"loss", "gap", "lira", "reference", "shadow classifier"} <= bare
    assert not {"population", "rmia", "trajectory", "indirect queries", "cooperative lira"} & bare
    assert {attack.name for attack in attacks_on(PIECE, references=False)} == {
        "loss",
        "confidence",
        "entropy",
        "modified entropy",
        "gap",
    }
    rounds = noise(20, 12)[..., None]
    assert "trajectory" in {attack.name for attack in attacks_on(evidence(noise(20, 12), rounds=rounds))}


def test_decisions_feed_no_attack_on_the_shape_of_probabilities():
    names = {attack.name for attack in attacks_on(evidence(noise(20, 12), signal="labels"))}
    assert {"gap", "lira", "reference"} <= names
    assert not {"entropy", "modified entropy", "loss"} & names


def test_every_attack_of_the_table_finds_what_is_planted():
    membership = coins(16, 40)
    sure = noise(16, 40) + 8.0 * membership - 4.0
    depth = (noise(16, 40) + 8.0 * membership - 4.0)[..., None]
    nobody = noise(16, 40)[..., None] - 4.0
    labels, z = np.arange(40) % 3, 30
    features = np.random.default_rng(5).standard_normal((40 + z, 4))
    part = Part(
        candidates=np.arange(40),
        answers=Answers(
            probabilities=probabilities(sure),
            labels=labels,
            population=probabilities(noise(16, z, 9) - 4.0),
            population_labels=np.arange(z) % 3,
            rounds=depth,
            nearby=depth,
            others=nobody,
            resampled=nobody,
        ),
        records=Records(
            labels=labels,
            features=features[:40],
            population_labels=np.arange(z) % 3,
            population_features=features[40:],
        ),
    )
    piece = Evidence(observer="server", signal="answers", parts=(part,))
    found = tried(piece, Game(membership=membership))
    assert len(found) == 17
    for each in found:
        assert each.measured.auc.value > 0.9, each.name
        assert each.strength(Game(membership=membership)) > 0.9, each.name


def test_what_prepares_a_test_has_not_seen_the_trials():
    other = noise(20, 12)
    other[10:] = 5.0
    prepared = Tried.of(LIRA, evidence(other), GAME)
    np.testing.assert_array_equal(prepared.among_references, Tried.of(LIRA, PIECE, GAME).among_references)
    assert not np.array_equal(prepared.everywhere, Tried.of(LIRA, PIECE, GAME).everywhere)


def test_federations_that_cannot_be_measured_are_left_out():
    fell = np.array([[True, True, False, False], [True, False, False, False], [True, True, False, False]])
    found = np.array([[2.0, 1.0, 0.0, 0.0], [9.0, 9.0, 9.0, 9.0], [2.0, np.nan, 0.0, 0.0]])
    ((row, coin),) = measurable(found, fell)
    np.testing.assert_array_equal(row, found[0])
    np.testing.assert_array_equal(coin, fell[0])
    with pytest.raises(AuditError, match="none of 2 federations"):
        measurable(found[1:], fell[1:])


def test_a_rate_is_measured_in_all_federations_or_not_at_all():
    fell = np.array([[True] * 20 + [False] * 20, [True] * 31 + [False] * 9])
    measured = measure(np.where(fell, 1.0, 0.0), fell)
    assert (measured.auc.value, measured.n_in, measured.n_out) == (1.0, 20, 9)
    assert measured.tpr[0.1].value is None  # one of nine is more than a tenth
    assert measure(np.where(fell[:1], 1.0, 0.0), fell[:1]).tpr[0.1].value == 1.0


@pytest.mark.parametrize(
    ("piece", "match"),
    [
        (evidence(noise(12, 20)), "a row a federation"),
        (evidence(noise(20, 12), candidates=np.arange(1, 13)), r"0\.\.11, got 1\.\.12"),
        (evidence(noise(20, 12), candidates=np.arange(11)), "a column a candidate"),
    ],
)
def test_evidence_that_does_not_fit_is_refused(piece, match):
    with pytest.raises(AuditError, match=match):
        check_evidence(piece, 20, 12)
    with pytest.raises(AuditError, match=match):
        Tried.of(LIRA, piece, GAME)


def test_nan_is_refused():
    broken = probabilities(noise(20, 12))
    broken[0, 0, 0] = np.nan
    part = replace(
        PIECE.parts[0], answers=Answers(probabilities=broken, labels=PIECE.parts[0].answers.labels)
    )
    with pytest.raises(AuditError, match="NaN"):
        Tried.of(LIRA, replace(PIECE, parts=(part,)), GAME)
