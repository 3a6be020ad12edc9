import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from securefd.errors import AuditError
from securefd.evaluation import audit as module
from securefd.evaluation.audit import audit_this_run, examine
from securefd.evaluation.evidence import gather
from securefd.evaluation.findings import Audit, Control, Finding, Skipped
from securefd.evaluation.game import Game
from tests.evaluation.made import DELTA, coins, evidence, noise, promise

GAME = Game(membership=coins(160, 12))
NOISE = noise(160, 12)
PLANTED = NOISE + 12.0 * GAME.membership * (np.arange(12) == 7)
PASSED = (
    Control(kind="null", attack="all", measured="nothing", passed=True),
    Control(kind="positive", attack="all", measured="everything", passed=True),
)


@pytest.fixture(autouse=True)
def _controls(monkeypatch, request):
    """Controls take longer than all else here, and have tests of their own."""
    made = getattr(request, "param", PASSED)
    monkeypatch.setattr(module, "controls", lambda *_, **__: made)


def source(*pieces):
    return lambda: pieces


def audited(confidence, claim, game=GAME, **changes) -> Audit:
    options = {"claims": {"release": claim}, "rng": np.random.default_rng(9)}
    return examine({"release": source(evidence(confidence))}, game, **(options | changes)).audit


def bounds(audit: Audit) -> list[Finding]:
    return [each for each in audit.outcomes if isinstance(each, Finding) and each.bound_method]


def one_record(audit: Audit) -> Finding:
    (found,) = [each for each in bounds(audit) if each.bound_method.startswith("one record")]
    return found


# What is found


def test_a_planted_leak_of_one_record_is_violated():
    audit = audited(PLANTED, promise(1.0))
    found = one_record(audit)
    assert found.judgement == "VIOLATED"
    assert (audit.judgement, audit.exit_code) == ("VIOLATED", 1)
    assert found.trials_in + found.trials_out == 80
    assert found.confidence == 1 - 0.05 / 2


def test_null_data_is_consistent_where_the_design_had_power():
    audit = audited(NOISE, promise(1.0))
    assert one_record(audit).judgement == "CONSISTENT"
    assert (audit.judgement, audit.exit_code) == ("CONSISTENT", 0)
    for finding in audit.outcomes:
        low, high = finding.auc_interval
        assert low <= finding.auc <= high


def test_power_below_the_claim_is_inconclusive_however_harmless_the_data():
    audit = audited(NOISE, promise(8.0))
    assert {finding.judgement for finding in audit.outcomes} == {"INCONCLUSIVE"}
    assert "more federations" in one_record(audit).reason
    assert (audit.judgement, audit.exit_code) == ("INCONCLUSIVE", 3)


def test_a_leak_below_the_claim_does_not_make_it_violated():
    assert {each.judgement for each in bounds(audited(PLANTED, promise(8.0)))} == {"INCONCLUSIVE"}


def test_without_a_claim_there_is_nothing_to_judge():
    audit = audited(PLANTED, None)
    for finding in bounds(audit):
        assert (finding.claim_epsilon, finding.judgement) == (None, "INCONCLUSIVE")
        assert finding.reason == "no claim to hold it against"
    assert one_record(audit).epsilon_bound > 1.0
    assert audit.exit_code == 3


def test_a_claim_that_says_nothing_about_the_game_is_inconclusive():
    audit = audited(PLANTED, promise(1.0, relation="replace-one"))
    assert {finding.judgement for finding in audit.outcomes} == {"INCONCLUSIVE"}
    assert audit.exit_code == 3
    assert "says nothing" in one_record(audit).reason


def test_attacks_that_are_measured_bound_nothing():
    audit = audited(PLANTED, promise(1.0))
    measured = [each for each in audit.outcomes if not each.bound_method]
    assert {each.attack for each in measured} >= {"loss on student", "lira on student", "gap on student"}
    assert {(each.epsilon_bound, each.claim_epsilon) for each in measured} == {(None, None)}


# The whole


