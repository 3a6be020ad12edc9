"""Rosters on disk: whole or absent, and the same for all parties; and what a folder holds of them."""

import errno
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from securefd.defenses import rosters
from securefd.defenses.identity import check_pinned, cohort_hash
from securefd.defenses.keys import PublicIdentity, create_identity
from securefd.defenses.rosters import Listed, Roster, list_identities, load_roster, pin
from securefd.errors import SealingError
from tests.defenses.key_files import KILLED, failing, mode, naive_fingerprint, named, private_file, run_script


def test_parties_that_pin_the_same_get_the_same_roster(tmp_path) -> None:
    everybody = [create_identity(tmp_path / name, name) for name in "abcdefgh"]
    expected = b"".join(sorted(one.key for one in everybody))
    rng = random.Random(7)
    files = set()
    for party in range(20):
        path = tmp_path / f"{party}.toml"
        rng.shuffle(everybody)
        cut = rng.randrange(1, len(everybody))
        pin(path, everybody[:cut])
        roster, added = pin(path, everybody)
        assert added == tuple(everybody[cut:])
        assert b"".join(roster.keys) == expected
        assert roster.fingerprint == naive_fingerprint(expected)
        assert cohort_hash(check_pinned(roster.keys)).hex() == roster.fingerprint.replace("-", "")
        assert load_roster(path) == roster
        files.add(path.read_bytes())
    assert len(files) == 1


def test_names_follow_their_keys() -> None:
    roster = Roster(identities=(named("alice", 9), named("bob", 3), named("carol", 5)))
    assert roster.names == ("bob", "carol", "alice")
    assert roster.keys == tuple(
        named(name, first).key for name, first in (("bob", 3), ("carol", 5), ("alice", 9))
    )


def test_the_order_in_the_file_does_not_count(tmp_path) -> None:
    path = tmp_path / "roster.toml"
    roster, _ = pin(path, [named("alice", 1), named("bob", 2)])
    head, first, second = path.read_text().split("\n[[identity]]\n")
    path.write_text("\n[[identity]]\n".join([head, second, first]))
    assert load_roster(path) == roster


def test_pinning_again_changes_nothing(tmp_path) -> None:
    path = tmp_path / "roster.toml"
    first = pin(path, [named("alice"), named("alice"), named("bob", 1)])
    assert [one.name for one in first[1]] == ["alice", "bob"]
    before = path.read_bytes(), path.stat().st_ino
    assert pin(path, [named("bob", 1)]) == (first[0], ())
    assert (path.read_bytes(), path.stat().st_ino) == before


@pytest.mark.parametrize(
    ("new", "sentence"),
    [
        (PublicIdentity(name="mallory", key=named("alice").key), "the key of .* is pinned as .* too"),
        (named("alice", 1), "the name alice stands for two keys"),
        (PublicIdentity(name="ALICE", key=bytes(32)), "the name .* stands for two keys"),
    ],
)
def test_a_duplicate_is_refused_and_nothing_is_pinned(tmp_path, new, sentence) -> None:
    path = tmp_path / "roster.toml"
    for identities in ([named("alice"), new], [new, named("alice")]):
        with pytest.raises(SealingError, match=sentence):
            pin(path, identities)
        assert os.listdir(tmp_path) == []
    pin(path, [named("alice")])
    before = path.read_bytes()
    with pytest.raises(SealingError, match=sentence):
        pin(path, [named("bob"), new])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["roster.toml"]


def test_one_pinned_identity_is_kept_but_not_sealed_with(tmp_path) -> None:
    roster, _ = pin(tmp_path / "roster.toml", [named("alice")])
    assert load_roster(tmp_path / "roster.toml") == roster
    with pytest.raises(SealingError, match="at least 2 clients, got 1"):
        check_pinned(roster.keys)


