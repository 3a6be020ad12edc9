"""One run, its canaries and what an observer saw of them: a bound that holds, and whose it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from securefd import manifest
from securefd.attacks.answers import Answers, Records
from securefd.attacks.candidates import Evidence, Part
from securefd.config import AuditConfig, CanariesConfig, Config, PrivacyConfig
from securefd.defenses.claims import Guarantee
from securefd.errors import AuditError
from securefd.evaluation import canaries as module
from securefd.evaluation.canaries import (
    Asked,
    audit_canaries,
    canary_controls,
    learnt,
    null_control,
    positive_control,
)
from securefd.evaluation.findings import Audit, Finding, Outcome, Skipped
from securefd.evaluation.findings_json import from_json, to_json
from securefd.folder import read_json, write_json
from securefd.result import Run, load_run
from securefd.runner import run
from securefd.views import View
from tests.evaluation.runs import config

STRICT = PrivacyConfig(unit="record", route="dpsgd", relation="add-or-remove", epsilon=1.0, delta=1e-4)
EVERYONE = ("server", "peer", "release", "label-only")


def with_canaries(
    folder: Path, count: int, kind: str = "mislabelled", *, observers: Any = EVERYONE, **settings: Any
) -> Config:
    chosen = config(folder, "mlp", "mlp", "mlp", **settings)
    audit = AuditConfig(observers=observers, canaries=CanariesConfig(count=count, kind=kind))
    return chosen.model_copy(update={"audit": audit})


def tossed(settings: Config, folder: Path) -> Run:
    """A run whose coins are always the same: a sound control fails once in a thousand audits."""

    def draw(folder: Path, clients: int) -> None:
        for client in range(clients):
            (folder / "clients" / str(client) / "canaries").write_bytes(bytes(range(client, client + 64)))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(manifest, "draw_secrets", draw)
        return run(settings, folder, with_local=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("canaries")


@pytest.fixture(scope="module")
def memorised(place: Path) -> Run:
    """A run without any protection that learns its records by heart."""
    settings = with_canaries(place, 66, rounds=3, local_steps=150)
    return tossed(settings, place / "memorised")


@pytest.fixture(scope="module")
def strict(place: Path) -> Run:
    """One that promises epsilon = 1 for a record."""
    settings = with_canaries(place, 240, "noise", privacy=STRICT, local_steps=40)
    return tossed(settings, place / "strict")


def findings(outcomes: tuple[Outcome, ...]) -> dict[str, Finding]:
    assert all(isinstance(each, Finding) for each in outcomes), outcomes
    return {f"{each.observer} {each.attack}": each for each in outcomes if isinstance(each, Finding)}


def forged(monkeypatch, told: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    """Whoever has the student of a run is told how confident to be in each canary: of labels and coins."""

    def view(self: Run, observer: str) -> View:
        asked = Asked.of(self, None)
        about = {row.tobytes(): number for number, row in enumerate(asked.about.x)}
        confidence = told(asked.about.labels, asked.included)

        def student(x: np.ndarray) -> np.ndarray:
            n_classes = asked.about.n_classes
            answers = np.full((len(x), n_classes), 1 / n_classes)
            for place, row in enumerate(x):
                number = about.get(row.tobytes())
                if number is not None:
                    answers[place] = (1 - confidence[number]) / (n_classes - 1)
                    answers[place, asked.about.labels[number]] = confidence[number]
            return answers

        return View(observer="release", public=self.split.public, rounds=(), student=student)

    monkeypatch.setattr(Run, "view", view)


def leak(labels: np.ndarray, included: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(5)
    return np.where(included, 0.8, 0.1) + 0.05 * rng.random(len(labels))


# --- what is found -----------------------------------------------------------------------------


def test_records_that_are_learnt_by_heart_are_found(memorised: Run) -> None:
    found = findings(audit_canaries(memorised))
    assert list(found) == [
        "server canaries: loss on answers",
        "server canaries: learnt on answers",
        "server canaries: loss on student",
        "peer canaries: loss on consensus",
        "release canaries: loss on student",
        "label-only canaries: loss on labels",
    ]
    server = found["server canaries: loss on answers"]
    assert server.auc > 0.9
    assert server.auc_interval[0] > 0.65
    assert server.epsilon_bound is not None
    assert server.epsilon_bound > 0.8
    assert server.tpr[0.1].value is not None
    assert server.tpr[0.1].value > 0.4
    for finding in found.values():
        assert finding.subject == "this run"
        assert finding.judgement == "INCONCLUSIVE"
        assert finding.claim_epsilon is None
        assert finding.reason.startswith("no claim to hold it against (the canaries of all clients together")
        assert finding.bound_method == "one run, Steinke et al."
        assert "fixed beforehand" in finding.threshold_rule


def test_a_promise_that_holds_is_not_violated(strict: Run) -> None:
    for finding in findings(audit_canaries(strict)).values():
        assert 0.99 < finding.claim_epsilon <= 1.0
        assert finding.delta == 1e-4
        assert finding.epsilon_bound is not None
        assert finding.epsilon_bound <= 1.0
        assert finding.epsilon_power is not None
        assert finding.epsilon_power > 1.0
        assert finding.judgement == "CONSISTENT"
        assert finding.reason.endswith(
            "(the canaries of all clients together, which only a simulation can do)"
        )


def test_a_planted_leak_contradicts_the_promise(strict: Run, monkeypatch) -> None:
    forged(monkeypatch, leak)
    for finding in findings(audit_canaries(strict)).values():
        assert finding.auc == 1.0
        assert finding.epsilon_bound == pytest.approx(finding.epsilon_power)
        assert finding.judgement == "VIOLATED"


def test_where_power_is_short_nothing_is_contradicted(strict: Run, monkeypatch) -> None:
    """However perfect the attack: 96 right guesses can't refute a promise of 8."""
    forged(monkeypatch, leak)
    generous = tuple(
        replace(claim, guarantee=claim.guarantee and replace(claim.guarantee, epsilon=8.0))
        for claim in strict.claims
    )
    for finding in findings(audit_canaries(replace(strict, claims=generous))).values():
        assert finding.auc == 1.0
        assert finding.judgement == "INCONCLUSIVE"
        assert "could have certified" in finding.reason
        assert "have more canaries" in finding.reason


