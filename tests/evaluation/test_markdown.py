"""Markdown is read back by markdown-it, which knows tables and nothing that isn't in the flavour."""

import re

import pytest
from markdown_it import MarkdownIt

from securefd.evaluation.markdown import fenced, plain, rows, to_markdown
from securefd.evaluation.report import Facts, Report
from securefd.evaluation.words import at_least, at_most
from tests.evaluation import report_samples as samples

HOSTILE = (
    "# heading",
    "## *bold* _it_ **b** ~~gone~~",
    "a | b || c",
    "`code` ``more`` ```fence",
    "a\n```\n# heading",
    "````\nb",
    "$x^2$ and $$y$$",
    "line\nbreak\n\nparagraph\n\n# heading\n\n---\n- item",
    "<script>alert(1)</script><b>x</b><!-- c -->",
    "[text](https://example.org) ![i](x.png) <https://e.org> https://example.org www.example.org",
    "&lt;b&gt; &amp; &copy;",
    "1. item",
    "12) item",
    "- item",
    "+ item",
    "* item",
    "> quote",
    "---",
    "===",
    "\\ \\* \\| ends with \\",
    '#set page(fill: red) #read("/etc/passwd") @user @label <label>',
    "    indented code",
    "[^1]: note",
    "[a]: https://example.org",
)

parser = MarkdownIt("gfm-like", {"linkify": False})


def shown(markdown: str) -> str:
    """What a reader sees of one paragraph; fails if there is anything but text in it."""
    tokens = parser.parse(markdown)
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"], markdown
    inside = tokens[1].children or []
    assert {token.type for token in inside} <= {"text", "text_special"}, markdown
    return "".join(token.content for token in inside)


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_is_shown_as_it_is(text):
    assert shown(plain(text)) == " ".join(text.split())


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_stays_in_its_cell(text):
    tokens = parser.parse(rows(("Name", "Value"), [(text, "1"), ("x", text)]))
    cells = [tokens[i + 1].children for i, token in enumerate(tokens) if token.type == "td_open"]
    assert len(cells) == 4
    assert "".join(token.content for token in cells[0]) == " ".join(text.split())


@pytest.mark.parametrize("text", HOSTILE)
def test_code_cannot_end_its_block(text):
    tokens = parser.parse(fenced(text))
    assert [(token.type, token.content) for token in tokens] == [("fence", text.rstrip() + "\n")]


def test_links_and_mentions_are_words():
    found = plain("https://evil.example www.evil.example @team")
    assert "://" not in found
    assert "www." not in found
    assert "@" not in found


def test_no_name_turns_the_direction_of_what_follows():
    assert plain("a\u202egnp.exe\u2066") == "agnp.exe"
    assert plain("אב גד 90") == "אב גד\u200e 90"
    assert "\u202e" not in fenced("a\u202eb")


def headings(text: str) -> list[str]:
    tokens = parser.parse(text)
    return [
        tokens[i + 1].content
        for i, token in enumerate(tokens)
        if token.type == "heading_open" and token.tag == "h2"
    ]


def test_it_has_all_sections_in_the_order_of_reading():
    assert headings(to_markdown(samples.report())) == [
        "Threat model and who sees what",
        "Claims",
        "Ledger",
        "Utility",
        "Communication",
        "Attacks on membership",
        "Risk of single records",
        "Attacks other than on membership",
        "Clients that lie",
        "Limits",
        "Provenance",
    ]


def test_names_cannot_add_anything():
    """The same tokens as with harmless names, whatever the names are."""

    def kinds(name: str) -> list[str]:
        made = samples.report(
            title=name,
            summary=name,
            variants=(samples.variant(name, unprotected=(name,), description=name),),
            limits=(name,),
        )
        return [token.type for token in parser.parse(to_markdown(made))]

    for name in HOSTILE:
        assert kinds(name) == kinds("harmless"), name


def test_the_verdict_comes_first_and_says_what_was_measured():
    text = to_markdown(samples.report(variants=(samples.variant("only"),)))
    first = text.split("## Threat model")[0]
    assert "**Verdict: ? inconclusive.** Too few trials." in first
    assert "ε ≤ 8 for one record, add-or-remove, δ = 1e-5, proven" in first
    assert "To server: ε ≥ 0.4 for one record, add-or-remove, δ = 1e-5, at 99.2 % confidence" in first
    assert "0.710 \\[0.660, 0.750\\]" in first
    assert "90.0 % \\[86.1, 92.9\\] of 300 test records" in first
    assert "no policy was given" in first


def test_no_epsilon_without_its_terms():
    """Each line with an epsilon says its terms, or stands in a table whose caption says them for all."""
    text = to_markdown(samples.report())
    caption = "Every ε is for one record, add-or-remove, δ = 1e-5. Lower bounds hold at 99.2 % confidence."
    for block in text.split("\n## "):
        for line in block.splitlines():
            if re.search(r"ε [≤≥] \d", line):
                assert "for one record, add-or-remove, δ = 1e-5" in line or caption in block, line


def mixed() -> Report:
    bound = samples.finding(delta=1e-6, confidence=0.9)
    return samples.report(variants=(samples.variant("only", findings=(samples.finding(), bound)),))


def test_terms_that_differ_are_said_one_by_one():
    text = to_markdown(mixed())
    assert "Every ε is for" not in text
    assert "for one record, add-or-remove, δ = 1e-6, at 90 % confidence" in text


def test_what_is_not_known_of_a_claim_is_said_to_be_unknown():
    text = to_markdown(samples.report())
    assert "- **Mechanism**: Not known to this report." in text
    assert "- **Tuning of hyper-parameters**: Not known to this report. Not known to this report." in text


def test_facts_are_told():
    facts = Facts(
        mechanism="A mechanism.", tuning="Nobody tuned.", tuning_charged=False, unprotected=("a", "b")
    )
    claim = samples.proven("release").model_copy(update={"facts": facts})
    text = to_markdown(samples.report(variants=(samples.variant("only", claims=(claim,)),)))
    assert "### Statement of differential privacy: towards release" in text
    assert "- **Mechanism**: A mechanism." in text
    assert "- **Tuning of hyper-parameters**: Not charged. Nobody tuned." in text
    assert "- **Not protected**: a; b" in text


def test_without_a_promise_nothing_is_said_to_be_bounded():
    bare = dict.fromkeys(
        ("claims", "findings", "ledger", "controls", "risks", "others", "not_made", "poisoned"), ()
    )
    text = to_markdown(samples.report(variants=(samples.variant("bare", **bare),)))
    assert "Nothing is promised to anyone, so anything could have." in text
    assert "Not known: no attack was made that bounds it." in text
    assert "ε ≤" not in text
    assert "ε ≥" not in text


def test_rounded_bounds_stay_bounds():
    assert (at_most(7.9912), at_least(7.9992), at_most(0.4), at_least(0.4)) == ("8", "7.99", "0.4", "0.4")
    assert (at_most(0.0), at_least(0.00012349), at_most(1234.0)) == ("0", "0.000123", "1.24e3")


def test_whoever_sees_less_is_promised_no_less():
    first = to_markdown(samples.many()).split("## Threat model")[0]
    assert "| label-only (whoever sees only the student's top class) | ε ≤ 8 |" in first


def test_the_same_report_gives_the_same_text():
    assert to_markdown(samples.report()) == to_markdown(samples.report())
