import json
from dataclasses import replace

import numpy as np
import pytest

from securefd.defenses import dpsgd
from securefd.defenses.noise import CountNoise
from securefd.errors import AuditError, RunLocked
from securefd.evaluation.coins import coins_of
from securefd.evaluation.findings import Finding, Skipped
from securefd.evaluation.findings_json import from_json, to_json
from securefd.evaluation.game import Game
from securefd.evaluation.recipe import audit, mechanism_of
from securefd.evaluation.shadows import shadows_of
from securefd.folder import locked
from securefd.private import plan_private
from securefd.recipe import Recipe
from securefd.result import Run
from tests.evaluation.runs import DPSGD, config, tossed

OBSERVERS = ("server", "peer", "release", "label-only")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("recipe")


@pytest.fixture(scope="module")
def memorising(folder) -> Run:
    """Many steps on few records, and no noise."""
    steps = {"local_steps": 80, "digest_steps": 80, "student_steps": 300, "learning_rate": 1e-2}
    settings = config(folder, "mlp", "mlp", method="feddf", rounds=1, queries=80, shadows=16, **steps)
    return tossed(settings, folder / "memorising")


@pytest.fixture(scope="module")
def found(memorising):
    return audit(memorising)


def by(audited, subject: str, observer: str, attack: str) -> Finding:
    (finding,) = [
        each
        for each in audited.outcomes
        if isinstance(each, Finding)
        and not each.bound_method
        and (each.subject, each.observer, each.attack) == (subject, observer, attack)
    ]
    return finding


@pytest.mark.parametrize(("route", "expected"), [("head", "gaussian"), ("dpsgd", None)])
def test_only_a_head_alone_is_a_gaussian_mechanism(folder, route, expected):
    """With noisy counts beside it, or steps that a record may miss, the curve is another."""
    privacy = DPSGD.model_copy(update={"route": route})
    models = ["head" if route == "head" else "mlp"] * 2
    settings = config(folder, *models, method="feddf", privacy=privacy)
    plans = plan_private(privacy, Recipe.of(settings, (1, 8, 8), 10), [40, 50])
    assert mechanism_of(plans) == expected
    assert mechanism_of([]) is None
    counted = replace(plans[0], counts=CountNoise(epsilon=1.0, relation="add-or-remove"))
    assert mechanism_of([*plans, counted]) is None


def test_a_recipe_that_memorises_is_found_out(found):
    """LiRA on the student alone; whoever sees more finds more."""
    student = by(found, "the recipe", "release", "lira on student").auc
    answers = by(found, "the recipe", "server", "lira on answers").auc
    assert student > 0.57
    assert answers > student
    assert all(control.passed for control in found.controls)


def test_membership_of_another_federation_is_not_found(memorising, found):
    """The same views held against coins that had nothing to do with them."""
    own, stored = shadows_of(memorising), memorising.path / "audit" / "findings.json"
    kept = stored.read_bytes()
    other = Game(membership=np.roll(own.game.membership, 1, axis=0))
    wrong = audit(memorising, shadows=replace(own, game=other))
    stored.write_bytes(kept)
    for each in wrong.outcomes:
        if isinstance(each, Finding) and each.subject == "the recipe" and not each.bound_method:
            assert abs(each.auc - 0.5) < 0.08
    assert [check.kind for check in wrong.controls if not check.passed] == ["positive"]
    assert by(found, "the recipe", "server", "lira on answers").auc > 0.7


def test_every_observer_is_asked_of_the_recipe_and_of_this_run(found):
    attacks = {(each.subject, each.observer) for each in found.outcomes}
    assert attacks == {(subject, o) for subject in ("the recipe", "this run") for o in OBSERVERS}
    skipped = [each.attack for each in found.outcomes if isinstance(each, Skipped)]
    assert set(skipped) <= {"in one record"}  # 16 federations may be too few for it
    assert found.federations == 16


def test_without_a_claim_nothing_passes(found):
    findings = [each for each in found.outcomes if isinstance(each, Finding)]
    assert {each.claim_epsilon for each in findings} == {None}
    assert (found.judgement, found.exit_code) == ("INCONCLUSIVE", 3)


