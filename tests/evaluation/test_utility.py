from pathlib import Path

import numpy as np
import pytest

from securefd.config import DataConfig, parse_config
from securefd.data.dataset import Dataset
from securefd.data.splits import load_split
from securefd.errors import ConfigError, DataError
from securefd.evaluation import utility as told
from securefd.evaluation.judged import judged
from securefd.runner import run
from securefd.utility import by_part, calibration_interval, expected_calibration_error, utility_of
from tests.engine.samples import config


def naive(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """The definition, bin by bin (Guo et al. 2017, equation 3)."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    error = 0.0
    for k in range(bins):
        inside = (confidence > k / bins) & (confidence <= (k + 1) / bins)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return error


def drawn(n: int, seed: int = 0, sharpness: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and labels drawn from them before they were sharpened: calibrated for sharpness 1."""
    rng = np.random.default_rng(seed)
    true = rng.dirichlet(np.full(4, 0.5), size=n)
    labels = np.array([rng.choice(4, p=row) for row in true])
    sharp = true**sharpness
    return sharp / sharp.sum(axis=1, keepdims=True), labels


class TestCalibration:
    @pytest.mark.parametrize("bins", [1, 7, 15])
    @pytest.mark.parametrize("sharpness", [0.3, 1.0, 4.0])
    def test_it_is_the_definition(self, bins: int, sharpness: float) -> None:
        p, y = drawn(400, sharpness=sharpness)
        assert expected_calibration_error(p, y, bins) == pytest.approx(naive(p, y, bins), abs=1e-12)

    def test_by_hand(self) -> None:
        # Two records of confidence 0.9, of which one is right: |0.5 - 0.9|.
        p = np.array([[0.9, 0.1], [0.9, 0.1]])
        assert expected_calibration_error(p, np.array([0, 1])) == pytest.approx(0.4)

    def test_a_certain_model_that_is_right_has_none(self) -> None:
        assert expected_calibration_error(np.eye(3), np.arange(3)) == 0
        assert expected_calibration_error(np.eye(3), (np.arange(3) + 1) % 3) == 1

    def test_sharpening_makes_it_larger(self) -> None:
        calibrated, sharp = (expected_calibration_error(*drawn(5000, sharpness=s)) for s in (1.0, 3.0))
        assert calibrated < 0.03 < 0.1 < sharp

    @pytest.mark.parametrize("sharpness", [2.0, 3.0])
    def test_the_interval_covers_the_truth(self, sharpness: float) -> None:
        """95% intervals of 60 samples of 300: by chance fewer than 51 cover in 1 of 3,000 tests."""
        truth = expected_calibration_error(*drawn(100_000, seed=99, sharpness=sharpness))
        covered = 0
        for seed in range(60):
            low, high = calibration_interval(*drawn(300, seed, sharpness), np.random.default_rng(seed))
            covered += low <= truth <= high
        assert covered >= 51

    def test_the_interval_holds_the_estimate_and_is_repeatable(self) -> None:
        for seed in range(20):
            p, y = drawn(40, seed)
            low, high = calibration_interval(p, y, np.random.default_rng(1))
            assert 0 <= low <= expected_calibration_error(p, y) <= high <= 1
            assert (low, high) == calibration_interval(p, y, np.random.default_rng(1))

    @pytest.mark.parametrize(
        ("p", "y", "what"),
        [
            (np.zeros((0, 2)), np.zeros(0, dtype=np.int64), "at least one record"),
            (np.ones((2, 2)) / 2, np.zeros(3, dtype=np.int64), "a label a row"),
            (np.ones((2, 2)), np.zeros(2, dtype=np.int64), "softmax"),
            (np.array([[1.5, -0.5]]), np.zeros(1, dtype=np.int64), "softmax"),
            (np.array([[np.nan, 1.0]]), np.zeros(1, dtype=np.int64), "softmax"),
        ],
    )
    def test_bad_input(self, p: np.ndarray, y: np.ndarray, what: str) -> None:
        with pytest.raises(DataError, match=what):
            expected_calibration_error(p, y)


def test_parts_are_counted_one_by_one() -> None:
    rng = np.random.default_rng(3)
    correct, parts = rng.random(50) < 0.6, rng.integers(0, 3, 50)
    found = by_part(correct, parts, ("a", "b", "c", "never"))
    assert [row["name"] for row in found] == ["a", "b", "c"]
    for k, row in enumerate(found):
        assert row["records"] == sum(parts == k)
        assert row["accuracy"] == pytest.approx(np.mean(correct[parts == k]))


def test_groups_come_before_owners() -> None:
    y = np.array([0, 1, 0, 1])
    both = {"owner": np.array([0, 0, 1, 1]), "owner_names": ("x", "y")}
    x, logits = np.zeros((4, 2), dtype=np.float32), np.float32([[1, 0], [0, 1], [1, 0], [1, 0]])
    names = ("no", "yes")
    by_owner = utility_of(logits, Dataset(x=x, y=y, class_names=names, **both), "owner", 1)
    assert [(row["name"], row["accuracy"]) for row in by_owner["groups"]] == [("x", 1.0), ("y", 0.5)]
    grouped = Dataset(
        x=x, y=y, class_names=names, **both, group=np.array([1, 1, 1, 0]), group_names=("f", "m")
    )
    by_group = utility_of(logits, grouped, "sex", 1)
    assert [(row["name"], row["accuracy"]) for row in by_group["groups"]] == [("f", 0.0), ("m", 1.0)]
    assert by_group["grouped by"] == "sex"
    nobody = utility_of(logits, Dataset(x=x, y=y, class_names=names), "owner", 1)
    assert (nobody["groups"], nobody["grouped by"]) == ([], "")


def table(path: Path, n: int = 150, seed: int = 0) -> Path:
    """Two features, of which the second is noise for the small group; columns label, ward and sex."""
    rng = np.random.default_rng(seed)
    lines = ["a,b,label,ward,sex"]
    for _ in range(n):
        y, sex = int(rng.integers(2)), "f" if rng.random() < 0.2 else "m"
        a = rng.normal() + (2 * y if sex == "m" else 0)
        lines.append(f"{a:.6f},{rng.normal():.6f},{y},w{rng.integers(2)},{sex}")
    path.write_text("\n".join(lines) + "\n")
    return path


class TestGroupColumn:
    def test_it_is_no_input(self, tmp_path: Path) -> None:
        path = str(table(tmp_path / "all.csv"))
        given = DataConfig(
            source="csv", path=path, label="label", owner="ward", group="sex", public=40, test=50
        )
        split = load_split(given, 2, 1)
        assert split.input_shape == (2,)
        assert split.test.group_names == ("f", "m")
        assert split.test.group is not None
        assert len(split.test.group) == 50
        assert sum((client.group == 0).sum() for client in split.clients) > 0

    def test_a_test_file_needs_it(self, tmp_path: Path) -> None:
        path, test = table(tmp_path / "all.csv"), table(tmp_path / "test.csv", n=30, seed=1)
        given = {"source": "csv", "path": str(path), "label": "label", "owner": "ward", "public": 40}
        split = load_split(DataConfig(**given, group="sex", test=str(test)), 2, 1)
        assert split.test.group is not None
        words = [line.split(",") for line in test.read_text().splitlines()[1:]]
        assert [split.test.group_names[k] for k in split.test.group] == [row[-1] for row in words]
        test.write_text("\n".join(",".join(line.split(",")[:-1]) for line in test.read_text().splitlines()))
        with pytest.raises(DataError, match=r"data\.group = 'sex' is not a column"):
            load_split(DataConfig(**given, group="sex", test=str(test)), 2, 1)

    def test_other_sources_have_none(self) -> None:
        text = """
            name = "x"
            seed = 1
            data = { source = "digits", group = "sex" }
            clients = [{ count = 2, model = "mlp" }]
            method = { name = "dsfl" }
        """
        with pytest.raises(ConfigError, match=r"data\.group doesn't fit data\.source = 'digits'"):
            parse_config(text)

    def test_a_run_tells_accuracy_by_it(self, tmp_path: Path) -> None:
        data = DataConfig(
            source="csv",
            path=str(table(tmp_path / "all.csv")),
            label="label",
            owner="ward",
            group="sex",
            public=40,
            test=50,
        )
        settings = config(tmp_path, "logistic", "logistic", data=data, queries=40, local_steps=20)
        done = run(settings, tmp_path / "run")
        split, metrics = done.split, done.metrics["student.utility"]
        decided = done.student.predict_proba(split.test.x).argmax(axis=1)
        for k, row in enumerate(metrics["groups"]):
            of = split.test.group == k
            assert (row["name"], row["records"]) == (split.test.group_names[k], of.sum())
            assert row["accuracy"] == pytest.approx((decided == split.test.y)[of].mean())
        whole = sum(row["accuracy"] * row["records"] for row in metrics["classes"]) / 50
        assert whole == pytest.approx(done.metrics["student.accuracy"])
        reported = judged(done, None).utility
        assert (reported.grouped_by, [part.name for part in reported.groups]) == ("sex", ["f", "m"])
        assert reported.calibration_error.value == metrics["calibration error"]
        assert reported.classes == told.by_class(done)


def test_a_run_without_student_says_so(tmp_path: Path) -> None:
    done = run(config(tmp_path, name="fd", rounds=1), tmp_path / "run")
    assert told.calibration(done).reason == told.NO_STUDENT
    assert (told.by_class(done), told.by_group(done), told.grouped_by(done)) == ((), (), "")
