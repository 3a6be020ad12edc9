"""Canaries are made and put in by committed coins before training, and count as records afterwards."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from securefd import canaries as module
from securefd import manifest
from securefd.canaries import canaries_of, draw_secrets, shares_of, split_of
from securefd.config import (
    AuditConfig,
    CanariesConfig,
    Config,
    config_hash,
    load_config,
    parse_config,
    to_toml,
)
from securefd.data.dataset import Dataset
from securefd.data.splits import load_split
from securefd.errors import ConfigError, DataError, PrivacyError, RunError, RunMismatch
from securefd.folder import read_json
from securefd.planning import plan
from securefd.result import load_run
from securefd.runner import pool_of, run
from tests.engine.samples import DPSGD, N_CLASSES, config, pictures, points

KINDS = ("mislabelled", "noise", "user")


def with_some(folder: Path, count: int = 14, kind: str = "mislabelled", **changes: Any) -> Config:
    path = ""
    if kind == "user":
        path = str(own_file(folder, images=changes.get("images", False)))
    audit = AuditConfig(canaries=CanariesConfig(count=count, kind=kind, path=path))
    return config(folder, audit=audit, **changes)


def own_file(folder: Path, *, images: bool = False) -> Path:
    path = folder / f"own-{images}.npz"
    x, y = (pictures if images else points)(20, seed=9)
    np.savez(path, x=x, y=y)
    return path


def rows(data: Dataset) -> list[bytes]:
    return [each.tobytes() for each in data.x]


def made(folder: Path, settings: Config) -> list[module.Canaries]:
    split = split_of(settings)
    draw_secrets(folder, 3)
    return [canaries_of(folder, settings, split, k) for k in range(3)]


# --- what they are -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 14])
@pytest.mark.parametrize("kind", KINDS)
def test_they_are_dealt_out_evenly(tmp_path: Path, kind: str, count: int) -> None:
    each = made(tmp_path / "run", with_some(tmp_path, count, kind))
    expected = [sum(number % 3 == k for number in range(count)) for k in range(3)]
    assert [len(own.records) for own in each] == [len(own.included) for own in each] == expected
    assert shares_of(CanariesConfig(count=count), 3) == expected


def test_mislabelled_ones_are_records_that_are_otherwise_left_out(tmp_path: Path) -> None:
    settings = with_some(tmp_path)
    before, split = load_split(settings.data, 3, settings.seed), split_of(settings)
    for k, (own, each) in enumerate(zip(split.clients, made(tmp_path / "run", settings), strict=True)):
        truth = dict(zip(rows(before.clients[k]), before.clients[k].y, strict=True))
        assert sorted(rows(own) + rows(each.records)) == sorted(truth)
        assert not set(rows(own)) & set(rows(each.records))
        assert all(truth[row] != label for row, label in zip(rows(each.records), each.records.y, strict=True))
        assert all(truth[row] == label for row, label in zip(rows(own), own.y, strict=True))
    assert np.array_equal(split.test.x, before.test.x)
    assert np.array_equal(split.public, before.public)


def test_a_record_with_a_twin_is_never_set_aside(tmp_path: Path) -> None:
    x, y = points(60)
    x[1:31:2] = x[0:30:2]  # fifteen pairs
    y[1:31:2] = y[0:30:2]
    settings = with_some(tmp_path, 6)
    np.savez(tmp_path / "points.npz", x=x, y=y)
    settings = settings.model_copy(update={"data": settings.data.model_copy(update={"public": 4, "test": 4})})
    split = split_of(settings)
    spare = [row for own in split.spare for row in rows(own)]
    trained = [row for own in split.clients for row in rows(own)]
    assert len(spare) == 6
    assert not set(spare) & set(trained)
    assert len(set(trained)) < len(trained), "there were twins to choose"


def test_labels_are_wrong_in_every_way(tmp_path: Path) -> None:
    settings = with_some(tmp_path, 21)
    split = split_of(settings)
    shifts = set()
    for attempt in range(10):
        for k, each in enumerate(made(tmp_path / str(attempt), settings)):
            shifts |= set((each.records.y - split.spare[k].y) % N_CLASSES)
    assert shifts == {1, 2}


@pytest.mark.parametrize("images", [False, True])
def test_noise_lies_where_public_inputs_do(tmp_path: Path, images: bool) -> None:
    settings = with_some(tmp_path, 60, "noise", images=images)
    public = split_of(settings).public
    axis = None if images else 0
    low, high = public.min(axis=axis), public.max(axis=axis)
    x = np.concatenate([each.records.x for each in made(tmp_path / "run", settings)])
    y = np.concatenate([each.records.y for each in made(tmp_path / "run", settings)])
    assert (x >= low).all()
    assert (x <= high).all()
    assert (x.std(axis=0) > 0.2 * (high - low)).all(), "uniform, not all the same"
    assert set(y) == set(range(N_CLASSES))


@pytest.mark.parametrize("images", [False, True])
def test_the_users_own_are_encoded_as_records_are(tmp_path: Path, images: bool) -> None:
    settings = with_some(tmp_path, 14, "user", images=images)
    x, y = (pictures if images else points)(20, seed=9)
    split = split_of(settings)
    if not images:
        public = load_split(settings.data, 3, settings.seed)
        encoder = public.encoder
        x = np.clip((x - np.array(encoder.center)) / np.array(encoder.scale), -10, 10).astype(np.float32)
    for k, own in enumerate(split.spare):
        assert np.allclose(own.x, x[k:14:3], atol=1e-6)
        assert np.array_equal(own.y, y[k:14:3])
    assert [len(own) for own in split.clients] == [
        len(own) for own in load_split(settings.data, 3, 5).clients
    ]


# --- coins -------------------------------------------------------------------------------------


def test_coins_are_fair_independent_and_fresh(tmp_path: Path) -> None:
    settings = with_some(tmp_path, 60, "noise")
    split = split_of(settings)
    fell = []
    for attempt in range(100):
        draw_secrets(tmp_path / str(attempt), 3)
        for k in range(3):
            fell.append(canaries_of(tmp_path / str(attempt), settings, split, k).included)
    coins = np.array(fell)
    assert coins.shape == (300, 20)
    assert abs(coins.mean() - 0.5) < 5 * 0.5 / np.sqrt(coins.size)
    sums = coins.sum(axis=1)
    # Halves of a fixed size would have no variance, and the bound of one run needs coins that have.
    assert 3.4 < sums.var() < 6.6
    assert np.abs(np.corrcoef(coins.T)[np.triu_indices(20, 1)]).max() < 0.25


def test_a_secret_is_its_owners_and_drawn_once(tmp_path: Path) -> None:
    draw_secrets(tmp_path, 2)
    paths = [tmp_path / "clients" / str(k) / "canaries" for k in range(2)]
    before = [path.read_bytes() for path in paths]
    assert before[0] != before[1]
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
    draw_secrets(tmp_path, 2)
    assert [path.read_bytes() for path in paths] == before


def test_only_those_that_are_in_are_trained_on(tmp_path: Path, monkeypatch) -> None:
    seen: list[Any] = []
    real = module.with_canaries

    def spied(*arguments: Any) -> Any:
        seen.append(real(*arguments))
        return seen[-1]

    monkeypatch.setattr("securefd.runner.with_canaries", spied)
    done = run(with_some(tmp_path), tmp_path / "run")
    for k, trained in enumerate(seen[0].clients):
        each, own = done.canaries(k), done.split.clients[k]
        inside = [row for row, is_in in zip(rows(each.records), each.included, strict=True) if is_in]
        assert rows(trained) == rows(own) + inside
        assert list(trained.y) == [*own.y, *each.records.y[each.included]]


def test_a_canary_shows_in_what_is_learnt(tmp_path: Path, monkeypatch) -> None:
    """The same secret gives the same student, and other coins another one."""
    secrets = iter([b"a", b"a", b"b"])
    for name in ("first", "same", "other"):
        letter = next(secrets)
        monkeypatch.setattr(manifest, "draw_secrets", planted(letter))
        run(with_some(tmp_path), tmp_path / name)
    first, same, other = (
        (tmp_path / name / "models" / "student.safetensors").read_bytes()
        for name in ("first", "same", "other")
    )
    assert first == same
    assert first != other


def planted(letter: bytes) -> Any:
    def draw(folder: Path, clients: int) -> None:
        for k in range(clients):
            (folder / "clients" / str(k) / "canaries").write_bytes((letter + bytes([k])) * 32)

    return draw


# --- commitments -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_manifest_commits_before_anyone_trains_and_tells_no_coin(
    tmp_path: Path, kind: str, monkeypatch
) -> None:
    written = []
    real = module.with_canaries

    def spied(folder: Path, *arguments: Any) -> Any:
        written.append(read_json(folder / "manifest.json")["canaries"])
        return real(folder, *arguments)

    monkeypatch.setattr("securefd.runner.with_canaries", spied)
    done = run(with_some(tmp_path, kind=kind), tmp_path / "run")
    assert written == [done.manifest["canaries"]]
    assert [set(each) for each in written[0]] == [{"commitment", "made"}] * 3
    assert len({each["commitment"] for each in written[0]}) == 3
    secrets = [(tmp_path / "run" / "clients" / str(k) / "canaries").read_bytes() for k in range(3)]
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file() and path.name != "canaries":
            content = path.read_bytes()
            for secret in secrets:
                for half in (secret[:32], secret[32:]):
                    assert half not in content
                    assert half.hex().encode() not in content


def test_what_is_published_doesnt_depend_on_how_many_are_in(tmp_path: Path, monkeypatch) -> None:
    """A promise about records can't tell their number: claims, notes and plans are those without coins."""
    private = DPSGD | {"epsilon": 4.0}
    done = []
    for letter in (b"a", b"c"):
        monkeypatch.setattr(manifest, "draw_secrets", planted(letter))
        done.append(run(with_some(tmp_path, 20, privacy=private), tmp_path / letter.decode()))
    first, other = ([int(each.canaries(k).included.sum()) for k in range(3)] for each in done)
    assert first != other
    assert done[0].claims == done[1].claims
    assert done[0].notes == done[1].notes
    assert "20 canaries were made to test this run" in done[0].notes[-1]
    assert "in which about half of them are" in done[0].notes[-1]


