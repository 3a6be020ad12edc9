"""Identities and rosters on disk: whole or absent, private keys private, and one roster for all parties."""

import errno
import hashlib
import os
import random
import re
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from securefd.defenses import keys
from securefd.defenses.identity import check_pinned, cohort_hash, verify
from securefd.defenses.keys import (
    PublicIdentity,
    Roster,
    create_identity,
    list_identities,
    load_roster,
    pin,
    read_identity,
    read_public,
)
from securefd.errors import SealingError


@pytest.fixture
def alice(tmp_path) -> Path:
    create_identity(tmp_path, "alice")
    return tmp_path / "alice.key"


def named(name: str, first: int = 0) -> PublicIdentity:
    return PublicIdentity(name=name, key=bytes([first]) + hashlib.sha256(name.encode()).digest()[1:])


def pem(private, encryption=None, form=PrivateFormat.PKCS8) -> bytes:
    return private.private_bytes(Encoding.PEM, form, encryption or NoEncryption())


def private_file(path: Path, content: bytes) -> Path:
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    path.chmod(0o600)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def naive_fingerprint(content: bytes) -> str:
    return "-".join(re.findall("....", hashlib.sha256(content).hexdigest()))


@pytest.fixture
def umask():
    before = os.umask(0)
    yield os.umask
    os.umask(before)


# --- a new identity --------------------------------------------------------------------------------


def test_what_is_written_can_be_read_and_signs(tmp_path) -> None:
    made = create_identity(tmp_path / "new" / "folder", "alice")
    folder = tmp_path / "new" / "folder"
    assert sorted(os.listdir(folder)) == ["alice.key", "alice.pub"]
    assert read_public(folder / "alice.pub") == made
    identity = read_identity(folder / "alice.key")
    assert identity.public == made.key
    verify(made.key, b"message", identity.sign(b"message"))


def test_public_line(tmp_path) -> None:
    made = create_identity(tmp_path, "alice")
    line = (tmp_path / "alice.pub").read_text()
    assert line == f"securefd-ed25519-v1 alice {made.key.hex()} {naive_fingerprint(made.key)}\n"


def test_two_identities_differ(tmp_path) -> None:
    assert create_identity(tmp_path, "alice").key != create_identity(tmp_path, "bob").key


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o077, 0o777])
def test_modes_whatever_the_umask(tmp_path, umask, mask) -> None:
    umask(mask)
    create_identity(tmp_path / "identities", "alice")
    umask(0)
    assert mode(tmp_path / "identities") == 0o700
    assert mode(tmp_path / "identities" / "alice.key") == 0o600
    assert mode(tmp_path / "identities" / "alice.pub") == 0o644


def test_a_private_key_is_never_open_to_others_even_for_a_moment(tmp_path, umask, monkeypatch) -> None:
    real_open, real_write, seen = os.open, os.write, []

    def checked_open(path, flags, *more, **named):
        descriptor = real_open(path, flags, *more, **named)
        if flags & os.O_CREAT:
            assert flags & os.O_EXCL
            seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    def checked_write(descriptor, content):
        if b"PRIVATE KEY" in content:
            seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return real_write(descriptor, content)

    monkeypatch.setattr(os, "open", checked_open)
    monkeypatch.setattr(os, "write", checked_write)
    create_identity(tmp_path, "alice")
    assert seen == [0o600, 0o600, 0o600]


def test_a_folder_that_is_there_keeps_its_mode(tmp_path) -> None:
    tmp_path.chmod(0o755)
    create_identity(tmp_path, "alice")
    assert mode(tmp_path) == 0o755


@pytest.mark.parametrize("there", ["alice.key", "alice.pub"])
def test_nothing_is_overwritten(tmp_path, there) -> None:
    (tmp_path / there).write_text("precious")
    with pytest.raises(SealingError, match=f"{there} exists already and is kept; choose another name"):
        create_identity(tmp_path, "alice")
    assert os.listdir(tmp_path) == [there]
    assert (tmp_path / there).read_text() == "precious"


