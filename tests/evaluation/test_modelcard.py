import pytest
from markdown_it import MarkdownIt

from securefd.evaluation.modelcard import NOT_SAID, to_model_card
from tests.evaluation import report_samples as samples
from tests.evaluation.test_markdown import HOSTILE

parser = MarkdownIt("gfm-like", {"linkify": False})


def one(**changes: object) -> str:
    return to_model_card(samples.report(variants=(samples.variant("only", **changes),)))


def test_it_has_the_sections_of_a_model_card():
    tokens = parser.parse(to_model_card(samples.report()))
    found = [
        tokens[i + 1].content for i, token in enumerate(tokens) if token.tag == "h2" and token.nesting == 1
    ]
    assert found == [
        "Model details",
        "Intended use",
        "Training data",
        "Metrics and evaluation data",
        "Privacy",
        "Caveats and recommendations",
    ]


def test_what_only_people_know_is_left_to_them():
    assert NOT_SAID in one()
    assert "Licence, owners and contact: not stated" in one()


def test_it_says_how_good_the_student_is_with_intervals_and_counts():
    card = one()
    assert "| student, accuracy | 90.0 % \\[86.1, 92.9\\] | 300 |" in card
    assert "| class seven | 80.0 %" in card
    assert "| ward: ward 3 | 60.0 %" in card


def test_it_states_the_promise_to_whoever_queries_the_student():
    assert "Statement of differential privacy towards whoever may query the student:" in one()
    assert "- **Parameters**: ε ≤ 8 for one record, add-or-remove, δ = 1e-5." in one()
    to_others = one(claims=(samples.proven("server"),))
    assert "Nothing is proven about records towards whoever may query the student." in to_others


def test_the_weights_are_named_by_their_hash():
    assert "not known to this report" in one(student_sha256=None)
    assert "Weights, SHA-256: " + "cd" * 32 in one(student_sha256="cd" * 32)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_cannot_add_anything(name):
    def kinds(name: str) -> list[str]:
        variant = samples.variant(name, description=name, unprotected=(name,))
        made = samples.report(
            title=name, summary=name, limits=(name,), variants=(variant, samples.variant("b"))
        )
        return [token.type for token in parser.parse(to_model_card(made))]

    assert kinds(name) == kinds("harmless")
