"""PDFs are typeset for real, and what is in them is read back as Typst's own pages of text."""

import base64
import io
import json
import re
import time
from html import unescape

import pytest
import typst
from PIL import Image

from securefd.errors import ReportError
from securefd.evaluation import pdf
from securefd.evaluation.drawn import alone, described
from securefd.evaluation.figures import privacy_utility
from securefd.evaluation.formats import FORMATS, write
from securefd.evaluation.html import _resource
from securefd.evaluation.pdf import to_pdf
from securefd.evaluation.report import OtherFinding, Report, estimate
from securefd.evaluation.sections import document
from tests.evaluation import report_samples as samples
from tests.evaluation.test_markdown import HOSTILE


def compiled(report: Report, form: str) -> list[bytes]:
    made = typst.compile(
        _resource(pdf.TEMPLATE).encode(),
        font_paths=typst.Fonts(include_system_fonts=False),
        ignore_system_fonts=True,
        sys_inputs={"document": json.dumps(pdf._data(report, document(report)))},
        format=form,
        ppi=20,
    )
    return made if isinstance(made, list) else [made]


def chapters(report: Report) -> list[tuple[int, str]]:
    """The page and the title of each section."""
    compiler = typst.Compiler(
        _resource(pdf.TEMPLATE).encode(),
        font_paths=typst.Fonts(include_system_fonts=False),
        ignore_system_fonts=True,
        sys_inputs={"document": json.dumps(pdf._data(report, document(report)))},
    )
    found = json.loads(
        compiler.eval("query(heading.where(level: 1)).map(it => (it.location().page(), it.body))")
    )
    return [(page, body["child"]["text"]) for page, body in found]


def png() -> str:
    file = io.BytesIO()
    Image.new("L", (8, 3), 90).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def with_picture(picture: str) -> Report:
    other = OtherFinding(
        observer="server",
        attack="inversion",
        measure="similarity",
        value=estimate(0.8, 0.7, 0.9),
        baseline=0.5,
        cases=3,
        what="means",
        picture=picture,
    )
    return samples.report(variants=(samples.variant("only", others=(other,)),))


def test_it_is_a_tagged_pdf_with_title_and_date():
    made = to_pdf(samples.report())
    assert made.startswith(b"%PDF-")
    assert made.rstrip().endswith(b"%%EOF")
    assert b"/StructTreeRoot" in made
    assert b"D:20250131102233" in made


def test_the_same_report_gives_the_same_bytes():
    assert to_pdf(samples.report()) == to_pdf(samples.report())


def test_its_date_is_that_of_the_report():
    report = samples.report()
    later = report.volatile.model_copy(update={"created": "2026-02-03T04:05:06Z"})
    made = to_pdf(report.model_copy(update={"volatile": later}))
    assert b"D:20260203040506" in made
    assert b"D:2025" not in made


def test_its_fonts_are_those_that_come_with_typst():
    fonts = set(re.findall(rb"/BaseFont\s*/[A-Z]{6}\+([A-Za-z]+)", to_pdf(samples.report())))
    assert fonts
    assert all(name.startswith((b"Libertinus", b"DejaVuSansMono", b"NewCM")) for name in fonts)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_cannot_add_anything(name):
    """Text that means something to Typst is set as it is: no page more, and no error."""
    made = samples.report(
        title=name, summary=name, limits=(name,), variants=(samples.variant(name, unprotected=(name,)),)
    )
    assert to_pdf(made).startswith(b"%PDF-")


def test_a_line_break_in_a_name_makes_no_line():
    broken, whole = (
        compiled(samples.report(title=name, variants=(samples.variant(name),)), "png")
        for name in ("a\nb", "a b")
    )
    assert broken == whole


def test_text_goes_as_data_and_never_into_the_template():
    assert _resource(pdf.TEMPLATE).count("sys.inputs") == 1
    assert not re.search(
        r"\b(eval|read|include|import|plugin)\b\(?", re.sub("//.*", "", _resource(pdf.TEMPLATE))
    )


