"""The ledger: whatever happens, what was released was paid for."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from securefd.defenses import accounting, ledger
from securefd.defenses.charges import DiscreteLaplace, PoissonGaussian
from securefd.defenses.claims import Guarantee
from securefd.defenses.ledger import Ledger
from securefd.errors import BudgetExceeded, LedgerError, PrivacyError

BUDGET = Guarantee(epsilon=8.0, delta=1e-5, unit="record", relation="add-or-remove")
ROUND = PoissonGaussian(sampling_rate=1.0, noise_multiplier=10.0, steps=10)
COUNTS = DiscreteLaplace(parameter=0.5, sensitivity=1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "ledger.jsonl"


def filled(path, rounds=3):
    """Write a ledger of counts and ``rounds`` rounds; return its lines, line feeds included."""
    with Ledger.open(path, BUDGET) as book:
        book.charge(COUNTS, "counts")
        for number in range(rounds):
            book.charge(ROUND, f"round {number}")
    return path.read_bytes().splitlines(keepends=True)


def test_spending_composes_over_rounds_and_over_runs(path):
    with Ledger.open(path, BUDGET) as book:
        assert book.spent().epsilon == 0
        book.charge(COUNTS, "counts")
        first = book.charge(ROUND, "round 0")
        assert first == book.spent()
    with Ledger.open(path, BUDGET) as book:
        assert [entry.what for entry in book.charged] == ["counts", "round 0"]
        assert book.spent() == first
        total = book.charge(ROUND, "another run, round 0")
    both = accounting.compose([COUNTS.event, ROUND.event, ROUND.event])
    assert total.epsilon == accounting.epsilon(both, 1e-5, "add-or-remove") > first.epsilon
    assert (total.delta, total.unit, total.relation) == (1e-5, "record", "add-or-remove")


def test_rounds_cost_exactly_what_the_calibrated_schedule_cost(path):
    def schedule(noise, steps):
        return PoissonGaussian(sampling_rate=0.5, noise_multiplier=noise, steps=steps)

    def whole(noise):
        return [schedule(noise, 50), COUNTS]

    noise = accounting.calibrate(whole, 8.0, 1e-5, "add-or-remove")
    with Ledger.open(path, BUDGET) as book:
        book.charge(COUNTS, "counts")
        for number in range(5):
            spent = book.charge(schedule(noise, 10), f"round {number}")
        assert spent.epsilon == accounting.spent(whole(noise), 1e-5, "add-or-remove")
        with pytest.raises(BudgetExceeded):
            book.charge(schedule(noise, 1), "one step more")


def test_a_charge_beyond_the_budget_is_refused_and_leaves_no_trace(path):
    small = Guarantee(epsilon=1.0, delta=1e-5, unit="record", relation="add-or-remove")
    with Ledger.open(path, small) as book:
        book.charge(COUNTS, "counts")
        before = path.read_bytes()
        with pytest.raises(
            BudgetExceeded, match=r"'round 0' costs .* from 0.5 to .* above its .*fewer steps"
        ):
            book.charge(ROUND, "round 0")
        assert path.read_bytes() == before
        assert len(book.charged) == 1


def test_replacing_a_record_costs_more_from_the_same_ledger(path):
    filled(path)
    costs = {}
    for relation in ("add-or-remove", "replace-one"):
        budget = Guarantee(epsilon=50.0, delta=1e-5, unit="record", relation=relation)
        with Ledger.open(path, budget) as book:
            costs[relation] = book.spent().epsilon
    assert costs["replace-one"] > 1.9 * costs["add-or-remove"]


def test_the_charge_is_on_the_disk_before_it_returns(path, monkeypatch):
    with Ledger.open(path, BUDGET) as book:
        calls = []
        for name in ("pwrite", "fsync"):
            real = getattr(os, name)
            monkeypatch.setattr(
                os,
                name,
                lambda fd, *rest, name=name, real=real: (calls.append((name, fd)), real(fd, *rest))[1],
            )
        book.charge(COUNTS, "counts")
    written, file, folder = calls
    assert written[0] == "pwrite"
    assert file == ("fsync", written[1])
    assert folder[0] == "fsync" != written[1]


def test_one_process_at_a_time(path):
    with Ledger.open(path, BUDGET), pytest.raises(LedgerError, match="in use by another process"):
        Ledger.open(path, BUDGET)
    Ledger.open(path, BUDGET).close()


def test_a_closed_ledger_charges_nothing(path):
    book = Ledger.open(path, BUDGET)
    book.close()
    book.close()
    with pytest.raises(LedgerError, match="closed"):
        book.charge(COUNTS, "counts")


def test_a_failing_disk_closes_the_ledger(path, monkeypatch):
    book = Ledger.open(path, BUDGET)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(LedgerError, match="No space left on device; nothing may be released"):
            book.charge(COUNTS, "counts")
    with pytest.raises(LedgerError, match="closed"):
        book.charge(COUNTS, "counts")
    with Ledger.open(path, BUDGET) as again:
        assert [entry.what for entry in again.charged] == ["counts"]


def test_short_writes_are_completed(path, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, content, offset: real(fd, content[:7], offset))
    lines = filled(path)
    assert len(lines) == 5
    with Ledger.open(path, BUDGET) as book:
        assert len(book.charged) == 4


def test_a_line_cut_short_anywhere_loses_only_itself(path):
    lines = filled(path, rounds=1)
    before = b"".join(lines[:-1])
    for cut in range(len(lines[-1]) + 1):
        path.write_bytes(before + lines[-1][:cut])
        whole = cut >= len(lines[-1]) - 1
        with Ledger.open(path, BUDGET) as book:
            assert [e.what for e in book.charged] == (["counts", "round 0"] if whole else ["counts"])
        assert path.read_bytes() == before + (lines[-1] if whole else b"")


def test_a_first_line_cut_short_starts_anew(path):
    (first, *_) = filled(path)
    path.write_bytes(first[:20])
    with Ledger.open(path, BUDGET) as book:
        assert book.charged == ()
        book.charge(COUNTS, "counts")
    with Ledger.open(path, BUDGET) as book:
        assert len(book.charged) == 1


def test_altered_lines_are_named(path):
    lines = filled(path)
    chooser = random.Random(0)
    for number, line in enumerate(lines, start=1):
        for _ in range(10):
            place = chooser.randrange(len(line) - 1)
            changed = bytearray(line)
            changed[place] = (changed[place] + 1) % 128
            if changed[place] == 10:
                continue
            path.write_bytes(b"".join([*lines[: number - 1], bytes(changed), *lines[number:]]))
            with pytest.raises(LedgerError, match=f"line {number} of ledger"):
                Ledger.open(path, BUDGET)


def test_lost_moved_repeated_and_foreign_lines_are_named(path, tmp_path):
    a, b, c, d, e = filled(path)
    foreign = filled(tmp_path / "other.jsonl")
    for wrong, number in (
        ([a, b, d, e], 3),
        ([b, c, d, e], 1),
        ([a, b, d, c, e], 3),
        ([a, b, c, c, d, e], 4),
        ([a, b, c, foreign[3], e], 4),
        ([a, b, b"\n", c], 3),
        ([a, b, c, d, e, b"\xff\n"], 6),
        ([a, b, c.replace(b":", b": ", 1), d, e], 3),
    ):
        path.write_bytes(b"".join(wrong))
        with pytest.raises(LedgerError, match=f"line {number} of ledger"):
            Ledger.open(path, BUDGET)


def test_a_second_first_line_is_out_of_place(path):
    (first, *_) = filled(path, rounds=0)
    line = msgspec.json.decode(first, type=ledger.Line)
    second = ledger._chained(line.hash, line.entry)
    path.write_bytes(first + msgspec.json.encode(second) + b"\n")
    with pytest.raises(LedgerError, match=r"line 2 .* out of place"):
        Ledger.open(path, BUDGET)


def test_lines_that_claim_impossible_costs_are_refused(path):
    first, *_ = filled(path)
    line = msgspec.json.decode(first, type=ledger.Line)
    honest = ledger._chained(line.hash, ledger.Charged(what="w", charge=COUNTS))
    forged = msgspec.json.encode(honest).replace(b'"parameter":0.5', b'"parameter":-0.5')
    path.write_bytes(first + forged + b"\n")
    with pytest.raises(LedgerError, match="line 2"):
        Ledger.open(path, BUDGET)


def test_units_are_never_mixed(path):
    filled(path)
    clients = Guarantee(epsilon=8.0, delta=1e-5, unit="client", relation="add-or-remove")
    with pytest.raises(LedgerError, match="counts by record"):
        Ledger.open(path, clients)


def test_a_budget_of_nothing_and_a_path_that_cannot_be_are_refused(path, tmp_path):
    for epsilon, delta in ((0.0, 1e-5), (1.0, 0.0)):
        with pytest.raises(PrivacyError, match="budget"):
            Ledger.open(path, Guarantee(epsilon=epsilon, delta=delta, unit="record", relation="replace-one"))
    assert not path.exists()
    with pytest.raises(LedgerError, match="can't be opened"):
        Ledger.open(tmp_path / "nowhere" / "ledger.jsonl", BUDGET)


def test_only_the_owner_may_read_it(path):
    filled(path)
    assert path.stat().st_mode & 0o777 == 0o600


SPENDER = """
import os, sys
from securefd.defenses import accounting
from securefd.defenses.charges import DiscreteLaplace
from securefd.defenses.claims import Guarantee
from securefd.defenses.ledger import Ledger

