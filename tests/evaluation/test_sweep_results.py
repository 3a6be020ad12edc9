import io
import itertools

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats

from securefd.evaluation.policy import parse_policy
from securefd.evaluation.sweep_config import parse_sweep
from securefd.evaluation.sweep_page import chart, page
from securefd.evaluation.sweep_results import (
    MEASURES,
    Row,
    cheapest,
    mark_frontier,
    summary,
    t_interval,
    telling,
    to_csv,
    to_parquet,
)
from tests.evaluation.test_html import Page

POLICY = parse_policy('name = "<lab>"\n[federation]\nclients = 3\n')
PLAN = parse_sweep(
    """
    [base]
    seed = 1
    data = { source = "digits", public = 50, test = 50 }
    clients = [{ count = 3, model = "logistic" }]
    [base.method]
    name = "dsfl"
    [grid]
    "student.steps" = [10, 20]
    seeds = [1, 2, 3]
    """
)


def setting(epsilon: float | None, accuracy: float | None, **changes: object) -> Row:
    known = epsilon is not None
    return {
        "epsilon": epsilon,
        "delta": 1e-5 if known else None,
        "unit": "record" if known else None,
        "relation": "add-or-remove" if known else None,
        "student.accuracy": accuracy,
        **changes,
    }


def frontier(*rows: Row) -> list[bool]:
    mark_frontier(rows)
    return [row["frontier"] for row in rows]


def cell(**changes: object) -> Row:
    """A row of a cell that is done."""
    return {
        "cell": "x",
        "student.steps": 10,
        "seed": 1,
        "status": "done",
        "reason": "",
        **dict.fromkeys(MEASURES, 0.5),
        "release.epsilon": 2.0,
        "release.delta": 1e-5,
        "release.unit": "record",
        "release.relation": "add-or-remove",
        **changes,
    }


class TestFrontier:
    def test_by_definition(self) -> None:
        """A setting is off the frontier exactly if some other is nowhere worse and somewhere better."""
        rng = np.random.default_rng(5)
        for _ in range(50):
            rows = [
                setting(float(e), float(a), delta=float(d), unit=str(u))
                for e, a, d, u in zip(
                    rng.integers(1, 5, 12),
                    rng.integers(0, 5, 12) / 5,
                    rng.integers(1, 3, 12) / 1e5,
                    rng.choice(["record", "client"], 12),
                    strict=True,
                )
            ]
            expected = []
            for row in rows:
                worse = False
                for other in rows:
                    if other["unit"] != row["unit"]:
                        continue
                    loses = (
                        other["epsilon"] > row["epsilon"]
                        or other["delta"] > row["delta"]
                        or other["student.accuracy"] < row["student.accuracy"]
                    )
                    wins = (
                        other["epsilon"] < row["epsilon"]
                        or other["delta"] < row["delta"]
                        or other["student.accuracy"] > row["student.accuracy"]
                    )
                    worse = worse or (wins and not loses)
                expected.append(not worse)
            assert frontier(*rows) == expected

    def test_other_terms_are_not_compared(self) -> None:
        assert frontier(setting(1, 0.9), setting(2, 0.8)) == [True, False]
        assert frontier(setting(1, 0.9), setting(2, 0.8, unit="client")) == [True, True]
        assert frontier(setting(1, 0.9), setting(2, 0.8, relation="replace-one")) == [True, True]
        assert frontier(setting(1, 0.9), setting(2, 0.8, delta=1e-9)) == [True, True]

    def test_without_a_promise_or_a_student_there_is_no_place_on_it(self) -> None:
        assert frontier(setting(None, 0.99), setting(1, None), setting(2, 0.5)) == [False, False, True]

    def test_a_hair_of_epsilon_is_no_gain(self) -> None:
        assert frontier(setting(3.999, 0.87), setting(4, 0.88)) == [False, True]
        assert frontier(setting(3.9, 0.87), setting(4, 0.88)) == [True, True]
        assert frontier(setting(3.999, 0.88), setting(4, 0.88)) == [True, False]
        close = [setting(1.005**k, 0.5 + 0.01 * k) for k in range(10)]
        assert frontier(*close) == [False] * 9 + [True]

    def test_equals_are_both_on_it(self) -> None:
        assert frontier(setting(1, 0.9), setting(1, 0.9)) == [True, True]