@pytest.mark.parametrize("there", ["alice.key", "alice.pub"])
@pytest.mark.parametrize("target", ["victim", "nothing"])
def test_a_planted_link_is_not_followed(tmp_path, there, target) -> None:
    folder = tmp_path / "identities"
    folder.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (folder / there).symlink_to(tmp_path / target)
    with pytest.raises(SealingError, match="exists already and is kept"):
        create_identity(folder, "alice")
    assert os.listdir(folder) == [there]
    assert sorted(os.listdir(tmp_path)) == ["identities", "victim"]
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../x", "a/b", ".hidden", "-x", "a b", "a\n", "ä", "a" * 65, "a\0", '"', "a\x1b[2J"],
)
def test_names_that_are_refused(tmp_path, name) -> None:
    with pytest.raises(SealingError, match="a name must be 1 to 64 of the letters"):
        create_identity(tmp_path, name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["a", "Klinik-7", "st.mary_1", "a" * 64, "7"])
def test_names_that_are_fine(tmp_path, name) -> None:
    create_identity(tmp_path, name)
    assert [one.name for one in list_identities(tmp_path)] == [name]


def failing(monkeypatch, name: str, at: int, code: int, before=lambda *arguments: None) -> list[int]:
    """Let the ``at``-th call of ``os.name`` fail; the list that is returned counts the calls."""
    real, calls = getattr(os, name), [0]

    def call(*arguments, **more):
        calls[0] += 1
        if calls[0] == at:
            before(*arguments)
            raise OSError(code, os.strerror(code))
        return real(*arguments, **more)

    monkeypatch.setattr(os, name, call)
    return calls


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize(
    ("name", "at"),
    [("write", 1), ("write", 2), ("fsync", 1), ("fsync", 2), ("fsync", 3), ("link", 1), ("link", 2)],
)
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, name, at, code) -> None:
    calls = failing(monkeypatch, name, at, code)
    with pytest.raises(
        SealingError, match=rf"alice can't be written to .*{os.strerror(code)}; no file was left"
    ):
        create_identity(tmp_path, "alice")
    assert calls == [at]
    assert os.listdir(tmp_path) == []
    create_identity(tmp_path, "alice")


def test_a_disk_that_fills_up_half_way_through_a_key(tmp_path, monkeypatch) -> None:
    real = os.write
    failing(monkeypatch, "write", 1, errno.ENOSPC, before=lambda file, content: real(file, content[:50]))
    with pytest.raises(SealingError, match="No space left"):
        create_identity(tmp_path, "alice")
    assert os.listdir(tmp_path) == []


def test_short_writes_are_continued(tmp_path, monkeypatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: real(descriptor, content[:7]))
    made = create_identity(tmp_path, "alice")
    assert read_identity(tmp_path / "alice.key").public == read_public(tmp_path / "alice.pub").key == made.key


def test_a_file_system_without_permissions_gets_no_key(tmp_path, umask, monkeypatch) -> None:
    written = []
    real = os.fchmod
    monkeypatch.setattr(os, "fchmod", lambda descriptor, wanted: real(descriptor, 0o777))
    monkeypatch.setattr(os, "write", lambda descriptor, content: written.append(content) or len(content))
    with pytest.raises(SealingError, match="the file system keeps no permissions"):
        create_identity(tmp_path, "alice")
    assert written == os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", ["file", "file/below", "dangling"])
def test_a_folder_that_cannot_be(tmp_path, place) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    with pytest.raises(SealingError, match="alice can't be written to"):
        create_identity(tmp_path / place, "alice")


IN_CHILDREN = """
import os, signal, sys
from pathlib import Path
from securefd.defenses.keys import create_identity, PublicIdentity, pin
from securefd.errors import SealingError

os.umask(0)

def child(work):
    if pid := os.fork():
        return pid
    code = 70
    try:
        work()
        code = 0
    except SealingError:
        code = 2
    finally:
        os._exit(code)
"""