def test_the_same_secret_over_other_records_is_another_commitment(tmp_path: Path) -> None:
    settings, folder = with_some(tmp_path), tmp_path / "run"
    before = [each.commitment for each in made(folder, settings)]
    assert before == [each.commitment for each in made(folder, settings)]
    path = folder / "clients" / "1" / "canaries"
    secret = bytearray(path.read_bytes())
    secret[40] ^= 1  # of the salt
    path.write_bytes(secret)
    after = [each.commitment for each in made(folder, settings)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_they_are_held_to_the_manifest(tmp_path: Path) -> None:
    done = run(with_some(tmp_path), tmp_path / "run")
    path = tmp_path / "run" / "clients" / "0" / "canaries"
    secret = path.read_bytes()
    path.write_bytes(secret[:31] + bytes([secret[31] ^ 1]) + secret[32:])
    with pytest.raises(
        RunMismatch, match=r"canaries of client 0, or their coins, aren't those that .*restore"
    ):
        done.canaries(0)
    done.canaries(1)
    with pytest.raises(RunMismatch, match="was made with other canaries; restore them"):
        run(with_some(tmp_path), tmp_path / "run")
    path.write_bytes(secret[:-1])
    with pytest.raises(RunError, match="isn't a secret that a run draws; restore it"):
        done.canaries(0)
    path.write_bytes(secret)
    done.canaries(0)


def test_another_file_of_the_users_is_noticed(tmp_path: Path) -> None:
    settings = with_some(tmp_path, kind="user")
    run(settings, tmp_path / "run")
    x, y = points(20, seed=9)
    np.savez(settings.audit.canaries.path, x=x, y=np.roll(y, 1))
    with pytest.raises(RunMismatch):
        load_run(tmp_path / "run").canaries(0)
    with pytest.raises(RunMismatch, match="other canaries"):
        run(settings, tmp_path / "run")


# --- resuming ----------------------------------------------------------------------------------


@contextmanager
def interrupted_at(call: int) -> Iterator[None]:
    real, calls = os.fsync, [0]

    def fsync(descriptor: int) -> None:
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        real(descriptor)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        yield


def secrets_in(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.glob("clients/*/canaries")}


def test_wherever_it_is_interrupted_coins_are_thrown_once(tmp_path: Path) -> None:
    settings = with_some(tmp_path)
    before_manifest = after_manifest = 0
    for call in range(1, 60, 3):
        folder = tmp_path / str(call)
        try:
            with interrupted_at(call):
                run(settings, folder)
            break
        except KeyboardInterrupt:
            secrets = secrets_in(folder)
            begun = (folder / "manifest.json").exists()
            before_manifest += not begun
            after_manifest += begun
            assert not begun or len(secrets) == 3, "committed to before anything else"
            done = run(settings, folder)
            assert secrets.items() <= secrets_in(folder).items()
            assert len([done.canaries(k) for k in range(3)]) == 3
    assert before_manifest >= 3
    assert after_manifest >= 3


def test_a_resumed_run_ends_as_if_it_had_never_been_interrupted(tmp_path: Path, monkeypatch) -> None:
    settings = with_some(tmp_path)
    monkeypatch.setattr(manifest, "draw_secrets", planted(b"x"))
    run(settings, tmp_path / "whole")
    with interrupted_at(28), pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path / "run")
    assert list((tmp_path / "run").glob("models/round-*")), "it had begun"
    monkeypatch.setattr(manifest, "draw_secrets", planted(b"y"))
    run(settings, tmp_path / "run")
    student, expected = (
        (tmp_path / name / "models" / "student.safetensors").read_bytes() for name in ("run", "whole")
    )
    assert student == expected


