"""Countersigned heads: a ledger that was cut or put back is found out, and so is a witness that forgot."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from securefd.defenses import witness as module
from securefd.defenses.charges import PoissonGaussian
from securefd.defenses.claims import Guarantee
from securefd.defenses.identity import Identity
from securefd.defenses.ledger import Ledger
from securefd.defenses.witness import FolderWitness, Head, Receipt, Receipts
from securefd.errors import BudgetExceeded, LedgerError

BUDGET = Guarantee(epsilon=8.0, delta=1e-5, unit="record", relation="add-or-remove")
STEP = PoissonGaussian(sampling_rate=1.0, noise_multiplier=10.0, steps=1)
NAME, OTHER = "ab" * 16, "cd" * 16


def head(lines, mark="0", name=NAME):
    return Head(name=name, lines=lines, hash=mark * 64)


class Place:
    """One ledger with its receipts, and the witness in a folder elsewhere."""

    def __init__(self, folder):
        self.ledger = folder / "client" / "ledger.jsonl"
        self.receipts = folder / "client" / "receipts.jsonl"
        self.server = folder / "server"
        self.ledger.parent.mkdir()

    def open(self, witness="its own"):
        given = FolderWitness(self.server) if witness == "its own" else witness
        return Ledger.open(self.ledger, BUDGET, receipts=Receipts(self.receipts, given))

    def spend(self, times=1, witness="its own"):
        with self.open(witness) as book:
            for _ in range(times):
                book.charge(STEP, "step")
            return len(book.charged)

    def state(self):
        """Everything but the witness: what a backup of the client's folder holds."""
        return {path: path.read_bytes() for path in self.ledger.parent.iterdir()}


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def put_back(files):
    for path, content in files.items():
        path.write_bytes(content)


# --- the client's side ---------------------------------------------------------------------------


def test_every_charge_is_countersigned_before_it_returns(place):
    with place.open() as book:
        for spent in range(1, 4):
            book.charge(STEP, "step")
            last = FolderWitness(place.server).last(book._first.name)
            assert last.head == Head(name=book._first.name, lines=spent + 1, hash=book.head)
            stored = [
                msgspec.json.decode(raw, type=Receipt) for raw in place.receipts.read_bytes().splitlines()
            ]
            assert len(stored) == spent
            assert stored[-1] == last
    assert place.spend() == 4


def test_a_tail_cut_at_any_line_is_noticed(place):
    place.spend(4)
    lines = place.ledger.read_bytes().splitlines(keepends=True)
    for kept in range(1, len(lines)):
        place.ledger.write_bytes(b"".join(lines[:kept]))
        for witness in ("its own", None):  # offline, the receipts tell as much
            with pytest.raises(
                LedgerError, match=rf"has {kept} lines, and its witness has signed line 5.* restore"
            ):
                place.open(witness)
    place.ledger.write_bytes(b"".join(lines))
    assert place.spend() == 5


@pytest.mark.parametrize("by", ["emptied", "removed", "torn"])
def test_a_ledger_that_starts_anew_is_noticed(place, by):
    place.spend(2)
    if by == "removed":
        place.ledger.unlink()
    else:
        place.ledger.write_bytes(place.ledger.read_bytes()[: 0 if by == "emptied" else 30])
    for witness in ("its own", None):
        with pytest.raises(LedgerError, match="are of another ledger"):
            place.open(witness)


def test_an_old_backup_of_ledger_and_receipts_is_noticed_by_the_witness_only(place):
    place.spend(2)
    backup = place.state()
    place.spend()
    put_back(backup)
    with pytest.raises(LedgerError, match="has 3 lines, and its witness has signed line 4"):
        place.open()
    with place.open(None) as book:  # the weaker check: receipts as old as the ledger tell nothing
        assert len(book.charged) == 2
        with pytest.raises(LedgerError, match="can't grow without their witness"):
            book.charge(STEP, "step")
    # What was charged without the witness is another line than the one that it signed, though for the same.
    with pytest.raises(LedgerError, match=r"line 4 of ledger .* isn't the one that its witness has signed"):
        place.open()


def test_an_old_copy_that_went_on_is_noticed_however_long_it_grows(place):
    place.spend(2)
    backup = place.state()
    place.spend(2)
    put_back(backup)
    with Ledger.open(place.ledger, BUDGET) as book:  # no witness
        for _ in range(6):
            book.charge(STEP, "step")
    with pytest.raises(LedgerError, match=r"line 5 .* went on from there"):
        place.open()