KILLED = (
    IN_CHILDREN
    + """
def killed_before(step, work):
    # Writes go in halves, so that a kill can fall between them.
    real_write = os.write
    os.write = lambda file, content: real_write(file, content[:max(1, len(content) // 2)])
    calls = 0
    def counted(real):
        def call(*arguments, **more):
            nonlocal calls
            calls += 1
            if calls > step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **more)
        return call
    for name in ("open", "fchmod", "write", "fsync", "close", "link", "replace", "unlink"):
        setattr(os, name, counted(getattr(os, name)))
    work()

def new(folder):
    create_identity(folder, "alice")

def pinning(folder):
    pin(folder / "roster.toml", [PublicIdentity(name="bob", key=bytes(32))])

work = {"new": new, "pin": pinning}[sys.argv[1]]
for step in range(1000):
    folder = Path(sys.argv[2]) / str(step)
    folder.mkdir()
    if len(sys.argv) > 3:
        (folder / "roster.toml").write_bytes(Path(sys.argv[3]).read_bytes())
    pid = child(lambda: killed_before(step, lambda: work(folder)))
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0:
        sys.exit()
sys.exit("never finished")
"""
)


def run_script(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_killed_at_any_step_leaves_no_key_or_a_whole_one(tmp_path) -> None:
    run_script(KILLED, "new", tmp_path)
    whole = []
    for folder in sorted(tmp_path.iterdir(), key=lambda path: int(path.name)):
        for path in folder.iterdir():
            content = path.read_bytes()
            assert b"PRIVATE" not in content or mode(path) == 0o600
        if (folder / "alice.key").exists():
            public = read_identity(folder / "alice.key").public
            (listed,) = list_identities(folder)
            assert (listed.key, listed.private) == (public, "usable")
        else:
            assert not (folder / "alice.pub").exists()
            create_identity(folder, "alice")
        whole.append((folder / "alice.pub").exists())
    assert len(whole) > 20
    assert whole[-1]
    assert sorted(os.listdir(folder)) == ["alice.key", "alice.pub"]


def test_a_key_whose_public_file_was_never_written_can_be_completed(alice) -> None:
    pub = alice.with_name("alice.pub")
    line = pub.read_text()
    pub.unlink()
    (listed,) = list_identities(alice.parent)
    assert listed.problem == f"{pub} is missing; it must hold this line: {line.strip()}"


def test_of_two_that_make_the_same_name_one_wins(tmp_path) -> None:
    script = (
        IN_CHILDREN
        + """
folder = Path(sys.argv[1])
wait, go = os.pipe()
def work():
    os.close(go)
    os.read(wait, 1)  # returns when the parent closes its end
    create_identity(folder, "alice")
pids = [child(work) for _ in range(8)]
os.close(go)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
print(*sorted(codes))
"""
    )
    for attempt in range(5):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        assert run_script(script, folder).split() == ["0", *["2"] * 7]
        assert sorted(os.listdir(folder)) == ["alice.key", "alice.pub"]
        assert read_identity(folder / "alice.key").public == read_public(folder / "alice.pub").key


# --- reading a private key -------------------------------------------------------------------------


@pytest.mark.parametrize("unsafe", [0o640, 0o604, 0o620, 0o602, 0o644, 0o660, 0o666, 0o777, 0o610])
def test_a_key_that_others_may_use_is_refused(alice, unsafe) -> None:
    alice.chmod(unsafe)
    with pytest.raises(SealingError, match=rf"has mode {unsafe:04o}, .* run chmod 600 {alice}"):
        read_identity(alice)
    alice.chmod(0o600)
    read_identity(alice)


def test_the_remedy_can_be_pasted(tmp_path) -> None:
    folder = tmp_path / "two words"
    create_identity(folder, "alice")
    (folder / "alice.key").chmod(0o644)
    with pytest.raises(SealingError) as refused:
        read_identity(folder / "alice.key")
    (remedy,) = re.findall("run (chmod 600 .*), or make", str(refused.value))
    subprocess.run(remedy, shell=True, check=True)
    read_identity(folder / "alice.key")


def test_a_key_that_its_owner_may_only_read_is_fine(alice) -> None:
    alice.chmod(0o400)
    read_identity(alice)


def of_another_user(path: Path, monkeypatch, *, root: bool) -> None:
    """Make ``path`` another user's, as far as we can tell, with us as root or not."""
    if os.geteuid() == 0:
        os.chown(path, 1234, -1)
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else path.stat().st_uid + 1)


