"""Rules of a policy, as somebody would see them who wants to pass without deserving it."""

import html
import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from securefd.evaluation.html import render
from securefd.evaluation.policy import Policy, parse_policy
from securefd.evaluation.policy_rules import judge_policy, judge_report
from securefd.evaluation.report import (
    Claim,
    Communication,
    Control,
    Estimate,
    Finding,
    PolicyResult,
    RateAt,
    Report,
    Skipped,
    Utility,
    Variant,
    accuracy,
    estimate,
)
from securefd.evaluation.report_json import from_json, to_json
from securefd.evaluation.rulings import exactly, lowered, raised
from securefd.evaluation.sections import document
from tests.evaluation.report_samples import OBSERVERS, finding, measured, proven, report, variant

RULES = """
name = "strict"

[[privacy]]
observers = ["server", "peer", "release"]
unit = "record"
relation = "add-or-remove"
epsilon = 8.0
delta = 1e-5

[[claims]]
observers = ["server"]
subject = "answers"
kinds = ["cryptographic"]

[federation]
sealing = ["masked"]
clients = 5
threshold = 4

[[attacks]]
observers = ["server", "peer", "release"]
fpr = 0.01
tpr = 0.05

[[audits]]
observers = ["server", "peer", "release"]
power = 2.0

[accuracy]
student = 0.85
clients_together = 0.6

[dependencies]
torch = "2.6"
scikit_learn = "1.5"
"""
VERSIONS = {"torch": "2.13.0+cpu", "scikit-learn": "1.9.1", "securefd": "0.1.0", "python": "3.11.9"}
SECRET = Claim(
    observer="server", subject="answers", kind="cryptographic", assumption="AES holds", reason="sum"
)
CONTROLS = (
    Control(kind="null", attack="lira", measured="nothing", passed=True),
    Control(kind="positive", attack="lira", measured="what was planted", passed=True),
)


def at(fpr: float, *figures: float, confidence: float = 0.95) -> RateAt:
    return RateAt(fpr=fpr, tpr=estimate(*figures, confidence=confidence))


def attack(observer: str, **changes: object) -> Finding:
    return measured(observer=observer, **({"rates": (at(0.01, 0.02, 0.01, 0.04),)} | changes))


def test_of(observer: str, **changes: object) -> Finding:
    """A test that could have certified more than is claimed."""
    fields = {"judgement": "CONSISTENT", "epsilon_power": 9.0, "reason": "within"}
    return finding(observer=observer, **(fields | changes))


test_of.__test__ = False  # type: ignore[attr-defined]


def good(**changes: object) -> Variant:
    """Meets all rules, by a little."""
    fields = {
        "threshold": 4,
        "claims": (*map(proven, OBSERVERS), SECRET),
        "utility": Utility(test_records=300, student=accuracy(0.9, 300), clients_together=accuracy(0.7, 300)),
        "communication": Communication(up=1, down=1, clients=5, rounds=1),
        "findings": (*map(attack, OBSERVERS), *map(test_of, OBSERVERS)),
        "skipped": (),
        "controls": CONTROLS,
    }
    return variant("good", **(fields | changes))


def policy(*kept: str) -> Policy:
    """All rules, or those of some tables."""
    whole = parse_policy(RULES)
    if not kept:
        return whole
    return Policy.model_validate({"name": "some", **{name: getattr(whole, name) for name in kept}})


def judged(rules: Policy, *variants: Variant, versions: dict[str, str] = VERSIONS) -> PolicyResult:
    return judge_policy(rules, variants, versions)


def results(found: PolicyResult, rule: str) -> list[str]:
    return [each.result for each in found.results if each.rule == rule]


def claim(observer: str = "server", **changes: object) -> Claim:
    return Claim.model_validate({**dict(proven(observer)), **changes})


def none_to(observer: str, subject: str = "records") -> Claim:
    return Claim(observer=observer, subject=subject, kind="none", reason="no noise was added")


OTHERS = tuple(map(proven, OBSERVERS[1:]))


def test_what_meets_every_rule_passes_and_each_is_reported():
    found = judged(policy(), good())
    assert found.verdict == "pass"
    assert [each.rule for each in found.results] == [
        "violations",
        *["privacy[0]"] * 3,
        "claims[0]",
        "federation.sealing",
        "federation.clients",
        "federation.threshold",
        *["attacks[0]"] * 3,
        *["audits[0]"] * 3,
        "accuracy.student",
        "accuracy.clients_together",
        "dependencies.torch",
        "dependencies.scikit_learn",
    ]
    assert (found.name, found.sha256) == ("strict", policy().sha256)


