"""The ledger: whatever happens, what was released was paid for."""

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from securefd.defenses import accounting, filters, ledger, rdp
from securefd.defenses.charges import DiscreteGaussian, DiscreteLaplace, PoissonGaussian
from securefd.defenses.claims import Guarantee
from securefd.defenses.ledger import Ledger
from securefd.defenses.sensitivity import Sensitivity
from securefd.errors import BudgetExceeded, LedgerError, PrivacyError

BUDGET = Guarantee(epsilon=8.0, delta=1e-5, unit="record", relation="add-or-remove")
ROUND = PoissonGaussian(sampling_rate=1.0, noise_multiplier=10.0, steps=10)
COUNTS = DiscreteLaplace(parameter=0.5, sensitivity=1)
ORDER = rdp.ORDERS[34]  # 23.6


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


@pytest.mark.parametrize("order", [None, ORDER], ids=["schedule", "filter"])
def test_a_charge_beyond_the_budget_is_refused_and_leaves_no_trace(path, order):
    small = Guarantee(epsilon=1.0, delta=1e-5, unit="record", relation="add-or-remove")
    with Ledger.open(path, small, order=order) as book:
        book.charge(COUNTS, "counts")
        before = path.read_bytes()
        with pytest.raises(
            BudgetExceeded, match=r"'round 0' costs .* from [\d.%]+ to .* above its .*fewer steps"
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


def test_a_byte_that_is_no_text_is_named_like_any_other(path):
    lines = filled(path)
    path.write_bytes(b"".join(lines).replace(b'"hash":"', b'"hash":"\xe5', 2))
    with pytest.raises(LedgerError, match="line 1 of ledger"):
        Ledger.open(path, BUDGET)


def test_who_may_not_spend_reads_the_same_chain_and_changes_nothing(path):
    whole = b"".join(filled(path))
    hashes = ledger.read_chain(whole, "x")
    with Ledger.open(path, BUDGET) as book:
        assert (len(hashes), hashes[-1]) == (1 + len(book.charged), book.head)
    rng = random.Random(3)
    for place in rng.sample(range(len(whole)), 200):
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.randrange(8)
        with pytest.raises(LedgerError, match="ledger x"):
            ledger.read_chain(bytes(changed), "x")
    for cut in (whole[:-1], whole[1:], b"", b"\n", whole + b"\n"):
        with pytest.raises(LedgerError, match="ledger x"):
            ledger.read_chain(cut, "x")
    assert path.read_bytes() == whole


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


def test_the_same_access_twice_is_two_lines(path):
    """Or an old copy that is charged with the same again would look like the newest."""
    *before, last = filled(path)
    path.write_bytes(b"".join(before))
    with Ledger.open(path, BUDGET) as book:
        book.charge(ROUND, "round 2")
    *kept, again = path.read_bytes().splitlines(keepends=True)
    assert kept == before
    assert again != last


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


# --- spending that is decided on the way --------------------------------------------------------


def test_a_filter_counts_one_order_and_promises_its_whole_budget(path):
    with Ledger.open(path, BUDGET, order=ORDER) as book:
        assert book.spent().epsilon == 0
        assert book.charge(COUNTS, "counts") == BUDGET
        book.charge(ROUND, "round 0")
        at = rdp.ORDERS.index(ORDER)
        curves = [rdp.curve(charge, "add-or-remove")[at] for charge in (COUNTS, ROUND)]
        assert book.filter.cost([COUNTS, ROUND]) == pytest.approx(sum(curves))
        full = sum(curves) + 8.0 - rdp.allowance(8.0, 1e-5, ORDER)
        assert book.price([COUNTS, ROUND]) == pytest.approx(full)
        assert book.spent() == BUDGET
    with Ledger.open(path, BUDGET) as book:
        assert book.filter == filters.RenyiFilter(
            order=ORDER, epsilon=8.0, delta=1e-5, relation="add-or-remove"
        )
        assert [entry.what for entry in book.charged] == ["counts", "round 0"]


def test_a_filter_is_filled_to_its_allowance_and_not_beyond(path):
    """However the charges were chosen: here by a coin."""
    coin = random.Random(1)
    costs = []
    with Ledger.open(path, BUDGET, order=ORDER) as book:
        while True:
            noise, steps = coin.uniform(5, 30), coin.randrange(1, 20)
            charge = PoissonGaussian(sampling_rate=1.0, noise_multiplier=noise, steps=steps)
            cost = steps * ORDER / (2 * noise**2)
            try:
                book.charge(charge, "an access")
            except BudgetExceeded:
                assert sum(costs) + cost > rdp.allowance(8.0, 1e-5, ORDER)
                break
            costs.append(cost)
    assert len(costs) > 10
    assert sum(costs) <= rdp.allowance(8.0, 1e-5, ORDER)


def test_a_filter_promises_its_budget_however_little_was_spent(path):
    """At a large delta and order, converting may come to less than nothing."""
    order = rdp.ORDERS[-1]
    large = Guarantee(epsilon=8.0, delta=0.5, unit="record", relation="add-or-remove")
    tiny = DiscreteLaplace(parameter=1e-6, sensitivity=1)
    with Ledger.open(path, large, order=order) as book:
        assert book.charge(tiny, "nearly nothing") == book.spent() == large
        assert book.price([tiny]) == 0


def test_the_order_of_a_filter_is_the_first_one(path):
    for order in (ORDER, rdp.ORDERS[20]):
        with Ledger.open(path, BUDGET, order=order) as book:
            assert book.filter.order == ORDER


def test_the_budget_of_a_filter_never_grows(path):
    Ledger.open(path, BUDGET, order=ORDER).close()
    before = path.read_bytes()
    for change, sentence in (
        ({"epsilon": 8.5}, r"was made for \(epsilon = 8.* can't grow: give no more"),
        ({"delta": 2e-5}, "can't grow"),
        ({"epsilon": 1.0, "delta": 2e-5}, "can't grow"),
        ({"relation": "replace-one"}, "keeps its relation"),
        ({"unit": "client"}, "counts by record"),
    ):
        given = {"epsilon": 8.0, "delta": 1e-5, "unit": "record", "relation": "add-or-remove"} | change
        with pytest.raises(LedgerError, match=sentence):
            Ledger.open(path, Guarantee(**given), order=ORDER)
    assert path.read_bytes() == before


@pytest.mark.parametrize("change", [{"epsilon": 2.0}, {"delta": 1e-9}])
def test_a_smaller_budget_refuses_earlier(tmp_path, change):
    step = PoissonGaussian(sampling_rate=1.0, noise_multiplier=10.0, steps=1)

    def accesses(budget):
        path = tmp_path / f"{budget.epsilon}-{budget.delta}.jsonl"
        Ledger.open(path, BUDGET, order=ORDER).close()
        with Ledger.open(path, budget) as book:
            assert book.charge(step, "step") == BUDGET, "only what was preset is proven"
            with pytest.raises(BudgetExceeded, match="and never more"):
                spend(book, step, 200)
            return len(book.charged)

    given = {"epsilon": 8.0, "delta": 1e-5, "unit": "record", "relation": "add-or-remove"} | change
    assert 1 < accesses(Guarantee(**given)) < accesses(BUDGET) < 200


def spend(book, charge, times):
    for _ in range(times):
        book.charge(charge, "step")


def test_a_filter_that_is_opened_as_it_is_stops_where_it_was_made_to(path):
    Ledger.open(path, BUDGET, order=ORDER).close()
    large = Guarantee(epsilon=80.0, delta=1e-4, unit="record", relation="add-or-remove")
    with Ledger.open(path, large) as book:
        with pytest.raises(BudgetExceeded):
            spend(book, ROUND, 100)
        assert book.filter.cost([entry.charge for entry in book.charged]) <= book.filter.allowance()
        assert book.spent() == BUDGET


def test_a_schedule_is_no_filter(path):
    filled(path)
    with pytest.raises(
        LedgerError, match=r"fixed before the first access.* another folder in privacy\.ledger"
    ):
        Ledger.open(path, BUDGET, order=ORDER)


def test_an_order_that_says_nothing_is_refused_and_leaves_no_file(path):
    small = Guarantee(epsilon=0.1, delta=1e-5, unit="record", relation="add-or-remove")
    for order, sentence in ((rdp.ORDERS[0], "larger epsilon"), (2.5, "one of rdp.ORDERS"), (1.0, "> 1")):
        with pytest.raises(PrivacyError, match=sentence):
            Ledger.open(path, small, order=order)
    assert not path.exists()


def test_a_filter_with_an_altered_budget_is_noticed(path):
    Ledger.open(path, BUDGET, order=ORDER).close()
    path.write_bytes(path.read_bytes().replace(b'"epsilon":8.0', b'"epsilon":9.0'))
    with pytest.raises(LedgerError, match="line 1"):
        Ledger.open(path, BUDGET)


# --- other versions ------------------------------------------------------------------------------

VERSION_1 = (
    b'{"entry":{"type":"opened","version":1,"name":"0123456789abcdef0123456789abcdef","unit":"record"},"hash":'
    b'"2a7bc00f605efdf1fc2a9b9de6c3d7a5b3f071bede4e9648e75d55b046397a61"}\n'
    b'{"entry":{"type":"charged","what":"counts","charge":{"type":"discrete_laplace","parameter":0.5,'
    b'"sensitivity":1}},"hash":"42368b9b384884d02ce79e5714460a13b9c334f0edf85897c915c93f91fe965b"}\n'
)


def test_version_1_is_a_schedule(path):
    path.write_bytes(VERSION_1)
    with Ledger.open(path, BUDGET) as book:
        assert book.filter is None
        assert [entry.charge for entry in book.charged] == [COUNTS]
        book.charge(ROUND, "round 0")
    assert path.read_bytes().startswith(VERSION_1)
    with Ledger.open(path, BUDGET) as book:
        assert len(book.charged) == 2
    with pytest.raises(LedgerError, match="another folder"):
        Ledger.open(path, BUDGET, order=ORDER)


def test_a_later_version_is_named(path):
    path.write_bytes(VERSION_1.replace(b'"version":1', b'"version":3'))
    with pytest.raises(LedgerError, match="has version 3, and this program reads up to 2; use"):
        Ledger.open(path, BUDGET)


def test_charges_without_a_privacy_loss_distribution_are_counted_by_their_curves(path):
    charge = DiscreteGaussian(
        variance=1e4, sensitivity=Sensitivity(added=100, replaced=200, added_l1=10, replaced_l1=20)
    )
    with Ledger.open(path, BUDGET) as book:
        for _ in range(3):
            spent = book.charge(charge, "answers")
        mixed = book.charge(COUNTS, "counts")
    assert spent.epsilon == rdp.epsilon(3 * rdp.curve(charge, "add-or-remove"), 1e-5)
    assert spent.epsilon < mixed.epsilon


# --- files that aren't what they should be ------------------------------------------------------


def test_links_folders_and_pipes_are_refused(path, tmp_path):
    filled(path)
    before = path.read_bytes()
    link, folder, pipe = tmp_path / "link", tmp_path / "folder", tmp_path / "pipe"
    link.symlink_to(path)
    folder.mkdir()
    os.mkfifo(pipe)
    for wrong, sentence in ((link, "is a link"), (folder, "Is a directory"), (pipe, "regular file")):
        with pytest.raises(LedgerError, match=sentence):
            Ledger.open(wrong, BUDGET)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    with pytest.raises(LedgerError, match="is a link"):
        Ledger.open(tmp_path / "dangling", BUDGET)
    assert not (tmp_path / "nowhere").exists()
    assert path.read_bytes() == before


@pytest.mark.parametrize("by", ["nothing", "a copy", "a link", "a folder"])
def test_a_ledger_that_is_replaced_while_it_is_open_pays_for_nothing(path, tmp_path, by):
    filled(path)
    with Ledger.open(path, BUDGET) as book:
        path.rename(tmp_path / "moved")
        if by == "a copy":
            path.write_bytes((tmp_path / "moved").read_bytes())
        elif by == "a link":
            path.symlink_to(tmp_path / "moved")
        elif by == "a folder":
            path.mkdir()
        with pytest.raises(LedgerError, match=r"moved or replaced .*nothing may be released; put it back"):
            book.charge(COUNTS, "counts")
        with pytest.raises(LedgerError, match="closed"):
            book.charge(COUNTS, "counts")


def charged_once(path):
    """The sentence of what failed, or None once the charge is paid for."""
    try:
        with Ledger.open(path, BUDGET) as book:
            book.charge(COUNTS, "last")
    except LedgerError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", ["open", "pwrite", "fsync", "ftruncate"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_at_any_call_is_a_sentence(path, monkeypatch, name, code):
    """Each call in turn, while a torn ledger is opened and charged."""
    whole = b"".join(filled(path))
    failed = 0
    for point in range(1, 20):
        path.write_bytes(whole[:-5])
        with monkeypatch.context() as patch:
            patch.setattr(os, name, Failing(getattr(os, name), point, code))
            sentence = charged_once(path)
        with Ledger.open(path, BUDGET) as book:
            paid = [entry.what for entry in book.charged]
        if sentence is None:
            assert "last" in paid
            break
        assert os.strerror(code) in sentence
        failed += 1
    assert failed > 0
    assert sentence is None


class Failing:
    """A call to the operating system that fails the ``point``-th time."""

    def __init__(self, real, point, code):
        self.real, self.left, self.code = real, point, code

    def __call__(self, *arguments, **settings):
        self.left -= 1
        if self.left == 0:
            raise OSError(self.code, os.strerror(self.code))
        return self.real(*arguments, **settings)


def test_a_full_disk_writes_half_a_line_and_pays_for_nothing(path, monkeypatch):
    filled(path)
    real = os.pwrite

    def full(descriptor, content, offset):
        if len(content) > 20:
            return real(descriptor, content[:20], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    with Ledger.open(path, BUDGET) as book:
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(LedgerError, match="No space left on device; nothing may be released"):
            book.charge(COUNTS, "lost")
    monkeypatch.undo()
    with Ledger.open(path, BUDGET) as book:
        assert len(book.charged) == 4
        assert book.charge(COUNTS, "found").epsilon > 0


def test_a_folder_that_cannot_be_written_to(path, tmp_path, monkeypatch):
    real = os.open

    def read_only(name, flags, *rest, **settings):
        if flags & os.O_CREAT and not os.path.exists(name):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(name, flags, *rest, **settings)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(LedgerError, match="Read-only file system; correct its path or rights"):
        Ledger.open(path, BUDGET)


def test_one_process_at_a_time_whatever_path_it_comes_by(path, tmp_path):
    filled(path)
    (tmp_path / "elsewhere").symlink_to(tmp_path)
    os.link(path, tmp_path / "second name")
    program = """
import sys
from securefd.defenses.claims import Guarantee
from securefd.defenses.ledger import Ledger
from securefd.errors import LedgerError
for path in sys.argv[1:]:
    try:
        Ledger.open(path, Guarantee(epsilon=8.0, delta=1e-5, unit="record", relation="add-or-remove"))
    except LedgerError as error:
        assert "in use by another process" in str(error)
    else:
        raise AssertionError(path)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(ledger.__file__).parents[2])}
    paths = [str(path), str(tmp_path / "elsewhere" / path.name), str(tmp_path / "second name")]
    with Ledger.open(path, BUDGET):
        subprocess.run([sys.executable, "-c", program, *paths], check=True, env=environment)