def test_members_and_reserved_records_of_this_run_are_as_many(memorising, found):
    split = memorising.split
    count = len(split.test) // 2  # the others are what attacks compare with
    release = by(found, "this run", "release", "loss on student")
    assert (release.n_in, release.n_out) == (count, count)
    peer = by(found, "this run", "peer", "loss on consensus")
    assert 0 < peer.n_in < count  # not asked of its own records
    assert release.epsilon_bound is None


def test_a_peer_is_not_asked_of_its_own_records(memorising, found):
    others = len(memorising.split.clients[1])
    peer = by(found, "the recipe", "peer", "lira on consensus")
    assert peer.n_in + peer.n_out <= others


# What is stored


def walk(value):
    yield value
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for child in children:
        yield from walk(child)


def test_stored_findings_tell_neither_membership_nor_seed(memorising, found):
    path = memorising.path / "audit" / "findings.json"
    text = path.read_text()
    assert from_json(text) == found
    coins = coins_of(memorising.path / "audit")
    for secret in (coins.seed, coins.salt):
        assert secret.hex() not in text
    assert found.commitment == coins.commitment
    # no list of numbers, truths or words in it is as long as one of candidates or members
    lists = [value for value in walk(json.loads(text)) if isinstance(value, list)]
    plain = [value for value in lists if not any(isinstance(each, dict | list) for each in value)]
    assert max(map(len, plain)) <= 3
    assert all(isinstance(value, dict | list | str | float | int | None) for value in walk(json.loads(text)))
    assert path.stat().st_mode & 0o777 == 0o600


def test_findings_survive_a_trip_through_json(found):
    skipped = Skipped(subject="this run", observer="peer", attack="all", reason="saw nothing")
    mixed = found.including([skipped])
    assert from_json(to_json(mixed)) == mixed


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"outcomes": [{"kind": "rumour"}]}', '{"outcomes": [{}]}'])
def test_other_content_is_refused(text):
    with pytest.raises(AuditError, match="audit the run again"):
        from_json(text)


# Variants


def test_a_sealed_run_shares_the_shadows_of_a_plain_one(folder, monkeypatch):
    observers = ("server", "peer", "release")
    plain = tossed(config(folder, name="plain", observers=observers), folder / "plain")
    sealed = tossed(config(folder, name="sealed", sealing="masked", observers=observers), folder / "sealed")
    shadows = shadows_of(plain)
    first = audit(plain, shadows=shadows)
    monkeypatch.setattr("securefd.evaluation.recipe.shadows_of", lambda *given: pytest.fail("played again"))
    second = audit(sealed, shadows=shadows)
    for observer, attack in (("release", "lira on student"), ("peer", "lira on consensus")):
        assert by(first, "the recipe", observer, attack) == by(second, "the recipe", observer, attack)
    for done, signals in ((first, {"answers", "student"}), (second, {"total", "student"})):
        attacks = [each.attack for each in done.outcomes if each.observer == "server"]
        assert {each.rpartition(" on ")[2] for each in attacks if " on " in each} == signals
    assert not (sealed.path / "audit" / "shadows").exists()


def test_a_claim_is_held_against_every_observer(folder):
    done = tossed(config(folder, name="private", privacy=DPSGD, shadows=12), folder / "private")
    audited = audit(done)
    held = [each for each in audited.outcomes if isinstance(each, Finding) and each.bound_method]
    assert {each.observer for each in held} == set(OBSERVERS)
    for each in held:
        assert 7.9 < each.claim_epsilon <= 8.0
        assert each.delta == 1e-4
        assert each.judgement == "INCONCLUSIVE"  # so few federations, and candidates, can't certify 8
        assert "could have certified" in each.reason


def test_a_method_without_public_set_is_skipped_with_a_reason(folder):
    done = tossed(config(folder, method="fd"), folder / "fd")
    audited = audit(done)
    assert len(audited.outcomes) == 2 * len(OBSERVERS)
    assert all(isinstance(each, Skipped) for each in audited.outcomes)
    assert "neither answers to public queries nor a student" in audited.outcomes[0].reason
    assert (audited.controls, audited.exit_code) == ((), 3)
    assert from_json((done.path / "audit" / "findings.json").read_text()) == audited


