import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from securefd.cohort import Cohort
from securefd.errors import AuditError
from securefd.evaluation import shadows as module
from securefd.evaluation.coins import FEW, Coins, always_in, coins_of
from securefd.evaluation.findings import Finding
from securefd.evaluation.game import Game
from securefd.evaluation.play import Play, play
from securefd.evaluation.recipe import audit
from securefd.evaluation.shadows import CHUNK, Shadows, shadows_of
from securefd.evaluation.stored import Stored, store
from securefd.evaluation.variants import recipe_of
from securefd.private import DpSgdPlan
from securefd.result import Run, load_run
from securefd.runner import pool_of, run
from tests.evaluation.runs import DPSGD, config, everyone

OBSERVERS = ("server", "peer", "release", "label-only")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shadows")


@pytest.fixture(scope="module")
def plain(folder) -> Run:
    return run(config(folder), folder / "plain")


@pytest.fixture(scope="module")
def shadows(plain) -> Shadows:
    return shadows_of(plain)


def as_deployed(done: Run) -> Shadows:
    """One shadow in which everybody takes part."""
    about = everyone(done)
    setup = Play.of(done, about)
    path = done.path / "everybody.safetensors"
    store(path, play(setup, [pool_of(done.split.clients)[1]]), "", 0)
    return Shadows(
        about=about,
        rows=np.arange(len(about.labels)),
        game=Game(membership=np.array([[True] * (len(about.labels) - 1) + [False]])),
        coins=Coins(seed=bytes(32), salt=bytes(32)),
        played=Stored(paths=(path,), size=CHUNK, shared=("queries.",)),
        setup=setup,
        key="",
    )


def everything(found: Shadows) -> dict[tuple[str, int], np.ndarray]:
    """All that was played."""
    return {
        (name, f): found.played.read(name, f)
        for name in found.played.names()
        for f in range(found.game.federations)
    }


def assert_same(seen, other) -> None:
    assert (seen.observer, seen.client) == (other.observer, other.client)
    assert len(seen.rounds) == len(other.rounds)
    for mine, theirs in zip(seen.rounds, other.rounds, strict=True):
        assert mine.round == theirs.round
        for name in ("queries", "consensus", "total", "answers", "sums", "groups"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))


# A shadow is the deployed recipe


ROBUST = ("median", "trimmed", "geometric", "cronus", "expguard")
NINE = ("logistic",) * 8 + ("mlp",)


@pytest.mark.parametrize("method", ["balanced", "cfd", "dsfl-power", "fedmd", *ROBUST])
def test_a_shadow_of_everybody_is_the_deployed_run_bit_for_bit(folder, method):
    done = run(config(folder, "cnn", "mlp", "forest", method=method), folder / f"everybody-{method}")
    shadow = as_deployed(done)
    for name, weights in done.student.state.items():
        np.testing.assert_array_equal(shadow.played.read(f"student.{name}", 0), weights.numpy())
    for observer in OBSERVERS:
        (seen,) = shadow.views(observer, sealed=False)
        deployed = done.view(observer)
        assert_same(seen, deployed)
        assert (seen.student is None) == (deployed.student is None)
    asked = done.split.test.x[:5]
    (release,) = shadow.views("release", sealed=False)
    np.testing.assert_array_equal(release.student(asked), done.student.predict_proba(asked))
    (decisions,) = shadow.views("label-only", sealed=False)
    np.testing.assert_array_equal(decisions.decide(asked), done.view("label-only").decide(asked))


@pytest.mark.parametrize("method", ROBUST)
def test_a_shadow_in_groups_is_the_deployed_run_bit_for_bit(folder, method):
    chosen = config(folder, *NINE, method=method, sealing="masked", groups=3, local_steps=2)
    done = run(chosen, folder / f"grouped-{method}")
    shadow = as_deployed(done)
    for name, weights in done.student.state.items():
        np.testing.assert_array_equal(shadow.played.read(f"student.{name}", 0), weights.numpy())
    for observer in OBSERVERS:
        (seen,) = shadow.views(observer, sealed=True)
        assert_same(seen, done.view(observer))
        for part in seen.rounds:
            assert part.answers is None
            assert (part.sums is None) == (part.groups is None) == (observer != "server")


def test_an_audit_of_groups_attacks_their_sums(folder):
    done = run(config(folder, *NINE, method="median", sealing="masked", groups=3), folder / "groups")
    found = {
        (each.subject, each.observer, each.attack.rpartition(" on ")[2])
        for each in audit(done).outcomes
        if isinstance(each, Finding)
    }
    seen = {("server", "sums"), ("server", "student"), ("peer", "consensus"), ("release", "student")}
    seen |= {("label-only", "labels")}
    assert found == {(subject, *pair) for subject in ("the recipe", "this run") for pair in seen}