def test_a_secret_that_is_gone_is_not_drawn_again(tmp_path: Path) -> None:
    settings = with_some(tmp_path)
    with interrupted_at(34), pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path / "run")
    assert list((tmp_path / "run").glob("models/round-*")), "it had begun"
    path = tmp_path / "run" / "clients" / "2" / "canaries"
    path.unlink()
    with pytest.raises(RunError, match="canaries can't be read"):
        run(settings, tmp_path / "run")
    assert not path.exists()


# --- they are records --------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "share"), [("mislabelled", 0), ("noise", 5), ("user", 5)])
def test_a_delta_must_be_small_enough_for_all_of_them(tmp_path: Path, kind: str, share: int) -> None:
    size = 22 + share  # of the largest client, with all its canaries
    for delta, fits in ((1 / size, False), (0.99 / size, True)):
        settings = with_some(tmp_path, 15, kind, privacy=DPSGD | {"epsilon": 4.0, "delta": delta})
        if fits:
            plan(settings)
            continue
        for asked in (plan, lambda chosen: run(chosen, tmp_path / "run")):
            with pytest.raises(PrivacyError, match=f"delta must be below 1/{size}"):
                asked(settings)
        assert not (tmp_path / "run").exists()


def test_sampling_rates_dont_know_the_coins(tmp_path: Path, monkeypatch) -> None:
    sizes = []
    real = __import__("securefd.private", fromlist=["plan_private"]).plan_private

    def spied(privacy: Any, recipe: Any, counts: Any, *more: Any) -> Any:
        sizes.append(list(counts))
        return real(privacy, recipe, counts, *more)

    monkeypatch.setattr("securefd.runner.plan_private", spied)
    run(with_some(tmp_path, 12, privacy=DPSGD | {"epsilon": 4.0}), tmp_path / "run")
    assert sizes == [[18, 18, 18]], "the records that are in whatever the coins say"


