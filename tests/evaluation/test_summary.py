import json
import re
import shutil
from dataclasses import replace

import pytest

from securefd.config import DataConfig
from securefd.errors import ReportError
from securefd.evaluation.coins import coins_of
from securefd.evaluation.findings import Finding
from securefd.evaluation.recipe import audit
from securefd.evaluation.report import Report
from securefd.evaluation.report_json import from_json
from securefd.evaluation.summary import report
from securefd.result import Run, load_run
from tests.evaluation.runs import DPSGD, config, tossed

OBSERVERS = {"server", "peer", "release", "label-only"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("summary")


@pytest.fixture(scope="module")
def plain(folder) -> Run:
    return tossed(config(folder, "mlp", "logistic", "forest", name="plain", shadows=12), folder / "plain")


@pytest.fixture(scope="module")
def private(folder) -> Run:
    return tossed(
        config(folder, name="private", sealing="masked", privacy=DPSGD, shadows=12), folder / "private"
    )


@pytest.fixture(scope="module")
def audits(plain, private):
    return audit(plain), audit(private)


@pytest.fixture(scope="module")
def both(plain, private, audits) -> Report:
    return report(
        plain, private, audits=audits, substitutions={"private": ["an MLP stands in for the forest"]}
    )


def test_each_run_is_a_variant(both):
    assert [variant.name for variant in both.variants] == ["plain", "private"]
    assert [(v.method, v.sealing, v.privacy) for v in both.variants] == [
        ("balanced", "plain", "none"),
        ("balanced", "masked", "dpsgd"),
    ]
    assert "1 × forest" in both.variants[0].description
    assert both.variants[1].substitutions == ("an MLP stands in for the forest",)
    assert both.title == "plain, private"


def test_it_says_who_sees_what_in_each_sealing(both):
    plain, sealed = ({s.observer: s.sees for s in variant.sights} for variant in both.variants)
    assert set(plain) == set(sealed) == OBSERVERS - {"label-only"}
    assert "each client's answers" in plain["server"]
    assert "sum" in sealed["server"]
    assert "each client's answers" not in sealed["server"]


def test_claims_are_those_of_the_runs(both, plain, private):
    for variant, done in zip(both.variants, (plain, private), strict=True):
        assert [(c.observer, c.subject, c.kind) for c in variant.claims] == [
            (c.observer, c.subject, c.kind) for c in done.claims
        ]
    proven = [claim for claim in both.variants[1].claims if claim.kind == "proven"]
    assert {claim.observer for claim in proven} == OBSERVERS - {"label-only"}
    assert all((c.unit, c.relation, c.delta) == ("record", "add-or-remove", 1e-4) for c in proven)
    assert all(7.9 < claim.epsilon <= 8 for claim in proven)


def test_figures_are_those_of_the_runs(both, plain):
    utility, metrics = both.variants[0].utility, plain.metrics
    assert utility.test_records == metrics["test.records"] == 70
    assert utility.student.value == metrics["student.accuracy"]
    assert utility.clients_together.value == pytest.approx(metrics["clients.accuracy"])
    assert utility.clients_alone.value == pytest.approx(metrics["local.accuracy"])
    assert utility.student.low < utility.student.value < utility.student.high
    assert utility.pooled.value is None
    sent = both.variants[0].communication
    assert sent.up == round(sum(line["bytes.up"] for line in plain.rounds) / 2)
    assert (sent.clients, sent.rounds) == (3, 2)
    weights = sum(value.numel() for value in plain.student.state.values())
    assert sent.weights == 4 * weights


def test_the_ledgers_are_summed_by_kind(both):
    assert both.variants[0].ledger == ()
    charges = both.variants[1].ledger
    assert [c.holder for c in charges] == [f"client {k}" for k in range(3) for _ in range(3)]
    counts, training, everything = charges[:3]
    assert "class counts" in counts.event
    assert counts.count == 1
    assert "DP-SGD" in training.event
    assert training.count == 4
    assert everything.count == 5
    assert max(counts.epsilon, training.epsilon) < everything.epsilon <= 8
    assert everything.epsilon < counts.epsilon + training.epsilon


def test_findings_and_controls_are_those_of_the_audits(both, audits):
    for variant, done in zip(both.variants, audits, strict=True):
        assert [(f.observer, f.attack, f.auc.value, f.judgement) for f in variant.findings] == [
            (f.observer, f.attack, f.auc, f.judgement) for f in done.outcomes
        ]
        assert [c.passed for c in variant.controls] == [c.passed for c in done.controls]
        assert variant.skipped == ()
    rare = both.variants[0].findings[0].rates[-1]
    assert rare.tpr.value is None
    assert "not measurable" in rare.tpr.reason


def test_too_few_federations_make_it_inconclusive_and_it_says_so(both):
    assert both.verdict == "inconclusive"
    assert "run more federations" in both.summary or "could have certified" in both.summary
    assert "strongest attack" in both.summary


def test_what_nothing_protects_is_listed(both):
    plain, private = (" ".join(variant.unprotected) for variant in both.variants)
    assert "no noise was added" in plain
    assert "class counts, of each client" in plain
    assert "class counts" not in private
    assert "no noise was added" not in private
    assert "hyper-parameters" in private
    for text in (plain, private):
        assert "how many records" in text
        assert "what the audit found" in text


def test_a_violated_claim_fails_and_is_named(plain, private, audits):
    finding = replace(
        audits[1].outcomes[0],
        judgement="VIOLATED",
        bound_method="one record",
        confidence=0.95,
        claim_epsilon=8.0,
        epsilon_bound=9.0,
        epsilon_power=9.5,
        reason="at least 9 leaks",
    )
    made = report(private, replace(audits[1], outcomes=(finding, *audits[1].outcomes[1:])))
    assert made.verdict == "fail"
    assert made.summary.startswith(f"A claim is violated: private, server, {finding.attack}")


def test_a_claim_that_held_everywhere_passes(private, audits):
    tested = {
        "judgement": "CONSISTENT",
        "bound_method": "one record",
        "confidence": 0.95,
        "epsilon_bound": 0.5,
        "epsilon_power": 9.0,
        "claim_epsilon": 8.0,
    }
    held = [
        replace(each, **tested)
        for each in audits[1].outcomes
        if each.subject == "the recipe" and isinstance(each, Finding)
    ]
    made = report(private, replace(audits[1], outcomes=tuple(held)))
    assert made.verdict == "pass"
    assert "none is contradicted" in made.summary


def test_failed_controls_and_skipped_checks_are_the_reason_given(private, audits):
    broken = replace(audits[1].controls[0], passed=False, measured="a broken control")
    made = report(private, replace(audits[1], controls=(broken,)))
    assert (made.verdict, "a broken control" in made.summary) == ("inconclusive", True)


# What was audited


def test_an_audit_follows_its_run_or_is_found_in_its_folder(plain, private, audits, both):
    for other in (report(plain, audits[0], private, audits[1]), report(load_run(plain.path), private)):
        assert [v.findings for v in other.variants] == [v.findings for v in both.variants]


def test_a_run_that_was_not_audited_passes_nothing(folder):
    done = tossed(config(folder, name="unaudited", privacy=DPSGD), folder / "unaudited")
    made = report(done)
    (variant,) = made.variants
    assert made.verdict == "inconclusive"
    assert "not audited" in made.summary
    assert {each.observer for each in variant.skipped} == OBSERVERS
    assert (variant.findings, variant.controls) == ((), ())


def test_a_method_without_student_has_no_accuracy_of_one(folder):
    done = tossed(config(folder, method="fd", name="fd"), folder / "fd")
    made = report(done, audit(done))
    (variant,) = made.variants
    assert variant.utility.student.value is None
    assert "'fd'" not in variant.utility.student.reason
    assert variant.communication.weights is None
    assert len(variant.skipped) == 2 * len(OBSERVERS)
    assert made.verdict == "inconclusive"


# What it must not say


def longest_list(value) -> int:
    """Of numbers, truths or words: what could be one entry a record."""
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    plain = isinstance(value, list) and not any(isinstance(each, dict | list) for each in value)
    return max([len(value) if plain else 0, *map(longest_list, children)])


def test_it_holds_no_seed_salt_or_membership(both, plain, private):
    text = Report.model_dump_json(both)
    assert not re.search(r"seed = \d", both.provenance.configuration)
    assert both.provenance.seeds == ()
    for done in (plain, private):
        coins = coins_of(done.path / "audit")
        salts = [path.read_bytes() for path in done.path.glob("clients/*/salt")]
        assert len(salts) == 3
        for secret in (coins.seed, coins.salt, *salts):
            assert secret.hex() not in text
        for client in done.manifest["clients"]:
            assert client["commitment"] not in text
        assert coins.commitment in both.provenance.reproducibility
    assert longest_list(json.loads(text)) < 30 < len(plain.split.clients[0])


def test_the_seed_of_embedded_data_is_public_by_design(folder):
    settings = config(folder, name="digits")
    data = DataConfig(source="digits", public=80, test=1200)
    done = tossed(settings.model_copy(update={"data": data}), folder / "digits")
    made = report(done)
    assert [seed.value for seed in made.provenance.seeds] == [11]
    assert "seed = 11" in made.provenance.configuration


# Files


def test_it_is_written_and_read_back(both, tmp_path):
    paths = both.write(tmp_path / "report", formats=["json", "html"])
    assert from_json(paths[0].read_text()) == both
    page = paths[1].read_text()
    assert "plain" in page
    assert "an MLP stands in for the forest" in page


def test_everything_but_the_volatile_part_is_the_same_again(both, plain, private, audits):
    again = report(
        plain, private, audits=audits, substitutions={"private": ["an MLP stands in for the forest"]}
    )
    first, second = (json.loads(Report.model_dump_json(each)) for each in (both, again))
    first.pop("volatile"), second.pop("volatile")
    assert first == second


# What is refused


def test_runs_that_can_not_be_compared_are_refused(folder, plain):
    with pytest.raises(ReportError, match="at least one run"):
        report()
    with pytest.raises(ReportError, match="different names"):
        report(plain, plain)
    other = tossed(config(folder, name="other").model_copy(update={"seed": 12}), folder / "other")
    with pytest.raises(ReportError, match="public set"):
        report(plain, other)
    versions = replace(plain, manifest={**plain.manifest, "versions": {"securefd": "9"}})
    with pytest.raises(ReportError, match="versions"):
        report(versions, replace(other, manifest=plain.manifest))


def test_audits_must_belong_to_runs(plain, private, audits):
    with pytest.raises(ReportError, match="after the run"):
        report(audits[0], plain)
    with pytest.raises(ReportError, match="one at most"):
        report(plain, *audits)
    with pytest.raises(ReportError, match="one for each of 2 runs"):
        report(plain, private, audits=audits[:1])
    with pytest.raises(ReportError, match="give each audit once"):
        report(plain, audits[0], audits=[audits[0]])


def test_substitutions_of_unknown_runs_and_lost_ledgers_are_refused(plain, private, tmp_path):
    with pytest.raises(ReportError, match="'clinic'"):
        report(plain, substitutions={"clinic": ["x"]})
    copied = tmp_path / "copied"
    shutil.copytree(private.path, copied)
    (copied / "clients" / "1" / "ledger.jsonl").unlink()
    with pytest.raises(ReportError, match=r"ledger .* is missing"):
        report(load_run(copied))


def test_a_name_that_can_not_be_printed_is_refused_in_one_sentence(plain):
    named = plain.config.model_copy(update={"name": "a\x07b"})
    with pytest.raises(ReportError, match="control characters") as refused:
        report(replace(plain, config=named))
    assert "\n" not in str(refused.value)