@pytest.mark.parametrize("sealing", ["plain", "masked"])
def test_a_shadow_view_has_the_form_of_the_deployed_one(folder, plain, shadows, sealing):
    done = plain if sealing == "plain" else run(config(folder, sealing=sealing), folder / "form")
    for observer in OBSERVERS:
        deployed, seen = done.view(observer), shadows.views(observer, sealed=sealing != "plain")
        assert len(seen) == 6
        for view in seen:
            assert (view.observer, view.client) == (deployed.observer, deployed.client)
            assert (view.student is None) == (deployed.student is None)
            assert (view.decide is None) == (deployed.decide is None)
            for mine, theirs in zip(view.rounds, deployed.rounds, strict=True):
                np.testing.assert_array_equal(mine.queries, theirs.queries)
                for name in ("consensus", "total", "answers"):
                    array, other = getattr(mine, name), getattr(theirs, name)
                    assert (array is None) == (other is None)
                    if array is not None:
                        assert (array.shape, array.dtype) == (other.shape, other.dtype)


@pytest.mark.parametrize("method", ["fedmd", "feddf", "dsfl", "fedct", "cfd", "balanced"])
def test_views_hold_class_probabilities_whatever_is_exchanged(folder, method):
    done = run(config(folder, method=method, rounds=1), folder / f"probabilities-{method}")
    for seen in done.view("server").rounds:
        for values in (seen.answers, seen.total, seen.consensus):
            assert (values >= 0).all()
            np.testing.assert_allclose(values.sum(-1), 1, atol=1e-4)
    assert seen.answers.shape == (3, 60, 10)


def test_only_members_are_learnt_from(plain, shadows, monkeypatch):
    """The rows that each shadow client is given are those that its coins chose."""
    given = []
    initial = Cohort.__init__

    def spy(self, members, pool, **options):
        given.append([member.rows for member in members if len(member.rows)])
        initial(self, members, pool, **options)

    monkeypatch.setattr(Cohort, "__init__", spy)
    shutil.rmtree(plain.path / "audit" / "shadows")
    shadows_of(plain)
    pool, rows = pool_of(plain.split.clients)
    federations, students, alone = given
    assert (len(federations), len(students), len(alone)) == (6 * 3, 0, 6)
    assert len(shadows.about.labels) == len(pool.y)  # no client is tiny here
    for f in range(6):
        for k in range(3):
            taken = federations[3 * f + k]
            assert (np.isin(rows[k], taken) == shadows.game.membership[f, rows[k]]).all()
        np.testing.assert_array_equal(alone[f], federations[3 * f + shadows.setup.unprotected.client])
    np.testing.assert_array_equal(shadows.about.x, pool.x)
    for place in (0, 57, len(pool.y) - 1):
        owner = plain.split.clients[shadows.about.client[place]]
        np.testing.assert_array_equal(owner.x[shadows.rows[place]], shadows.about.x[place])


def test_as_many_candidates_as_are_wanted_and_everyone_else_takes_part(folder, monkeypatch):
    settings = config(folder, name="some")
    settings = settings.model_copy(update={"audit": settings.audit.model_copy(update={"candidates": 30})})
    done = run(settings, folder / "some")
    drawn = []
    monkeypatch.setattr(module, "play", lambda setup, rows: drawn.extend(rows) or play(setup, rows))
    found = shadows_of(done)
    assert found.game.membership.shape == (6, 30)
    assert len(np.unique(found.about.client)) == 3
    total = sum(len(client) for client in done.split.clients)
    for f, federation in enumerate(drawn):
        assert sum(map(len, federation)) == total - 30 + found.game.membership[f].sum()