def test_a_sample_is_drawn_from_records_and_canaries(tmp_path: Path) -> None:
    privacy = {"unit": "record", "route": "nfdp", "relation": "add-or-remove", "sample": 15}
    done = run(with_some(tmp_path, 20, privacy=privacy), tmp_path / "run")
    _, owned = pool_of(done.split.clients)
    used = done.trained_on(owned)
    for k, (own, chosen) in enumerate(zip(owned, used, strict=True)):
        assert set(chosen) <= set(own)
        inside = int(done.canaries(k).included.sum())
        assert 15 - inside <= len(chosen) <= 15
    assert min(len(chosen) for chosen in used) < 15, "some canary was drawn"
    assert all("15 of the smallest client's 15 records" in claim.reason for claim in done.claims[:1])


def test_without_canaries_all_rows_are_trained_on(tmp_path: Path) -> None:
    done = run(config(tmp_path), tmp_path / "run")
    _, owned = pool_of(done.split.clients)
    assert all(np.array_equal(a, b) for a, b in zip(done.trained_on(owned), owned, strict=True))
    assert "canaries" not in done.manifest
    assert not list((tmp_path / "run").rglob("canaries"))


def test_a_plan_says_that_there_will_be_some(tmp_path: Path) -> None:
    made = plan(with_some(tmp_path, 12))
    assert [client.records for client in made.clients] == [18, 18, 18]
    assert any("12 canaries were made to test this run" in line for line in made.lines())


# --- configuration and bad input ---------------------------------------------------------------


def test_a_configuration_keeps_them(tmp_path: Path) -> None:
    settings = with_some(tmp_path, 20, "user")
    assert parse_config(to_toml(settings)) == settings
    assert config_hash(settings) != config_hash(config(tmp_path))
    run(settings, tmp_path / "run")
    assert load_config(tmp_path / "run" / "config.toml") == settings


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("count = 0", "audit.canaries.count must be at least 2, got 0; give 2 or more"),
        ("count = 1", "audit.canaries.count must be at least 2, got 1; give 2 or more"),
        ("count = 2.5", "audit.canaries.count must be a whole number"),
        ("kind = 'noise'", "audit.canaries.count is required, but missing; add count = 200"),
        ("count = 9\nkind = 'user'", "audit.canaries.path must be given for audit.canaries.kind = 'user'"),
        ("count = 9\npath = 'a.npz'", "audit.canaries.path must be left out for audit.canaries.kind = 'mis"),
        ("count = 9\nkind = 'nice'", "audit.canaries.kind must be one of mislabelled, noise, user"),
        ("count = 9\nkinds = 'noise'", "audit.canaries.kinds isn't a known key"),
    ],
)
def test_a_table_that_cant_be(tmp_path: Path, table: str, sentence: str) -> None:
    text = f"{to_toml(config(tmp_path))}\n[audit.canaries]\n{table}\n"
    with pytest.raises(ConfigError) as refused:
        parse_config(text)
    assert sentence in str(refused.value)


