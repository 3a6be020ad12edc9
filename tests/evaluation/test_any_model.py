import json
import math

import numpy as np
import pytest

import securefd
from securefd.errors import AuditError
from securefd.evaluation.any_model import audit_scores, load_scores
from securefd.evaluation.findings import Finding, Skipped
from tests.evaluation.made import promise

N, SHADOWS, CLASSES = 300, 24, 4


def given(leak: float = 3.0, seed: int = 0, n: int = N, **changes) -> dict[str, np.ndarray]:
    """Logits of models that are surer of the labels of what they trained on, by coin flips."""
    rng = np.random.default_rng(seed)
    member = rng.random((SHADOWS + 1, n)) < 0.5
    labels = rng.integers(0, CLASSES, n)
    logits = rng.standard_normal((SHADOWS + 1, n, CLASSES)).astype(np.float32)
    logits[:, np.arange(n), labels] += 1 + leak * member
    arrays = {
        "target": logits[-1],
        "shadows": logits[:-1],
        "membership": member[:-1],
        "labels": labels,
        "member": member[-1],
    }
    return arrays | changes


def by_attack(audit) -> dict[str, Finding]:
    return {
        each.attack: each for each in audit.outcomes if isinstance(each, Finding) and not each.bound_method
    }


def bounds(audit) -> list[Finding]:
    return [each for each in audit.outcomes if isinstance(each, Finding) and each.bound_method]


@pytest.fixture(scope="module")
def leaking():
    return audit_scores(**given(), coin_flips=True, claim=promise(0.5))


def test_a_model_that_leaks_violates_what_is_claimed(leaking):
    found = by_attack(leaking)
    assert found["lira on scores"].auc > 0.9
    assert found["lira on scores"].auc > found["gap on scores"].auc > 0.6
    assert {each.subject for each in leaking.outcomes} == {"this run"}
    (bound,) = bounds(leaking)
    assert bound.judgement == "VIOLATED"
    assert 0.5 < bound.epsilon_bound <= bound.epsilon_power
    assert bound.trials_in + bound.trials_out == N
    assert leaking.exit_code == 1


def test_a_model_that_does_not_leak_is_consistent_with_a_claim_that_could_be_tested():
    audit = audit_scores(**given(leak=0.0), coin_flips=True, claim=promise(1.0))
    (bound,) = bounds(audit)
    assert (bound.epsilon_bound, bound.judgement) == (0.0, "CONSISTENT")
    assert audit.exit_code == 0


def test_logits_and_their_probabilities_are_the_same_evidence():
    arrays = given(leak=1.0)
    exponentials = {name: np.exp(arrays[name].astype(np.float64)) for name in ("target", "shadows")}
    normalised = {name: each / each.sum(axis=-1, keepdims=True) for name, each in exponentials.items()}
    first, second = (by_attack(audit_scores(**each)) for each in (arrays, arrays | normalised))
    assert first.keys() == second.keys()
    for name, finding in first.items():
        assert finding.auc == pytest.approx(second[name].auc, abs=1e-3), name


def test_logits_of_16_bits_tell_as_much_as_those_of_64():
    """Margins of about 20: their softmax in 16 bits would be 1 for everybody."""
    arrays = given()
    sure = {name: (4 * arrays[name] + 0).astype(np.float64) for name in ("target", "shadows")}
    for name in sure:
        sure[name][..., np.arange(N), arrays["labels"]] += 12
    wide, narrow = (
        by_attack(audit_scores(**(arrays | {name: each.astype(kind) for name, each in sure.items()})))
        for kind in (np.float64, np.float16)
    )
    assert narrow["lira on scores"].auc == pytest.approx(wide["lira on scores"].auc, abs=0.01)
    assert narrow["lira on scores"].auc > 0.9


def test_without_coin_flips_nothing_is_bounded():
    audit = audit_scores(**given(), claim=promise(0.5))
    assert bounds(audit) == []
    assert audit.judgement == "INCONCLUSIVE"


def test_a_gaussian_mechanism_has_a_second_bound_at_half_the_level():
    first, second = bounds(audit_scores(**given(), coin_flips=True, mechanism="gaussian"))
    assert first.confidence == second.confidence == 0.975
    assert second.epsilon_bound > first.epsilon_bound
    assert "Gaussian" in second.bound_method
    with pytest.raises(AuditError, match="'dpsgd': a subsampled Gaussian is a mixture"):
        audit_scores(**given(), coin_flips=True, mechanism="dpsgd")


