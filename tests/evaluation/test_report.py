import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy.stats import binomtest

from securefd.errors import ReportError
from securefd.evaluation import formats
from securefd.evaluation.report import (
    STANDING_LIMITS,
    Claim,
    Control,
    Estimate,
    Report,
    Skipped,
    accuracy,
    estimate,
    judge,
    strongest,
)
from securefd.evaluation.report_json import from_json, to_json
from tests.evaluation.report_samples import OBSERVERS, finding, measured, proven, report, variant


def edited(**fields: object) -> str:
    return json.dumps(json.loads(to_json(report())) | fields)


class TestEstimate:
    @pytest.mark.parametrize(("correct", "records"), [(0, 10), (7, 10), (10, 10), (281, 300)])
    def test_accuracy_has_the_wilson_interval(self, correct: int, records: int) -> None:
        ours = accuracy(correct / records, records)
        theirs = binomtest(correct, records).proportion_ci(0.95, method="wilson")
        assert ours.low == pytest.approx(theirs.low, abs=1e-12)
        assert ours.high == pytest.approx(theirs.high, abs=1e-12)

    @given(value=st.floats(0, 1), records=st.integers(1, 10**9))
    def test_wilson_interval_always_holds_the_value(self, value: float, records: int) -> None:
        ours = accuracy(value, records)
        assert ours.low is not None
        assert ours.high is not None
        assert 0 <= ours.low <= value <= ours.high <= 1

    @pytest.mark.parametrize(("value", "records"), [(math.nan, 10), (70.0, 10), (-0.1, 10), (0.5, 0)])
    def test_accuracy_out_of_range_is_refused(self, value: float, records: int) -> None:
        with pytest.raises(ReportError, match="must be"):
            accuracy(value, records)

    @pytest.mark.parametrize("value", [None, math.nan, math.inf])
    def test_no_figure_becomes_a_reason(self, value: float | None) -> None:
        assert estimate(value, 0.1, 0.2, otherwise="no members") == Estimate(reason="no members")

    def test_an_interval_that_is_not_finite_is_left_out(self) -> None:
        assert estimate(0.5, math.nan, 0.6) == Estimate(value=0.5)

    @pytest.mark.parametrize(
        "fields",
        [
            {},
            {"value": math.nan},
            {"value": 0.5, "low": 0.1},
            {"value": 0.5, "low": 0.6, "high": 0.7},
            {"low": 0.1, "high": 0.2, "reason": "x"},
        ],
    )
    def test_half_an_estimate_is_refused(self, fields: dict[str, float]) -> None:
        with pytest.raises(ValidationError):
            Estimate.model_validate(fields)


class TestHonesty:
    def test_a_proven_claim_states_everything(self) -> None:
        with pytest.raises(ValidationError, match="unit and relation"):
            Claim(observer="server", kind="proven", epsilon=1.0, delta=0.0, reason="x")

    def test_no_epsilon_without_a_proof(self) -> None:
        with pytest.raises(ValidationError, match="no epsilon"):
            Claim(observer="server", kind="none", epsilon=1.0, reason="x")

    def test_power_below_the_claim_is_never_consistent(self) -> None:
        with pytest.raises(ValidationError, match="power above the claim"):
            finding(judgement="CONSISTENT", claim_epsilon=8.0, epsilon_power=3.0)

    def test_a_bound_within_the_claim_is_no_violation(self) -> None:
        with pytest.raises(ValidationError, match="above a claim"):
            finding(judgement="VIOLATED", epsilon_bound=0.4, claim_epsilon=8.0)

    def test_a_violation_fails_the_report(self) -> None:
        violated = finding(judgement="VIOLATED", epsilon_bound=9.0)
        with pytest.raises(ValidationError, match="verdict fail"):
            report(variants=(variant("a", findings=(violated,)),), verdict="inconclusive")

    def test_an_empty_report_does_not_pass(self) -> None:
        with pytest.raises(ValidationError, match="does not pass"):
            report(variants=(variant("a", findings=()),), verdict="pass")

    def test_two_variants_of_one_name_are_refused(self) -> None:
        with pytest.raises(ValidationError, match="different names"):
            report(variants=(variant("a"), variant("a")))

    def test_the_standing_limits_are_there_by_default(self) -> None:
        assert report().limits == STANDING_LIMITS

    def test_no_field_could_hold_a_secret_or_a_membership(self) -> None:
        schema = json.dumps(Report.model_json_schema()).lower()
        for word in ('"salt', '"member', '"scores', '"noise_seed', '"private'):
            assert word not in schema