CHEATS = {
    "no claim at all": ("privacy[0]", {"claims": ()}, "fail"),
    "a claim to the others only": ("privacy[0]", {"claims": OTHERS}, "fail"),
    "a claim of none": ("privacy[0]", {"claims": (none_to("server"), *OTHERS)}, "fail"),
    "a claim of none beside a proven one": (
        "privacy[0]",
        {"claims": (proven("server"), none_to("server"), *OTHERS)},
        "fail",
    ),
    "a proven claim about answers": (
        "privacy[0]",
        {"claims": (claim(subject="answers"), *OTHERS)},
        "fail",
    ),
    "secrecy for privacy": ("privacy[0]", {"claims": (SECRET, *OTHERS)}, "fail"),
    "epsilon a little above": (
        "privacy[0]",
        {"claims": (claim(epsilon=math.nextafter(8, 9)), *OTHERS)},
        "fail",
    ),
    "delta a little above": ("privacy[0]", {"claims": (claim(delta=1.0001e-5), *OTHERS)}, "fail"),
    "a second claim that is worse": (
        "privacy[0]",
        {"claims": (claim(epsilon=9.0), proven("server"), *OTHERS)},
        "fail",
    ),
    "another relation": (
        "privacy[0]",
        {"claims": (claim(relation="replace-one", epsilon=0.1), *OTHERS)},
        "inconclusive",
    ),
    "another unit": ("privacy[0]", {"claims": (claim(unit="client", epsilon=0.1), *OTHERS)}, "inconclusive"),
    "no secrecy": ("claims[0]", {"claims": (*map(proven, OBSERVERS),)}, "fail"),
    "no secrecy, said so": ("claims[0]", {"claims": (none_to("server", "answers"), SECRET)}, "fail"),
    "secrecy towards somebody else": (
        "claims[0]",
        {"claims": (Claim.model_validate({**dict(SECRET), "observer": "keyholder"}),)},
        "fail",
    ),
    "secrecy of another kind": ("claims[0]", {"claims": (claim(subject="answers"),)}, "fail"),
    "unsealed": ("federation.sealing", {"sealing": "plain"}, "fail"),
    "sealed in a way that isn't allowed": ("federation.sealing", {"sealing": "homomorphic"}, "fail"),
    "too few clients": (
        "federation.clients",
        {"communication": Communication(up=1, down=1, clients=4, rounds=1)},
        "fail",
    ),
    "a low threshold": ("federation.threshold", {"threshold": 3}, "fail"),
    "a threshold without sealing": ("federation.threshold", {"sealing": "plain", "threshold": 4}, "fail"),
    "no threshold recorded": ("federation.threshold", {"threshold": None}, "inconclusive"),
    "a contradicted claim": (
        "violations",
        {"findings": (*good().findings, test_of("server", judgement="VIOLATED", epsilon_bound=8.5))},
        "fail",
    ),
    "a contradicted claim, judged by a larger one": (
        "violations",
        {
            "findings": (
                *good().findings,
                test_of("server", claim_epsilon=1e3, epsilon_bound=8.5, epsilon_power=2e3),
            )
        },
        "fail",
    ),
    "the same from labels alone": (
        "violations",
        {
            "findings": (
                *good().findings,
                test_of("label-only", claim_epsilon=1e3, epsilon_bound=8.5, epsilon_power=2e3),
            )
        },
        "fail",
    ),
    "no finding": ("violations", {"findings": ()}, "inconclusive"),
    "a skipped check": (
        "violations",
        {"skipped": (Skipped(subject="this run", observer="peer", attack="all", reason="saw nothing"),)},
        "inconclusive",
    ),
    "a failed control": (
        "violations",
        {"controls": (CONTROLS[0], Control(kind="positive", attack="lira", measured="blind", passed=False))},
        "inconclusive",
    ),
    "no control": ("violations", {"controls": ()}, "inconclusive"),
    "no positive control": ("violations", {"controls": CONTROLS[:1]}, "inconclusive"),
    "the point within, the interval not": (
        "attacks[0]",
        {"findings": (*good().findings, attack("peer", rates=(at(0.01, 0.02, 0.01, 0.0501),)))},
        "fail",
    ),
    "the strongest of many attacks": (
        "attacks[0]",
        {"findings": (*good().findings, attack("peer", attack="another", rates=(at(0.01, 0.5, 0.4, 0.6),)))},
        "fail",
    ),
    "a strong attack in an unsound audit": (
        "attacks[0]",
        {"findings": (attack("server", rates=(at(0.01, 0.5, 0.4, 0.6),)),), "controls": ()},
        "fail",
    ),
    "not measurable": (
        "attacks[0]",
        {"findings": (*good().findings, attack("server", rates=(at(0.01, math.nan),)))},
        "inconclusive",
    ),
    "measured elsewhere": (
        "attacks[0]",
        {"findings": (*good().findings, attack("server", rates=(at(0.001, 0.0, 0.0, 0.001),)))},
        "inconclusive",
    ),
    "no interval": (
        "attacks[0]",
        {"findings": (*good().findings, attack("server", rates=(at(0.01, 0.01),)))},
        "inconclusive",
    ),
    "an interval that holds half the time": (
        "attacks[0]",
        {
            "findings": (
                *good().findings,
                attack("server", rates=(at(0.01, 0.02, 0.02, 0.02, confidence=0.5),)),
            )
        },
        "inconclusive",
    ),
    "one observer not attacked": (
        "attacks[0]",
        {"findings": (attack("server"), attack("release"), *map(test_of, OBSERVERS))},
        "inconclusive",
    ),
    "another subject attacked": (
        "attacks[0]",
        {"findings": (*map(attack, OBSERVERS[1:]), attack("server", subject="this run"))},
        "inconclusive",
    ),
    "tests alone": ("attacks[0]", {"findings": tuple(map(test_of, OBSERVERS))}, "inconclusive"),
    "attacks by a blind audit": ("attacks[0]", {"controls": ()}, "inconclusive"),
    "the strong attack skipped": (
        "attacks[0]",
        {"skipped": (Skipped(subject="the recipe", observer="peer", attack="lira", reason="too few"),)},
        "inconclusive",
    ),
    "not audited": ("audits[0]", {"findings": ()}, "inconclusive"),
    "one observer not audited": (
        "audits[0]",
        {"findings": tuple(f for f in good().findings if f.observer != "peer")},
        "inconclusive",
    ),
    "an audit that could show nothing": (
        "audits[0]",
        {
            "findings": (
                *map(attack, OBSERVERS),
                *(test_of(o, epsilon_power=1.9, judgement="INCONCLUSIVE") for o in OBSERVERS),
            )
        },
        "inconclusive",
    ),
    "an audit without a test": ("audits[0]", {"findings": tuple(map(attack, OBSERVERS))}, "inconclusive"),
    "an audit that measured nothing": (
        "audits[0]",
        {"findings": tuple(test_of(o, auc=Estimate(reason="no member")) for o in OBSERVERS)},
        "inconclusive",
    ),
    "an audit skipped in part": (
        "audits[0]",
        {"skipped": (Skipped(subject="the recipe", observer="peer", attack="lira", reason="too few"),)},
        "inconclusive",
    ),
    "an audit with a failed null control": (
        "audits[0]",
        {"controls": (Control(kind="null", attack="lira", measured="a leak", passed=False), CONTROLS[1])},
        "inconclusive",
    ),
    "accurate by chance": (
        "accuracy.student",
        {"utility": Utility(test_records=30, student=accuracy(0.9, 30))},
        "fail",
    ),
    "no student": ("accuracy.student", {"utility": Utility(test_records=300)}, "inconclusive"),
    "an accuracy without interval": (
        "accuracy.student",
        {"utility": Utility(test_records=300, student=Estimate(value=0.99))},
        "inconclusive",
    ),
    "an accuracy of little confidence": (
        "accuracy.student",
        {"utility": Utility(test_records=30, student=accuracy(0.9, 30, confidence=0.1))},
        "inconclusive",
    ),
}