def test_a_witness_that_forgot_is_refused_whatever_it_forgot(place):
    place.spend(3)
    memory = place.server / "witness.jsonl"
    lines = memory.read_bytes().splitlines(keepends=True)
    before = place.state()
    for kept in range(len(lines)):
        memory.write_bytes(b"".join(lines[:kept]))
        remembered = f"line {kept + 1}" if kept else "nothing"
        with pytest.raises(
            LedgerError, match=rf"signed its line 4, .* remembers {remembered}: .* restore the witness"
        ):
            place.open()
    assert place.state() == before
    memory.write_bytes(b"".join(lines))
    assert place.spend() == 4


def test_a_witness_that_lost_everything_is_another_one(place):
    place.spend(2)
    shutil.rmtree(place.server)
    with pytest.raises(LedgerError, match=r"another key than the one that is pinned in .*receipts\.jsonl"):
        place.open()
    # The remedy where it is gone for good: a new one is pinned, from here on.
    place.receipts.rename(place.receipts.with_suffix(".old"))
    assert place.spend() == 3
    assert place.spend() == 4


def test_a_witness_without_its_key_makes_no_new_one(place):
    place.spend(2)
    (place.server / "witness.key").unlink()
    with pytest.raises(LedgerError, match=r"can't sign: .* restore its folder"):
        place.open()
    assert not (place.server / "witness.key").exists()


def test_receipts_that_are_forged_or_of_another_ledger(place, tmp_path):
    place.spend(3)
    good = place.receipts.read_bytes()
    first, second, third = (
        msgspec.json.decode(raw, type=Receipt) for raw in place.receipts.read_bytes().splitlines()
    )
    stranger = Identity.generate()
    later = msgspec.structs.replace(third.head, lines=9)
    for wrong in (
        [first, second, msgspec.structs.replace(third, head=later)],  # a head that wasn't signed
        [first, second, msgspec.structs.replace(third, signature=bytes(64))],
        [first, second, msgspec.structs.replace(third, signature=b"short")],
        [first, second, Receipt.sign(third.head, stranger)],  # another key's
        [first, second, msgspec.structs.replace(third, witness=stranger.public)],
        [first, third, second],
        [first, second, third, third],
    ):
        place.receipts.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in wrong))
        for witness in ("its own", None):
            with pytest.raises(LedgerError, match="aren't as they were written, or aren't genuine"):
                place.open(witness)
    for garbage in (b"\n", b"{}\n", good + b"garbage\n", good.replace(b":", b": ", 1)):
        place.receipts.write_bytes(garbage)
        with pytest.raises(LedgerError, match="aren't as they were written"):
            place.open()
    (tmp_path / "b").mkdir()
    other = Place(tmp_path / "b")
    other.spend(3)
    place.receipts.write_bytes(other.receipts.read_bytes())
    with pytest.raises(LedgerError, match="are of another ledger"):
        place.open()
    place.receipts.write_bytes(good)
    assert place.spend() == 4


def test_receipts_cut_short_by_a_crash_are_mended(place):
    """The witness has the last one too, and gives it again."""
    place.spend(2)
    whole = place.receipts.read_bytes()
    first = len(whole.splitlines(keepends=True)[0])
    for cut in (*range(first, len(whole), 11), len(whole) - 1, len(whole)):
        place.receipts.write_bytes(whole[:cut])
        place.open().close()
        assert place.receipts.read_bytes() == whole


class Wayward:
    """A witness that answers with what it is told to."""

    def __init__(self, last=None, signed=None, key=None):
        self.answers = last, signed
        self.identity = Identity.generate()
        self.key = self.identity.public if key is None else key

    def last(self, name):
        return self._given(self.answers[0], name)

    def sign(self, shown):
        return self._given(self.answers[1], shown)

    def _given(self, answer, asked):
        return answer(self.identity, asked) if callable(answer) else answer


