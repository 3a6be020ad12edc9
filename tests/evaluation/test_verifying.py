"""Verifying a report, its other forms and its run's folder, with any byte changed, and reproducing it."""

import json
import os
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from securefd.cli import main
from securefd.config import DataConfig, load_config
from securefd.defenses.keys import create_identity, read_identity
from securefd.errors import ReportError, RunError
from securefd.evaluation import report_json, signing
from securefd.evaluation.formats import FORMATS
from securefd.evaluation.report import RunFiles
from securefd.evaluation.report_json import fields_of, from_json
from securefd.evaluation.run_files import FILES
from securefd.evaluation.summary import report as summarise
from securefd.evaluation.verifying import verify
from securefd.runner import run
from tests.evaluation.report_samples import report, variant
from tests.evaluation.runs import DPSGD, config, tossed


@pytest.fixture(scope="module")
def keys(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    create_identity(folder, "clinic")
    create_identity(folder, "other")
    return folder


@pytest.fixture
def stem(tmp_path, keys) -> Path:
    """A signed report without a run, in two files."""
    report(variants=(variant("a"),)).write(tmp_path / "report", ["json", "html"], keys / "clinic.key")
    return tmp_path / "report"


def altered(path: Path, key: Path | None = None, runs=()) -> str:
    """What was found altered, after checking that something was."""
    found = verify(path, key=key, runs=runs)
    assert found.exit_code == 1
    assert found.outcome == "altered"
    return "; ".join(found.altered)


def flipped(content: bytes, rng: random.Random, times: int) -> Iterator[bytes]:
    for place in {0, len(content) - 1, *(rng.randrange(len(content)) for _ in range(times))}:
        changed = bytearray(content)
        changed[place] ^= 1 << rng.randrange(8)
        yield bytes(changed)


class TestReport:
    def test_what_was_signed_is_valid_with_the_right_key_alone(self, stem, keys):
        path = stem.with_name("report.json")
        found = verify(path, key=keys / "clinic.pub")
        assert (found.outcome, found.exit_code, found.altered, found.missing) == ("valid", 0, (), ())
        assert found.report == report(variants=(variant("a"),))
        assert any("html" in each for each in found.checked)
        assert "trusted key" in altered(path, keys / "other.pub")
        unknown = verify(path)
        assert (unknown.outcome, unknown.exit_code, unknown.keyid) == ("not trusted", 3, found.keyid)

    @pytest.mark.parametrize("seed", range(3))
    def test_no_byte_of_the_report_or_its_forms_can_change(self, stem, keys, seed):
        rng = random.Random(seed)
        for ending in ("json", "html"):
            path = stem.with_name(f"report.{ending}")
            whole = path.read_bytes()
            for content in flipped(whole, rng, 60):
                path.write_bytes(content)
                altered(stem.with_name("report.json"), keys / "clinic.pub")
            path.write_bytes(whole + b"\n")
            altered(stem.with_name("report.json"), keys / "clinic.pub")
            path.write_bytes(whole[:-1])
            altered(stem.with_name("report.json"), keys / "clinic.pub")
            path.write_bytes(whole)
        assert verify(stem.with_name("report.json"), key=keys / "clinic.pub").exit_code == 0

    def test_a_changed_form_is_noticed_without_any_key(self, stem):
        stem.with_name("report.html").write_bytes(b"<p>All is well.</p>")
        assert "isn't the form that was signed" in altered(stem.with_name("report.json"))

    def test_a_missing_form_is_said_and_a_foreign_one_is_refused(self, stem, keys):
        stem.with_name("report.html").unlink()
        found = verify(stem.with_name("report.json"), key=keys / "clinic.pub")
        assert found.exit_code == 0
        assert [Path(each).name for each in found.missing] == ["report.html"]
        stem.with_name("report.cdx.json").write_text("{}")
        assert "isn't one of the forms" in altered(stem.with_name("report.json"), keys / "clinic.pub")

    def test_a_report_signed_over_no_other_form_knows_no_form(self, tmp_path, keys):
        report().write(tmp_path / "r", ["json"], keys / "clinic.key")
        (tmp_path / "r.html").write_text("<p>All is well.</p>")
        assert "isn't one of the forms" in altered(tmp_path / "r.json", keys / "clinic.pub")

    def test_files_may_be_renamed_together(self, stem, keys):
        for ending in ("json", "html"):
            stem.with_name(f"report.{ending}").rename(stem.with_name(f"final.{ending}"))
        found = verify(stem.with_name("final.json"), key=keys / "clinic.pub")
        assert (found.exit_code, found.missing) == (0, ())

    def test_a_plain_report_vouches_for_nothing(self, tmp_path, keys):
        (path,) = report().write(tmp_path / "plain", ["json"])
        found = verify(path)
        assert (found.exit_code, found.keyid, found.report) == (3, "", report())
        assert "isn't signed" in altered(path, keys / "clinic.pub")
        path.write_text(path.read_text().replace("\n", "\n\n", 1))
        assert "added or rewritten" in altered(path)

    def test_a_doctored_statement_is_refused_even_if_it_is_signed(self, tmp_path, keys):
        """By a signer who means to deceive readers of the statement alone."""
        identity = read_identity(keys / "clinic.key")
        honest = signing.statement(report(), {})
        statements = [
            {**honest, "predicate": {**honest["predicate"], "result": "PASSED"}},
            {**honest, "subject": honest["subject"][:-1]},
            {**honest, "predicateType": "https://slsa.dev/provenance/v1"},
            {**honest, "more": 1},
            {"_type": honest["_type"]},
            {**honest, "predicate": {**honest["predicate"], "report": fields_of(report()) | {"more": 1}}},
        ]
        for told in statements:
            write_signed(tmp_path / "r.json", signing.canonical(told), identity)
            altered(tmp_path / "r.json", keys / "clinic.pub")
        write_signed(tmp_path / "r.json", json.dumps(honest).encode(), identity)
        altered(tmp_path / "r.json", keys / "clinic.pub")

    def test_a_form_outside_the_reports_folder_is_never_read(self, tmp_path, keys):
        identity = read_identity(keys / "clinic.key")
        told = signing.statement(report(), {"/../../secret": "ab" * 32})
        write_signed(tmp_path / "r.json", signing.canonical(told), identity)
        found = verify(tmp_path / "r.json", key=keys / "clinic.pub")
        assert "doesn't know" in found.missing[0]

    def test_a_newer_schema_is_refused_clearly(self, tmp_path, keys, monkeypatch):
        told = signing.statement(report(), {})
        told["predicate"]["report"]["schema_version"] = "9.0"
        write_signed(tmp_path / "r.json", signing.canonical(told), read_identity(keys / "clinic.key"))
        for key in (keys / "clinic.pub", None):
            with pytest.raises(ReportError, match=r"r\.json: schema_version: 9\.0 is newer.*upgrade"):
                verify(tmp_path / "r.json", key=key)
        plain = {**fields_of(report()), "schema_version": "9.0"}
        (tmp_path / "p.json").write_text(json.dumps(plain))
        with pytest.raises(ReportError, match="is newer"):
            verify(tmp_path / "p.json")

    def test_what_is_not_there_can_not_be_verified(self, stem, keys, tmp_path):
        with pytest.raises(ReportError, match=r"none\.json can't be read"):
            verify(tmp_path / "none.json")
        with pytest.raises(ReportError, match=r"none\.pub can't be read"):
            verify(stem.with_name("report.json"), key=tmp_path / "none.pub")
        with pytest.raises(RunError, match="isn't a folder"):
            verify(stem.with_name("report.json"), runs=[tmp_path / "none"])
        with pytest.raises(ReportError, match="nothing of any run's files"):
            verify(stem.with_name("report.json"), runs=[tmp_path])


def write_signed(path: Path, payload: bytes, identity) -> None:
    signature = identity.sign(signing.pae(signing.PAYLOAD_TYPE, payload))
    path.write_bytes(signing._written(payload, signing.fingerprint_of(identity.public), signature))


class TestWriting:
    def test_nothing_is_written_unless_everything_can_be(self, tmp_path, keys, monkeypatch):
        place = tmp_path / "new"
        with pytest.raises(ReportError, match="formats must hold json"):
            report().write(place / "r", ["html"], keys / "clinic.key")
        with pytest.raises(ReportError, match="holds a public key"):
            report().write(place / "r", ["json", "html"], keys / "clinic.pub")
        bare = report(variants=(report().variants[2],))
        with pytest.raises(ReportError, match="leave out opendp"):
            bare.write(place / "r", ["json", "html", "opendp"], keys / "clinic.key")
        assert not place.exists()

    def test_the_json_takes_its_place_last_and_a_failure_leaves_no_stray_file(
        self, tmp_path, keys, monkeypatch
    ):
        report().write(tmp_path / "r", ["json", "html"], keys / "clinic.key")
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        order, real = [], Path.replace

        def replace(self, target):
            order.append(target.name)
            if target.suffix == ".json":
                raise OSError(28, os.strerror(28))
            return real(self, target)

        monkeypatch.setattr(Path, "replace", replace)
        with pytest.raises(ReportError, match=r"r\.json can't be written: No space left"):
            report(title="Another").write(tmp_path / "r", ["json", "html"], keys / "clinic.key")
        assert order == ["r.html", "r.json"]
        after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        assert set(after) == set(before)
        assert after["r.json"] == before["r.json"]
        assert "isn't the form" in altered(tmp_path / "r.json", keys / "clinic.pub")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def private(folder):
    return tossed(config(folder, name="private", sealing="masked", privacy=DPSGD), folder / "private")


class TestRun:
    @pytest.fixture
    def signed(self, private, keys, tmp_path):
        """A copy of the run, and its signed report."""
        copy = tmp_path / "copy"
        shutil.copytree(private.path, copy)
        summarise(private).write(tmp_path / "r", ["json"], keys / "clinic.key")
        return tmp_path / "r.json", copy

    def test_the_run_that_was_reported_fits(self, signed, keys):
        path, copy = signed
        found = verify(path, key=keys / "clinic.pub", runs=[copy])
        assert (found.altered, found.exit_code) == ((), 0)
        ledgers = found.report.volatile.runs[0].ledgers
        assert [each.holder for each in ledgers] == ["client 0", "client 1", "client 2"]

    def test_no_byte_of_its_files_or_ledgers_can_change(self, signed, keys):
        path, copy = signed
        rng = random.Random(5)
        names = [name for name in FILES if (copy / name).exists()]
        assert len(names) == len(FILES) - 1  # it wasn't audited
        for name in [*names, "salt", "clients/0/ledger.jsonl", "clients/2/ledger.jsonl"]:
            file = copy / name
            whole = file.read_bytes()
            for content in [*flipped(whole, rng, 12), whole + b"\n", whole[:-1], b""]:
                file.write_bytes(content)
                altered(path, keys / "clinic.pub", [copy])
            file.unlink()
            altered(path, keys / "clinic.pub", [copy])
            file.write_bytes(whole)
        assert verify(path, key=keys / "clinic.pub", runs=[copy]).exit_code == 0

    def test_files_that_came_or_went_are_named(self, signed, keys):
        path, copy = signed
        (copy / "audit" / "findings.json").write_text("{}")
        assert "findings.json wasn't there" in altered(path, runs=[copy])
        (copy / "audit" / "findings.json").unlink()
        (copy / "metrics.jsonl").unlink()
        assert "metrics.jsonl is missing" in altered(path, runs=[copy])

    def test_a_ledger_that_went_on_or_lost_its_tail_is_named(self, signed):
        path, copy = signed
        ledger = copy / "clients" / "1" / "ledger.jsonl"
        lines = ledger.read_bytes().splitlines(keepends=True)
        ledger.write_bytes(b"".join(lines[:-1]))
        assert "lines were cut" in altered(path, runs=[copy])

    def test_another_run_is_not_taken_for_it(self, signed, folder):
        path, _ = signed
        other = tossed(config(folder, name="stranger"), folder / "stranger")
        assert "another run" in altered(path, runs=[other.path])
        with pytest.raises(RunError, match="isn't a folder"):
            verify(path, runs=[path])

    def test_each_run_of_a_report_is_held_against_its_own_variant(self, private, folder, keys, tmp_path):
        other = tossed(config(folder, name="plain"), folder / "plain")
        summarise(private, other).write(tmp_path / "r", ["json"], keys / "clinic.key")
        found = verify(tmp_path / "r.json", key=keys / "clinic.pub", runs=[other.path, private.path])
        assert (found.altered, found.exit_code) == ((), 0)
        copy = tmp_path / "copy"
        shutil.copytree(other.path, copy)
        for name in ("metrics.jsonl", "result.json", "manifest.json"):
            (copy / name).write_bytes((copy / name).read_bytes() + b" ")
        found = altered(tmp_path / "r.json", runs=[copy])
        assert all(name in found for name in ("metrics.jsonl was", "result.json was", "manifest.json was"))

    def test_a_verdict_that_the_findings_do_not_come_to_is_found_out(self, private, keys, tmp_path):
        fields = fields_of(summarise(private)) | {"verdict": "fail"}
        from_json(json.dumps(fields)).write(tmp_path / "r", ["json"], keys / "clinic.key")
        assert "the verdict, fail, isn't" in altered(tmp_path / "r.json", runs=[private.path])

    def test_a_report_that_says_otherwise_than_its_run_is_found_out(self, private, keys, tmp_path):
        """Signed, with the right commitments, and a figure that isn't the run's."""
        made = summarise(private)
        fields = fields_of(made)
        fields["variants"][0]["utility"]["student"] |= {"value": 0.999, "low": 0.99, "high": 1.0}
        from_json(json.dumps(fields)).write(tmp_path / "r", ["json"], keys / "clinic.key")
        found = altered(tmp_path / "r.json", keys / "clinic.pub", [private.path])
        assert found.startswith("utility of private isn't")

    def test_nothing_secret_can_be_guessed_from_the_commitments(self, private):
        """The configuration holds a seed of few bits, so no plain hash of it may be told."""
        import hashlib

        text = json.dumps(fields_of(summarise(private)))
        salts = [path.read_bytes() for path in private.path.rglob("salt")]
        plain = [
            hashlib.sha256((private.path / name).read_bytes()) for name in ("config.toml", "manifest.json")
        ]
        for secret in (*(each.hex() for each in salts), *(each.hexdigest() for each in plain)):
            assert secret not in text
        assert re.search(r"seed = \d", text) is None


class TestReproducing:
    def without_volatile(self, made) -> str:
        return report_json.to_json(made.model_copy(update={"volatile": report().volatile}))

    @pytest.mark.parametrize("sealing", ["plain", "masked"])
    def test_runs_of_one_configuration_give_the_same_bytes(self, folder, sealing):
        settings = config(folder, "mlp", "logistic", "forest", name="twice", sealing=sealing)
        reports = [summarise(run(settings, folder / f"{sealing}-{n}")) for n in range(2)]
        assert self.without_volatile(reports[0]) == self.without_volatile(reports[1])
        assert report_json.to_json(reports[0]) != report_json.to_json(reports[1])
        assert reports[0].variants[0].student_sha256 is not None
        assert "byte for byte" in reports[0].provenance.reproducibility
        assert "in distribution" not in reports[0].provenance.reproducibility

    def test_a_noised_run_says_that_it_is_the_same_in_distribution(self, private):
        assert "Of private the noise" in summarise(private).provenance.reproducibility
        assert "in distribution" in summarise(private).provenance.reproducibility

    def test_the_configuration_inside_gives_the_same_figures(self, folder, tmp_path):
        settings = config(folder, name="digits")
        data = DataConfig(source="digits", public=80, test=1200)
        settings = settings.model_copy(update={"data": data})
        made = summarise(run(settings, tmp_path / "first"))
        (tmp_path / "again.toml").write_text(made.provenance.configuration)
        again = summarise(run(load_config(tmp_path / "again.toml"), tmp_path / "second"))
        assert again.variants == made.variants


class TestCommandLine:
    def test_the_exit_code_is_the_verdict(self, stem, keys, capsys):
        path, key = str(stem.with_name("report.json")), str(keys / "clinic.pub")
        assert main(["verify", path, "--key", key]) == 0
        assert "verification: valid" in capsys.readouterr().out
        assert main(["verify", path]) == 3
        assert "--key" in capsys.readouterr().out
        assert main(["verify", path, "--key", str(keys / "none.pub")]) == 2
        stem.with_name("report.html").write_text("")
        assert main(["verify", path, "--key", key, "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["outcome"] == "altered"

    def test_a_run_is_reported_signed_and_verified(self, private, keys, tmp_path, capsys):
        formats = ["json", "html", "opendp", "cyclonedx"]
        out = ["-o", str(tmp_path / "r"), "--key", str(keys / "clinic.key"), "--formats", ",".join(formats)]
        assert main(["report", str(private.path), *out]) == 0
        assert {path.name for path in tmp_path.iterdir()} == {f"r.{FORMATS[name].ending}" for name in formats}
        check = ["--key", str(keys / "clinic.pub"), "--run", str(private.path)]
        assert main(["verify", str(tmp_path / "r.json"), *check]) == 0
        assert (
            main(["report", str(private.path), "-o", str(tmp_path / "s"), "--key", str(tmp_path / "no")]) == 2
        )
        assert "no can't be read" in capsys.readouterr().err
        assert not (tmp_path / "s.json").exists()


def test_run_files_hold_no_content():
    assert set(RunFiles.model_fields) == {"run", "files", "ledgers"}
