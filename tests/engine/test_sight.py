import numpy as np
import pytest

from securefd import sight
from securefd.methods import METHODS
from securefd.sight import PEER, Grouped, Travelled
from securefd.simplex import sharpened

QUERIES = np.array([3, 8])
PUBLIC = np.zeros((10, 4), dtype=np.float32)
LOGITS = np.array([[2.0, 0.0, -2.0], [0.0, 1.0, -1.0]])
PROBABILITIES = sharpened(LOGITS, 1.0)


def student(x):
    return np.full((len(x), 3), 1 / 3)


def seen(observer, method="dsfl", answers=True, values=PROBABILITIES, consensus=PROBABILITIES, grouped=None):
    travelled = Travelled(
        queries=QUERIES,
        consensus=consensus,
        mean=values,
        answers=np.stack([values, values]) if answers else None,
        grouped=grouped,
    )
    return sight.view(observer, [travelled], method=METHODS[method], public=PUBLIC, student=student)


@pytest.mark.parametrize(
    ("observer", "has"),
    [
        ("server", {"answers", "total", "consensus", "student"}),
        ("peer", {"consensus"}),
        ("release", {"student"}),
        ("label-only", {"decide"}),
    ],
)
def test_each_observer_has_its_own_and_no_more(observer, has):
    view = seen(observer)
    found = {
        name
        for part in view.rounds
        for name in ("answers", "total", "consensus")
        if getattr(part, name) is not None
    }
    assert found | {name for name in ("student", "decide") if getattr(view, name)} == has
    assert view.client == (PEER if observer == "peer" else None)
    assert view.public is PUBLIC


def test_sealed_answers_are_in_no_view():
    (part,) = seen("server", answers=False).rounds
    assert part.answers is None
    np.testing.assert_array_equal(part.total, PROBABILITIES)


GROUPED = Grouped(sums=np.stack([2 * PROBABILITIES, PROBABILITIES[::-1]]), groups=np.array([0, 1, -1, 0]))


def test_the_server_has_the_mean_of_each_group():
    (part,) = seen("server", "median", answers=False, grouped=GROUPED).rounds
    np.testing.assert_allclose(part.sums, [PROBABILITIES, PROBABILITIES[::-1]], rtol=1e-12)
    np.testing.assert_array_equal(part.groups, [0, 1, -1, 0])


def test_who_sees_decisions_sees_no_probability():
    decided = seen("label-only").decide(PUBLIC)
    np.testing.assert_array_equal(decided, student(PUBLIC).argmax(axis=1))
    assert decided.dtype == np.int64


@pytest.mark.parametrize("observer", ["peer", "release"])
def test_nobody_else_sees_groups(observer):
    for part in seen(observer, "median", answers=False, grouped=GROUPED).rounds:
        assert part.sums is None
        assert part.groups is None


def test_without_groups_a_view_has_none():
    (part,) = seen("server", "median").rounds
    assert part.sums is None
    assert part.groups is None


@pytest.mark.parametrize("method", ["fedmd", "feddf"])
def test_logits_become_probabilities(method):
    """feddf broadcasts probabilities already, fedmd mean logits."""
    consensus = LOGITS if method == "fedmd" else PROBABILITIES
    (part,) = seen("server", method, values=LOGITS, consensus=consensus).rounds
    for values in (part.total, part.answers[1], part.consensus):
        np.testing.assert_allclose(values, PROBABILITIES, rtol=1e-12)


def test_weighted_probabilities_are_divided_by_their_sum():
    """Ten records of class 0, five of class 1, none of class 2, and a row of nothing."""
    weighted = np.array([[6.0, 2.0, 0.0], [0.0, 0.0, 0.0]])
    (part,) = seen("server", "balanced", values=weighted).rounds
    for values in (part.total, part.answers[0]):
        np.testing.assert_allclose(values, [[0.75, 0.25, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    np.testing.assert_array_equal(part.consensus, PROBABILITIES)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_of_the_table_can_be_seen(method):
    for observer in ("server", "peer", "release"):
        seen(observer, method)


def test_what_speaks_of_classes_and_not_of_inputs_is_left_as_it_is():
    (part,) = seen("server", "fd", values=LOGITS, consensus=LOGITS).rounds
    np.testing.assert_array_equal(part.consensus, LOGITS)
    assert part.total is None
    assert part.answers is None