@pytest.mark.parametrize(
    ("signed", "sentence"),
    [
        (lambda own, shown: Receipt.sign(shown, Identity.generate()), None),
        (
            lambda own, shown: Receipt.sign(msgspec.structs.replace(shown, lines=7), own),
            "signed something else",
        ),
        (lambda own, shown: Receipt.sign(msgspec.structs.replace(shown, name=OTHER), own), "isn't genuine"),
        (
            lambda own, shown: msgspec.structs.replace(Receipt.sign(shown, own), signature=bytes(64)),
            "isn't genuine",
        ),
    ],
)
def test_nothing_is_released_on_a_receipt_that_is_not_for_what_was_shown(place, signed, sentence):
    released = []
    with place.open(Wayward(signed=lambda own, shown: Receipt.sign(shown, own))) as book:
        book.charge(STEP, "step")
        released.append("first")
    pinned = msgspec.json.decode(place.receipts.read_bytes(), type=Receipt)
    wayward = Wayward(last=pinned, signed=signed, key=pinned.witness)
    if sentence is not None:  # it has the pinned key, which only a test can give it
        place.receipts.unlink()
        wayward = Wayward(signed=signed)
    before = place.receipts.read_bytes() if place.receipts.exists() else None
    with place.open(wayward) as book:
        with pytest.raises(LedgerError, match=sentence or "another key than the one that is pinned"):
            book.charge(STEP, "step")
        with pytest.raises(LedgerError, match="closed"):
            book.charge(STEP, "step")
    after = place.receipts.read_bytes() if place.receipts.exists() else None
    assert before == after


@pytest.mark.parametrize(
    "last",
    [
        lambda own, name: Receipt.sign(head(2, name=OTHER), own),
        lambda own, name: Receipt.sign(head(2, name=name), Identity.generate()),
        lambda own, name: msgspec.structs.replace(
            Receipt.sign(head(2, name=name), own), head=head(1, name=name)
        ),
    ],
)
def test_a_last_head_that_is_not_genuine_is_refused_on_opening(place, last):
    Ledger.open(place.ledger, BUDGET).close()
    with pytest.raises(LedgerError, match="isn't genuine: another key's, another ledger's or forged"):
        place.open(Wayward(last=last))


class Unreachable:
    """A witness behind a connection that fails."""

    key = Identity.generate().public

    def last(self, name):
        raise ConnectionRefusedError("no route")

    def sign(self, shown):
        raise TimeoutError("no answer")


def test_a_witness_that_cannot_be_reached_lets_nothing_out(place):
    place.spend(2)
    with place.open(Unreachable()) as book:
        assert len(book.charged) == 2
        with pytest.raises(LedgerError, match=r"can't be reached \(no answer\); nothing may be released"):
            book.charge(STEP, "step")
    # It was charged, and is countersigned with the next one.
    assert place.spend() == 4
    lines = place.ledger.read_bytes().splitlines(keepends=True)
    place.ledger.write_bytes(b"".join(lines[:2]))
    with pytest.raises(LedgerError, match="has signed line 5"):
        place.open(Unreachable())


def test_a_refused_charge_shows_nothing(place):
    tiny = Guarantee(epsilon=0.01, delta=1e-5, unit="record", relation="add-or-remove")
    with Ledger.open(place.ledger, tiny, receipts=Receipts(place.receipts, FolderWitness(place.server))) as b:
        with pytest.raises(BudgetExceeded):
            b.charge(STEP, "step")
        assert FolderWitness(place.server).last(b._first.name) is None
    assert not place.receipts.exists()


# --- the witness's side --------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path):
    return FolderWitness(tmp_path / "witness")


def test_heads_only_go_forward(served):
    first = served.sign(head(3))
    assert served.sign(head(3)) == first
    for wrong in (head(3, "1"), head(2), head(1, "2")):
        with pytest.raises(LedgerError, match=r"has signed line 3 of ledger .* restore the newest copy"):
            served.sign(wrong)
    assert served.last(NAME) == first
    assert served.sign(head(4, "5")).head.lines == 4
    assert served.sign(head(1, name=OTHER)).head == head(1, name=OTHER)  # each ledger by itself
    assert served.last("ef" * 16) is None


def test_it_remembers_whoever_asks(served, tmp_path):
    served.sign(head(1))
    again = FolderWitness(tmp_path / "witness")
    assert again.key == served.key
    again.sign(head(2))
    with pytest.raises(LedgerError, match="signed line 2"):
        served.sign(head(2, "1"))
    assert served.last(NAME) == again.last(NAME) == served.sign(head(2))
    assert len((tmp_path / "witness" / "witness.jsonl").read_bytes().splitlines()) == 2


