"""What every row of the table promises, and the rows that have no test of their own."""

from dataclasses import fields, replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from securefd.attacks import shadow_classifier as classifier
from securefd.attacks.answers import Answers, Records, References
from securefd.attacks.signals import cross_entropy
from securefd.attacks.table import ATTACKS, Attack, attack_named
from securefd.errors import AuditError

T, M, N, Z, C = 3, 24, 150, 120, 4
SIGNALS = ("rounds", "nearby", "others", "resampled")
NEEDS = {"references", "population", "features", *SIGNALS}


def answers_of(confidence, labels, rng):
    """Class probabilities with these logit-scaled confidences; other classes share the rest nearly alike."""
    p = 1 / (1 + np.exp(-confidence))
    others = rng.dirichlet(np.full(C - 1, 50.0), confidence.shape) * (1 - p)[..., None]
    own_first = np.concatenate([p[..., None], others], axis=-1)
    turned = (np.arange(C) - labels[:, None]) % C
    return np.take_along_axis(own_first, np.broadcast_to(turned, own_first.shape), axis=-1)


def scene(gain: float, seed: int = 0, n: int = N):
    """Targets, records, references and the targets' membership; confidence rises by ``gain`` in training."""
    rng = np.random.default_rng(seed)
    labels, population_labels = rng.integers(0, C, n), rng.integers(0, C, Z)
    membership = rng.random((T + M, n)) < 0.5
    start = -0.5 * gain

    def drawn(raised, *shape):
        return start + gain * raised + rng.normal(0, 1, shape)

    everything = Answers(
        probabilities=answers_of(drawn(membership, T + M, n), labels, rng),
        labels=labels,
        population=answers_of(drawn(0, T + M, Z), population_labels, rng),
        population_labels=population_labels,
        rounds=drawn(membership[..., None], T + M, n, 3),
        nearby=drawn(membership[..., None], T + M, n, 2),
        others=drawn(0, T + M, n, 4),
        resampled=drawn(0, T + M, n, 5),
    )
    records = Records(
        labels=labels,
        features=rng.normal(0, 1, (n, 6)),
        population_labels=population_labels,
        population_features=rng.normal(0, 1, (Z, 6)),
    )
    shadows = References(answers=everything.take(slice(T, None)), membership=membership[T:])
    return everything.take(slice(0, T)), records, shadows, membership[:T]


def score(attack: Attack, targets: Answers, records: Records, references: References):
    return attack.score(targets, records, references if "references" in attack.needs else None)


def mean_auc(scores, membership):
    return np.mean([roc_auc_score(*each) for each in zip(membership, scores, strict=True)])


def by_record(answers: Answers, order) -> Answers:
    moved = {
        name: None if getattr(answers, name) is None else getattr(answers, name)[:, order]
        for name in ("probabilities", *SIGNALS)
    }
    return replace(answers, labels=answers.labels[order], **moved)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
class TestEveryAttack:
    def test_finds_a_planted_signal(self, attack):
        targets, records, references, member = scene(6.0)
        assert mean_auc(score(attack, targets, records, references), member) > 0.9

    def test_finds_nothing_where_nothing_is(self, attack):
        targets, records, references, member = scene(0.0, n=1500)
        assert abs(mean_auc(score(attack, targets, records, references), member) - 0.5) < 0.03

    def test_gives_a_score_a_model_and_record(self, attack):
        targets, records, references, _ = scene(2.0)
        scores = score(attack, targets, records, references)
        assert scores.shape == (T, N)
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all()

    def test_scores_each_target_by_itself(self, attack):
        targets, records, references, _ = scene(2.0)
        together = score(attack, targets, records, references)
        for t in range(T):
            alone = score(attack, targets.take(slice(t, t + 1)), records, references)
            np.testing.assert_allclose(together[t], alone[0], rtol=1e-9, atol=1e-12)

    def test_does_not_mind_the_order_of_records_and_references(self, attack):
        targets, records, references, _ = scene(2.0)
        plain = score(attack, targets, records, references)
        order, models = np.random.default_rng(1).permutation(N), np.random.default_rng(2).permutation(M)
        moved = References(
            answers=by_record(references.answers, order).take(models),
            membership=references.membership[np.ix_(models, order)],
        )
        scores = score(attack, by_record(targets, order), records.take(order), moved)
        np.testing.assert_allclose(scores, plain[:, order], rtol=1e-6, atol=1e-6)

    def test_survives_answers_that_are_certain(self, attack):
        """As an observer of decisions sees them."""
        targets, records, references, _ = scene(2.0)
        hard = [
            replace(
                answers,
                probabilities=np.eye(C)[answers.probabilities.argmax(-1)],
                population=np.eye(C)[answers.population.argmax(-1)],
            )
            for answers in (targets, references.answers)
        ]
        scores = score(attack, hard[0], records, replace(references, answers=hard[1]))
        assert np.isfinite(scores).all()

    def test_leaves_what_it_was_given_as_it_was(self, attack):
        targets, records, references, _ = scene(2.0)
        copies = {part.name: np.copy(getattr(targets, part.name)) for part in fields(targets)}
        membership = references.membership.copy()
        score(attack, targets, records, references)
        for name, copy in copies.items():
            np.testing.assert_array_equal(getattr(targets, name), copy)
        np.testing.assert_array_equal(references.membership, membership)

    def test_works_on_what_it_needs_and_nothing_else(self, attack):
        targets, records, references, _ = scene(2.0)
        full = score(attack, targets, records, references)
        absent = {name: None for name in SIGNALS if name not in attack.needs}
        if "population" not in attack.needs:
            absent |= {"population": None, "population_labels": None}
        if "features" not in attack.needs:
            records = Records(labels=records.labels)
        shadows = replace(references, answers=replace(references.answers, **absent))
        np.testing.assert_array_equal(score(attack, replace(targets, **absent), records, shadows), full)

    def test_refuses_what_is_not_a_number(self, attack):
        targets, records, references, _ = scene(2.0)
        for part in ("probabilities", "population", *SIGNALS):
            if part in SIGNALS and part not in attack.needs:
                continue
            if part == "population" and part not in attack.needs:
                continue
            spoilt = getattr(targets, part).copy()
            spoilt[0, 0, 0] = np.nan
            if part == "probabilities" and attack.needs & {"rounds", "nearby"}:
                continue  # the record itself is never asked
            with pytest.raises(AuditError, match=r"NaN|finite"):
                score(attack, replace(targets, **{part: spoilt}), records, references)

    def test_refuses_shapes_that_do_not_fit(self, attack):
        targets, records, references, _ = scene(2.0)
        fewer = records.take(np.arange(N - 1))
        with pytest.raises(AuditError):
            score(attack, targets, fewer, references)


