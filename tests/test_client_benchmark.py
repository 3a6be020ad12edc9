"""The benchmark of client-level privacy: what its cells promise, and that they run."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest

from benchmarks import client, client_report
from securefd import features
from securefd.recipe import Recipe
from securefd.releases import ReleasePlan, plan_releases
from tests.defenses.test_accounting import gaussian_epsilon
from tests.test_benchmarks import lines, written_idx

ROWS = [row.name for row in client.ROWS]
HONEST = {"many": 249, "pate": 249, "few": 249, "dropouts": 175}
"""Shares of the noise that whoever knows most doesn't know: a client knows its own, colluders theirs."""


def planned(row: str, epsilon: float, seed: int = 1) -> ReleasePlan:
    config = client.configured(client.Cell(row=row, epsilon=epsilon, seed=seed))
    found = plan_releases(config, Recipe.of(config, (1, 28, 28), 10), client.PUBLIC)
    assert found is not None
    return found


@pytest.mark.parametrize("epsilon", [e for e in client.EPSILONS if e is not None])
@pytest.mark.parametrize("row", ROWS)
def test_epsilon_of_a_client_by_an_independent_accountant(row: str, epsilon: float) -> None:
    """The closed form of one Gaussian (Balle and Wang 2018, Theorem 8): one vote moves in each query."""
    plan = planned(row, epsilon)
    assert min(plan.unknown.values()) == HONEST[row]
    assert plan.share is not None
    queries = 250 if row == "few" else 9_000
    for observer, unknown in plan.unknown.items():
        moved = math.sqrt(2 * queries / (unknown * plan.share.variance))
        exact, stated = gaussian_epsilon(moved, 1e-5), plan.guarantees()[observer].epsilon
        assert exact <= stated * 1.0005
        assert stated <= epsilon * 1.0005
        # Where shares are narrow, what their sum lacks of one discrete Gaussian is charged besides.
        assert stated <= exact * (1.01 if plan.share.variance > 2 else 1.2)


def test_kept_cells_were_paid_for_as_planned_today() -> None:
    for found in client.results():
        cell = client.Cell(row=found["row"], epsilon=found["epsilon"], seed=found["seed"])
        if found["settings"] != client.settings(cell):
            continue
        if cell.epsilon is None:
            assert found["charges"] == []
            continue
        plan = planned(cell.row, cell.epsilon)
        (charge,) = (msgspec.to_builtins(each) for each in plan.charges())
        (paid,) = found["charges"]
        assert paid["variance"] == pytest.approx(charge["variance"], rel=1e-6)
        assert {**paid, "variance": 0} == {**charge, "variance": 0}
        assert found["claims"]["server"].endswith("for one client, replace-one")


def test_cells() -> None:
    found = list(client.table())
    assert len(found) == len({each.name for each in found}) == (4 * 5 + 3) * 3
    assert {each.seed for each in found} == {1, 2, 3}
    for cell in found:
        config = client.configured(cell)
        assert config.clients[0].count == 250
        assert (config.sealing.threshold, config.sealing.colluders) == (
            (200, 25) if cell.row == "dropouts" else (250, 0)
        )
        if cell.epsilon is None:
            assert config.privacy is None
        else:
            promise = config.privacy
            assert promise is not None
            assert (promise.unit, promise.route) == ("client", "distributed")
            assert (promise.relation, promise.epsilon) == ("replace-one", cell.epsilon)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Any:
    for name, value in {
        "RESULTS": tmp_path / "results",
        "CACHE": tmp_path / "cache",
        "CLIENTS": 6,
        "PUBLIC": 250,
        "HELD_OUT": 200,
        "STUDENT": {"model": "encoder", "steps": 40, "self_training": 2},
        "ROWS": (client.Row(name="many", what="all", queries=250, threshold=6),),
    }.items():
        monkeypatch.setattr(client, name, value)
    monkeypatch.setitem(features.learn.__kwdefaults__, "steps", 3)
    written_idx(tmp_path)
    return client


def test_a_small_cell_with_and_without_noise(small: Any, tmp_path: Any) -> None:
    small._write_data(tmp_path, whole=False)
    small.learn_features(1)
    for epsilon in (8.0, None):
        cell = client.Cell(row="many", epsilon=epsilon, seed=1)
        assert small.run_cell(cell).startswith(f"{cell.name}: ")
        assert small._done(cell)
    noised, plain = (json.loads((small.RESULTS / f"many-{e}-1.json").read_text()) for e in ("8", "none"))
    assert plain["student.accuracy"] > 0.5
    assert plain["charges"] == []
    assert noised["claims"]["server"].startswith("(epsilon = ")
    assert not list((tmp_path / "cache").glob("many-*"))


@pytest.mark.parametrize("whole", [False, True])
def test_nobody_holds_what_judges(small: Any, tmp_path: Any, whole: bool) -> None:
    small._write_data(tmp_path, whole=whole)
    folder = small._folder(whole)
    clients, public, test = (np.load(folder / f"{name}.npz") for name in ("clients", "public", "test"))
    assert "y" not in public
    assert (len(clients["x"]), len(public["x"]), len(test["x"])) == (
        (600, 250, 50) if whole else (400, 250, 200)
    )
    held = {row.tobytes() for row in clients["x"]} | {row.tobytes() for row in public["x"]}
    assert not held & {row.tobytes() for row in test["x"]}


def cell(row: str, epsilon: float | None, seed: int, student: float) -> dict[str, Any]:
    one = client.Cell(row=row, epsilon=epsilon, seed=seed)
    return {
        "row": row,
        "epsilon": epsilon,
        "seed": seed,
        "settings": client.settings(one),
        "student.accuracy": student,
    }


@pytest.mark.parametrize(("middle", "verdict"), [(0.975, True), (0.974, False)])
def test_students_stand_beside_their_targets(middle: float, verdict: bool) -> None:
    cells = [cell("many", 2.0, seed, middle + off) for seed, off in ((1, 0.0), (2, 0.001), (3, -0.001))]
    first, second, _ = client_report.targets(cells)
    assert first[1:] == ("≥ 97.5%", f"{middle:.2%} ± 0.25", "", verdict)
    assert second[1:] == ("≥ 96.5%", None, "", None)
    (line,) = lines(client_report.section(cells), "all attend, 9,000 queries")
    assert line.split(" | ")[1:4] == ["not run", "not run", f"{middle:.2%} ± 0.25"]


def test_cells_of_other_settings_are_named_and_not_counted() -> None:
    old = cell("many", 2.0, 1, 0.99)
    old["settings"] = {**old["settings"], "clients": 3}
    text = client_report.section([old, cell("few", 1.0, 1, 0.97)])
    assert "not counted: `many-2-1`." in text
    assert client_report.section([]).endswith("not run\n")
