"""A sweep as it is asked for: a base federation, a grid of changes to it, and the cells that come of both."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from securefd.config import Config, Table, read_tables, read_text, resolved, validated
from securefd.errors import ConfigError
from securefd.refusals import explain, refusal, shown
from securefd.rules import n_clients

MOST_CELLS = 10_000
"""Cells of one sweep; more come of a typing error, and would take months."""
HASH_DIGITS = 10
SEED = "seed"
COUNT = "clients.count"
"""A column of its own: how many clients there are in all."""
_KEYS = {"methods": "method.name", "routes": "privacy.route", "epsilon": "privacy.epsilon", "seeds": SEED}
"""Short names of keys that most sweeps vary; `_change` knows three more, whose values aren't as in a file."""

Scalar = str | int | float | bool | None


class SweepFile(Table):
    """A sweep.toml. ``base``: a federation, as a table or as the path of its file, beside this file.

    ``grid``: a table of lists, of which every combination is a cell, or several such tables.
    """

    base: str | dict[str, Any]
    grid: dict[str, Any] | list[dict[str, Any]]
    audit: bool = False
    frontier: Literal["server", "peer", "release", "label-only"] = "release"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One value of one axis: put at ``path`` in the base; results call it ``label``."""

    path: tuple[str, ...]
    label: str
    value: Any

    def leaves(self) -> dict[str, Scalar]:
        """What varies, a column each: a table has one for each of its keys; a list is JSON."""
        return dict(_leaves(self.label, self.value))


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One federation of a sweep. ``varied``: what tells it from the others. ``config``: None where the
    configuration refuses such a combination, for the reason in ``refused``.
    """

    name: str
    varied: Mapping[str, Scalar]
    config: Config | None = field(repr=False)
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """All cells of a sweep, in the order of its grid. ``frontier``: the observer whose epsilon is compared.

    ``audit``: attack each cell, too. ``workers``: cells at a time, unless told
    otherwise. ``tables``: the sweep as TOML holds it, its base inside.
    """

    cells: tuple[Cell, ...]
    audit: bool
    frontier: str
    workers: int
    tables: Mapping[str, Any] = field(repr=False)

    @property
    def runnable(self) -> tuple[Cell, ...]:
        """The cells that the configuration doesn't refuse."""
        return tuple(cell for cell in self.cells if cell.config is not None)

    @property
    def columns(self) -> tuple[str, ...]:
        """What varies, in the order of the grid; the seed comes last."""
        names = dict.fromkeys(name for cell in self.cells for name in cell.varied)
        return tuple(sorted(names, key=lambda name: name == SEED))


def load_sweep(path: str | Path) -> Sweep:
    """Read a sweep.toml. Raises ConfigError for a faulty one, for one whose cells are all refused or too
    many, and for cells that are the same federation.
    """
    source = str(path)
    text = read_text(path, "write one with a base and a [grid], as in examples/sweep.toml")
    return parse_sweep(text, source, Path(path).parent)


def parse_sweep(text: str, source: str = "sweep", beside: Path = Path()) -> Sweep:
    """The same of TOML text; the path of a base is relative to ``beside``."""
    try:
        asked = SweepFile.model_validate(read_tables(text, source))
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(error, {(): SweepFile})}") from None
    base = asked.base
    if isinstance(base, str):
        place = beside / base
        base = read_tables(read_text(place, f"correct base in {source}"), str(place))
    base = {"name": "sweep", **base}
    try:
        cells = _cells(base, [asked.grid] if isinstance(asked.grid, dict) else asked.grid)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    able = [cell.config for cell in cells if cell.config is not None]
    if not able:
        raise ConfigError(
            f"{source}: none of its {len(cells)} cells can be run, the first for this reason: "
            f"{cells[0].refused}"
        )
    return Sweep(
        cells=cells,
        audit=asked.audit,
        frontier=asked.frontier,
        workers=max(config.performance.workers for config in able),
        tables={**asked.model_dump(), "base": base},
    )


def _cells(base: Mapping[str, Any], grids: Sequence[Mapping[str, Any]]) -> tuple[Cell, ...]:
    axes = [list(_axes(grid, base)) for grid in grids]
    count = sum(math.prod(map(len, each)) for each in axes)
    if not any(axes):
        raise refusal("grid", "must vary something", grids, 'add a list, such as "privacy.epsilon" = [1, 4]')
    if not count <= MOST_CELLS:
        raise ConfigError(f"grid must have at most {MOST_CELLS:,} cells, got {count:,}; shorten its lists")
    found: dict[str, Cell] = {}
    for changes in itertools.chain.from_iterable(itertools.product(*each) for each in axes):
        cell = _cell(base, changes)
        if cell.name in found:
            raise ConfigError(
                f"grid asks for one federation twice, as {shown(found[cell.name].varied)} and as "
                f"{shown(cell.varied)}; remove one of the two"
            )
        found[cell.name] = cell
    return tuple(found.values())


def _axes(grid: Mapping[str, Any], base: Mapping[str, Any], above: str = "") -> Iterator[list[Change]]:
    """The axes of one grid: a list of values each. Keys may be dotted, in quotes or as TOML nests them."""
    for name, values in grid.items():
        key = f"{above}{name}"
        if isinstance(values, Mapping) and values:
            yield from _axes(values, base, f"{key}.")
            continue
        if key == "seeds" and isinstance(values, int) and not isinstance(values, bool) and values > 0:
            first = base.get(SEED, 0)
            if not isinstance(first, int) or not values <= MOST_CELLS:
                raise refusal("grid.seeds", "must be a list, or a count of seeds", values, "give a list")
            values = list(range(first, first + values))
        if not isinstance(values, list) or not values:
            raise refusal(f"grid.{key}", "must be a list of values", values, "write it in square brackets")
        yield [_change(key, value) for value in values]


