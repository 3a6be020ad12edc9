import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefd.evaluation import charts, drawing
from securefd.evaluation.html import HEAT, _resource, heat, number, observers, render, size
from securefd.evaluation.report import Estimate, Report, accuracy, estimate
from tests.evaluation.report_samples import finding, report, variant

VOID = {"meta", "br", "link", "img", "input", "hr"}
ATTACK = """</script><script>alert('x')</script><img src=http://x onerror=alert(1)>"&amp;"""


class Page(HTMLParser):
    """Checks that tags nest, and keeps tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.tables: list[list[int]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append(0)
        if tag in ("td", "th"):
            self.tables[-1][-1] += int(dict(attrs).get("colspan") or 1)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render(report()))


class TestPage:
    def test_same_report_same_page(self) -> None:
        assert render(report()) == render(report())

    def test_it_loads_nothing_and_runs_its_own_script_only(self, page: Page) -> None:
        assert page.named("script") == [{}]
        names = {tag for tag, _ in page.tags}
        assert not names & {"link", "iframe", "object", "embed", "base", "use", "image"}
        for tag, attributes in page.tags:
            assert not any(name.startswith("on") for name in attributes)
            source = attributes.get("src")
            assert source is None or (tag == "img" and source.startswith("data:image/png;base64,"))
            assert (attributes.get("href") or "#").startswith("#")
        assert not re.search(r"https?:|url\(|@import|@font-face", render(report()))
        assert any("default-src 'none'" in (meta.get("content") or "") for meta in page.named("meta"))

    def test_tables_are_rectangular_and_described(self, page: Page) -> None:
        assert len(page.named("caption")) == len(page.tables) == len(page.named("table"))
        for rows in page.tables:
            assert len(set(rows)) == 1, rows
        assert all(cell.get("scope") for cell in page.named("th"))
        boxes = [a for a in page.named("div") if a.get("class") == "scroll"]
        assert len(boxes) == len(page.tables)
        assert all(box.get("tabindex") == "0" and box.get("aria-label") for box in boxes)

    def test_ids_are_unique_and_links_arrive(self, page: Page) -> None:
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(set(ids)) == len(ids)
        for link in page.named("a"):
            assert (link["href"] or "")[1:] in ids
        for _, attributes in page.tags:
            for key in ("aria-labelledby", "aria-describedby"):
                assert key not in attributes or attributes[key] in ids

    def test_everything_in_the_report_is_on_the_page(self, page: Page) -> None:
        sample = report()
        for text in strings(sample):
            assert re.sub(r"\s+", " ", text).strip() in page.text, text
        assert "20.1\u00a0kB" in "".join(page.words)

    def test_every_finding_and_skipped_row_is_shown(self, page: Page) -> None:
        for row in (row for v in report().variants for row in (*v.findings, *v.skipped)):
            assert page.text.count(row.reason) == 1

    def test_a_picture_is_inside_the_page_and_described(self, page: Page) -> None:
        pictures = page.named("img")
        assert [each["src"] for each in pictures] == ["data:image/png;base64,iVBORw0KGgo="] * 2
        assert all(len(each["alt"] or "") > 50 for each in pictures)

    def test_what_can_not_be_drawn_is_said(self, page: Page) -> None:
        assert "not measured: bare." in page.text

    @pytest.mark.parametrize("verdict", ["fail", "inconclusive"])
    def test_the_verdict_is_a_word(self, verdict: str) -> None:
        assert f"Verdict: {verdict}" in Page(render(report(verdict=verdict))).text

    def test_no_figure_is_nan(self, page: Page) -> None:
        assert not re.search(r"\b(nan|inf|None|Undefined)\b", page.text)


def strings(row: object) -> list[str]:
    """Every text in the report that a reader should find as it is."""
    if isinstance(row, Report):
        hidden = {"schema_version", "volatile"}
        return [
            s for name in type(row).model_fields if name not in hidden for s in strings(getattr(row, name))
        ]
    if isinstance(row, str):
        return [row.lower() if row == "INCONCLUSIVE" else row] if row != "proven" else []
    if isinstance(row, tuple):
        return [s for item in row for s in strings(item)]
    if hasattr(type(row), "model_fields"):
        shown = [name for name in type(row).model_fields if name != "picture"]
        return [s for name in shown for s in strings(getattr(row, name))]
    return []


def test_text_is_never_markup() -> None:
    attacked = finding(observer=ATTACK, attack=ATTACK, reason=ATTACK)
    provenance = report().provenance.model_copy(update={"configuration": ATTACK, "command": ATTACK})
    sample = report(
        title=ATTACK,
        summary=ATTACK,
        variants=(variant(ATTACK, findings=(attacked,), unprotected=(ATTACK,)),),
        provenance=provenance,
        limits=(ATTACK,),
    )
    page = Page(render(sample))
    assert page.named("script") == [{}], "its own"
    assert all((image["src"] or "").startswith("data:image/png;base64,") for image in page.named("img"))
    assert page.text.count(ATTACK) > 10


class TestNumbers:
    @pytest.mark.parametrize(
        ("count", "text"),
        [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (9_996, "10.0 kB"), (99_960, "100 kB"),
         (999_600, "1.00 MB"), (424_488, "424 kB"), (5 * 10**12, "5000 GB")],
    )  # fmt: skip
    def test_sizes(self, count: int, text: str) -> None:
        assert size(count) == text.replace(" ", "\u00a0")

    @pytest.mark.parametrize(("value", "text"), [(8.0, "8"), (1e-5, "1e-5"), (0.0, "0"), (1.6249, "1.62")])
    def test_numbers(self, value: float, text: str) -> None:
        assert number(value) == text

    def test_shades(self) -> None:
        assert [heat(x) for x in (0.0, 0.5499, 0.55, 0.9, 1.0)] == [
            (0, "guessing"), (0, "guessing"), (1, "faint"), (5, "severe"), (5, "severe")]  # fmt: skip

    def test_observers_keep_their_order(self) -> None:
        rows = tuple(finding(observer=o) for o in ("auditor", "release", "server"))
        assert observers([variant("a", claims=(), sights=(), skipped=(), findings=rows)]) == (
            "server", "release", "auditor")  # fmt: skip


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


class TestColours:
    """WCAG 2.2 AA: 4.5:1 for text (1.4.3), 3:1 for marks (1.4.11)."""

    roots = re.findall(r":root \{([^}]*--page[^}]*)\}", _resource("report.css"))
    palettes = tuple(dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", root)) for root in roots)

    def test_light_and_dark_name_the_same_colours(self) -> None:
        light, dark = self.palettes
        assert light.keys() == dark.keys()

    @pytest.mark.parametrize("palette", palettes, ids=("light", "dark"))
    def test_text(self, palette: dict[str, str]) -> None:
        pairs = [(ink, ground) for ink in ("ink", "soft", "link") for ground in ("page", "panel")]
        pairs += [(f"{kind}-ink", kind) for kind in ("pass", "fail", "open")]
        pairs += [("ink", kind) for kind in ("pass", "fail", "open")]
        pairs += [("heat-ink", f"heat-{i}") for i in range(5)] + [("heat-ink-5", "heat-5")]
        for ink, ground in pairs:
            assert contrast(palette[ink], palette[ground]) >= 4.5, (ink, ground)

    @pytest.mark.parametrize("palette", palettes, ids=("light", "dark"))
    def test_marks(self, palette: dict[str, str]) -> None:
        for name in ("line", *(f"s{i}" for i in range(charts.N_COLOURS))):
            for ground in ("page", "panel"):
                assert contrast(palette[name], palette[ground]) >= 3, (name, ground)

    def test_every_shade_and_series_has_a_rule(self) -> None:
        css = _resource("report.css")
        assert all(f".heat-{i} {{" in css for i in range(len(HEAT)))
        for i in range(charts.N_COLOURS):
            assert f".mark.s{i} {{" in css
            assert f".whisker.s{i}, .line.s{i} {{" in css


def point(label: str, x: float, y: float, series: int = 0) -> charts.Point:
    return charts.Point(label=label, x=estimate(x, x - 0.05, x + 0.05), y=accuracy(y, 300), series=series)


class TestChart:
    @pytest.mark.parametrize("width", [360, 720])
    @pytest.mark.parametrize(
        "points",
        [
            [],
            [point("only", 0.5, 0.5)],
            [point('<a&"b">', 0.7, 0.9), point("b", 0.6, 0.8)],
            [charts.Point(label="bare", x=Estimate(value=0.9), y=Estimate(value=1.0), series=8)],
        ],
    )
    def test_it_is_xml_with_words(self, points: list[charts.Point], width: int) -> None:
        root = ET.fromstring(charts.privacy_utility(points, width=width, prefix="p"))
        title, description = root.find("title"), root.find("desc")
        assert title is not None
        assert title.text
        assert description is not None
        assert all(p.label in (description.text or "") for p in points)
        assert len(root.findall("g")) == 2 * len(points)

    def test_every_marker_is_its_own_shape(self) -> None:
        shapes = {re.sub(r'class="[^"]*"', "", drawing.marker(i)) for i in range(7)}
        assert len(shapes) == 7

    def test_numbers_have_units_and_intervals(self) -> None:
        text = charts.privacy_utility([point("a", 0.7, 0.9)], width=720, prefix="p")
        assert "90.0\u2009%, AUC 0.70" in text
        assert "strongest attack AUC 0.70 (from 0.65 to 0.75)" in text

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(
            st.tuples(st.floats(0.3, 1), st.floats(0, 1), st.text("abc ", min_size=1, max_size=60)),
            min_size=1,
            max_size=14,
        ),
        st.sampled_from([360, 720]),
    )
    def test_no_label_overlaps(self, rows: list[tuple[float, float, str]], width: int) -> None:
        points = [point(label, x, y, i) for i, (x, y, label) in enumerate(rows)]
        root = ET.fromstring(charts.privacy_utility(points, width=width, prefix="p"))
        names = [t for t in root.findall("text") if t.get("class") == "label"]
        values = [t for t in root.findall("text") if t.get("class") == "value"]
        boxes = []
        for name, value in zip(names, values, strict=True):
            x, y = float(value.get("x") or 0), float(name.get("y") or 0)
            longest = max(15 + 8 * len(name.text or ""), 6.4 * len(value.text or ""))
            boxes.append(charts.Box(x, y - 10, x + longest, float(value.get("y") or 0) + 2))
        assert len(boxes) == len(points)
        for i, box in enumerate(boxes):
            assert box.left >= 0
            assert box.right <= width
            assert not any(box.meets(other) for other in boxes[:i])

    def test_a_full_frame_has_no_place(self) -> None:
        frame = charts.Box(0, 0, 50, 20)
        assert charts.place_labels([(60.0, 10.0)], [(25.0, 10.0)], [], frame) is None