class TestVerdict:
    held = tuple(
        finding(observer=o, judgement="CONSISTENT", epsilon_power=9.0, claim_epsilon=8.0) for o in OBSERVERS
    )

    def test_pass_when_every_claim_was_tested_and_held(self) -> None:
        assert judge([variant("a", findings=self.held, skipped=())]) == "pass"

    def test_fail_when_one_is_violated(self) -> None:
        violated = finding(judgement="VIOLATED", epsilon_bound=9.0)
        assert judge([variant("a", findings=(*self.held, violated), skipped=())]) == "fail"

    @pytest.mark.parametrize(
        "changes",
        [
            {"findings": (*held[1:], finding(observer=OBSERVERS[0]))},
            {"findings": held[:2]},
            {"skipped": (Skipped(subject="this run", observer="peer", attack="loss", reason="x"),)},
            {"controls": (Control(kind="null", attack="loss", measured="x", passed=False),)},
            {"controls": ()},
            {"claims": (proven("keyholder"),)},
            {"findings": (), "claims": ()},
        ],
    )
    def test_inconclusive_when_anything_is_missing(self, changes: dict[str, object]) -> None:
        assert judge([variant("a", **({"findings": self.held, "skipped": ()} | changes))]) == "inconclusive"

    def test_a_variant_without_a_promise_changes_nothing(self) -> None:
        promises = variant("a", findings=self.held, skipped=())
        nothing = variant("b", claims=(), findings=(finding(claim_epsilon=None),))
        assert judge([promises, nothing]) == "pass"
        assert judge([nothing]) == "inconclusive"

    def test_no_variants_are_inconclusive(self) -> None:
        assert judge([]) == "inconclusive"


def test_strongest_leaves_out_what_was_not_measured() -> None:
    unmeasured = measured(auc=Estimate(reason="no shadows"))
    weak, strong = measured(auc=estimate(0.4)), measured(auc=estimate(0.6))
    assert strongest([unmeasured, weak, strong]) == strong
    assert strongest([unmeasured]) is None
    assert strongest([finding(auc=estimate(0.9)), weak]) == weak  # of one record that was chosen for it


class TestJson:
    def test_it_reads_back_the_same(self) -> None:
        assert from_json(to_json(report())) == report()

    def test_the_same_report_gives_the_same_text(self) -> None:
        text = to_json(report())
        assert text == to_json(report()) == to_json(from_json(text))
        assert json.loads(text) == json.loads(text, object_pairs_hook=lambda pairs: dict(sorted(pairs)))
        assert list(json.loads(text)) == sorted(json.loads(text))

    def test_every_number_is_finite(self) -> None:
        def refuse(constant: str) -> float:
            raise AssertionError(constant)

        json.loads(to_json(report()), parse_constant=refuse)

    @given(st.floats(allow_nan=False, allow_infinity=False))
    def test_floats_survive_exactly(self, value: float) -> None:
        sample = report(variants=(variant("a", findings=(finding(auc=Estimate(value=value)),)),))
        assert from_json(to_json(sample)).variants[0].findings[0].auc.value == value

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "r.json: not JSON"),
            ("[]", "r.json: a report must be a JSON object"),
            ("[" * 100_000, "r.json: not JSON"),
            ('{"title": 1, "title": 2}', "occurs twice"),
            ('{"title": NaN}', "NaN is not a JSON number"),
            (edited(schema_version="2.0"), "2.0 is newer than 1.0.*upgrade"),
            (edited(schema_version="1.1"), "1.1 is newer than 1.0"),
            (edited(schema_version="0.9"), "schema_version must be '1.0', got '0.9'"),
            (edited(schema_version="latest"), "schema_version must be"),
            (edited(schema_version=None), "schema_version must be"),
            (edited(extra=1), "r.json: extra: Extra inputs"),
            (edited(title=7), "r.json: title: "),
            (edited(verdict="fine"), "r.json: verdict: "),
            (edited(variants=[]), "r.json: variants: "),
            (edited(volatile={"created": "yesterday", "timings": []}), "r.json: volatile.created: "),
            (to_json(report()).replace("7.9", "1e999", 1), "ledger.0.epsilon: "),
            (edited(title="a\u0007b"), "control characters"),
        ],
    )
    def test_a_bad_file_is_refused_by_field(self, text: str, message: str) -> None:
        with pytest.raises(ReportError, match=message):
            from_json(text, source="r.json")

    def test_a_missing_field_is_named(self) -> None:
        fields = json.loads(to_json(report()))
        del fields["variants"][1]["findings"][2]["auc"]
        with pytest.raises(ReportError, match=r"variants\.1\.findings\.2\.auc: Field required"):
            from_json(json.dumps(fields))


class TestWrite:
    def test_it_writes_every_format_beside_the_stem(self, tmp_path: Path) -> None:
        paths = report().write(tmp_path / "new" / "v1.2", ["json", "html"])
        assert paths == (tmp_path / "new" / "v1.2.json", tmp_path / "new" / "v1.2.html")
        assert from_json(paths[0].read_text(encoding="utf-8")) == report()
        assert paths[1].read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
        assert sorted(p.name for p in paths[0].parent.iterdir()) == ["v1.2.html", "v1.2.json"]

    @pytest.mark.parametrize("names", [["docx"], []])
    def test_an_unknown_format_is_refused(self, tmp_path: Path, names: list[str]) -> None:
        with pytest.raises(ReportError, match=r"formats must be among .*html, json.*, got (none|'docx')"):
            report().write(tmp_path / "r", names)
        assert not any(tmp_path.iterdir())

    def test_a_crash_leaves_the_old_file_whole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "r.json").write_text("old")

        def crash(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(formats.os, "fsync", crash)
        with pytest.raises(ReportError, match=r"r\.json can't be written: No space left"):
            report().write(tmp_path / "r")
        assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("r.json", "old")]