def test_a_key_of_another_user_is_refused(alice, monkeypatch) -> None:
    of_another_user(alice, monkeypatch, root=False)
    with pytest.raises(SealingError, match=r"belongs to user \d+, and this is user \d+; use your own"):
        read_identity(alice)


def test_root_may_use_another_users_key(alice, monkeypatch) -> None:
    of_another_user(alice, monkeypatch, root=True)
    read_identity(alice)


@pytest.mark.parametrize("root", [True, False])
def test_a_link_to_another_users_key_is_refused(alice, tmp_path, monkeypatch, root) -> None:
    link = tmp_path / "link.key"
    link.symlink_to(alice)
    read_identity(link)
    of_another_user(alice, monkeypatch, root=root)
    with pytest.raises(SealingError, match="belongs to user"):
        read_identity(link)


def test_a_link_is_judged_by_what_it_points_to(alice, tmp_path) -> None:
    link = tmp_path / "link.key"
    link.symlink_to(alice)
    alice.chmod(0o644)
    with pytest.raises(SealingError, match="mode 0644"):
        read_identity(link)


@pytest.mark.parametrize("read", [read_identity, read_public, load_roster])
def test_what_is_no_regular_file_is_refused(tmp_path, read) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in ("pipe", ".", "dangling", "loop", "nothing", "pipe/below", "a\0b"):
        with pytest.raises(SealingError, match=r"isn't a regular file|can't be read"):
            read(tmp_path / path)
    with pytest.raises(SealingError, match="isn't a regular file"):
        read(Path("/dev/zero"))


@pytest.mark.parametrize(
    ("read", "limit"),
    [
        (read_identity, keys.LARGEST_IDENTITY),
        (read_public, keys.LARGEST_IDENTITY),
        (load_roster, keys.LARGEST_ROSTER),
    ],
)
def test_what_is_too_large_is_refused(tmp_path, read, limit) -> None:
    path = private_file(tmp_path / "large", b"\n" * (limit + 1))
    with pytest.raises(SealingError, match=f"larger than {limit:,} bytes"):
        read(path)


def test_a_truncated_key_is_refused_at_every_length(alice) -> None:
    content = alice.read_bytes()
    for length in range(len(content)):
        private_file(alice, content[:length])
        with pytest.raises(SealingError, match=r"damaged|one key in PEM and nothing else"):
            read_identity(alice)