GOOD = f'version = 1\n[[identity]]\nname = "alice"\nkey = "{"ab" * 32}"\n'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "version = 1",
        "version = 1\nidentity = []",
        GOOD.replace("version = 1", ""),
        GOOD.replace("version = 1", "version = 2"),
        GOOD.replace("version = 1", 'version = "1"'),
        GOOD.replace("version = 1", "version = true"),
        "threshold = 2\n" + GOOD,
        GOOD + "weight = 3\n",
        GOOD + '"\\u001b[2J" = 3\n',
        GOOD.replace("name", "nom"),
        GOOD.replace('"alice"', "7"),
        GOOD.replace("alice", ""),
        GOOD.replace("alice", "../alice"),
        GOOD.replace("alice", "a\\nb"),
        GOOD.replace("ab" * 32, "ab" * 31),
        GOOD.replace("ab" * 32, "ab" * 33),
        GOOD.replace("ab" * 32, "AB" * 32),
        GOOD.replace("ab" * 32, "xy" * 32),
        GOOD.replace("ab" * 32, "ab" * 32 + "\\n"),
        GOOD.replace("[[identity]]", "[identity]"),
        GOOD.replace("=", "", 1),
        GOOD + GOOD.split("\n", 1)[1],
        GOOD + GOOD.split("\n", 1)[1].replace("alice", "bob"),
        GOOD + GOOD.split("\n", 1)[1].replace("ab", "cd"),
        GOOD + "x = " + "[" * 5000,
        GOOD + "x = " + "9" * 5000,
        "version = 1\0",
    ],
)
def test_what_is_no_roster_is_refused(tmp_path, text) -> None:
    path = tmp_path / "roster.toml"
    path.write_text(text)
    for use in (lambda: load_roster(path), lambda: pin(path, [named("bob")])):
        with pytest.raises(SealingError, match=r"roster\.toml") as refused:
            use()
        assert str(refused.value).isprintable()
    assert path.read_text() == text
    path.write_text(GOOD)
    assert load_roster(path).names == ("alice",)


def test_a_roster_must_be_text(tmp_path) -> None:
    (tmp_path / "roster.toml").write_bytes(GOOD.encode("utf-16"))
    with pytest.raises(SealingError, match="isn't a roster"):
        load_roster(tmp_path / "roster.toml")


def test_random_bytes_are_typed_refusals(tmp_path) -> None:
    rng = random.Random(11)
    path = tmp_path / "roster.toml"
    content = GOOD.encode()
    refused = 0
    for _ in range(500):
        changed = bytearray(content)
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        path.unlink(missing_ok=True)
        path.write_bytes(changed)
        try:
            load_roster(path)
        except SealingError:
            refused += 1
    assert refused > 300


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize(("name", "at"), [("write", 1), ("fsync", 1), ("replace", 1)])
def test_a_full_disk_leaves_the_old_roster(tmp_path, monkeypatch, there, name, at) -> None:
    path = tmp_path / "roster.toml"
    if there:
        pin(path, [named("alice")])
    before = path.read_bytes() if there else None
    failing(monkeypatch, name, at, errno.ENOSPC)
    with pytest.raises(SealingError, match=r"roster\.toml can't be written: No space left"):
        pin(path, [named("bob", 1)])
    assert os.listdir(tmp_path) == (["roster.toml"] if there else [])
    assert (path.read_bytes() if there else None) == before


def test_a_roster_of_which_nobody_knows_whether_it_lasts_is_an_error(tmp_path, monkeypatch) -> None:
    """The second fsync is that of the folder, when the new roster is in its place."""
    failing(monkeypatch, "fsync", 2, errno.EIO)
    with pytest.raises(SealingError, match=r"roster\.toml can't be written"):
        pin(tmp_path / "roster.toml", [named("alice")])
    assert load_roster(tmp_path / "roster.toml").names == ("alice",)


def test_killed_while_pinning_leaves_the_old_roster_or_the_new(tmp_path) -> None:
    pin(tmp_path / "old.toml", [named("alice")])
    (tmp_path / "steps").mkdir()
    run_script(KILLED, "pin", tmp_path / "steps", tmp_path / "old.toml")
    found = [load_roster(folder / "roster.toml").names for folder in (tmp_path / "steps").iterdir()]
    assert {frozenset(names) for names in found} == {frozenset({"alice"}), frozenset({"alice", "bob"})}
    assert len(found) > 10


def test_a_roster_keeps_its_mode_and_a_new_one_is_for_all(tmp_path, umask) -> None:
    umask(0o077)
    path = tmp_path / "roster.toml"
    pin(path, [named("alice")])
    assert mode(path) == 0o644
    path.chmod(0o640)
    pin(path, [named("bob")])
    assert mode(path) == 0o640


def test_a_link_in_the_place_of_a_roster_is_not_written_through(tmp_path) -> None:
    pin(tmp_path / "real.toml", [named("alice")])
    before = (tmp_path / "real.toml").read_bytes()
    (tmp_path / "roster.toml").symlink_to("real.toml")
    (tmp_path / "new.toml").symlink_to("nothing.toml")
    for name in ("roster.toml", "new.toml"):
        with pytest.raises(SealingError, match="is a link; name the file that it points to"):
            pin(tmp_path / name, [named("bob")])
    assert (tmp_path / "real.toml").read_bytes() == before
    assert not (tmp_path / "nothing.toml").exists()
    assert load_roster(tmp_path / "roster.toml").names == ("alice",)