def _change(key: str, value: Any) -> Change:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if key == "skew":
        if value != "iid" and not number:
            raise refusal(
                "grid.skew", 'must hold alphas of a Dirichlet partition, or "iid"', value, "correct it"
            )
        partition = {"kind": "dirichlet", "alpha": float(value)} if number else {"kind": "iid"}
        return Change(path=("data", "partition"), label="data.partition", value=partition)
    if key == "clients" and number:
        return Change(path=("clients", "0", "count"), label=COUNT, value=value)
    if key == "sealing" and isinstance(value, str):
        key = "sealing.kind"
    key = _KEYS.get(key, key)
    return Change(path=tuple(key.split(".")), label=key, value=value)


def _cell(base: Mapping[str, Any], changes: Sequence[Change]) -> Cell:
    varied = {label: value for change in changes for label, value in change.leaves().items()}
    tables = deepcopy(dict(base))
    try:
        for change in sorted(changes, key=lambda change: len(change.path)):  # a table before a key in it
            _put(tables, change)
        config = validated(tables)
        _check(config)
    except ConfigError as error:
        return Cell(name=f"refused-{_digest(tables)}", varied=varied, config=None, refused=str(error))
    name = f"{_readable(config)}-{_digest(_identity(config))}"
    # A cell keeps to one process and thread, since others run beside it; that changes no figure.
    alone = config.performance.model_copy(update={"workers": 1})
    return Cell(
        name=name, varied=varied, config=config.model_copy(update={"name": name, "performance": alone})
    )


def _check(config: Config) -> None:
    if config.privacy is not None and config.privacy.ledger:
        raise refusal(
            "privacy.ledger",
            "must be left out of a sweep, whose cells are alternatives and run side by side",
            config.privacy.ledger,
            "remove it; each cell has a ledger of its own",
        )


def _put(tables: dict[str, Any], change: Change) -> None:
    """Set the value; an empty table takes away what was there."""
    if change.label == COUNT and len(tables.get("clients", ())) != 1:
        raise refusal(
            "grid.clients",
            "can be counts only for a base with one [[clients]] table",
            change.value,
            "give lists of tables such as [{ count = 3, model = 'mlp' }]",
        )
    *above, last = change.path
    here: Any = tables
    for name in above:
        if isinstance(here, list) and name.isdecimal() and int(name) < len(here):
            here = here[int(name)]
        elif isinstance(here, dict):
            here = here.setdefault(name, {})
        else:
            here = None
    if isinstance(here, list) and last.isdecimal() and int(last) < len(here):
        here[int(last)] = deepcopy(change.value)
    elif isinstance(here, dict) and change.value == {}:
        here.pop(last, None)
    elif isinstance(here, dict):
        here[last] = deepcopy(change.value)
    else:
        raise refusal(f"grid.{change.label}", "isn't a key of a federation", change.value, "correct the key")


def _leaves(label: str, value: Any) -> Iterator[tuple[str, Scalar]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(f"{label}.{name}", inner)
    elif isinstance(value, str | int | float | bool):
        yield label, value
    else:
        yield label, json.dumps(value, sort_keys=True, default=str)


def setting_of(cell: Cell) -> str:
    """The same for cells that differ in nothing but their seed."""
    if cell.config is None:
        return json.dumps({name: value for name, value in cell.varied.items() if name != SEED})
    return _digest({**_identity(cell.config), SEED: 0})


def settings_of(cell: Cell, columns: Sequence[str]) -> dict[str, Scalar]:
    """What a cell has in each column that some cell varies: its own value, or a default, or None."""
    if cell.config is None:
        return {name: cell.varied.get(name) for name in columns}
    tables = resolved(cell.config)
    return {
        name: n_clients(cell.config) if name == COUNT else _value(tables, name.split(".")) for name in columns
    }


def _value(tables: Any, path: Sequence[str]) -> Scalar:
    for name in path:
        if isinstance(tables, list) and name.isdecimal() and int(name) < len(tables):
            tables = tables[int(name)]
        elif isinstance(tables, Mapping):
            tables = tables.get(name)
        else:
            return None
    if tables is None or isinstance(tables, str | int | float | bool):
        return tables
    return json.dumps(tables, sort_keys=True, default=str)


def _identity(config: Config) -> dict[str, Any]:
    """All that decides what comes of a federation, but not what it is called."""
    tables = resolved(config)
    del tables["performance"], tables["name"]
    return tables


def _readable(config: Config) -> str:
    """A name for people, the same for the same federation whatever else its sweep varies."""
    privacy, partition = config.privacy, config.data.partition
    parts = [config.method.name, config.sealing.kind]
    if privacy is not None:
        parts.append(f"{privacy.route}{'' if privacy.epsilon is None else f'{privacy.epsilon:g}'}")
    alpha = getattr(partition, "alpha", None)
    parts += [f"{n_clients(config)}clients", f"{partition.kind}{'' if alpha is None else f'{alpha:g}'}"]
    parts.append(f"seed{config.seed}")
    return re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(parts))[:80].strip("-.")


def _digest(tables: Mapping[str, Any]) -> str:
    text = json.dumps(tables, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]