@pytest.mark.parametrize(("rule", "changes", "result"), CHEATS.values(), ids=CHEATS)
def test_a_cheat_does_not_pass(rule, changes, result):
    found = judged(policy(), good(**changes))
    assert found.verdict != "pass"
    assert result in results(found, rule)
    worst = next(each for each in found.results if (each.rule, each.result) == (rule, result))
    assert worst.reason
    assert worst.measured
    assert worst.uncertainty


@pytest.mark.parametrize(("delta", "result"), [(1e-7, "pass"), (1e-5, "fail"), (1e-3, "fail")])
def test_a_bound_contradicts_claims_at_its_delta_or_a_smaller_one(delta, result):
    """At a smaller delta than the claim's more epsilon may leak."""
    bound = test_of("server", claim_epsilon=1e3, epsilon_bound=8.5, epsilon_power=2e3, delta=delta)
    found = judged(policy("privacy"), good(findings=(*good().findings, bound)))
    assert results(found, "violations") == [result]


@pytest.mark.parametrize("result", ["fail", "inconclusive"])
def test_a_bad_variant_is_not_hidden_behind_a_good_one(result):
    changes = {"fail": {"sealing": "plain"}, "inconclusive": {"findings": ()}}[result]
    bad = Variant.model_validate({**dict(good(**changes)), "name": "bad"})
    for variants in ((good(), bad), (bad, good())):
        found = judged(policy("federation"), *variants)
        assert found.verdict == result
        assert {each.variant for each in found.results if each.result != "pass"} == {"bad"}


