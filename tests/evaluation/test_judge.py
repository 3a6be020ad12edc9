import pytest

from securefd.evaluation.judge import in_terms_of_game, judge_claim
from tests.evaluation.made import promise


@pytest.mark.parametrize(
    ("unit", "claimed", "game", "epsilon"),
    [
        ("record", "add-or-remove", "add-or-remove", 2.0),
        ("record", "add-or-remove", "replace-one", 4.0),
        ("record", "replace-one", "replace-one", 2.0),
        ("record", "replace-one", "add-or-remove", None),
        ("client", "replace-one", "add-or-remove", 2.0),
        ("client", "add-or-remove", "add-or-remove", 4.0),
    ],
)
def test_a_claim_is_put_in_terms_of_the_game(unit, claimed, game, epsilon):
    held = in_terms_of_game(promise(2.0, unit=unit, relation=claimed), game)
    assert (None if held is None else held.epsilon) == epsilon


def test_a_doubled_claim_whose_delta_reaches_one_says_nothing():
    assert in_terms_of_game(promise(20.0, unit="client"), "add-or-remove") is None


@pytest.mark.parametrize(
    ("claim", "bound", "power", "judgement", "said"),
    [
        (promise(1.0), 1.2, 3.0, "VIOLATED", "at least 1.20 leaks, and at most 1.00"),
        (promise(1.0), 1.2, 0.5, "VIOLATED", "at least 1.20"),
        (promise(1.0), 0.2, 3.0, "CONSISTENT", "up to 3.00 could have been certified"),
        (promise(1.0), 0.2, 1.0, "INCONCLUSIVE", "can't be tested; run more"),
        (None, 9.0, 9.0, "INCONCLUSIVE", "no claim"),
        (promise(1.0, relation="replace-one"), 9.0, 9.0, "INCONCLUSIVE", "says nothing about add-or-remove"),
    ],
)
def test_a_bound_is_held_against_a_claim(claim, bound, power, judgement, said):
    found, reason = judge_claim(claim, "add-or-remove", bound=bound, power=power, remedy="run more")
    assert found == judgement
    assert said in reason
