"""The published JSON Schema, the OpenDP registry's record and the CycloneDX document, held to schemas."""

import copy
import json

import jsonschema
import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from securefd.cli import main
from securefd.errors import ReportError
from securefd.evaluation import cyclonedx, opendp
from securefd.evaluation.cyclonedx import to_cyclonedx
from securefd.evaluation.opendp import registry_schema, to_opendp
from securefd.evaluation.report import Claim, Estimate, Facts, Part, Utility, accuracy
from securefd.evaluation.report_json import fields_of, schema, to_json
from securefd.evaluation.summary import report as summarise
from tests.evaluation.report_samples import proven, report, variant
from tests.evaluation.runs import DPSGD, config, tossed


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registries")
    return summarise(tossed(config(folder, name="private", sealing="masked", privacy=DPSGD), folder / "run"))


@pytest.fixture(scope="module")
def validator():
    return jsonschema.Draft202012Validator(schema())


class TestSchema:
    def test_it_is_a_schema_with_a_name_and_a_version(self):
        made = schema()
        jsonschema.Draft202012Validator.check_schema(made)
        assert made["$id"] == f"urn:securefd:schema:report:{made['version']}"
        assert made["version"] == report().schema_version

    def test_reports_fit_it(self, validator, real):
        for made in (report(), real):
            validator.validate(json.loads(to_json(made)))

    @pytest.mark.parametrize(
        "change",
        [
            {"more": 1},
            {"verdict": "maybe"},
            {"schema_version": "9.0"},
            {"variants": []},
            {"volatile": {"created": "yesterday", "timings": [], "runs": []}},
        ],
    )
    def test_what_is_no_report_does_not(self, validator, change):
        fields = json.loads(to_json(report())) | change
        assert not validator.is_valid(fields)

    @pytest.mark.parametrize("field", ["verdict", "variants", "limits", "provenance", "volatile"])
    def test_every_field_must_be_there(self, validator, field):
        fields = json.loads(to_json(report()))
        del fields[field]
        assert not validator.is_valid(fields)

    def test_the_command_prints_it(self, capsys):
        assert main(["schema", "report"]) == 0
        assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(schema()))


class TestOpenDp:
    def records(self, made):
        return list(yaml.safe_load_all(to_opendp(made).decode()))

    def test_each_private_variant_is_a_record_that_fits_the_registry(self, real):
        for made, count in ((report(), 2), (real, 1)):
            records = self.records(made)
            assert len(records) == count
            for record in records:
                jsonschema.Draft202012Validator(registry_schema()).validate(record)

    def test_it_tells_the_weakest_claim_and_all_of_them(self):
        weak = proven("peer").model_copy(update={"epsilon": 9.5})
        (record,) = self.records(report(variants=(variant("a", claims=(proven("server"), weak)),)))
        told = record["deployment"]["privacy_loss"]
        assert told["privacy_parameters"] == {"epsilon": 9.5, "delta": 1e-5}
        assert "Towards server: epsilon 8.0 at delta 1e-05" in told["privacy_parameters_details"]
        assert "one record added or removed" in told["privacy_unit_details"]
        assert record["deployment"]["dp_variant"]["variant_name"] == "Approximate DP"
        assert record["deployment"]["administrative"] == {
            "status": "Draft",
            "registry_authors": [opendp.FILL_IN],
            "tier": 2,
        }

    @pytest.mark.parametrize(
        ("privacy", "delta", "model", "name"),
        [("rr", 0.0, "Local", "Pure DP"), ("central", 1e-6, "Central", "Approximate DP")],
    )
    def test_routes_and_kinds_have_the_registrys_names(self, privacy, delta, model, name):
        claim = proven("server").model_copy(update={"delta": delta, "facts": Facts(mechanism="Coins.")})
        (record,) = self.records(report(variants=(variant("a", privacy=privacy, claims=(claim,)),)))
        assert record["deployment"]["deployment_model"]["model_name"] == model
        assert record["deployment"]["dp_variant"]["variant_name"] == name
        assert "Coins." in record["deployment"]["implementation"]["mechanisms"]
        assert record["deployment"]["administrative"]["tier"] == 3

    def test_without_a_proven_claim_about_records_there_is_no_record(self):
        about_answers = proven("server").model_copy(update={"subject": "answers"})
        nothing = Claim(observer="server", kind="none", reason="no noise")
        for claims in ((), (nothing,), (about_answers,)):
            with pytest.raises(ReportError, match="leave out opendp"):
                to_opendp(report(variants=(variant("a", claims=claims),)))

    def test_text_is_never_taken_for_yaml(self):
        title = "yes: [no]\n# & *x | > 'q' \"d\" — é"
        (record,) = self.records(report(title=title, variants=(variant("a"),)))
        assert record["deployment"]["basic"]["name"] == f"{title}: student of a"

    def test_a_record_that_breaks_the_schema_is_not_written(self, monkeypatch):
        strict = copy.deepcopy(registry_schema())
        strict["properties"]["url_slug"]["maxLength"] = 1
        monkeypatch.setattr(opendp, "registry_schema", lambda: strict)
        with pytest.raises(ReportError, match=r"url_slug: .* is too long"):
            to_opendp(report())