def test_the_error_level_is_shared_by_all_tests_and_not_by_all_attacks():
    sources = {
        observer: source(*(evidence(NOISE, observer, signal) for signal in ("a", "b")))
        for observer in ("server", "peer")
    }
    audit = examine(sources, GAME, claims={}, rng=np.random.default_rng(0)).audit
    assert len(audit.outcomes) > 8
    assert {finding.confidence for finding in bounds(audit)} == {1 - 0.05 / 4}
    assert len(bounds(audit)) == 4


def test_a_gaussian_mechanism_is_put_to_three_tests_that_share_the_level():
    found = bounds(audited(NOISE, promise(4.0), mechanism="gaussian"))
    assert {finding.confidence for finding in found} == {1 - 0.05 / 3}
    assert [each.judgement == "CONSISTENT" for each in found] == [False, True, False, False]


def test_candidates_choose_their_columns():
    part = np.array([7, 2, 9, 11, 0, 5])
    piece = evidence(PLANTED[:, part], "peer", "consensus", candidates=part)
    found = examine(
        {"peer": source(piece)}, GAME, claims={"peer": promise(1.0)}, rng=np.random.default_rng(0)
    )
    assert found.audit.judgement == "VIOLATED"
    assert np.nanargmax(found.exposure["peer"]) == 7


def test_an_attack_that_fails_is_an_outcome_and_fails_the_audit():
    swapped = evidence(NOISE.T, "peer")
    audit = examine(
        {"release": source(evidence(NOISE)), "peer": source(swapped)},
        GAME,
        claims={"release": promise(1.0), "peer": promise(1.0)},
        rng=np.random.default_rng(0),
    ).audit
    failed = [outcome for outcome in audit.outcomes if isinstance(outcome, Skipped)]
    assert {outcome.observer for outcome in failed} == {"peer"}
    assert all("a row a federation" in outcome.reason for outcome in failed)
    assert audit.exit_code == 3


def test_a_skipped_check_is_kept_and_does_not_pass():
    skipped = Skipped(subject="the recipe", observer="peer", attack="all", reason="it saw nothing")
    audit = examine(
        {"release": source(evidence(NOISE)), "peer": source(skipped)},
        GAME,
        claims={"release": promise(1.0)},
        rng=np.random.default_rng(0),
    ).audit
    assert skipped in audit.outcomes
    assert audit.judgement == "INCONCLUSIVE"
    assert audited(NOISE, promise(1.0)).including([skipped]).judgement == "INCONCLUSIVE"


def test_a_claim_that_one_design_could_test_is_tested():
    """Twelve coins in one run certify little; eighty trials of one record do."""
    audit = audited(NOISE, promise(1.0))
    assert {each.judgement for each in bounds(audit)} == {"CONSISTENT", "INCONCLUSIVE"}
    assert audit.judgement == "CONSISTENT"


def test_an_observer_whose_claim_nobody_could_test_keeps_the_audit_open():
    audit = examine(
        {"release": source(evidence(NOISE)), "server": source(evidence(NOISE, "server"))},
        GAME,
        claims={"release": promise(1.0), "server": promise(8.0)},
        rng=np.random.default_rng(0),
    ).audit
    assert audit.judgement == "INCONCLUSIVE"


def test_an_empty_audit_does_not_pass():
    audit = examine({}, GAME, claims={}, rng=np.random.default_rng(0)).audit
    assert (audit.outcomes, audit.exit_code) == ((), 3)


def test_an_audit_without_controls_does_not_pass():
    audit = audited(NOISE, promise(1.0))
    assert replace(audit, controls=()).judgement == "INCONCLUSIVE"
    failed = Control(kind="null", attack="lira", measured="p = 0", passed=False)
    assert replace(audit, controls=(*audit.controls, failed)).judgement == "INCONCLUSIVE"


@pytest.mark.parametrize("_controls", [(replace(PASSED[0], passed=False), PASSED[1])], indirect=True)
def test_where_the_null_control_fails_no_bound_stands():
    audit = audited(PLANTED, promise(1.0))
    assert {each.judgement for each in bounds(audit)} == {"INCONCLUSIVE"}
    assert all("the null control failed" in each.reason for each in bounds(audit))
    assert audit.exit_code == 3