@pytest.mark.parametrize(
    ("unit", "relation", "claimed", "judgement"),
    [
        ("record", "add-or-remove", 1.0, "VIOLATED"),
        ("record", "replace-one", 1.0, "INCONCLUSIVE"),
        ("client", "replace-one", 1.0, "VIOLATED"),
        ("client", "add-or-remove", 2.0, "VIOLATED"),
    ],
)
def test_a_promise_is_put_in_terms_of_one_canary(
    strict: Run, monkeypatch, unit: Any, relation: Any, claimed: float, judgement: str
) -> None:
    forged(monkeypatch, leak)
    promise = Guarantee(epsilon=1.0, delta=1e-6, unit=unit, relation=relation)
    claims = tuple(replace(claim, guarantee=claim.guarantee and promise) for claim in strict.claims)
    for finding in findings(audit_canaries(replace(strict, claims=claims))).values():
        assert finding.claim_epsilon == claimed
        assert finding.judgement == judgement


def test_the_error_level_is_shared_out_over_all_tests(memorised: Run) -> None:
    for level in (0.05, 0.01):
        found = findings(audit_canaries(memorised, error_level=level))
        alphas = [1 - finding.confidence for finding in found.values() if finding.confidence is not None]
        assert len(alphas) == 6
        assert sum(alphas) == pytest.approx(level)


def test_a_run_without_canaries_has_nothing_to_ask_about(place: Path) -> None:
    done = run(config(place, "logistic", "logistic", rounds=1), place / "none", with_local=False)
    assert audit_canaries(done) == ()
    assert canary_controls(done) == ()


# --- whose -------------------------------------------------------------------------------------


def test_a_client_audits_its_own_alone(place: Path, memorised: Run) -> None:
    """It needs no other client's secret, and says whose canaries the finding is about."""
    others = [memorised.path / "clients" / str(k) / "canaries" for k in (0, 2)]
    hidden = {path: path.read_bytes() for path in others}
    try:
        for path in others:
            path.unlink()
        found = findings(audit_canaries(load_run(memorised.path), client=1))
        with pytest.raises(AuditError, match="canaries can't be read"):
            audit_canaries(load_run(memorised.path))
    finally:
        for path, content in hidden.items():
            path.write_bytes(content)
    assert len(found) == 5, "22 canaries are too few for an attack that learns"
    for finding in found.values():
        assert finding.n_in + finding.n_out == 22
        assert finding.reason.endswith("(the canaries of client 1, by itself)")


