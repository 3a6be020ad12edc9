"""`securefd identity`: what it prints, what it leaves on disk, and one sentence for whatever goes wrong."""

import base64
import errno
import hashlib
import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from securefd.cli import main
from securefd.defenses.identity import cohort_hash
from securefd.defenses.keys import read_identity
from securefd.defenses.rosters import load_roster

FINGERPRINT = re.compile("[0-9a-f]{4}(-[0-9a-f]{4}){15}")


@dataclass
class Outputs:
    code: int
    out: str
    err: str

    def refused(self) -> str:
        """The one sentence, after checking that it is one and that there is nothing else."""
        assert (self.code, self.out) == (2, "")
        assert self.err.startswith("securefd: ")
        assert self.err.count("\n") == 1
        assert "Traceback" not in self.err
        assert "internal error" not in self.err
        return self.err.strip()


@pytest.fixture
def cli(capfd, tmp_path, monkeypatch):
    """Call it in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Outputs:
        code = main(["identity", *map(str, arguments)])
        return Outputs(code, *capfd.readouterr())

    return call


def result(outputs: Outputs) -> dict:
    assert (outputs.code, outputs.err) == (0, "")
    return json.loads(outputs.out)


# --- new -------------------------------------------------------------------------------------------


def test_new_writes_both_files_and_prints_the_fingerprint(cli) -> None:
    done = cli("new", "alice")
    assert (done.code, done.err) == (0, "")
    name, printed = done.out.splitlines()[0].split()
    assert name == "alice"
    assert FINGERPRINT.fullmatch(printed)
    key, pub = Path("identities/alice.key"), Path("identities/alice.pub")
    assert [stat.S_IMODE(path.stat().st_mode) for path in (key, pub)] == [0o600, 0o644]
    digest = hashlib.sha256(read_identity(key).public).hexdigest()
    assert printed.replace("-", "") == digest
    assert pub.read_text().split()[3] == printed


def test_new_as_json(cli) -> None:
    made = result(cli("new", "alice", "--dir", "keys", "--json", "--quiet"))
    assert list(made) == ["name", "public_key", "fingerprint", "private_file", "public_file"]
    assert made["name"] == "alice"
    assert bytes.fromhex(made["public_key"]) == read_identity(Path(made["private_file"])).public
    assert FINGERPRINT.fullmatch(made["fingerprint"])
    assert (made["private_file"], made["public_file"]) == ("keys/alice.key", "keys/alice.pub")


def test_new_keeps_what_is_there(cli) -> None:
    cli("new", "alice")
    before = Path("identities/alice.key").read_bytes()
    assert "alice.key exists already and is kept; choose another name" in cli("new", "alice").refused()
    assert Path("identities/alice.key").read_bytes() == before


@pytest.mark.parametrize("name", ["", "../x", ".", "a b", "ä", "x\x1b[2J"])
def test_new_refuses_names(cli, name) -> None:
    assert "a name must be 1 to 64 of the letters" in cli("new", name).refused()
    assert os.listdir() == []


def test_new_on_a_full_disk(cli, monkeypatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert "No space left on device; no file was left" in cli("new", "alice").refused()
    assert os.listdir("identities") == []
    assert cli("new", "alice").code == 0


def test_new_where_the_system_stops_a_write(tmp_path) -> None:
    """A limit of the kernel's on file sizes, with nothing replaced."""
    command = f"ulimit -f 0; exec {sys.executable} -B -m securefd identity new alice"
    done = subprocess.run(["/bin/bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert "can't be written to identities" in Outputs(done.returncode, done.stdout, done.stderr).refused()
    assert os.listdir(tmp_path / "identities") == []


# --- pin -------------------------------------------------------------------------------------------


@pytest.fixture
def parties(cli) -> list[Path]:
    return [Path(result(cli("new", name, "--json"))["public_file"]) for name in ("zoe", "adam", "mia")]


def test_pin_prints_the_roster(cli, parties) -> None:
    pinned = result(cli("pin", "roster.toml", *parties, "--json", "--quiet"))
    assert list(pinned) == ["path", "added", "identities", "roster_fingerprint"]
    assert pinned["path"] == "roster.toml"
    assert pinned["added"] == ["zoe", "adam", "mia"]
    keys = [bytes.fromhex(one["public_key"]) for one in pinned["identities"]]
    assert [list(one) for one in pinned["identities"]] == [
        ["position", "name", "public_key", "fingerprint"]
    ] * 3
    assert [one["position"] for one in pinned["identities"]] == [0, 1, 2]
    assert keys == sorted(keys)
    assert pinned["roster_fingerprint"].replace("-", "") == cohort_hash(keys).hex()
    assert load_roster(Path("roster.toml")).fingerprint == pinned["roster_fingerprint"]

    again = result(cli("pin", "roster.toml", parties[1], "--json"))
    assert again == {**pinned, "added": []}
    plain = cli("pin", "roster.toml", parties[1])
    assert f"roster  {pinned['roster_fingerprint']}" in plain.out.splitlines()
    assert [line.split()[:2] for line in plain.out.splitlines()[:3]] == [
        [str(one["position"]), one["name"]] for one in pinned["identities"]
    ]
    assert "added: nothing, all were pinned before" in plain.out


def test_pinned_one_by_one_in_any_order_the_roster_is_the_same(cli, parties) -> None:
    for path in parties:
        cli("pin", "one.toml", path)
    cli("pin", "two.toml", *reversed(parties))
    assert Path("one.toml").read_bytes() == Path("two.toml").read_bytes()


def test_pin_refuses_what_would_be_ambiguous(cli, parties) -> None:
    cli("pin", "roster.toml", *parties)
    before = Path("roster.toml").read_bytes()
    cli("new", "zoe", "--dir", "elsewhere")
    assert "the name zoe stands for two keys" in cli("pin", "roster.toml", "elsewhere/zoe.pub").refused()
    renamed = Path("renamed.pub")
    renamed.write_text(parties[0].read_text().replace("zoe", "anna"))
    assert "is pinned as" in cli("pin", "roster.toml", renamed).refused()
    assert "isn't a public identity" in cli("pin", "roster.toml", "identities/zoe.key").refused()
    assert "can't be read" in cli("pin", "roster.toml", "nobody.pub").refused()
    assert "isn't a roster" in cli("pin", parties[0], parties[1]).refused()
    assert "--help" in cli("pin", "roster.toml").refused()
    assert Path("roster.toml").read_bytes() == before


# --- list ------------------------------------------------------------------------------------------


def test_list_as_json(cli, parties) -> None:
    cli("new", "carol", "--dir", "elsewhere")
    pinned = result(cli("pin", "roster.toml", *parties[:2], "elsewhere/carol.pub", "--json"))
    Path("identities/adam.key").chmod(0o644)
    listed = result(cli("list", "--roster", "roster.toml", "--json", "--quiet"))
    assert list(listed) == ["identities", "roster_fingerprint"]
    assert listed["roster_fingerprint"] == pinned["roster_fingerprint"]
    assert [
        {key: one[key] for key in ("position", "name", "public_key", "fingerprint")}
        for one in listed["identities"][:3]
    ] == pinned["identities"]
    assert [one["position"] for one in listed["identities"]] == [0, 1, 2, None]
    assert list(listed["identities"][0]) == [
        "position",
        "name",
        "public_key",
        "fingerprint",
        "private",
        "problem",
    ]
    assert {one["name"]: one["private"] for one in listed["identities"]} == {
        "zoe": "usable",
        "adam": "refused",
        "carol": "absent",
        "mia": "usable",
    }
    assert {one["name"] for one in listed["identities"] if one["problem"]} == {"adam"}
    alone = result(cli("list", "--json"))
    assert [one["name"] for one in alone["identities"]] == ["adam", "mia", "zoe"]
    assert {one["position"] for one in alone["identities"]} == {None}
    assert alone["roster_fingerprint"] is None


def test_list_for_people(cli, parties) -> None:
    cli("pin", "roster.toml", *parties[:2])
    Path("identities/zoe.key").chmod(0o604)
    done = cli("list", "--roster", "roster.toml")
    assert (done.code, done.err) == (0, "")
    *rows, problem, roster = done.out.splitlines()
    assert [row.split()[0] for row in rows] == ["0", "1", "-"]
    assert {row.split()[1]: " ".join(row.split()[3:]) for row in rows} == {
        "zoe": "private key REFUSED",
        "adam": "private key here",
        "mia": "private key here",
    }
    assert len({FINGERPRINT.search(row).start() for row in rows}) == 1
    assert problem.startswith("zoe: private key identities/zoe.key has mode 0604")
    assert "chmod 600 identities/zoe.key" in problem
    assert roster == f"roster  {load_roster(Path('roster.toml')).fingerprint}"


def test_list_where_there_is_nothing(cli) -> None:
    assert "can't be listed: No such file" in cli("list").refused()
    Path("identities").mkdir()
    assert cli("list") == Outputs(0, "no identities in identities\n", "")
    assert result(cli("list", "--json")) == {"identities": [], "roster_fingerprint": None}
    assert "roster nothing.toml can't be read" in cli("list", "--roster", "nothing.toml").refused()


# --- all of them -----------------------------------------------------------------------------------


def test_no_output_holds_a_private_key(cli, parties) -> None:
    cli("pin", "roster.toml", *parties)
    secrets = set()
    for pub in parties:
        key = pub.with_suffix(".key")
        raw = read_identity(key).private.private_bytes_raw()
        secrets |= {key.read_text().splitlines()[1], raw.hex(), base64.b64encode(raw).decode(), repr(raw)}
    assert len(secrets) == 12
    Path("identities/mia.key").chmod(0o666)
    Path("identities/zoe.key").write_text(Path("identities/zoe.key").read_text() + "x")
    calls = [
        ["list"],
        ["list", "--json"],
        ["list", "--roster", "roster.toml", "--json"],
        ["new", "zoe"],
        ["pin", "roster.toml", "identities/zoe.key"],
        ["pin", "identities/adam.key", "identities/zoe.pub"],
        ["list", "--roster", "identities/adam.key"],
    ]
    for arguments in calls:
        done = cli(*arguments)
        assert not [secret for secret in secrets if secret in done.out + done.err]


@pytest.mark.parametrize(
    "arguments",
    [[], ["nothing"], ["new"], ["new", "a", "b"], ["pin"], ["list", "extra"], ["new", "a", "--dir"]],
)
def test_usage_errors(cli, arguments) -> None:
    assert "--help" in cli(*arguments).refused()


def test_help_names_the_default_folder_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from securefd.cli import main\n"
        "assert not any(main(['identity', *name, '--help']) for name in ([], ['new'], ['list'], ['pin']))\n"
        "heavy = {'cryptography', 'numpy', 'msgspec', 'torch', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"default:\s+identities", done.stdout)
