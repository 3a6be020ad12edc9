"""A process that pays and releases is killed, anywhere: nothing was ever released that wasn't paid for.

Every charge is countersigned too. What was released is in a file of its own, so that the two can be compared.
"""

from __future__ import annotations

import os
import random
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from securefd.defenses import ledger as module
from securefd.defenses import rdp
from securefd.defenses.charges import DiscreteLaplace
from securefd.defenses.claims import Guarantee
from securefd.defenses.ledger import Ledger
from securefd.defenses.witness import FolderWitness, Receipts

BUDGET = Guarantee(epsilon=8.0, delta=1e-5, unit="record", relation="replace-one")
CHARGE = DiscreteLaplace(parameter=1e-4, sensitivity=1)
ORDER = rdp.ORDERS[30]
KILLS = 25
DIED = 9

# Waits for commands; a child, forked from it, spends until it dies. "K FOLDER" lets it die in its K-th call
# to the system that can leave something behind: before it, or in the middle of a write. For a negative K, and
# once it has released two things, it ends by itself; 0 lets it go on until it is killed.
SPENDER = """
import os, sys
from pathlib import Path
from securefd.defenses import accounting
from tests.engine.test_ledger_crash import CHARGE, DIED, opened, release

accounting.spent = lambda *_: 0.0  # many charges in little time

def dying(name, real):
    def call(*arguments, **settings):
        global left
        left -= 1
        if left == 0:
            if name == "pwrite":
                descriptor, content, offset = arguments
                real(descriptor, content[:len(content) // 2], offset)
            os._exit(DIED)
        return real(*arguments, **settings)
    return call

order = float(sys.argv[1])
for line in sys.stdin:
    point, folder = int(line.split()[0]), Path(line.split()[1])
    child = os.fork()
    if child == 0:
        try:
            left = point
            for name in ("open", "pwrite", "write", "fsync", "ftruncate", "link", "unlink", "mkdir"):
                if point > 0:
                    setattr(os, name, dying(name, getattr(os, name)))
            with opened(folder, order) as book:
                while point == 0 or len(book.charged) < 2:
                    book.charge(CHARGE, "a release")
                    release(folder, len(book.charged))
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def opened(folder: Path, order: float, budget: Guarantee = BUDGET) -> Ledger:
    """The ledger of a client in ``folder``, with its witness; a schedule for order 0."""
    client = folder / "client"
    client.mkdir(exist_ok=True)
    receipts = Receipts(client / "receipts.jsonl", FolderWitness(folder / "server"))
    return Ledger.open(client / "ledger.jsonl", budget, order=order or None, receipts=receipts)


def release(folder: Path, number: int) -> None:
    """Let something out, for good."""
    descriptor = os.open(folder / f"released-{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.fsync(descriptor)
    os.close(descriptor)


def released(folder: Path) -> set[int]:
    return {int(path.name.removeprefix("released-")) for path in folder.glob("released-*")}


def check(folder: Path, order: float) -> tuple[int, int]:
    """Everything that was released was paid for and countersigned; return how many charges and releases."""
    out = released(folder)
    with opened(folder, order) as book:
        paid = len(book.charged)
        assert out <= set(range(1, paid + 1)), "released and not paid for"
        last = FolderWitness(folder / "server").last(book._first.name)
        signed = 0 if last is None else last.head.lines - 1
        assert max(out, default=0) <= signed <= paid, "released and not countersigned"
        assert order == 0 or book.filter is not None
    return paid, len(out)


class Spender:
    """The process that spends."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def start(self, folder: Path, point: int = 0) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{point} {folder}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def ended(self) -> int:
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())