def test_a_peer_isnt_asked_about_its_own(memorised: Run) -> None:
    found = findings(audit_canaries(memorised))
    peer, server = found["peer canaries: loss on consensus"], found["server canaries: loss on answers"]
    assert (peer.n_in + peer.n_out, server.n_in + server.n_out) == (44, 66)
    mine = {each.observer: each for each in audit_canaries(memorised, client=0)}
    assert mine["peer"] == Skipped(
        subject="this run",
        observer="peer",
        attack="canaries",
        reason="every candidate belongs to the observer itself",
    )
    assert isinstance(mine["server"], Finding)


def test_a_client_with_a_single_canary_cant_audit(place: Path) -> None:
    settings = with_canaries(place, 4, "noise", observers=("server", "release"), rounds=1)
    done = run(settings, place / "few", with_local=False)
    assert [len(done.canaries(k).records) for k in range(3)] == [2, 1, 1]
    outcomes = audit_canaries(done, client=2)
    assert [each.reason for each in outcomes] == [
        "at least 2 canaries are needed, got 1; have more canaries"
    ] * 2
    assert not any(control.passed for control in canary_controls(done, client=2))


@pytest.mark.parametrize("client", [-1, 3])
def test_no_such_client(memorised: Run, client: int) -> None:
    with pytest.raises(AuditError, match=f"client must be 0 to 2, got {client}; name one"):
        audit_canaries(memorised, client=client)


# --- secrets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("byte", [0, 63])
def test_another_secret_is_refused(memorised: Run, byte: int) -> None:
    path = memorised.path / "clients" / "1" / "canaries"
    secret = path.read_bytes()
    changed = bytearray(secret)
    changed[byte] ^= 1
    path.write_bytes(changed)
    try:
        for asked in (audit_canaries, canary_controls):
            with pytest.raises(AuditError, match=r"canaries of client 1, or their coins, aren't those that"):
                asked(load_run(memorised.path))
    finally:
        path.write_bytes(secret)


def test_another_commitment_is_refused(memorised: Run) -> None:
    path = memorised.path / "manifest.json"
    written = read_json(path)
    try:
        for canaries in (written["canaries"][::-1], written["canaries"][:2], None):
            changed = {key: value for key, value in written.items() if key != "canaries"}
            write_json(path, changed if canaries is None else changed | {"canaries": canaries})
            with pytest.raises(AuditError, match=r"aren't those that .*manifest\.json committed to"):
                audit_canaries(load_run(memorised.path))
    finally:
        write_json(path, written)


def test_nothing_that_is_shared_says_which_was_in(memorised: Run) -> None:
    outcomes = audit_canaries(memorised)
    controls = canary_controls(memorised)
    text = to_json(Audit(outcomes=outcomes, controls=controls, error_level=0.05, federations=0))
    assert from_json(text).outcomes == outcomes
    lists = [
        (key, value)
        for each in json.loads(text)["outcomes"]
        for key, value in each.items()
        if type(value) is list
    ]
    assert {key for key, _ in lists} <= {"auc_interval", "roc"}, "no list as long as the canaries"
    assert all(value == [] for key, value in lists if key == "roc"), "not even a curve"
    shown = f"{outcomes!r} {controls!r} {Asked.of(memorised, None)!r} {memorised.canaries(0)!r}"
    assert "array" not in shown
    for k in range(3):
        secret = (memorised.path / "clients" / str(k) / "canaries").read_bytes()
        assert secret[:32].hex() not in text


# --- the attack that learns --------------------------------------------------------------------


def evidence(confidence: np.ndarray, rounds: np.ndarray) -> Evidence:
    """Made up: ``confidence`` (n,) in the label, and ``rounds`` (n, k)."""
    labels = np.zeros(len(confidence), dtype=np.int64)
    own = 1 / (1 + np.exp(-confidence))
    answers = Answers(
        probabilities=np.stack([own, 1 - own], axis=-1)[None], labels=labels, rounds=rounds[None]
    )
    part = Part(candidates=np.arange(len(labels)), answers=answers, records=Records(labels=labels))
    return Evidence(observer="server", signal="answers", parts=(part,))


def test_it_never_sees_the_coins_that_it_is_tested_on() -> None:
    rng = np.random.default_rng(1)
    piece = evidence(rng.standard_normal(90), rng.standard_normal((90, 3)))
    coins = rng.random(90) < 0.5
    scores, tested = learnt(piece, coins)
    told = np.arange(90) % 3 == 0
    assert np.array_equal(tested, coins[~told])
    others = np.where(told, coins, ~coins)
    again, flipped = learnt(piece, others)
    assert np.array_equal(scores, again)
    assert np.array_equal(flipped, ~tested)


