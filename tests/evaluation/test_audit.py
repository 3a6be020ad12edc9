import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from securefd.defenses.claims import Guarantee
from securefd.errors import AuditError
from securefd.evaluation.audit import audit_recipe, audit_this_run, in_terms_of_game
from securefd.evaluation.controls import null_control, positive_control
from securefd.evaluation.evidence import Evidence, gather
from securefd.evaluation.findings import Audit, Control, Finding, Skipped
from securefd.evaluation.statistics import epsilon_lower_bound
from securefd.evaluation.trials import one_record, score, scored, turns
from securefd.views import RoundView, View

DELTA = 1e-5


def coins(federations: int, records: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([1, seed]).random((federations, records)) < 0.5


def noise(federations: int, records: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([2, seed]).standard_normal((federations, records))


def evidence(confidence: np.ndarray, observer: str = "release", signal: str = "student") -> Evidence:
    return Evidence(
        observer=observer, signal=signal, candidates=np.arange(confidence.shape[1]), confidence=confidence
    )


def promise(epsilon: float, delta: float = DELTA, unit="record", relation="add-or-remove") -> Guarantee:
    return Guarantee(epsilon=epsilon, delta=delta, unit=unit, relation=relation)


def audited(confidence, membership, claim, **changes) -> Audit:
    options = {"claims": {"release": claim}, "relation": "add-or-remove", "rng": np.random.default_rng(9)}
    return audit_recipe([evidence(confidence)], membership, **(options | changes))


MEMBERSHIP = coins(160, 12)
NOISE = noise(160, 12)
PLANTED = NOISE + 12.0 * MEMBERSHIP * (np.arange(12) == 7)


# What is found


def test_a_planted_leak_of_one_record_is_violated():
    audit = audited(PLANTED, MEMBERSHIP, promise(1.0))
    assert {finding.judgement for finding in audit.outcomes} == {"VIOLATED"}
    assert (audit.judgement, audit.exit_code) == ("VIOLATED", 1)
    for finding in audit.outcomes:
        assert finding.trials_in + finding.trials_out == 80
        assert 1.0 < finding.epsilon_bound <= finding.epsilon_power
        assert finding.confidence == 1 - 0.05 / 2


def test_null_data_is_consistent_where_the_design_had_power():
    audit = audited(NOISE, MEMBERSHIP, promise(1.0))
    assert [finding.judgement for finding in audit.outcomes] == ["CONSISTENT", "CONSISTENT"]
    assert (audit.judgement, audit.exit_code) == ("CONSISTENT", 0)
    for finding in audit.outcomes:
        low, high = finding.auc_interval
        assert low < 0.5 < high
        assert finding.epsilon_power > 1.0


def test_power_below_the_claim_is_inconclusive_however_harmless_the_data():
    audit = audited(NOISE, MEMBERSHIP, promise(8.0))
    assert {finding.judgement for finding in audit.outcomes} == {"INCONCLUSIVE"}
    assert "more federations" in audit.outcomes[0].reason
    assert (audit.judgement, audit.exit_code) == ("INCONCLUSIVE", 3)


def test_a_leak_below_the_claim_does_not_make_it_violated():
    audit = audited(PLANTED, MEMBERSHIP, promise(8.0))
    assert {finding.judgement for finding in audit.outcomes} == {"INCONCLUSIVE"}


def test_without_a_claim_there_is_nothing_to_judge():
    audit = audited(PLANTED, MEMBERSHIP, None)
    for finding in audit.outcomes:
        assert (finding.claim_epsilon, finding.judgement) == (None, "INCONCLUSIVE")
        assert finding.reason == "no claim to hold it against"
        assert finding.epsilon_bound > 1.0
    assert audit.exit_code == 3


def test_a_guarantee_that_holds_is_rarely_called_violated():
    """Randomised response at exactly epsilon = 1, claimed at 1: all bounds of an audit share the 5%."""
    flips = 200
    wrong = 0
    for seed in range(flips):
        rng = np.random.default_rng(seed)
        membership = rng.random((80, 3)) < 0.5
        honest = rng.random(membership.shape) < math.e / (1 + math.e)
        confidence = np.where(honest, membership, ~membership) + 0.01 * rng.standard_normal(membership.shape)
        for attack in ("loss", "lira"):
            trials = one_record(attack, confidence, membership, delta=0.0, alpha=0.05)
            wrong += _bound(trials, 0.05) > 1.0
    assert wrong / (2 * flips) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / flips)


def test_null_data_rarely_has_a_positive_bound():
    runs = 300
    positive = {"loss": 0, "lira": 0}
    for seed in range(runs):
        for attack in positive:
            trials = one_record(attack, noise(60, 8, seed), coins(60, 8, seed), delta=0.0, alpha=0.05)
            positive[attack] += _bound(trials, 0.05) > 0
    assert max(positive.values()) / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


def _bound(trials, alpha):
    return epsilon_lower_bound(
        trials.true_positives, trials.n_in, trials.false_positives, trials.n_out, delta=0.0, alpha=alpha
    )


# Trials and turns


def test_trials_never_look_at_the_second_half_to_choose():
    """Changing one trial changes no other trial's guess: they are independent given the references."""
    before = one_record("lira", PLANTED, MEMBERSHIP, delta=DELTA, alpha=0.05)
    altered = PLANTED.copy()
    altered[159] = -100.0 if MEMBERSHIP[159, 7] else 100.0
    after = one_record("lira", altered, MEMBERSHIP, delta=DELTA, alpha=0.05)
    wrong_in, wrong_out = MEMBERSHIP[159, 7], not MEMBERSHIP[159, 7]
    assert after.true_positives == before.true_positives - wrong_in
    assert after.false_positives == before.false_positives + wrong_out
    assert (after.n_in, after.n_out) == (before.n_in, before.n_out)


def test_each_turn_is_scored_by_all_the_others():
    scores = turns("lira", NOISE[:20], MEMBERSHIP[:20])
    alone = score("lira", NOISE[[4]], np.delete(NOISE[:20], 4, 0), np.delete(MEMBERSHIP[:20], 4, 0))
    np.testing.assert_array_equal(scores[4], alone[0])


def test_a_record_without_enough_shadows_is_left_out_and_the_rest_is_scored():
    membership = MEMBERSHIP[:20].copy()
    membership[:, 3] = True
    scores = turns("lira", NOISE[:20], membership)
    assert np.isnan(scores[:, 3]).all()
    assert not np.isnan(np.delete(scores, 3, axis=1)).any()


def test_federations_that_cannot_be_measured_are_left_out():
    membership = np.array(
        [[True, True, False, False], [True, False, False, False], [True, True, False, False]]
    )
    scores = np.array([[2.0, 1.0, 0.0, 0.0], [9.0, 9.0, 9.0, 9.0], [2.0, np.nan, 0.0, 0.0]])
    ((row, member),) = scored(scores, membership)
    np.testing.assert_array_equal(row, scores[0])
    np.testing.assert_array_equal(member, membership[0])
    with pytest.raises(AuditError, match="none of 2 federations"):
        scored(scores[1:], membership[1:])


def test_too_few_references_certify_nothing_rather_than_something():
    trials = one_record("lira", PLANTED[:8], MEMBERSHIP[:8], delta=DELTA, alpha=0.05)
    assert (trials.n_in, trials.n_out) == (0, 0)


# Claims and games


@pytest.mark.parametrize(
    ("unit", "claimed", "game", "epsilon"),
    [
        ("record", "add-or-remove", "add-or-remove", 2.0),
        ("record", "add-or-remove", "replace-one", 4.0),
        ("record", "replace-one", "replace-one", 2.0),
        ("record", "replace-one", "add-or-remove", None),
        ("client", "replace-one", "add-or-remove", 2.0),
        ("client", "add-or-remove", "add-or-remove", 4.0),
    ],
)
def test_a_claim_is_put_in_terms_of_the_game(unit, claimed, game, epsilon):
    held = in_terms_of_game(promise(2.0, unit=unit, relation=claimed), game)
    assert (None if held is None else held.epsilon) == epsilon


def test_a_claim_that_says_nothing_about_the_game_is_inconclusive():
    audit = audited(PLANTED, MEMBERSHIP, promise(1.0, relation="replace-one"))
    assert {finding.judgement for finding in audit.outcomes} == {"INCONCLUSIVE"}
    assert audit.exit_code == 3
    assert "says nothing" in audit.outcomes[0].reason


def test_a_doubled_claim_whose_delta_reaches_one_says_nothing():
    assert in_terms_of_game(promise(20.0, unit="client"), "add-or-remove") is None


# The whole


def test_the_error_level_is_shared_by_all_attacks_and_observers():
    pieces = [evidence(NOISE, observer, signal) for observer in ("server", "peer") for signal in ("a", "b")]
    audit = audit_recipe(
        pieces, MEMBERSHIP, claims={}, relation="add-or-remove", rng=np.random.default_rng(0)
    )
    assert len(audit.outcomes) == 8
    assert {finding.confidence for finding in audit.outcomes} == {1 - 0.05 / 8}


def test_candidates_choose_their_columns():
    part = np.array([7, 2, 9, 11, 0, 5])
    piece = Evidence(observer="peer", signal="consensus", candidates=part, confidence=PLANTED[:, part])
    audit = audit_recipe(
        [piece],
        MEMBERSHIP,
        claims={"peer": promise(1.0)},
        relation="add-or-remove",
        rng=np.random.default_rng(0),
    )
    assert audit.judgement == "VIOLATED"


def test_an_attack_that_fails_is_an_outcome_and_fails_the_audit():
    broken = NOISE.copy()
    broken[0, 0] = np.nan
    audit = audit_recipe(
        [evidence(NOISE), evidence(broken, "peer")],
        MEMBERSHIP,
        claims={"release": promise(1.0), "peer": promise(1.0)},
        relation="add-or-remove",
        rng=np.random.default_rng(0),
    )
    assert [type(outcome) for outcome in audit.outcomes] == [Finding, Finding, Skipped, Skipped]
    assert "1 values are not" in audit.outcomes[2].reason
    assert audit.exit_code == 3


def test_a_skipped_check_is_kept_and_does_not_pass():
    skipped = Skipped(subject="the recipe", observer="peer", attack="all", reason="it saw nothing")
    audit = audit_recipe(
        [evidence(NOISE), skipped],
        MEMBERSHIP,
        claims={"release": promise(1.0)},
        relation="add-or-remove",
        rng=np.random.default_rng(0),
    )
    assert audit.outcomes[-1] == skipped
    assert audit.judgement == "INCONCLUSIVE"
    assert audited(NOISE, MEMBERSHIP, promise(1.0)).including([skipped]).judgement == "INCONCLUSIVE"


def test_an_empty_audit_does_not_pass():
    audit = audit_recipe([], MEMBERSHIP, claims={}, relation="add-or-remove", rng=np.random.default_rng(0))
    assert (audit.outcomes, audit.exit_code) == ((), 3)


def test_an_audit_without_controls_does_not_pass():
    audit = audited(NOISE, MEMBERSHIP, promise(1.0))
    assert replace(audit, controls=()).judgement == "INCONCLUSIVE"
    failed = Control(kind="null", attack="lira", measured="p = 0", passed=False)
    assert replace(audit, controls=(*audit.controls, failed)).judgement == "INCONCLUSIVE"


def test_findings_are_plain_data():
    audit = audited(NOISE, MEMBERSHIP, promise(1.0))
    data = json.loads(json.dumps(asdict(audit), allow_nan=False))
    assert data["outcomes"][0]["tpr"]["0.001"] == [None, None]
    assert isinstance(data["controls"][0]["passed"], bool)


# Controls


@pytest.mark.parametrize("attack", ["loss", "lira"])
def test_controls_of_a_sound_audit_pass(attack):
    for seed in range(50):
        membership, signal = coins(40, 30, seed), noise(40, 30, seed)
        assert null_control(attack, signal, membership, delta=DELTA).passed
        leak = signal + 20 * membership - 10
        assert positive_control(attack, leak, membership, delta=DELTA, alpha=0.01).passed


@pytest.mark.parametrize("attack", ["loss", "lira"])
def test_the_null_control_notices_a_signal_that_knows(attack):
    membership, signal = coins(40, 30), noise(40, 30)
    assert not null_control(attack, signal + 0.7 * membership, membership, delta=DELTA).passed


@pytest.mark.parametrize("attack", ["loss", "lira"])
def test_the_positive_control_notices_an_attack_that_is_blind(attack):
    membership, signal = coins(40, 30), noise(40, 30)
    assert not positive_control(attack, signal, membership, delta=DELTA, alpha=0.01).passed


def test_an_audit_whose_controls_misbehave_is_inconclusive():
    """Four federations can't even be scored by LiRA: its positive control says so."""
    audit = audited(PLANTED[:4], MEMBERSHIP[:4], promise(1.0))
    assert not all(control.passed for control in audit.controls)
    assert {outcome.judgement for outcome in audit.outcomes if isinstance(outcome, Finding)} == {
        "INCONCLUSIVE"
    }
    assert "control" in audit.outcomes[0].reason
    assert audit.exit_code == 3


# This run


def test_this_run_has_an_auc_and_no_epsilon():
    member = coins(1, 400)[0]
    (finding,) = audit_this_run([evidence(noise(1, 400) + 2.0 * member)], member)
    assert (finding.subject, finding.attack, finding.judgement) == (
        "this run",
        "loss on student",
        "INCONCLUSIVE",
    )
    assert (finding.epsilon_bound, finding.claim_epsilon) == (None, None)
    assert (finding.n_in, finding.n_out) == (member.sum(), (~member).sum())
    assert finding.auc == pytest.approx(0.921, abs=0.03)
    assert finding.tpr[0.01].value is not None
    assert finding.tpr[0.001].value is None


def test_this_run_does_not_change_what_the_recipe_showed():
    member = coins(1, 400)[0]
    run = audit_this_run([evidence(noise(1, 400))], member)
    assert audited(NOISE, MEMBERSHIP, promise(1.0)).including(run).exit_code == 0


@pytest.mark.parametrize(
    ("member", "match"),
    [
        (np.ones(400, dtype=bool), "non-members"),
        (coins(1, 399)[0], "candidates must be 0..398"),
        (coins(1, 400)[0].astype(int), "boolean"),
    ],
)
def test_a_run_from_which_nothing_follows_is_skipped(member, match):
    (outcome,) = audit_this_run([evidence(noise(1, 400))], member)
    assert isinstance(outcome, Skipped)
    assert match in outcome.reason


def test_several_federations_are_not_one_run():
    (outcome,) = audit_this_run([evidence(noise(2, 400))], coins(1, 400)[0])
    assert "(1, 400)" in outcome.reason


# Bad input


@pytest.mark.parametrize(
    ("membership", "match"),
    [
        (np.ones((10, 5), dtype=bool), "all True"),
        (np.zeros((10, 5), dtype=bool), "all False"),
        (coins(3, 5), "at least 4"),
        (coins(10, 5).astype(float), "boolean"),
        (coins(10, 5)[0], r"\(F, n\)"),
    ],
)
def test_membership_that_plays_no_game_is_refused(membership, match):
    with pytest.raises(AuditError, match=match):
        audited(noise(10, 5), membership, None)


@pytest.mark.parametrize(("name", "value"), [("delta", 1.0), ("delta", math.nan), ("error_level", 0.0)])
def test_levels_out_of_range_are_refused(name, value):
    with pytest.raises(AuditError, match=name):
        audited(NOISE, MEMBERSHIP, None, **{name: value})


def test_swapped_shapes_are_skipped_with_the_reason():
    audit = audit_recipe(
        [evidence(NOISE.T)], MEMBERSHIP, claims={}, relation="add-or-remove", rng=np.random.default_rng(0)
    )
    assert all("a row a federation" in outcome.reason for outcome in audit.outcomes)


# From views to evidence

PUBLIC = np.random.default_rng(0).random((20, 3)).astype(np.float32)
X = np.random.default_rng(1).random((6, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])
CLIENT = np.array([0, 1, 0, 1, 0, 1])


def view(**fields) -> View:
    return View(observer="peer", public=PUBLIC, **fields)


def test_gather_turns_views_into_confidences():
    def student(x):
        return np.tile([0.5, 0.25, 0.25], (len(x), 1))

    seen = RoundView(
        round=0, queries=np.arange(20), consensus=np.random.default_rng(2).dirichlet(np.ones(3), 20)
    )
    views = [view(rounds=(seen,), student=student, client=1)] * 2
    consensus, released = gather(views, X, LABELS, CLIENT, subject="the recipe")
    assert (consensus.signal, released.signal) == ("consensus", "student")
    for piece in (consensus, released):
        np.testing.assert_array_equal(piece.candidates, [0, 2, 4])
        assert piece.confidence.shape == (2, 3)
    np.testing.assert_allclose(released.confidence[0], [0.0, np.log(1 / 3), np.log(1 / 3)], atol=1e-12)


@pytest.mark.parametrize(
    ("views", "match"),
    [
        ([view(rounds=())], "neither answers"),
        ([view(rounds=(), student=lambda x: np.full((len(x), 3), np.nan))], "NaN"),
    ],
)
def test_gather_says_why_there_is_no_evidence(views, match):
    (outcome,) = gather(views, X, LABELS, CLIENT, subject="this run")
    assert (outcome.subject, outcome.observer, outcome.attack) == ("this run", "peer", "all")
    assert match in outcome.reason


def test_gather_needs_a_view_and_equal_lengths():
    with pytest.raises(AuditError, match="at least one view"):
        gather([], X, LABELS, CLIENT, subject="this run")
    with pytest.raises(AuditError, match="equally long"):
        gather([view(rounds=())], X, LABELS[:-1], CLIENT, subject="this run")