folder = sys.argv[1]
accounting.epsilon = lambda *_: 0.0  # a price of nothing: many charges in little time
budget = Guarantee(epsilon=1.0, delta=1e-5, unit="record", relation="replace-one")

def spend():
    with Ledger.open(f"{folder}/ledger.jsonl", budget) as book:
        while True:
            book.charge(DiscreteLaplace(parameter=0.5, sensitivity=1), "release")
            os.close(os.open(f"{folder}/release-{len(book.charged)}", os.O_CREAT | os.O_EXCL))

for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        spend()
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


def test_killed_anywhere_it_never_released_more_than_it_paid_for(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(ledger.__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    chooser = random.Random(0)
    kills, unpaired = 60, 0
    with subprocess.Popen(
        [sys.executable, "-c", SPENDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as spender:
        for _ in range(kills):
            spender.stdin.write("go\n")
            spender.stdin.flush()
            child = int(spender.stdout.readline())
            time.sleep(chooser.uniform(0, 0.03))
            os.kill(child, signal.SIGKILL)
            assert spender.stdout.readline() == "gone\n"
            with Ledger.open(tmp_path / "ledger.jsonl", BUDGET) as book:
                paid = len(book.charged)
            released = {int(p.name.split("-")[1]) for p in tmp_path.glob("release-*")}
            assert released <= set(range(1, paid + 1))
            unpaired = paid - len(released)
        spender.stdin.close()
    assert paid > kills, "the spender hardly ran"
    assert unpaired <= kills, "a kill costs at most the one charge that was under way"