def test_a_folder_for_a_roster_must_be_there(tmp_path) -> None:
    with pytest.raises(SealingError, match=r"roster\.toml can't be written: No such file"):
        pin(tmp_path / "nowhere" / "roster.toml", [named("alice")])


def test_pinning_at_the_same_time_loses_nobody(tmp_path, monkeypatch) -> None:
    path = tmp_path / "roster.toml"
    everybody = [named(f"client-{index}", index) for index in range(8)]
    start = threading.Barrier(len(everybody))
    real = rosters.load_roster

    def slow(path: Path) -> Roster:
        roster = real(path)
        time.sleep(0.01)
        return roster

    def pin_one(one: PublicIdentity) -> None:
        start.wait()
        pin(path, [one])

    monkeypatch.setattr(rosters, "load_roster", slow)
    with ThreadPoolExecutor(len(everybody)) as pool:
        list(pool.map(pin_one, everybody))
    assert load_roster(path).identities == tuple(everybody)


# --- lists -----------------------------------------------------------------------------------------


def test_a_list_says_which_private_keys_are_here_and_safe(tmp_path) -> None:
    made = {name: create_identity(tmp_path, name) for name in ("alice", "bob", "carol", "dave", "eve")}
    (tmp_path / "bob.key").unlink()
    (tmp_path / "carol.key").chmod(0o640)
    (tmp_path / "dave.pub").write_text("garbage")
    os.replace(tmp_path / "eve.key", tmp_path / "eve.old")
    create_identity(tmp_path / "other", "eve")
    os.replace(tmp_path / "other" / "eve.key", tmp_path / "eve.key")
    (tmp_path / ".hidden.pub").write_text("")
    (tmp_path / "read me.pub").write_text("")
    listed = list_identities(tmp_path)
    assert [(one.name, one.private) for one in listed] == [
        ("alice", "usable"),
        ("bob", "absent"),
        ("carol", "refused"),
        ("dave", "usable"),
        ("eve", "refused"),
    ]
    assert [one.fingerprint for one in listed] == [one.fingerprint for one in made.values()]
    assert [one.problem for one in listed[:2]] == [None, None]
    assert "mode 0640" in str(listed[2].problem)
    assert "dave.pub isn't a public identity" in str(listed[3].problem)
    assert "eve.key isn't the private key of" in str(listed[4].problem)


def test_a_key_that_nobody_can_say_the_public_one_of(tmp_path) -> None:
    private_file(tmp_path / "alice.key", b"garbage")
    (listed,) = list_identities(tmp_path)
    assert (listed.name, listed.key, listed.fingerprint, listed.private) == ("alice", None, None, "refused")


def test_a_list_follows_the_roster(tmp_path) -> None:
    here = [create_identity(tmp_path / "here", name) for name in ("zoe", "adam", "mia")]
    there = [create_identity(tmp_path / "there", name) for name in ("bob", "carol")]
    roster, _ = pin(tmp_path / "roster.toml", [*here[:2], *there])
    listed = list_identities(tmp_path / "here", roster)
    assert tuple(one.name for one in listed) == (*roster.names, "mia")
    assert [one.position for one in listed] == [0, 1, 2, 3, None]
    assert {one.name for one in listed if one.private == "absent"} == {"bob", "carol"}
    assert list_identities(tmp_path / "nowhere", roster) == tuple(
        Listed(name=one.name, key=one.key, private="absent", position=position)
        for position, one in enumerate(roster.identities)
    )


def test_a_folder_that_cannot_be_listed(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    roster = Roster(identities=(named("alice"),))
    for path, pinned in (
        (tmp_path / "nowhere", None),
        (tmp_path / "file", None),
        (tmp_path / "file", roster),
    ):
        with pytest.raises(SealingError, match=r"can't be listed: .*; `securefd identity new NAME` makes"):
            list_identities(path, pinned)


def test_no_clock_decides_anything(tmp_path, monkeypatch) -> None:
    def no_clock() -> float:
        raise AssertionError("a clock was read")

    monkeypatch.setattr(time, "time", no_clock)
    made = [create_identity(tmp_path, name) for name in ("alice", "bob")]
    roster, _ = pin(tmp_path / "roster.toml", made)
    expected = list_identities(tmp_path, roster)
    for seconds in (0, 1 << 33):
        for path in tmp_path.iterdir():
            os.utime(path, (seconds, seconds))
        assert load_roster(tmp_path / "roster.toml") == roster
        assert list_identities(tmp_path, roster) == expected