def test_a_method_that_asks_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"audit.canaries must be left out for method.name = 'fd'.*remove"):
        with_some(tmp_path, name="fd")


def test_more_than_clients_may_give(tmp_path: Path) -> None:
    split_of(with_some(tmp_path, 33))
    with pytest.raises(
        DataError, match=r"audit.canaries.count = 34 takes 12 records from client 0, which may "
    ):
        split_of(with_some(tmp_path, 34))
    split_of(with_some(tmp_path, 34, "noise"))


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": points(9)[0]}, "has no array 'y'"),
        ({"y": points(9)[1]}, "has no array 'x'"),
        ({"x": points(9)[0], "y": points(9)[1]}, "has 9 records, fewer than audit.canaries.count = 10"),
        ({"x": points(12)[0][:, :3], "y": points(12)[1]}, "x0..*has 3 columns|3 columns"),
        ({"x": pictures(12)[0], "y": pictures(12)[1]}, r"has records of shape \(1, 8, 8\), the federation"),
        ({"x": points(12)[0] * np.nan, "y": points(12)[1]}, "NaN|not finite|missing|finite"),
        ({"x": points(12)[0].astype(int), "y": points(12)[1]}, "must be floating point"),
        ({"x": points(12)[0], "y": points(12)[1][:-1]}, "one label a record"),
        ({"x": points(12)[0], "y": points(12)[1] + 1}, "has a label '3' that is no class of the federation"),
        ({"x": points(12)[0], "y": points(12)[1] + 0.5}, "whole numbers"),
        ({"x": points(0)[0], "y": points(0)[1]}, "with n > 0"),
    ],
)
def test_a_file_of_something_else(tmp_path: Path, arrays: dict[str, Any], sentence: str) -> None:
    np.savez(tmp_path / "bad.npz", **arrays)
    audit = AuditConfig(canaries=CanariesConfig(count=10, kind="user", path=str(tmp_path / "bad.npz")))
    with pytest.raises(DataError, match=sentence):
        split_of(config(tmp_path, audit=audit))


def test_a_file_that_isnt_there(tmp_path: Path) -> None:
    audit = AuditConfig(canaries=CanariesConfig(count=10, kind="user", path=str(tmp_path / "no.npz")))
    with pytest.raises(DataError, match=r"audit.canaries.path = .* is not a file: give the path"):
        split_of(config(tmp_path, audit=audit))


def test_pictures_of_another_size(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", x=pictures(12)[0][..., :5], y=pictures(12)[1])
    audit = AuditConfig(canaries=CanariesConfig(count=10, kind="user", path=str(tmp_path / "bad.npz")))
    with pytest.raises(DataError, match=r"shape \(1, 8, 5\), the federation has \(1, 8, 8\): give both"):
        split_of(config(tmp_path, images=True, audit=audit))


def test_a_test_record_or_public_input_cant_be_one(tmp_path: Path) -> None:
    x, y = points(120)
    np.savez(tmp_path / "own.npz", x=x, y=y)
    audit = AuditConfig(canaries=CanariesConfig(count=120, kind="user", path=str(tmp_path / "own.npz")))
    with pytest.raises(DataError, match="has exact copies of 54 test records or public inputs: remove them"):
        split_of(config(tmp_path, audit=audit))


def test_text_columns_cant_come_from_arrays(tmp_path: Path) -> None:
    x, y = points(120)
    colours = ["red", "blue", "green"]
    lines = [f"{row[0]:.4f},{row[1]:.4f},{colours[label]},{label}" for row, label in zip(x, y, strict=True)]
    (tmp_path / "table.csv").write_text("\n".join(["a,b,colour,label", *lines]) + "\n")
    settings = with_some(tmp_path, 10, "user")
    data = settings.data.model_copy(
        update={"source": "csv", "path": str(tmp_path / "table.csv"), "label": "label"}
    )
    with pytest.raises(DataError, match="can't hold records with text columns"):
        split_of(settings.model_copy(update={"data": data}))
