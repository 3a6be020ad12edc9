"""The demo's story, on a federation small enough for a test: it prints what runs and audits hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from securefd import demo, load_run
from securefd.config import AuditConfig, ClientGroup, Config, DataConfig, MethodConfig, StudentConfig
from securefd.evaluation.report_json import from_json


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, Config]:
    """The demo's configurations with three small clients, few steps and eight shadows."""

    def shrunk(config: Config) -> Config:
        models = ("mlp", "logistic", "mlp" if config.privacy else "forest")
        return Config(
            name=config.name,
            seed=config.seed,
            data=DataConfig(source="digits", public=1200, test=200),
            clients=tuple(ClientGroup(model=model) for model in models),
            method=MethodConfig(
                name="balanced", rounds=1, queries=100, local_steps=8, digest_steps=8, learning_rate=1e-2
            ),
            sealing=config.sealing.model_copy(update={"threshold": None, "honest_minimum": None}),
            privacy=config.privacy,
            student=StudentConfig(model="logistic", steps=20),
            audit=AuditConfig(shadows=8),
        )

    small = {name: shrunk(config) for name, config in demo.configurations().items()}
    monkeypatch.setattr(demo, "configurations", lambda: small)
    return small


def test_eleven_true_lines_and_a_report(tmp_path: Path, small: dict[str, Config]) -> None:
    lines = demo.demo(tmp_path)
    assert len(lines) == 11
    runs = {name: load_run(tmp_path / "runs" / name) for name in small}
    for line, name in ((lines[1], "plain"), (lines[2], "sealed"), (lines[3], "private")):
        assert f"student {100 * runs[name].metrics['student.accuracy']:.1f}" in line.replace("has ", "")
    assert "the same weights, byte for byte" in lines[2]
    assert "plain and sealed: nothing and nothing" in lines[5]
    assert "epsilon = 8" in lines[6] or "epsilon = 7.9" in lines[6]
    assert "delta = 1e-05) for one record, add-or-remove, against server, peer, release" in lines[6]
    assert lines[8].startswith("Leaked for certain (for one record, add-or-remove, delta = 1e-05, 95%")
    assert lines[9].startswith("The audit of the private one: INCONCLUSIVE")
    assert f"{tmp_path / 'report.html'}" in lines[10]

    report = from_json((tmp_path / "report.json").read_text())
    assert [variant.name for variant in report.variants] == [config.name for config in small.values()]
    assert any("forest" in word for word in report.variants[2].substitutions)
    assert "<svg" in (tmp_path / "report.html").read_text()

    stored = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/audit/shadows/*")}
    assert stored
    assert demo.demo(tmp_path) == lines, "a second call tells the same from what is stored"
    assert {path: path.stat().st_mtime_ns for path in stored} == stored