def test_only_its_owner_may_look(served, tmp_path):
    served.sign(head(1))
    folder = tmp_path / "witness"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for name in ("witness.key", "witness.jsonl"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600


def test_heads_that_cannot_be_are_refused(served):
    for wrong in (
        head(0),
        head(-1),
        head(1, name="ab"),
        head(1, name=NAME.upper()),
        head(1, mark="g"),
        Head(name=NAME, lines=1, hash="0" * 63),
        Head(name=NAME + "\n", lines=1, hash="0" * 64),
    ):
        with pytest.raises(LedgerError, match="a head must have"):
            served.sign(wrong)
    assert served.last(NAME) is None


def test_the_statement_names_protocol_ledger_line_and_hash():
    statements = {
        one.statement
        for one in (head(1), head(2), head(1, "1"), head(1, name=OTHER), head(11), head(1, name=NAME[::-1]))
    }
    assert len(statements) == 6
    assert all(one.startswith(b'["securefd ledger head v1","') for one in statements)


def test_a_damaged_memory_signs_nothing(served, tmp_path):
    for lines in range(1, 4):
        served.sign(head(lines))
    path = tmp_path / "witness" / "witness.jsonl"
    a, b, c = path.read_bytes().splitlines(keepends=True)
    changed = b.replace(b'"lines":2', b'"lines":1')
    forged = c.replace(b'"lines":3', b'"lines":7')
    foreign = msgspec.json.encode(Receipt.sign(head(9), Identity.generate())) + b"\n"
    for wrong in (
        *([a, c, b], [a, b, b, c], [a, changed, c]),
        *([a, b, foreign], [a, b, forged], [a, b"\n", b], [a, b"{}\n"]),
    ):
        path.write_bytes(b"".join(wrong))
        with pytest.raises(LedgerError, match="isn't as it was written; restore the folder"):
            FolderWitness(tmp_path / "witness").sign(head(20))


def test_a_memory_that_is_put_back_under_a_living_witness_is_read_anew(served, tmp_path):
    path = tmp_path / "witness" / "witness.jsonl"
    served.sign(head(1))
    old = path.read_bytes()
    served.sign(head(2))
    path.write_bytes(old)
    assert served.last(NAME).head == head(1)


def test_a_line_cut_short_anywhere_was_given_to_nobody(served, tmp_path):
    served.sign(head(1))
    path = tmp_path / "witness" / "witness.jsonl"
    before = path.read_bytes()
    second = served.sign(head(2))
    whole = path.read_bytes()
    for cut in (*range(len(before), len(whole), 11), len(whole) - 1):
        path.write_bytes(whole[:cut])
        again = FolderWitness(tmp_path / "witness")
        assert again.last(NAME).head.lines == (2 if cut == len(whole) - 1 else 1)
        assert again.sign(head(2)) == second
        assert path.read_bytes() == whole


@pytest.mark.parametrize("name", ["pwrite", "fsync"])
def test_a_full_disk_signs_nothing(served, tmp_path, monkeypatch, name):
    served.sign(head(1))

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, name, full)
        with pytest.raises(LedgerError, match=r"witness's file .* No space left on device"):
            served.sign(head(2))
    assert FolderWitness(tmp_path / "witness").sign(head(2)).head == head(2)


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match=r"can't be made: .*; name another one"):
        _ = FolderWitness(tmp_path / "file").key
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "witness.key").write_text("not a key")
    (tmp_path / "w" / "witness.key").chmod(0o600)
    with pytest.raises(LedgerError, match=r"can't sign: .* damaged"):
        _ = FolderWitness(tmp_path / "w").key


def test_processes_take_turns_and_share_one_key(tmp_path):
    program = """
import sys
from pathlib import Path
from securefd.defenses.witness import FolderWitness, Head
witness = FolderWitness(Path(sys.argv[1]))
for lines in range(1, 41):
    witness.sign(Head(name=sys.argv[2] * 32, lines=lines, hash="0" * 64))
print(witness.key.hex())
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "w"), letter],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for letter in "abc"
    ]
    outputs = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(set(outputs)) == 1
    served = FolderWitness(tmp_path / "w")
    assert outputs[0].strip() == served.key.hex()
    assert [served.last(letter * 32).head.lines for letter in "abc"] == [40, 40, 40]
    assert len((tmp_path / "w" / "witness.jsonl").read_bytes().splitlines()) == 120