def test_only_the_configured_observers_are_asked(folder):
    done = tossed(config(folder, name="one", observers=("release",)), folder / "one")
    assert {each.observer for each in audit(done).outcomes} == {"release"}


def test_a_run_in_use_is_refused(memorising):
    with locked(memorising.path), pytest.raises(RunLocked):
        audit(memorising)


# Who may know what


def test_again_it_finds_the_same_and_writes_on_request_how_exposed_each_record_is(memorising, found):
    path = memorising.path / "audit" / "records.csv"
    assert not path.exists()
    assert audit(memorising, per_record=True) == found
    assert path.stat().st_mode & 0o777 == 0o600
    header, *lines = path.read_text().splitlines()
    assert header.split(",")[:3] == ["client", "record", "exposure to server"]
    assert len(lines) == sum(map(len, memorising.split.clients))
    first = [line.split(",") for line in lines if line.startswith("0,")]
    assert [int(fields[1]) for fields in first] == list(range(len(memorising.split.clients[0])))
    assert all(fields[3] == "" for fields in first)  # a peer isn't asked about its own records
    assert all(0 <= float(fields[2]) <= 1 for fields in first)
    path.unlink()


def test_the_highest_and_the_average_risk_are_told(found):
    for risk in found.risks:
        low, high = risk.highest_interval
        assert low <= risk.highest <= high
        assert abs(risk.average) <= 1
    assert from_json(to_json(found)).risks == found.risks


def test_processes_and_backends_change_nothing(memorising, found):
    assert audit(memorising, workers=2) == found
    with pytest.raises(AuditError, match="'ray' isn't one that joblib knows"):
        audit(memorising, backend="ray")


def test_a_claim_about_replaced_records_is_put_to_pairs(folder):
    privacy = DPSGD.model_copy(update={"relation": "replace-one"})
    done = tossed(config(folder, name="pairs", privacy=privacy, shadows=12), folder / "pairs")
    audited = audit(done)
    assert audited.game == "replace-one"
    held = [each for each in audited.outcomes if isinstance(each, Finding) and each.bound_method]
    assert held
    assert all(7.9 < each.claim_epsilon <= 8.0 for each in held)


# A claim that is wrong, and one that isn't


def _claiming_one(folder, name: str) -> Run:
    privacy = DPSGD.model_copy(update={"epsilon": 1.0, "learning_rate": 1.0})
    steps = {"local_steps": 150, "digest_steps": 0, "student_steps": 100, "rounds": 1, "queries": 80}
    steps["observers"] = ("server",)
    settings = config(
        folder, "mlp", "mlp", name=name, method="feddf", privacy=privacy, shadows=16, batch_size=32, **steps
    )
    return tossed(settings, folder / name)


def _in_one_run(audited) -> dict[str, Finding]:
    findings = [each for each in audited.outcomes if isinstance(each, Finding)]
    return {each.observer: each for each in findings if each.bound_method.startswith("one run")}


def test_noise_that_was_switched_off_by_accident_violates_the_claim(folder, monkeypatch):
    """Run and shadows train by the same deployed code, which adds no noise and claims epsilon = 1."""

    def silent(optimizer) -> None:
        for parameter in optimizer.params:
            parameter.grad = parameter.summed_grad.view_as(parameter)

    monkeypatch.setattr(dpsgd._Optimizer, "add_noise", silent)
    audited = audit(_claiming_one(folder, "silent"))
    found = _in_one_run(audited)["server"]
    assert found.judgement == "VIOLATED"
    assert found.claim_epsilon < found.epsilon_bound < found.epsilon_power
    assert (audited.judgement, audited.exit_code) == ("VIOLATED", 1)


def test_noise_as_claimed_does_not(folder):
    audited = audit(_claiming_one(folder, "noisy"))
    assert all(check.passed for check in audited.controls), audited.controls
    found = _in_one_run(audited)
    assert found["server"].epsilon_power > found["server"].claim_epsilon
    assert found["server"].judgement == "CONSISTENT"
    assert audited.judgement != "VIOLATED"
