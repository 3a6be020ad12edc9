"""Sentences that refuse a configuration: the key, the rule, the value and a remedy, on one line."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from securefd.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError
    from pydantic_core import ErrorDetails

Tables = Mapping[tuple[str, ...], type["BaseModel"]]
"""The model of each table by its path, list positions left out; a partition's path ends with its kind."""

LATER: Mapping[str, frozenset[str]] = {
    "method.name": frozenset({"selective", "fedproto"}),
    "audit.observers": frozenset({"keyholder", "coalition"}),
}
"""Names that are planned. They are refused as such, so that nobody looks for a typing error."""

_EXAMPLES = {
    "name": 'name = "clinic" at the top',
    "seed": "seed = 7 at the top",
    "data": 'a [data] table with source = "digits"',
    "clients": 'a [[clients]] table with count = 5 and model = "mlp"',
    "method": 'a [method] table with name = "dsfl"',
    "data.source": 'source = "digits" under [data]',
    "clients.model": 'model = "mlp" under [[clients]]',
    "method.name": 'name = "dsfl" under [method]',
    "privacy.unit": 'unit = "record" under [privacy]',
    "privacy.route": 'route = "dpsgd" under [privacy]',
    "privacy.relation": 'relation = "add-or-remove" or "replace-one" under [privacy]',
    "audit.canaries.count": "count = 200 under [audit.canaries]",
    "privacy.delta": "delta = 1e-5 (below 1 / records of a client) under [privacy]",
    "privacy.sample": "sample = 60 (records that each client trains on) under [privacy]",
    "data.partition.kind": 'kind = "iid" in it',
    "data.partition.alpha": "alpha = 0.5 in it",
    "data.partition.classes": "classes = 2 in it",
}

_TYPES = {
    "int_type": ("must be a whole number", "write it without quotes and without a decimal point"),
    "float_type": ("must be a number", "write it without quotes"),
    "finite_number": ("must be a finite number", "give a number that isn't nan or inf"),
    "string_type": ("must be a text", "write it in quotes"),
    "tuple_type": ("must be a list", "write it in square brackets"),
    "dict_type": ("must be a table", "write it as { key = value }"),
    "model_type": ("must be a table", "write it as { key = value }"),
    "model_attributes_type": ("must be a table", "write it as { key = value }"),
}

_BOUNDS = {
    "greater_than": ("gt", "must be greater than {}", "give a larger number"),
    "greater_than_equal": ("ge", "must be at least {}", "give {} or more"),
    "less_than": ("lt", "must be less than {}", "give a smaller number"),
    "less_than_equal": ("le", "must be at most {}", "give {} or less"),
    "too_short": ("min_length", "must have a length of at least {}", "add what is missing"),
    "too_long": ("max_length", "must have a length of at most {}", "leave out the others"),
    "string_too_short": ("min_length", "must have a length of at least {}", "give a longer text"),
    "string_too_long": ("max_length", "must have a length of at most {}", "give a shorter text"),
}


def shown(value: object) -> str:
    """Return ``value`` as it would stand in TOML, on one line and not longer than 60 characters."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    text = "".join(character if character.isprintable() else "?" for character in text)
    return text if len(text) <= 60 else text[:57] + "..."


def refusal(key: str, rule: str, value: object, remedy: str) -> ConfigError:
    """Return the error for a key whose value breaks a rule."""
    return ConfigError(f"{key} {rule}, got {shown(value)}; {remedy}")


def missing(key: str, generic: str | None = None) -> ConfigError:
    """Return the error for a key that must be given; ``generic``: the same without positions in lists."""
    return ConfigError(f"{key} is required, but missing; add {_EXAMPLES.get(generic or key, 'it')}")


def unknown_name(key: str, value: str, known: Iterable[str], also: str = "") -> ConfigError:
    """Return the error for a name that isn't one of ``known``; ``also``: what else would do."""
    names = list(known)
    generic = "".join(part for part in key if not part.isdigit()).replace("[]", "")
    choices = ", ".join(names) + also
    if value in LATER.get(generic, ()):
        return refusal(key, "is planned, but not in this version", value, f"choose one of {choices}")
    return refusal(key, f"must be one of {choices}", value, _nearest(value, names) or "choose one of them")