@pytest.mark.parametrize("kept", ["privacy", "claims", "federation", "accuracy", "dependencies"])
def test_without_a_single_finding_nothing_passes(kept):
    """Even where no rule asks for an audit: nothing was looked at."""
    found = judged(policy(kept), good(findings=(), controls=()))
    assert found.verdict == "inconclusive"
    assert results(found, "violations") == ["inconclusive"]


@pytest.mark.parametrize(
    ("judgement", "promised", "result"),
    [
        ("CONSISTENT", 8.0, "pass"),
        ("INCONCLUSIVE", 8.0, "inconclusive"),
        ("INCONCLUSIVE", None, "inconclusive"),
    ],
)
def test_a_claim_must_have_been_tested_where_that_is_asked_for(judgement, promised, result):
    rules = parse_policy('name = "x"\n[[audits]]\nobservers = ["server"]\nclaims_tested = true')
    tested = test_of("server", judgement=judgement, claim_epsilon=promised)
    found = judged(rules, good(findings=(attack("server"), tested)))
    assert results(found, "audits[0]") == [result]


def test_this_run_is_not_the_recipe():
    rules = parse_policy(
        'name = "x"\n[[audits]]\nobservers = ["server"]\nsubjects = ["this run", "the recipe"]\n'
        '[[attacks]]\nobservers = ["server"]\nsubjects = ["this run", "the recipe"]\nfpr = 0.01\ntpr = 0.05'
    )
    found = judged(rules, good(findings=(attack("server"),)))
    assert results(found, "audits[0]") == results(found, "attacks[0]") == ["inconclusive", "pass"]
    both = judged(rules, good(findings=(attack("server"), attack("server", subject="this run"))))
    assert both.verdict == "pass"


@pytest.mark.parametrize(
    ("ran", "result"),
    [
        ("2.6", "pass"),
        ("2.6.0", "pass"),
        ("2.10.0", "pass"),
        ("2.6.0+cpu", "pass"),
        ("2.5.9", "fail"),
        ("2.6.0rc1", "fail"),
        ("2.6.dev1", "fail"),
        ("a fork", "inconclusive"),
        (None, "inconclusive"),
    ],
)
def test_versions_are_compared_as_versions(ran, result):
    versions = VERSIONS | {"torch": ran} if ran else {"numpy": "2"}
    found = judged(policy("dependencies"), good(), versions=versions)
    assert results(found, "dependencies.torch") == [result]


FIGURES = st.lists(
    st.tuples(st.sampled_from(["none", "bare", "whole"]), *[st.floats(0, 1)] * 3), min_size=0, max_size=4
)


@given(figures=FIGURES, sound=st.booleans(), limit=st.floats(0.02, 0.9))
def test_rates_are_judged_as_plainly_as_can_be(figures, sound, limit):
    attacks, highs, whole = [], [], bool(figures)
    for kind, *three in figures:
        low, value, high = sorted(three)
        if kind == "whole":
            attacks.append(attack("server", rates=(at(0.01, value, low, high),)))
            highs.append(high)
        else:
            attacks.append(attack("server", rates=(at(0.01, value if kind == "bare" else math.nan),)))
            whole = False
    rules = parse_policy(f'name = "x"\n[[attacks]]\nobservers = ["server"]\nfpr = 0.01\ntpr = {limit!r}')
    found = judged(rules, good(findings=tuple(attacks), controls=CONTROLS if sound else ()))
    expected = (
        "fail" if any(high > limit for high in highs) else "pass" if whole and sound else "inconclusive"
    )
    assert results(found, "attacks[0]") == [expected]