@pytest.mark.parametrize(
    "attack", [each for each in ATTACKS if "references" in each.needs], ids=lambda attack: attack.name
)
class TestAttacksWithReferences:
    def test_need_them(self, attack):
        targets, records, _, _ = scene(2.0)
        with pytest.raises(AuditError, match="needs references"):
            attack.score(targets, records, None)

    @pytest.mark.parametrize(
        ("membership", "match"),
        [
            (np.ones((M, N), dtype=bool), "all True"),
            (np.zeros((M, N), dtype=bool), "all False"),
            (np.ones((M, N)), "boolean"),
            (np.ones((N, M), dtype=bool), "membership"),
        ],
    )
    def test_refuse_membership_that_says_nothing(self, attack, membership, match):
        targets, records, references, _ = scene(2.0)
        with pytest.raises(AuditError, match=match):
            attack.score(targets, records, replace(references, membership=membership))

    def test_score_others_the_same_beside_a_record_without_shadows_out(self, attack):
        targets, records, references, _ = scene(2.0)
        membership = references.membership.copy()
        membership[:, 4] = True
        scores = attack.score(targets, records, replace(references, membership=membership))
        if attack.name == "shadow classifier":
            assert np.isfinite(scores).all()
        else:
            assert np.isnan(scores[:, 4]).all()
            assert np.isfinite(np.delete(scores, 4, axis=1)).all()

    def test_refuse_references_that_never_include_or_never_leave_out_a_record_often_enough(self, attack):
        if attack.name == "shadow classifier":
            return
        targets, records, references, _ = scene(2.0)
        membership = np.ones((M, N), dtype=bool)
        membership[0] = False
        with pytest.raises(AuditError, match=f"none of {N} records"):
            attack.score(targets, records, replace(references, membership=membership))


def test_names_are_unique_and_needs_are_known():
    names = [attack.name for attack in ATTACKS]
    assert len(set(names)) == len(names)
    assert all(attack.needs <= NEEDS and attack.what and attack.source for attack in ATTACKS)
    assert {need for attack in ATTACKS for need in attack.needs} == NEEDS


def test_an_attack_is_found_by_its_name_or_refused():
    assert attack_named("lira offline").name == "lira offline"
    with pytest.raises(AuditError, match=r"loss, .*got 'LiRA'"):
        attack_named("LiRA")


def test_the_loss_attack_is_minus_the_cross_entropy():
    targets, records, _, _ = scene(2.0)
    np.testing.assert_allclose(
        attack_named("loss").score(targets, records, None),
        -cross_entropy(targets.probabilities, targets.labels),
        rtol=1e-9,
    )


def test_the_confidence_is_the_probability_of_the_label():
    targets, records, _, _ = scene(2.0)
    np.testing.assert_allclose(
        attack_named("confidence").score(targets, records, None),
        targets.probabilities[:, np.arange(N), records.labels],
        rtol=1e-9,
    )


def test_the_shadow_classifier_learns_from_a_bounded_part(monkeypatch):
    targets, records, references, member = scene(2.0)
    attack = attack_named("shadow classifier")
    whole = attack.score(targets, records, references)
    monkeypatch.setattr(classifier, "ROWS", 400)
    part = attack.score(targets, records, references)
    assert not np.allclose(part, whole)
    assert mean_auc(part, member) > mean_auc(whole, member) - 0.03
    np.testing.assert_array_equal(part, attack.score(targets, records, references))


def test_the_shadow_classifier_allows_for_what_is_usual_in_a_class():
    rng = np.random.default_rng(3)
    labels, membership = rng.integers(0, C, 2000), rng.random((M + 1, 2000)) < 0.5
    confidence = 3.0 * labels - 5 + 1.5 * membership + rng.normal(0, 1, membership.shape)
    answers = Answers(probabilities=answers_of(confidence, labels, rng), labels=labels)
    records = Records(labels=labels)
    references = References(answers=answers.take(slice(1, None)), membership=membership[1:])
    learnt = attack_named("shadow classifier").score(answers.take(slice(0, 1)), records, references)
    assert roc_auc_score(membership[0], learnt[0]) > roc_auc_score(membership[0], confidence[0]) + 0.1
