"""Charts that stand alone: with rules of the page's style sheet inside, in its colours for light paper."""

from __future__ import annotations

import re
from functools import cache
from html import unescape
from importlib import resources

FONT = 'text { font-family: "Libertinus Serif"; }'
"""Of the texts of a chart, which on a page are in that of the page."""
_RULE = re.compile(r"([^{}]+)\{([^{}]*)\}")
_NESTED = re.compile(r"@[^{;]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}")
_PLAIN = re.compile(r"(?:\.[\w-]+)+(?: (?:\.[\w-]+|text))*")
"""A selector of classes alone."""


def alone(svg: str) -> str:
    """A chart of `charts` or `lines` as a file of its own."""
    inside = f"<style>{FONT}\n{_rules(frozenset(_classes(svg)))}</style>"
    return re.sub(
        r"^<svg [^>]*>",
        lambda start: start[0].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + inside,
        svg,
        count=1,
    )


def described(svg: str) -> str:
    """What a chart shows, in words: its title and description."""
    told = [re.search(rf"<{name}[^>]*>(.*?)</{name}>", svg, re.DOTALL) for name in ("title", "desc")]
    return ". ".join(unescape(found[1]) for found in told if found)


def _classes(svg: str) -> set[str]:
    return {name for names in re.findall(r'class="([^"]*)"', svg) for name in names.split()}


@cache
def _rules(classes: frozenset[str]) -> str:
    """Those rules of the style sheet that speak of these classes only, with colours filled in."""
    sheet = resources.files("securefd.evaluation").joinpath("report.css").read_text(encoding="utf-8")
    bare = _NESTED.sub("", re.sub(r"/\*.*?\*/", "", sheet, flags=re.DOTALL))
    rules = [(match[1].strip(), match[2]) for match in _RULE.finditer(bare)]
    colours = dict(
        re.findall(r"--([\w-]+):\s*([^;]+);", next(body for name, body in rules if name == ":root"))
    )
    kept = []
    for selectors, body in rules:
        fitting = [each for each in re.split(r",\s*", selectors) if _fits(each, classes)]
        if fitting:
            filled = re.sub(r"var\(--([\w-]+)\)", lambda name: colours[name[1]], body)
            kept.append(f"{', '.join(fitting)} {{{filled}}}")
    return "\n".join(kept)


def _fits(selector: str, classes: frozenset[str]) -> bool:
    """``.chart`` itself is about where a page puts it."""
    named = re.findall(r"\.([\w-]+)", selector)
    return selector != ".chart" and _PLAIN.fullmatch(selector) is not None and classes.issuperset(named)