@given(st.floats(1e-12, 1e12))
def test_a_printed_bound_bounds(value):
    assert float(lowered(value)) <= value <= float(raised(value))
    assert float(raised(value)) - float(lowered(value)) <= 1.01e-3 * value
    assert float(exactly(value)) == value


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [(8.0, "8", "8"), (8.00001, "8", "8.001"), (1e-5, "1e-05", "1e-05"), (0.0, "0", "0")],
)
def test_figures_print_shortly(value, low, high):
    assert (lowered(value), raised(value)) == (low, high)


def test_what_fails_prints_above_its_limit():
    found = judged(policy("privacy"), good(claims=(claim(epsilon=8.0001), *OTHERS)))
    failed = next(each for each in found.results if each.result == "fail")
    assert "epsilon 8.001" in failed.measured
    assert "epsilon at most 8 " in failed.requires
    assert failed.observer == "server"


class TestInAReport:
    def made(self, **changes: object) -> Report:
        found = judged(policy(), good())
        return report(**({"verdict": "pass", "variants": (good(),), "policy": found} | changes))

    def test_it_is_bound_in_and_judged_again_to_the_same(self):
        made = self.made()
        versions = {each.name: each.version for each in made.provenance.packages}
        assert made.policy.sha256 == policy().sha256
        assert judge_report(policy("federation"), made) == judged(
            policy("federation"), good(), versions=versions
        )

    def test_json_holds_it(self):
        made = self.made()
        assert from_json(to_json(made)) == made
        assert json.loads(to_json(made))["policy"]["sha256"] == policy().sha256

    def test_the_page_shows_every_result_and_marks_nothing_up(self):
        found = judged(Policy.model_validate({**dict(policy()), "name": "<b>sly"}), good(sealing="plain"))
        page = render(self.made(verdict="fail", policy=found))
        assert "&lt;b&gt;sly" in page
        assert "<b>sly" not in page
        assert found.sha256 in page
        section = page.partition('<section aria-labelledby="policy">')[2].partition("</section>")[0]
        shown = re.sub(r"<(?!/?t[rdh])[^>]*>", "", section)
        assert section.count("<tr") == 2 + len(found.results)
        for each in found.results:
            for text in (each.rule, each.requires, each.measured, each.reason, each.result):
                assert html.escape(text).replace("&#x27;", "&#39;") in shown

    def test_printed_forms_have_it_first(self):
        found = judged(policy(), good(sealing="plain"))
        made = document(self.made(verdict="fail", policy=found))
        (table,) = made.sections[0].blocks
        (group,) = table.groups
        assert made.sections[0].title == "Policy"
        assert found.sha256 in made.answers[-1].lines[0]
        assert [tuple(cell.text for cell in row) for row in group.rows] == [
            (each.rule, each.requires, each.measured, each.result, each.reason) for each in found.results
        ]
        bare = document(report())
        assert "Policy" not in [section.title for section in bare.sections]
        assert bare.answers[-1].lines[0] == "Claims alone: no policy was given."

    def test_without_a_policy_the_page_has_no_such_section(self):
        assert 'id="policy"' not in render(report())

    def test_python_and_securefd_count_as_packages(self):
        rules = parse_policy('name = "x"\n[dependencies]\npython = "3.11"\nsecurefd = "0.2"\ntorch = "2.6"')
        found = judge_report(rules, self.made())
        assert [each.result for each in found.results[1:]] == ["pass", "fail", "pass"]

    @pytest.mark.parametrize("verdict", ["fail", "inconclusive"])
    def test_the_verdict_is_the_policys(self, verdict):
        with pytest.raises(ValidationError, match="the verdict is the policy's"):
            self.made(verdict=verdict)

    def test_no_variant_is_left_out(self):
        other = Variant.model_validate({**dict(good()), "name": "other"})
        with pytest.raises(ValidationError, match="for every variant, and for no other"):
            self.made(variants=(good(), other))
        with pytest.raises(ValidationError, match="for every variant, and for no other"):
            self.made(variants=(other,))

    def test_a_violation_is_not_hidden_by_results_without_it(self):
        broken = good(findings=(test_of("server", judgement="VIOLATED", epsilon_bound=8.5),))
        with pytest.raises(ValidationError, match="a violated claim makes the verdict fail"):
            self.made(variants=(broken,))

    def test_a_policy_is_no_better_than_its_worst_rule(self):
        found = judged(policy(), good(sealing="plain"))
        fields = found.model_dump() | {"verdict": "pass"}
        with pytest.raises(ValidationError, match="that of its worst rule, fail, got pass"):
            PolicyResult.model_validate(fields)
        with pytest.raises(ValidationError):
            PolicyResult.model_validate(fields | {"results": ()})