def test_it_learns_what_confidence_doesnt_tell() -> None:
    """Here only the growth from the first round to the last tells members, and it is learnt which way."""
    rng = np.random.default_rng(2)
    coins = rng.random(300) < 0.5
    for way in (1, -1):
        first = rng.standard_normal(300)
        rounds = np.stack([first, first + way * (2.0 * coins - 1)], axis=1)
        piece = evidence(rng.standard_normal(300), rounds)
        scores, tested = learnt(piece, coins)
        assert module.auc(scores, tested).value > 0.95
        assert module.auc(piece.confidence[0], coins).value < 0.6


def test_coins_that_are_all_the_same_teach_nothing() -> None:
    rng = np.random.default_rng(3)
    piece = evidence(rng.standard_normal(60), rng.standard_normal((60, 2)))
    coins = np.arange(60) % 3 != 0
    with pytest.raises(AuditError, match="the coins of 20 canaries that teach are all the same; have more"):
        learnt(piece, coins)


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_its_bounds_are_above_the_truth_as_seldom_as_promised(epsilon: float) -> None:
    """Randomised response on each coin, and features besides that know nothing of any."""
    alpha, seeds = 0.05, 200
    above = {"loss": 0, "learnt": 0}
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        coins = rng.random(90) < 0.5
        told = np.where(rng.random(90) < np.exp(epsilon) / (1 + np.exp(epsilon)), coins, ~coins)
        noise = rng.standard_normal((90, 4))
        piece = evidence(4.0 * told - 2 + 0.01 * noise[:, 0], noise[:, 1:])
        for name, attack in (("loss", module.sure), ("learnt", learnt)):
            bound, power = module._bounded(*attack(piece, coins), delta=0.0, alpha=alpha)
            assert 0 <= bound <= power
            above[name] += bound > epsilon
    allowed = seeds * alpha + 3 * np.sqrt(seeds * alpha * (1 - alpha))
    assert max(above.values()) <= allowed


# --- controls ----------------------------------------------------------------------------------


def test_controls_of_a_sound_audit_pass(memorised: Run) -> None:
    for client in (None, 1):
        null, positive = canary_controls(memorised, client=client)
        assert (null.kind, positive.kind) == ("null", "positive")
        assert null.passed
        assert "epsilon bound 0.00" in null.measured
        assert positive.passed
        assert "planted membership: AUC 1.000" in positive.measured


def test_a_null_control_fails_where_scores_know() -> None:
    rng = np.random.default_rng(4)
    coins = rng.random(200) < 0.5
    for direction in (1, -1):
        knowing = direction * (2.0 * coins - 1) + rng.standard_normal(200)
        assert not null_control(knowing, coins, delta=1e-5).passed


def test_null_controls_cry_wolf_once_in_a_thousand() -> None:
    rng = np.random.default_rng(5)
    wolf = sum(
        not null_control(rng.standard_normal(60), rng.random(60) < 0.5, delta=1e-5).passed
        for _ in range(4000)
    )
    assert wolf <= 4 + 3 * 2


def test_a_positive_control_fails_where_nothing_is_found() -> None:
    rng = np.random.default_rng(6)
    coins = rng.random(200) < 0.5
    assert not positive_control(rng.standard_normal(200), coins, delta=1e-5, alpha=0.05).passed
    weak = 2.0 * coins + 1.2 * rng.standard_normal(200)
    assert not positive_control(weak, coins, delta=1e-5, alpha=0.05).passed


@pytest.mark.parametrize("scores", [np.full(40, np.nan), np.zeros(39)])
def test_controls_that_cant_be_made_dont_pass(scores: np.ndarray) -> None:
    coins = np.arange(40) % 2 == 0
    assert not null_control(scores, coins, delta=1e-5).passed
    assert not positive_control(scores, coins, delta=1e-5, alpha=0.05).passed


def test_what_cant_be_observed_is_an_outcome(memorised: Run, monkeypatch) -> None:
    def failing(self: Run, observer: Any) -> View:
        rounds = () if observer == "peer" else self.split.public
        if observer == "server":
            raise AuditError("the view holds others, so nothing can be distilled")
        return View(observer=observer, public=self.split.public, rounds=rounds[:0])

    monkeypatch.setattr(Run, "view", failing)
    outcomes = audit_canaries(memorised)
    assert all(isinstance(each, Skipped) for each in outcomes)
    assert [each.observer for each in outcomes] == list(EVERYONE)
    assert outcomes[0].reason == "the view holds others, so nothing can be distilled"
    assert "neither answers to public queries nor a student" in outcomes[1].reason