def test_the_bound_is_seldom_above_the_truth(monkeypatch):
    """Answers by randomised response on membership: exactly epsilon = 1 for every record."""
    monkeypatch.setattr("securefd.evaluation.any_model.controls", lambda *_, **__: ())
    wrong, runs = 0, 20
    for seed in range(runs):
        arrays = given(leak=0.0, seed=seed, n=200)
        rng = np.random.default_rng([3, seed])
        keep = math.e / (1 + math.e)
        for name, member in (("target", "member"), ("shadows", "membership")):
            told = np.where(rng.random(arrays[member].shape) < keep, arrays[member], ~arrays[member])
            np.put_along_axis(
                arrays[name],
                np.broadcast_to(arrays["labels"][:, None], (*told.shape, 1)),
                (4.0 * told)[..., None].astype(np.float32),
                axis=-1,
            )
        (bound,) = bounds(audit_scores(**arrays, coin_flips=True))
        wrong += bound.epsilon_bound > 1.0
    assert wrong / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"target": np.full((N, CLASSES), np.nan)}, "target must be finite; 1200 values"),
        ({"target": np.zeros((CLASSES, N))}, "with the target's n and C"),
        ({"target": np.zeros(N)}, r"target must be \(n, C\)"),
        ({"target": np.zeros((N, CLASSES), dtype=int)}, "floating-point"),
        ({"shadows": np.zeros((N, SHADOWS, CLASSES))}, r"shadows must be \(m, n, C\)"),
        ({"shadows": np.zeros((9, N, CLASSES))}, "at least 10 shadows are needed, got 9"),
        ({"membership": np.ones((N, SHADOWS), dtype=bool)}, "membership must be"),
        ({"membership": np.ones((SHADOWS, N))}, "boolean"),
        ({"member": np.zeros(N, dtype=bool)}, "at least 2 members and 2 non-members are needed, got 0"),
        ({"member": np.arange(N) == 3}, "got 1 and 299"),
        ({"labels": np.full(N, CLASSES)}, r"labels must lie in 0\.\.3"),
        ({"labels": np.zeros(N)}, "integers"),
        ({"labels": np.zeros(N - 1, dtype=int)}, r"labels must be \(300,\)"),
    ],
)
def test_what_does_not_fit_is_refused(changes, match):
    with pytest.raises(AuditError, match=match):
        audit_scores(**given(**changes))


def test_shadows_that_all_saw_everything_fail_the_attacks_that_need_them():
    audit = audit_scores(**given(membership=np.ones((SHADOWS, N), dtype=bool)))
    failed = {each.attack: each.reason for each in audit.outcomes if isinstance(each, Skipped)}
    assert "lira on scores" in failed
    assert not all(check.passed for check in audit.controls)
    assert audit.exit_code == 3


def test_halves_of_a_fixed_size_are_no_coin_flips():
    rng = np.random.default_rng(4)
    halves = np.array([rng.permutation(N) < N // 2 for _ in range(SHADOWS + 1)])
    arrays = given(membership=halves[:-1], member=halves[-1])
    assert bounds(audit_scores(**arrays)) == []
    with pytest.raises(AuditError, match="have 150 members of 300, so no independent coins"):
        audit_scores(**arrays, coin_flips=True)
    few = given(member=np.arange(N) < 20)
    with pytest.raises(AuditError, match="20 members of 300, which fair coins"):
        audit_scores(**few, coin_flips=True)


# Files


def test_a_file_is_read_and_audited_from_the_command_line(tmp_path, capsys, leaking):
    from securefd.cli import main

    path = tmp_path / "scores.npz"
    np.savez(path, **given())
    assert set(load_scores(path)) == set(given())
    arguments = ["audit", "--scores", str(path), "--coin-flips", "--epsilon", "0.5", "--json", "--quiet"]
    assert main(arguments) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["judgement"] == "VIOLATED"
    assert len(told["outcomes"]) == len(leaking.outcomes)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a run folder or --scores"),
        (["somewhere", "--scores", "x.npz"], "and not both"),
        (["--scores", "missing.npz"], "can't be read"),
    ],
)
def test_what_can_not_be_audited_says_why(arguments, said, capsys):
    from securefd.cli import main

    assert main(["audit", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_file_of_other_arrays_is_refused(tmp_path):
    path = tmp_path / "scores.npz"
    arrays = given()
    np.savez(path, **{name: each for name, each in arrays.items() if name != "member"})
    with pytest.raises(AuditError, match="lacks member"):
        load_scores(path)
    np.savez(path, **arrays, extra=np.zeros(1))
    with pytest.raises(AuditError, match="holds extra"):
        load_scores(path)
    path.write_text("no arrays")
    with pytest.raises(AuditError, match="can't be read"):
        load_scores(path)
    np.savez(path, **(arrays | {"labels": np.array([{}], dtype=object)}), allow_pickle=True)
    with pytest.raises(AuditError, match="can't be read"):
        load_scores(path)


def test_it_is_part_of_the_public_face():
    assert securefd.audit_scores is audit_scores