def explain(error: ValidationError, tables: Tables) -> str:
    """Return one sentence for the first fault that pydantic found, and how many there are."""
    faults: dict[str, ErrorDetails] = {}
    for fault in error.errors(include_url=False):
        counted = fault["type"] == "too_short" and len(fault["input"]) >= fault["ctx"]["min_length"]
        if not counted:  # there are enough entries, but faulty ones, which are listed themselves
            faults.setdefault(_key(fault["loc"]), fault)
    # A mistyped key often shows up again as a missing one: the typing error is the cause.
    ordered = sorted(faults.items(), key=lambda item: item[1]["type"] != "extra_forbidden")
    key, fault = ordered[0]
    sentence = str(_sentence(key, fault, tables))
    return sentence if len(ordered) == 1 else f"{sentence} (the first of {len(ordered)} faults)"


def _sentence(key: str, fault: ErrorDetails, tables: Tables) -> ConfigError:
    kind, value, context = fault["type"], fault["input"], fault.get("ctx", {})
    generic = ".".join(_path(fault["loc"]))
    if kind == "extra_forbidden":
        return _unknown_key(key, fault, tables)
    if kind in ("missing", "union_tag_not_found"):
        key, generic = (f"{key}.kind", f"{generic}.kind") if kind != "missing" else (key, generic)
        return missing(key, generic)
    if kind in ("literal_error", "union_tag_invalid"):
        choices = context["expected"] if kind == "literal_error" else context["expected_tags"]
        names = [name.strip(" '") for name in choices.replace(" or ", ", ").split(",")]
        if kind == "union_tag_invalid":
            key, value = f"{key}.kind", context["tag"]
        return unknown_name(key, str(value), names)
    if generic in ("data.public", "data.test"):
        return refusal(key, "must be a count or a path", value, "write 500, or a path in quotes")
    if generic == "clients" and kind == "tuple_type":
        return refusal(key, "must be a list of tables", value, "write [[clients]], in double brackets")
    if kind in _TYPES:
        rule, remedy = _TYPES[kind]
        return refusal(key, rule, value, remedy)
    if kind in _BOUNDS:
        name, rule, remedy = _BOUNDS[kind]
        return refusal(key, rule.format(context[name]), value, remedy.format(context[name]))
    return refusal(key, f"isn't valid ({fault['msg']})", value, "correct it")


def _unknown_key(key: str, fault: ErrorDetails, tables: Tables) -> ConfigError:
    parts = [part for part in fault["loc"] if isinstance(part, str)]
    *path, name = parts
    here = list(tables[tuple(path)].model_fields)
    close = difflib.get_close_matches(name, here, n=1)
    if close:
        remedy = f"did you mean {key.removesuffix(name)}{close[0]}?"
    elif elsewhere := [table for table, model in tables.items() if name in model.model_fields]:
        table = elsewhere[0]
        remedy = f"{name} belongs " + (
            f"under {'.'.join(table)}" if table else "at the top, before any table"
        )
    else:
        remedy = f"the keys here are {', '.join(here)}"
    return refusal(_printable(key), "isn't a known key", fault["input"], remedy)


def _path(location: tuple[int | str, ...]) -> list[str]:
    """The names in ``location``, without positions and without pydantic's names of union members."""
    parts = [part for part in location if isinstance(part, str)]
    if parts[:2] == ["data", "partition"]:
        del parts[2:3]
    elif parts[:1] == ["data"] and parts[-1] in ("int", "str"):
        del parts[-1]
    return parts


def _key(location: tuple[int | str, ...]) -> str:
    key, names = "", iter(_path(location))
    wanted = next(names, None)
    for part in location:
        if isinstance(part, int):
            key += f"[{part}]"
        elif part == wanted:
            key += f".{part}" if key else part
            wanted = next(names, None)
    return _printable(key)


def _printable(key: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in key[:80])


def _nearest(value: str, names: list[str]) -> str:
    close = difflib.get_close_matches(value, names, n=1)
    return f"did you mean {close[0]}?" if close else ""


def either(names: Sequence[str]) -> str:
    """The names, with an "or" before the last one."""
    if len(names) == 1:
        return names[0]
    return f"{', '.join(names[:-1])} or {names[-1]}"
