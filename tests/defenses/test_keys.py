"""Identities on disk: whole or absent, and private keys private."""

import errno
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
)

from securefd.defenses.identity import verify
from securefd.defenses.keys import (
    LARGEST_IDENTITY,
    create_identity,
    read_identity,
    read_public,
)
from securefd.defenses.rosters import LARGEST_ROSTER, list_identities, load_roster
from securefd.errors import SealingError
from tests.defenses.key_files import (
    IN_CHILDREN,
    KILLED,
    failing,
    mode,
    naive_fingerprint,
    pem,
    private_file,
    run_script,
)


@pytest.fixture
def alice(tmp_path) -> Path:
    create_identity(tmp_path, "alice")
    return tmp_path / "alice.key"


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
        (read_identity, LARGEST_IDENTITY),
        (read_public, LARGEST_IDENTITY),
        (load_roster, LARGEST_ROSTER),
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
