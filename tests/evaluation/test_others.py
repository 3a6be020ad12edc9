import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from securefd.config import DataConfig
from securefd.evaluation.findings import OtherFinding, Skipped
from securefd.evaluation.others import other_attacks
from securefd.runner import run
from tests.evaluation.runs import config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("others")


@pytest.fixture(scope="module")
def skewed(folder):
    settings = config(folder, *["mlp"] * 4, name="skewed", method="dsfl", rounds=2, local_steps=60)
    partition = {"kind": "dirichlet", "alpha": 0.3}
    data = DataConfig(source="digits", public=300, test=200, partition=partition)
    return run(settings.model_copy(update={"data": data}), folder / "skewed")


@pytest.fixture(scope="module")
def found(skewed):
    return {each.measure[:20]: each for each in other_attacks(skewed)}


def test_a_server_that_sees_answers_learns_which_classes_each_client_holds(found):
    divergence = found["Kullback-Leibler div"]
    assert (divergence.attack, divergence.observer, divergence.cases) == ("label distribution", "server", 4)
    assert divergence.value < divergence.baseline / 2
    low, high = divergence.interval
    assert 0 <= low <= divergence.value <= high
    assert found["total variation from"].value < found["total variation from"].baseline


def test_what_classes_look_like_is_drawn_beside_what_the_student_knows(found):
    drawn = found["structural similarit"]
    assert drawn.attack == "reconstruction of a class"
    assert 0 < drawn.value <= 1
    assert 0 < drawn.baseline <= 1
    picture = Image.open(io.BytesIO(base64.b64decode(drawn.picture)))
    assert picture.size == (8 * 10 * 4, 3 * 10 * 4)  # eight cases of three pictures, with a frame, enlarged


def test_pictures_are_of_embedded_data_only(folder):
    done = run(config(folder, "mlp", "mlp", name="own data", method="dsfl"), folder / "own data")
    found = [each for each in other_attacks(done) if isinstance(each, OtherFinding)]
    assert [each.picture for each in found] == ["", "", ""]


def test_under_masks_nobody_is_told_apart(folder):
    done = run(config(folder, name="masked", sealing="masked"), folder / "masked")
    found = other_attacks(done)
    assert [each.attack for each in found] == ["label distribution", "reconstruction of a class"]
    assert all(isinstance(each, Skipped) and "told apart" in each.reason for each in found)


def test_nobody_attacks_whom_nobody_asked(skewed):
    audit = skewed.config.audit.model_copy(update={"observers": ("peer",)})
    alone = replace(skewed, config=skewed.config.model_copy(update={"audit": audit}))
    assert other_attacks(alone) == ()


def test_tables_are_correlated_and_not_drawn(folder):
    settings = config(folder, "mlp", "mlp", name="table", method="dsfl")
    data = DataConfig(source="breast-cancer", public=100, test=100)
    done = run(settings.model_copy(update={"data": data}), folder / "table")
    (drawn,) = [each for each in other_attacks(done) if each.attack == "reconstruction of a class"]
    assert drawn.measure.startswith("correlation")
    assert np.abs(drawn.value) <= 1
    assert drawn.picture == ""