def test_a_long_word_breaks_instead_of_running_over_the_edge():
    """Set in one column of one colour, a name without spaces stays within the margins of the page."""
    for page in compiled(samples.report(title="W" * 70, variants=(samples.variant("M" * 90),)), "png"):
        image = Image.open(io.BytesIO(page)).convert("L")
        margin = image.crop((image.width - int(image.width * 15 / 210), 0, image.width, image.height))
        assert margin.getextrema()[0] > 250


@pytest.mark.parametrize("names", ["a", "ab", "abc"])
def test_the_verdict_takes_one_page_and_the_sections_follow(names):
    report = samples.report(variants=tuple(samples.variant(name) for name in names))
    found = chapters(report)
    assert found[0] == (2, "Threat model and who sees what")
    assert [title for _, title in found] == [section.title for section in document(report).sections]


def blocks(report: Report) -> list[dict[str, object]]:
    return [
        block for section in pdf._data(report, document(report))["sections"] for block in section["blocks"]
    ]


def test_pictures_are_shown():
    report = with_picture(png())
    assert "picture" in [block["kind"] for block in blocks(report)]
    assert to_pdf(report).startswith(b"%PDF-")


@pytest.mark.parametrize("broken", ["iVBORw0KGgo=", "AAAA", "A"])
def test_damaged_pictures_are_said_to_be(broken):
    report = with_picture(broken)
    texts = [str(block.get("text")) for block in blocks(report)]
    assert any(text.startswith("A picture that can't be read") for text in texts)
    assert to_pdf(report).startswith(b"%PDF-")


def test_charts_stand_alone_in_the_colours_for_paper():
    chart = privacy_utility(samples.report().variants).wide
    made = alone(chart)
    assert made.startswith('<svg xmlns="http://www.w3.org/2000/svg" ')
    assert made.count("<svg") == 1
    assert "var(" not in made
    assert "@media" not in made
    assert ".mark.s0 { fill: #0072b2; }" in made
    classes = {each for names in re.findall('class="([^"]+)"', chart) for each in names.split()}
    style = re.search("<style>(.*?)</style>", made, re.DOTALL)
    assert style
    assert {
        each for rule in re.findall(r"([^{}]+)\{", style[1]) for each in re.findall(r"\.([\w-]+)", rule)
    } <= classes


def test_charts_are_described():
    variant = samples.variant('<b>&"x"')
    chart = privacy_utility((variant,)).wide
    assert '<b>&"x"' in described(chart)
    assert unescape("&lt;") not in chart.split("<desc")[1].split(">", 1)[1].split("</desc>")[0]


def test_what_typst_cannot_set_is_a_refusal(monkeypatch):
    monkeypatch.setattr(pdf, "TEMPLATE", "report.css")
    with pytest.raises(ReportError, match="the PDF can't be typeset"):
        to_pdf(samples.report())


def test_all_forms_are_written(tmp_path):
    names = ("json", "html", "pdf", "md", "modelcard")
    paths = write(samples.report(), tmp_path / "out" / "r", names)
    assert [path.name for path in paths] == ["r.json", "r.html", "r.pdf", "r.md", "r.modelcard.md"]
    assert all(path.stat().st_size > 1000 for path in paths)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in paths)


def test_a_format_that_fails_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(pdf, "TEMPLATE", "report.css")
    with pytest.raises(ReportError):
        write(samples.report(), tmp_path / "r", ("json", "html", "pdf", "md"))
    assert list(tmp_path.iterdir()) == []


def test_a_report_of_twenty_attacks_by_four_observers_is_not_large(tmp_path):
    report = samples.many()
    assert len([f for f in report.variants[0].findings if not f.bound_method]) == 80
    began = time.monotonic()
    html, made = write(report, tmp_path / "r", ("html", "pdf"))
    print(f"written in {time.monotonic() - began:.1f} s")
    assert html.stat().st_size < 2_000_000
    assert made.stat().st_size < 2_000_000


def test_formats_are_told_by_their_endings():
    assert {name: FORMATS[name].ending for name in ("pdf", "md", "modelcard")} == {
        "pdf": "pdf",
        "md": "md",
        "modelcard": "modelcard.md",
    }