@contextmanager
def spending(order: float) -> Iterator[Spender]:
    root = str(Path(module.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", SPENDER, str(order)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=root,
    ) as process:
        yield Spender(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.parametrize("order", [0.0, ORDER], ids=["schedule", "filter"])
def test_killed_at_any_moment(tmp_path: Path, order: float) -> None:
    chooser = random.Random(0)
    paid = spare = 0
    with spending(order) as spender:
        for _ in range(KILLS):
            child = spender.start(tmp_path)
            time.sleep(chooser.uniform(0, 0.15))
            os.kill(child, signal.SIGKILL)
            assert spender.ended() == -signal.SIGKILL
            before = paid
            paid, let_out = check(tmp_path, order)
            assert paid >= before, "a ledger only grows"
            spare = paid - let_out
    assert paid > KILLS, "it hardly ran"
    assert spare <= KILLS, "a kill costs one charge at most"


def test_dying_in_every_call(tmp_path: Path) -> None:
    """From nothing to two releases; and after each death another process goes on to as many."""
    paid_in_vain = 0
    with spending(ORDER) as spender:
        for point in range(1, 1000):
            folder = tmp_path / str(point)
            folder.mkdir()
            spender.start(folder, point)
            code = spender.ended()
            paid, out = check(folder, ORDER)
            paid_in_vain += paid > out
            if code == 0:
                break
            assert code == DIED
            spender.start(folder, -1)
            assert spender.ended() == 0
            assert check(folder, ORDER) == (2, out + 2 - paid)
    assert code == 0
    assert (paid, out) == (2, 2)
    assert point > 40
    assert paid_in_vain > 10


class Killed(BaseException):
    """Nothing is done after it."""


class Torn:
    """``os.pwrite``, of which the ``number``-th call gets as far as byte ``length`` and no further."""

    def __init__(self, number: int, length: int) -> None:
        self.left, self.length = number, length
        self.whole = False
        self._write = os.pwrite

    def __call__(self, descriptor: int, content: bytes, offset: int) -> int:
        self.left -= 1
        if self.left > 0:
            return self._write(descriptor, content, offset)
        if self.left == 0:
            self.whole = self.length >= len(content)
            self._write(descriptor, content[: self.length], offset)
        raise Killed


@pytest.mark.parametrize(("number", "step"), [(1, 1), (2, 9), (3, 9)], ids=["ledger", "witness", "receipt"])
def test_torn_at_every_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, step: int) -> None:
    """A line of one of the three files reaches the disk up to any byte: what follows opens all of them."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    with opened(tmp_path, ORDER) as book:
        book.charge(CHARGE, "first")
        release(tmp_path, 1)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for length in range(0, 1000, step):
        for path, content in files.items():
            path.write_bytes(content)
        torn = Torn(number, length)
        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", torn)
            with opened(tmp_path, ORDER) as book, pytest.raises(Killed):
                book.charge(CHARGE, "second")
        paid, out = check(tmp_path, ORDER)
        assert out == 1
        assert paid == 2 or (number == 1 and not torn.whole)
        with opened(tmp_path, ORDER) as book:
            book.charge(CHARGE, "third")
            assert len(book.charged) == paid + 1
        if torn.whole:
            break
    assert length > 200


def test_a_kill_between_paying_and_countersigning_and_releasing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise Killed

    for name, owner in (("sign", FolderWitness), ("_store", Receipts)):
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, killed)
            with opened(tmp_path, ORDER) as book, pytest.raises(Killed):
                book.charge(CHARGE, "not released")
        check(tmp_path, ORDER)
    with opened(tmp_path, ORDER) as book:
        book.charge(CHARGE, "not released either")
    assert check(tmp_path, ORDER) == (3, 0)


class Disk:
    """What would be left after a power cut: of each file what it held when last flushed, if its name was.

    The ``point``-th call that changes or flushes something is the last one: it isn't made.
    """

    def __init__(self, patched: pytest.MonkeyPatch, point: int) -> None:
        self.left = point
        self._flushed: dict[int, bytes] = {}
        self._named: set[Path] = set()
        self._real = {name: getattr(os, name) for name in ("pwrite", "ftruncate", "fsync")}
        for name in self._real:
            patched.setattr(os, name, self._call(name))

    def _call(self, name: str) -> Callable[..., Any]:
        def call(descriptor: int, *arguments: Any) -> Any:
            self.left -= 1
            if self.left <= 0:
                raise Killed
            if name != "fsync":
                return self._real[name](descriptor, *arguments)
            return self._flush(descriptor)

        return call

    def _flush(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        place = Path(f"/proc/self/fd/{descriptor}").resolve()
        if stat.S_ISDIR(status.st_mode):
            self._named |= set(place.iterdir())
        else:
            self._flushed[status.st_ino] = place.read_bytes()

    def cut(self, folder: Path) -> None:
        for path in [path for path in folder.rglob("*") if path.is_file()]:
            if path in self._named:
                path.write_bytes(self._flushed.get(path.stat().st_ino, b""))
            else:
                path.unlink()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of open files are read from /proc")
def test_power_that_fails_between_any_two_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What wasn't flushed is gone: what was released is paid for and countersigned all the same."""
    lost = 0
    for point in range(1, 1000):
        folder = tmp_path / str(point)
        folder.mkdir()
        sent: list[int] = []
        with monkeypatch.context() as patched:
            disk = Disk(patched, point)
            try:
                with opened(folder, ORDER) as book:
                    for number in range(1, 4):
                        book.charge(CHARGE, "a release")
                        sent.append(number)
            except Killed:
                pass
            else:
                break
        disk.cut(folder)
        for number in sent:
            release(folder, number)
        paid, out = check(folder, ORDER)
        lost += paid > out
    assert point > 30
    assert lost > 3