@pytest.mark.parametrize("_controls", [(PASSED[0], replace(PASSED[1], passed=False))], indirect=True)
def test_where_a_positive_control_fails_only_what_was_found_stands():
    assert audited(PLANTED, promise(1.0)).judgement == "VIOLATED"
    audit = audited(NOISE, promise(1.0))
    assert {each.judgement for each in bounds(audit)} == {"INCONCLUSIVE"}
    assert "the positive control failed" in one_record(audit).reason


def test_several_processes_find_the_same():
    sources = {name: source(evidence(PLANTED, name)) for name in ("server", "release")}
    alone, together = (
        examine(
            sources,
            GAME,
            claims={"server": promise(1.0)},
            rng=np.random.default_rng(0),
            workers=workers,
            done=calls.append,
        ).audit
        for workers, calls in ((1, Calls()), (2, Calls()))
    )
    assert alone.outcomes == together.outcomes


class Calls(list):
    """Counts calls without arguments."""

    def append(self) -> None:
        super().append(None)


def test_progress_is_told_by_observer():
    calls = Calls()
    examine(
        {"release": source(evidence(NOISE))},
        GAME,
        claims={},
        rng=np.random.default_rng(0),
        done=calls.append,
    )
    assert len(calls) == 2  # the observer, and the controls


def test_findings_are_plain_data():
    data = json.loads(json.dumps(asdict(audited(NOISE, promise(1.0))), allow_nan=False))
    assert data["outcomes"][0]["tpr"]["0.001"] == [None, None]
    assert isinstance(data["controls"][0]["passed"], bool)
    assert data["game"] == "add-or-remove"


# This run


def test_this_run_has_an_auc_and_no_epsilon():
    member = coins(1, 400)[0]
    found = audit_this_run([evidence(noise(1, 400) + 2.0 * member)], member)
    assert [each.attack for each in found] == [
        f"{name} on student" for name in ("loss", "confidence", "entropy", "modified entropy", "gap")
    ]
    finding = found[0]
    assert (finding.subject, finding.judgement) == ("this run", "INCONCLUSIVE")
    assert (finding.epsilon_bound, finding.claim_epsilon) == (None, None)
    assert (finding.n_in, finding.n_out) == (member.sum(), (~member).sum())
    assert finding.auc == pytest.approx(0.921, abs=0.03)
    assert finding.tpr[0.01].value is not None
    assert finding.tpr[0.001].value is None


def test_this_run_does_not_change_what_the_recipe_showed():
    run = audit_this_run([evidence(noise(1, 400))], coins(1, 400)[0])
    assert audited(NOISE, promise(1.0)).including(run).exit_code == 0


@pytest.mark.parametrize(
    ("member", "match"),
    [
        (np.ones(400, dtype=bool), "non-members"),
        (coins(1, 399)[0], "candidates must be 0..398"),
        (coins(1, 400)[0].astype(int), "boolean"),
    ],
)
def test_a_run_from_which_nothing_follows_is_skipped(member, match):
    outcomes = audit_this_run([evidence(noise(1, 400))], member)
    assert len(outcomes) == 5
    for outcome in outcomes:
        assert isinstance(outcome, Skipped)
        assert match in outcome.reason


def test_several_federations_are_not_one_run():
    for outcome in audit_this_run([evidence(noise(2, 400))], coins(1, 400)[0]):
        assert "(1, 400, C)" in outcome.reason


# Bad input


def test_three_federations_are_no_audit():
    with pytest.raises(AuditError, match="at least 4"):
        audited(noise(3, 5), None, Game(membership=coins(3, 5)))


@pytest.mark.parametrize(("name", "value"), [("delta", 1.0), ("delta", math.nan), ("error_level", 0.0)])
def test_levels_out_of_range_are_refused(name, value):
    with pytest.raises(AuditError, match=name):
        audited(NOISE, None, **{name: value})


# From views to evidence


def test_gather_needs_a_view():
    with pytest.raises(AuditError, match="at least one view"):
        gather([], None, subject="this run")


def test_delta_of_a_bound_without_a_claim_is_said():
    assert {each.delta for each in bounds(audited(NOISE, None))} == {DELTA}
