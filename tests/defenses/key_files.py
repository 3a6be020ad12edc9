"""Identities for tests, and disks and processes that fail while files are written."""

import hashlib
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from securefd.defenses.keys import PublicIdentity


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


IN_CHILDREN = """
import os, signal, sys
from pathlib import Path
from securefd.defenses.keys import create_identity, PublicIdentity
from securefd.defenses.rosters import pin
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