class TestCycloneDx:
    def test_it_fits_the_published_schema(self, real):
        for made in (report(), real):
            assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(to_cyclonedx(made).decode()) is None

    def test_each_student_is_a_model_with_its_metrics(self):
        utility = Utility(
            test_records=300,
            student=accuracy(0.9, 300),
            calibration_error=Estimate(value=0.05, low=0.01, high=0.1),
            classes=(Part(name="3", records=30, accuracy=accuracy(0.8, 30)),),
        )
        made = report(variants=(variant("a", utility=utility, student_sha256="cd" * 32),))
        told = json.loads(to_cyclonedx(made))
        model = told["components"][0]
        assert (model["type"], model["name"]) == ("machine-learning-model", "student of a")
        assert model["hashes"] == [{"alg": "SHA-256", "content": "cd" * 32}]
        metrics = model["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
        by_type = {(each["type"], each["slice"]): each for each in metrics}
        assert by_type["accuracy", "300 test records"]["value"] == "0.9"
        assert by_type["expected calibration error", "300 test records"]["confidenceInterval"] == {
            "lowerBound": "0.01",
            "upperBound": "0.1",
        }
        assert by_type["accuracy", "class 3, 30 test records"]["value"] == "0.8"
        auc = by_type["AUC of membership inference", "the recipe, server, LiRA on answers"]
        assert auc["confidenceInterval"] == {"lowerBound": "0.66", "upperBound": "0.75"}
        assert any(each["type"] == "lower bound on epsilon" for each in metrics)
        assert model["modelCard"]["considerations"]["technicalLimitations"] == list(made.limits)
        claims = told["declarations"]["claims"]
        assert "epsilon 8.0, delta 1e-05, unit record" in claims[0]["predicate"]

    def test_what_was_not_measured_is_left_out(self):
        told = json.loads(to_cyclonedx(report()))
        metrics = told["components"][0]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
        assert not any("0.001" in each["type"] for each in metrics)
        assert sum("at FPR 0.1" in each["type"] for each in metrics) == 6

    def test_the_same_report_gives_the_same_bytes_and_another_another_number(self):
        assert to_cyclonedx(report()) == to_cyclonedx(report())
        numbers = {json.loads(to_cyclonedx(report(title=t)))["serialNumber"] for t in ("a", "b")}
        assert len(numbers) == 2

    def test_without_a_student_there_is_nothing_to_list(self):
        utility = Utility(test_records=300, student=Estimate(reason="no student"))
        with pytest.raises(ReportError, match="leave out cyclonedx"):
            to_cyclonedx(report(variants=(variant("a", utility=utility),)))

    def test_a_document_that_breaks_the_schema_is_not_written(self, monkeypatch):
        monkeypatch.setattr(cyclonedx, "_ref", lambda variant: "")
        with pytest.raises(ReportError, match="can't be told in CycloneDX"):
            to_cyclonedx(report())


def test_neither_holds_what_the_report_does_not(real):
    """They are functions of the report alone, so they are as shareable as it is."""
    text = json.dumps(fields_of(real))
    assert not [each for each in real.volatile.runs[0].files if each.hmac_sha256 not in text]
    for made in (to_cyclonedx(real).decode(), to_opendp(real).decode()):
        assert not [each for each in real.volatile.runs[0].files if each.hmac_sha256 in made]