def test_a_damaged_key_is_refused_or_another_key(alice) -> None:
    """In the 32 bytes of the key itself every value is a key; everything around them is checked."""
    content = alice.read_bytes()
    public = read_identity(alice).public
    accepted = 0
    for position in range(len(content) * 8):
        changed = bytearray(content)
        changed[position // 8] ^= 1 << position % 8
        private_file(alice, bytes(changed))
        try:
            assert read_identity(alice).public != public
        except SealingError:
            continue
        accepted += 1
    assert accepted <= 43 * 8


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "damaged"),
        (b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n", "damaged"),
        (os.urandom(119), "damaged"),
        (b"\0" * 4096, "damaged"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "isn't an Ed25519 key"),
        (
            pem(ec.generate_private_key(ec.SECP256R1()), form=PrivateFormat.TraditionalOpenSSL),
            "isn't an Ed25519",
        ),
        (pem(x25519.X25519PrivateKey.generate()), "isn't an Ed25519 key"),
        (pem(ed25519.Ed25519PrivateKey.generate(), form=PrivateFormat.OpenSSH), "damaged|nothing else"),
        (pem(ed448.Ed448PrivateKey.generate()), "isn't an Ed25519 key"),
        (pem(ed25519.Ed25519PrivateKey.generate(), BestAvailableEncryption(b"secret")), "is encrypted"),
        (pem(ed25519.Ed25519PrivateKey.generate()) * 2, "one key in PEM and nothing else"),
        (pem(ed25519.Ed25519PrivateKey.generate()) + b"note", "one key in PEM and nothing else"),
        (b"note\n" + pem(ed25519.Ed25519PrivateKey.generate()), "one key in PEM and nothing else"),
        (
            pem(ed25519.Ed25519PrivateKey.generate()).replace(b"\n", b"\r\n"),
            "one key in PEM and nothing else",
        ),
        (
            ed25519.Ed25519PrivateKey.generate()
            .public_key()
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
            "damaged",
        ),
    ],
)
def test_what_is_no_private_key_of_ours_is_refused(tmp_path, content, sentence) -> None:
    with pytest.raises(SealingError, match=sentence):
        read_identity(private_file(tmp_path / "some.key", content))


def test_no_message_or_repr_holds_what_a_private_key_file_holds(alice) -> None:
    body = alice.read_text().splitlines()[1]
    assert body not in repr(read_identity(alice))
    wrong = [f"{body}\n", f"-----BEGIN PRIVATE KEY-----\n{body}", f"{alice.read_text()}{body}"]
    for content in wrong:
        private_file(alice, content.encode())
        for read in (read_identity, read_public, load_roster):
            with pytest.raises(SealingError) as refused:
                read(alice)
            assert body not in str(refused.value)
            assert refused.value.__cause__ is None


# --- public identities -----------------------------------------------------------------------------


def test_a_line_that_mail_has_wrapped_is_read(tmp_path) -> None:
    made = create_identity(tmp_path, "alice")
    wrapped = tmp_path / "mail.pub"
    wrapped.write_bytes(b"  " + (tmp_path / "alice.pub").read_bytes().replace(b" ", b"\r\n") + b"\n\n")
    assert read_public(wrapped) == made


@pytest.mark.parametrize(
    "change",
    [
        lambda line: "",
        lambda line: line.replace("v1", "v2"),
        lambda line: line + line,
        lambda line: line.strip() + " more",
        lambda line: line.rsplit(maxsplit=1)[0],
        lambda line: line.replace(" alice", ""),
        lambda line: line.replace("alice", "../alice"),
        lambda line: line.replace("alice", "älice"),
        lambda line: "\ufeff" + line,
        lambda line: line.upper(),
    ],
)
def test_what_is_no_public_identity_is_refused(alice, change) -> None:
    pub = alice.with_name("alice.pub")
    pub.write_text(change(pub.read_text()))
    with pytest.raises(SealingError, match=r"alice\.pub isn't a public identity; give a \.pub file"):
        read_public(pub)


def test_every_damaged_digit_is_noticed(alice) -> None:
    pub = alice.with_name("alice.pub")
    line = pub.read_text()
    for position in range(line.index("alice") + 6, len(line) - 1):
        for digit in {"0", "f", "-"} - {line[position]}:
            pub.unlink()
            pub.write_text(line[:position] + digit + line[position + 1 :])
            with pytest.raises(SealingError, match=r"isn't a public identity|doesn't have the fingerprint"):
                read_public(pub)


# --- rosters ---------------------------------------------------------------------------------------


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
    real = keys.load_roster

    def slow(path: Path) -> Roster:
        roster = real(path)
        time.sleep(0.01)
        return roster

    def pin_one(one: PublicIdentity) -> None:
        start.wait()
        pin(path, [one])

    monkeypatch.setattr(keys, "load_roster", slow)
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
        keys.Listed(name=one.name, key=one.key, private="absent", position=position)
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