class TestSummary:
    def rows(self, accuracies: list[float], **changes: object) -> list[Row]:
        pairs = itertools.product([10, 20], [1, 2, 3])
        return [
            cell(**{"student.steps": steps, "seed": seed, "student.accuracy": accuracy, **changes})
            for (steps, seed), accuracy in zip(pairs, accuracies, strict=True)
        ]

    def test_means_and_intervals_over_seeds(self) -> None:
        values = [0.5, 0.6, 0.65]
        first, second = summary(self.rows([*values, 0.1, 0.1, 0.1]), PLAN)
        low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
        assert first["student.accuracy"] == pytest.approx(np.mean(values))
        assert (first["student.accuracy.low"], first["student.accuracy.high"]) == pytest.approx((low, high))
        assert (second["student.accuracy.low"], second["student.accuracy.high"]) == pytest.approx((0.1, 0.1))
        assert (first["student.steps"], "seed" in first) == (10, False)

    def test_only_cells_that_are_done_count(self) -> None:
        rows = self.rows([0.5, 0.7, 0.9, 0.1, 0.1, 0.1])
        rows[1] = {"cell": "y", "student.steps": 10, "seed": 2, "status": "failed", "reason": "why"}
        first, second = summary(rows, PLAN)
        assert (first["done"], first["failed"], first["passes"]) == (2, 1, False)
        assert first["student.accuracy"] == pytest.approx(0.7)
        assert (second["done"], second["failed"]) == (3, 0)

    def test_the_weakest_promise_of_any_seed_counts(self) -> None:
        rows = self.rows([0.5] * 6)
        rows[2]["release.epsilon"] = 3.0
        assert [row["epsilon"] for row in summary(rows, PLAN)] == [3.0, 2.0]
        rows[0]["release.epsilon"] = None
        assert [row["epsilon"] for row in summary(rows, PLAN)] == [None, 2.0]

    def test_every_seed_must_pass(self) -> None:
        rows = self.rows([0.5] * 6, policy="pass")
        assert [row["passes"] for row in summary(rows, PLAN)] == [True, True]
        rows[4]["policy"] = "inconclusive"
        assert [row["passes"] for row in summary(rows, PLAN)] == [True, False]


def test_an_interval_stays_where_a_share_can_be() -> None:
    assert t_interval([0.1, 0.9], 1.0) == (0.0, 1.0)
    assert t_interval([0.1], 1.0) == t_interval([], 1.0) == (None, None)
    low, high = t_interval([100.0, 120.0], float("inf"))
    assert low == 0.0
    assert high is not None
    assert high > 200


def test_the_cheapest_is_by_bytes_then_seconds() -> None:
    rows = [
        {"bytes": 10.0, "seconds": 1.0, "passes": False},
        {"bytes": 20.0, "seconds": 5.0, "passes": True},
        {"bytes": 20.0, "seconds": 4.0, "passes": True},
        {"bytes": 30.0, "seconds": 1.0, "passes": True},
    ]
    assert cheapest(rows) is rows[2]
    assert cheapest(rows[:1]) is None


def test_a_column_is_told_unless_it_follows_from_others() -> None:
    table = [
        {"epsilon": None, "unit": None, "method": "a", "same": 1, "canaries": None, "seed": 1},
        {"epsilon": 1, "unit": "record", "method": "a", "same": 1, "canaries": 20, "seed": 1},
        {"epsilon": 2, "unit": "record", "method": "b", "same": 1, "canaries": None, "seed": 2},
    ]
    assert telling(list(table[0]), table) == ["epsilon", "method", "canaries"]
    assert telling(list(table[0]), table[:1]) == []


def test_columns_have_one_type() -> None:
    table = [
        {"a": 1, "b": "x", "c": True, "d": None, "e": 1},
        {"a": 0.1 + 0.2, "b": None, "c": False, "d": None, "e": 'a,"b"\n'},
    ]
    read = pq.read_table(io.BytesIO(to_parquet(table)))
    assert read.to_pylist() == [{**table[0], "a": 1.0, "e": "1"}, table[1]]
    assert to_csv(table).decode() == 'a,b,c,d,e\n1,x,True,,1\n0.30000000000000004,,False,,"a,""b""\n"\n'


class TestPage:
    def made(self, accuracies: list[float]) -> list[Row]:
        rows = TestSummary().rows(accuracies, policy="pass")
        return summary(rows, PLAN)

    def test_the_cheapest_is_named_and_names_are_escaped(self) -> None:
        settings = self.made([0.5, 0.6, 0.7] * 2)
        settings[0]["bytes"] = 0.25
        rows = [cell(status="failed", reason="<script>alert(1)</script>")]
        text = page(PLAN, rows, settings, POLICY)
        found = Page(text)
        assert "<script" not in text
        assert "The cheapest setting that meets “<lab>”" in found.text
        assert "Setting 1. Cost is bytes" in found.text
        assert "Worst group" in found.text

    def test_every_setting_with_a_promise_is_drawn_and_described(self) -> None:
        settings = self.made([0.5, 0.6, 0.7, 0.8, 0.85, 0.9])
        drawing = chart(list(enumerate(settings, 1)), "record", "add-or-remove", "release")
        assert drawing.count('class="tip"') == 2
        assert "Setting 2: epsilon 2, accuracy 85.0%, on the frontier." in drawing
        assert "Setting 1: epsilon 2, accuracy 60.0%." in drawing
        assert chart(list(enumerate(settings, 1)), "client", "add-or-remove", "release") == ""

    @pytest.mark.parametrize("epsilon", [1e-3, 0.9999, 3.0, 1e6])
    def test_any_epsilon_lies_within_the_drawing(self, epsilon: float) -> None:
        settings = self.made([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
        for row in settings:
            row["epsilon"] = epsilon
        drawing = chart(list(enumerate(settings, 1)), "record", "add-or-remove", "release")
        places = [part.split('"')[0] for part in drawing.split("translate(")[1:]]
        assert len(places) == 2
        for place in places:
            x, y = map(float, place.rstrip(")").split())
            assert 58 < x < 696
            assert 34 <= y <= 324.05