def test_a_claim_about_replaced_records_is_put_to_pairs_of_one_client(folder, monkeypatch):
    privacy = DPSGD.model_copy(update={"relation": "replace-one"})
    done = run(config(folder, "mlp", "mlp", name="pairs", privacy=privacy, method="feddf"), folder / "pairs")
    drawn = []
    monkeypatch.setattr(module, "play", lambda setup, rows: drawn.extend(rows) or play(setup, rows))
    found = shadows_of(done)
    assert found.game.relation == "replace-one"
    owners = found.about.client[found.game.pairs]
    np.testing.assert_array_equal(owners[:, 0], owners[:, 1])
    assert len(np.unique(found.game.pairs)) == len(found.about.labels)
    odd = [len(client) % 2 for client in done.split.clients]
    for federation in drawn:  # as many records in every federation: nobody is added or removed
        sizes = [len(client) // 2 + one for client, one in zip(done.split.clients, odd, strict=True)]
        assert [len(own) for own in federation] == sizes


def test_what_a_client_alone_says_of_its_records_is_asked_without_protection(shadows):
    piece = shadows.unprotected()
    (part,) = piece.parts
    client = shadows.setup.unprotected.client
    np.testing.assert_array_equal(shadows.about.client[part.candidates], client)
    assert part.answers.probabilities.shape == (6, len(part.candidates), 10)
    assert part.answers.population.shape == (6, len(shadows.about.population_labels), 10)
    inside = shadows.game.membership[:, part.candidates]
    assert part.answers.confidence[inside].mean() > part.answers.confidence[~inside].mean()


def test_views_are_read_when_they_are_asked_for(shadows):
    views = shadows.views("server", sealed=False)
    assert len(views) == 6
    assert_same(views[-1], views[5])
    assert [each.observer for each in views[1:3]] == ["server"] * 2
    with pytest.raises(IndexError):
        views[6]


# Privacy


def test_private_shadows_run_the_deployed_training(folder, monkeypatch):
    done = run(config(folder, privacy=DPSGD, name="private"), folder / "private")
    calls = []
    real = DpSgdPlan.train

    def spy(plan, given, state, steps):
        calls.append((len(given.x), plan, steps, given.counts))
        return real(plan, given, state, steps)

    monkeypatch.setattr(DpSgdPlan, "train", spy)
    found = shadows_of(done)
    plans = found.setup.plans
    assert [plan.guarantee.epsilon for plan in plans] == [8.0] * 3
    assert len(calls) == 6 * sum(len(plan.parts) for plan in plans)
    assert {id(plan) for _, plan, _, _ in calls} <= {id(plan) for plan in plans}
    assert sum(steps for _, _, steps, _ in calls) == 6 * 3 * 10
    sizes = {n for n, _, _, _ in calls}
    assert len(sizes) > 1
    assert max(sizes) < max(len(own) for own in done.split.clients)
    assert all(counts is not None and (counts == counts.round()).all() for _, _, _, counts in calls)
    # drawn afresh: the first two shadows don't share their noisy counts
    assert not np.array_equal(calls[0][3], calls[len(calls) // 6][3])


# Coins


def test_coins_are_fair_and_follow_from_the_seed():
    coins = Coins(seed=b"s" * 32, salt=b"t" * 32)
    flips = coins.flips(40, 1001)
    assert flips.shape == (40, 1001)
    assert flips.dtype == np.bool_
    assert abs(flips.mean() - 0.5) < 5 * 0.5 / np.sqrt(flips.size)
    assert abs(np.corrcoef(flips[0], flips[1])[0, 1]) < 5 / np.sqrt(1001)
    np.testing.assert_array_equal(flips[:3], coins.flips(3, 1001))
    assert not np.array_equal(flips, Coins(seed=b"u" * 32, salt=b"t" * 32).flips(40, 1001))


def test_the_commitment_binds_seed_and_salt_and_nothing_private_is_printed():
    coins = Coins(seed=b"s" * 32, salt=b"t" * 32)
    others = (replace(coins, seed=b"x" * 32), replace(coins, salt=b"x" * 32))
    assert len({coins.commitment, *(other.commitment for other in others)}) == 3
    assert repr(coins) == "Coins()"


def test_the_seed_is_fresh_private_and_kept(tmp_path):
    coins = coins_of(tmp_path / "audit")
    assert coins_of(tmp_path / "audit") == coins
    assert coins_of(tmp_path / "other").seed != coins.seed
    assert (tmp_path / "audit" / "coins").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "audit").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "audit" / "commitment").read_text().strip() == coins.commitment


def test_another_seed_than_the_committed_one_is_refused(tmp_path):
    coins_of(tmp_path)
    (tmp_path / "coins").write_bytes(os.urandom(64))
    with pytest.raises(AuditError, match="commits to"):
        coins_of(tmp_path)


@pytest.mark.parametrize(
    ("labels", "fixed"),
    [([1] * FEW, []), ([1, 1, 2], [0, 2]), ([1, 1, 1], [0, 1]), ([1], [0])],
)
def test_a_tiny_client_keeps_two_records_of_different_classes_if_it_can(labels, fixed):
    everyone = np.array([9, *labels])
    kept = always_in(everyone, np.arange(1, len(everyone)))
    assert (kept - 1).tolist() == fixed
    assert kept.dtype == np.int64


# Storage


def test_a_repeated_audit_plays_nothing_again(plain, shadows, monkeypatch):
    monkeypatch.setattr(module, "play", lambda *given: pytest.fail("played again"))
    again = shadows_of(load_run(plain.path))
    np.testing.assert_array_equal(again.game.membership, shadows.game.membership)
    assert (again.key, again.commitment) == (shadows.key, shadows.commitment)
    for place, values in everything(shadows).items():
        np.testing.assert_array_equal(again.played.read(*place), values)


def test_an_interrupted_audit_goes_on_with_the_chunk_that_is_missing(folder, monkeypatch):
    done = run(config(folder, shadows=CHUNK + 2, name="resumed"), folder / "resumed")
    real, played = module.play, []

    def interrupted(setup, rows):
        if played:
            raise KeyboardInterrupt
        played.append(len(rows))
        return real(setup, rows)

    monkeypatch.setattr(module, "play", interrupted)
    with pytest.raises(KeyboardInterrupt):
        shadows_of(done)
    resumed = []
    monkeypatch.setattr(module, "play", lambda setup, rows: resumed.append(len(rows)) or real(setup, rows))
    first = everything(shadows_of(done))
    assert (played, resumed) == ([CHUNK], [2])
    shutil.rmtree(done.path / "audit" / "shadows")
    afresh = shadows_of(done)
    for place, values in everything(afresh).items():
        np.testing.assert_array_equal(first[place], values)


def test_what_is_stored_is_held_to_its_content(folder, plain):
    copied = folder / "damaged"
    shutil.copytree(plain.path, copied)
    shadows_of(load_run(copied))
    (path,) = (copied / "audit" / "shadows").iterdir()
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(AuditError, match="isn't what an audit of this run stored"):
        shadows_of(load_run(copied))


def test_a_chunk_of_other_coins_is_refused(folder, plain, shadows):
    """Same run, same recipe, other coins: the content can't be carried over."""
    copied = folder / "foreign"
    shutil.copytree(plain.path, copied)
    shutil.rmtree(copied / "audit")
    shadows_of(load_run(copied))
    (own,) = (copied / "audit" / "shadows").iterdir()
    (foreign,) = (plain.path / "audit" / "shadows").iterdir()
    shutil.copy(foreign, own)
    with pytest.raises(AuditError, match="isn't what"):
        shadows_of(load_run(copied))


def test_processes_change_nothing(folder):
    done = run(config(folder, shadows=CHUNK + 1, name="processes"), folder / "processes")
    alone = everything(shadows_of(done))
    shutil.rmtree(done.path / "audit" / "shadows")
    performance = done.config.performance.model_copy(update={"workers": 2})
    together = shadows_of(replace(done, config=done.config.model_copy(update={"performance": performance})))
    for place, values in everything(together).items():
        np.testing.assert_array_equal(alone[place], values)


# Sharing


def test_runs_that_differ_in_sealing_alone_share_shadows(folder, shadows):
    shadows.check(run(config(folder, sealing="masked", name="sealed"), folder / "sealed"))


@pytest.mark.parametrize("changed", [{"local_steps": 11}, {"shadows": 7}, {"sealing": "homomorphic"}])
def test_runs_of_another_recipe_do_not(folder, shadows, changed):
    """Homomorphic sums have a coarser grid, so they are another recipe."""
    other = run(config(folder, **changed), folder / f"other-{next(iter(changed))}")
    with pytest.raises(AuditError, match="another recipe"):
        shadows.check(other)


@pytest.mark.parametrize("groups", [3, 4])
def test_groups_are_part_of_the_recipe(folder, groups):
    """Same method, and the same grid: what is combined differs all the same."""
    one, other = (
        run(
            config(folder, *["logistic"] * 12, method="median", sealing=sealing, groups=given, rounds=1),
            folder / f"{sealing}-{given}",
        )
        for sealing, given in (("plain", None), ("masked", groups))
    )
    coins = Coins(seed=bytes(32), salt=bytes(32))
    assert recipe_of(one).bits == recipe_of(other).bits
    assert module.key_of(one, coins) != module.key_of(other, coins)


def test_a_method_without_public_set_has_no_shadows(folder):
    with pytest.raises(AuditError, match="'fd'"):
        shadows_of(run(config(folder, method="fd"), folder / "fd"))
