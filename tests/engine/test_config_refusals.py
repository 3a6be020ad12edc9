"""Every refusal of a configuration: the key, the rule, the value and a remedy, in one sentence."""

import copy
import re
from typing import Any

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from securefd import refusals, rules
from securefd.config import TABLES, parse_config
from securefd.errors import ConfigError
from securefd.methods import METHODS

Settings = dict[str, Any]

SMALL: dict[str, Any] = {
    "name": "small",
    "seed": 1,
    "data": {"source": "digits"},
    "clients": [{"count": 5, "model": "mlp"}],
    "method": {"name": "dsfl"},
}
DPSGD = {
    "privacy.unit": "record",
    "privacy.route": "dpsgd",
    "privacy.relation": "add-or-remove",
    "privacy.epsilon": 8.0,
    "privacy.delta": 1e-5,
}
CSV = {"data.source": "csv", "data.path": "records.csv"}
MASKED = {"sealing.kind": "masked"}
HOMOMORPHIC = {"sealing.kind": "homomorphic"}
ABSENT = object()
METHOD_NAMES = ", ".join(METHODS)


def written(settings: Settings) -> str:
    """The small configuration with settings changed, as TOML; keys are dotted, ABSENT removes one."""
    tables = copy.deepcopy(SMALL)
    for key, value in settings.items():
        *path, name = [int(part) if part.isdigit() else part for part in re.findall(r"[^.\[\]]+", key)]
        table: Any = tables
        for part in path:
            table = table[part] if isinstance(part, int) else table.setdefault(part, {})
        if value is ABSENT:
            table.pop(name, None)
        else:
            table[name] = value
    return tomli_w.dumps(tables)


def refused(settings: Settings) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(written(settings), "federation.toml")
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def check(settings: Settings, key: str, value: object, rule: str, remedy: str) -> None:
    sentence = refused(settings)
    got = f", got {refusals.shown(value)}; "
    assert sentence.startswith(f"federation.toml: {key} ")
    assert got in sentence
    before, _, after = sentence.partition(got)
    assert rule in before
    assert remedy in after


# --- one key -----------------------------------------------------------------------------------

SINGLE = [
    ("method.round", 5, "isn't a known key", "did you mean method.rounds?"),
    ("method.epsilon", 5, "isn't a known key", "epsilon belongs under privacy"),
    ("method.seed", 5, "isn't a known key", "seed belongs at the top, before any table"),
    ("method.zzz", 5, "isn't a known key", "the keys here are name, rounds"),
    ("sed", 5, "isn't a known key", "did you mean seed?"),
    ("clients[0].counts", 5, "isn't a known key", "did you mean clients[0].count?"),
    ("method.rounds", "5", "must be a whole number", "without quotes"),
    ("method.rounds", 5.5, "must be a whole number", "without a decimal point"),
    ("method.rounds", True, "must be a whole number", "without quotes"),
    ("method.rounds", [5], "must be a whole number", "without quotes"),
    ("method.rounds", 0, "must be at least 1", "give 1 or more"),
    ("method.learning_rate", "x", "must be a number", "without quotes"),
    ("method.learning_rate", 0, "must be greater than 0", "larger"),
    ("method.learning_rate", float("nan"), "must be a finite number", "nan or inf"),
    ("method.temperature", float("inf"), "must be a finite number", "nan or inf"),
    ("method.temperature", 9e-4, "must be at least 0.001", "give 0.001 or more"),
    *[("method.name", name, "must be one of fedmd", "") for name in ("local", "pooled", "fedavg")],
    ("method.bits", 9, "must be at most 8", "give 8 or less"),
    ("method.name", "dsflx", f"must be one of {METHOD_NAMES}", "did you mean dsfl?"),
    ("name", 5, "must be a text", "in quotes"),
    ("name", "", "must have a length of at least 1", "longer"),
    ("name", "a" * 101, "must have a length of at most 100", "shorter"),
    ("seed", -1, "must be at least 0", "give 0 or more"),
    ("seed", 2**63, "must be less than 9223372036854775808", "smaller"),
    ("clients", {"count": 5, "model": "mlp"}, "must be a list of tables", "write [[clients]]"),
    ("clients", [], "must have a length of at least 1", "add what is missing"),
    ("clients[0].count", 0, "must be at least 1", "give 1 or more"),
    ("clients[0].model", "lenet", "must be one of logistic, mlp, cnn, resnet, forest, boosting", "resnet"),
    (
        "clients[0].model",
        "9a.b:c",
        "must be one of logistic, mlp, cnn, resnet, forest, boosting",
        "choose one",
    ),
    ("student.model", "cnnn", "must be one of logistic, mlp, cnn, resnet", "did you mean cnn?"),
    ("data", "digits", "must be a table", "{ key = value }"),
    ("data.source", "digit", "must be one of digits, breast-cancer, idx", "did you mean digits?"),
    ("data.source", "no colon.x:", 'or "package.module:function"', "choose one of them"),
    ("data.public", True, "must be a count or a path", "write 500, or a path in quotes"),
    ("data.test", 0.3, "must be a count or a path", "write 500, or a path in quotes"),
    ("data.public", -1, "must be at least 0 as a count", "or a path"),
    ("data.test", 0, "must be at least 1 as a count", "or a path"),
    ("data.public", "", "must be a count or a path", "write 500, or a path in quotes"),
    ("data.test", "", "must be a count or a path for data.source = 'digits'", "write 300"),
    ("data.partition", "iid", "must be a table", "{ key = value }"),
    ("data.partition.kind", "dirichle", "must be one of iid, dirichlet, shards", "did you mean dirichlet?"),
    ("data.bounds.age", [0, 1, 2], "must have a length of at most 2", "leave out"),
    ("data.bounds.age", [9.0, 1.0], "must be [low, high] with low < high", "swap or correct them"),
    ("audit.observers", "peer", "must be a list", "square brackets"),
    ("audit.observers", [], "must have a length of at least 1", "add what is missing"),
    ("audit.observers", ["peer", "peer"], "must name each observer once", "remove the repetition"),
    ("audit.observers[1]", "sever", "must be one of server, peer, release", "did you mean server?"),
    ("audit.shadows", 3, "must be at least 4", "give 4 or more"),
    ("sealing.kind", "mask", "must be one of plain, masked, homomorphic, masked+", "did you mean masked?"),
    ("sealing.bits", 21, "must be at most 20", "give 20 or less"),
    ("performance.device", "gpu", "must be cpu, cuda, cuda:N or mps", 'write "cpu"'),
]


@pytest.mark.parametrize(("key", "value", "rule", "remedy"), SINGLE)
def test_a_single_key(key: str, value: object, rule: str, remedy: str) -> None:
    settings = {"audit.observers": ["peer", value]} if key == "audit.observers[1]" else {key: value}
    check(settings, key, value, rule, remedy)


@pytest.mark.parametrize(
    ("key", "value", "rule", "remedy"),
    [
        ("privacy.delta", 1.0, "must be less than 1", "smaller"),
        ("privacy.epsilon", 0.0, "must be greater than 0", "larger"),
        ("privacy.learning_rate", 0.0, "must be greater than 0", "larger"),
        (
            "privacy.relation",
            "remove",
            "must be one of add-or-remove, replace-one",
            "did you mean add-or-remove?",
        ),
        ("privacy.unit", "person", "must be one of record, client", "choose one of them"),
        ("privacy.route", "dpsdg", "must be one of none, dpsgd", "did you mean dpsgd?"),
    ],
)
def test_a_key_of_the_privacy_table(key: str, value: object, rule: str, remedy: str) -> None:
    check(DPSGD | {key: value}, key, value, rule, remedy)


@pytest.mark.parametrize(
    ("partition", "key", "value", "rule", "remedy"),
    [
        (
            {"kind": "dirichlet", "alpha": 1, "alpa": 2},
            "alpa",
            2,
            "isn't a known key",
            "data.partition.alpha?",
        ),
        ({"kind": "dirichlet", "alpha": -1}, "alpha", -1, "must be greater than 0", "larger"),
        ({"kind": "shards", "classes": 0}, "classes", 0, "must be at least 1", "give 1 or more"),
        (
            {"kind": "iid", "alpha": 1},
            "alpha",
            1,
            "isn't a known key",
            "belongs under data.partition.dirichlet",
        ),
    ],
)
def test_a_key_of_a_partition(partition: Settings, key: str, value: object, rule: str, remedy: str) -> None:
    check({"data.partition": partition}, f"data.partition.{key}", value, rule, remedy)


@pytest.mark.parametrize(
    ("settings", "key", "remedy"),
    [
        ({"name": ABSENT}, "name", 'name = "clinic" at the top'),
        ({"seed": ABSENT}, "seed", "seed = 7 at the top"),
        ({"data.source": ABSENT}, "data.source", 'source = "digits" under [data]'),
        ({"clients[0].model": ABSENT}, "clients[0].model", 'model = "mlp" under [[clients]]'),
        ({"method.name": ABSENT}, "method.name", 'name = "dsfl" under [method]'),
        ({"clients": ABSENT}, "clients", "a [[clients]] table"),
        (DPSGD | {"privacy.unit": ABSENT}, "privacy.unit", 'unit = "record"'),
        (DPSGD | {"privacy.route": ABSENT}, "privacy.route", 'route = "dpsgd"'),
        (DPSGD | {"privacy.relation": ABSENT}, "privacy.relation", '"replace-one"'),
        (DPSGD | {"privacy.delta": ABSENT}, "privacy.delta", "delta = 1e-5"),
        ({"data.partition": {}}, "data.partition.kind", 'kind = "iid"'),
        ({"data.partition": {"kind": "shards"}}, "data.partition.classes", "classes = 2"),
        ({"data.bounds": {"age": [1]}}, "data.bounds.age[1]", "it"),
    ],
)
def test_what_is_missing_is_shown(settings: Settings, key: str, remedy: str) -> None:
    sentence = refused(settings)
    assert sentence.startswith(f"federation.toml: {key} is required, but missing; add ")
    assert remedy in sentence


def test_every_required_key_has_an_example() -> None:
    required = {
        ".".join([*path[:2], name])
        for path, table in TABLES.items()
        for name, field in table.model_fields.items()
        if field.is_required() and not (path[:2] == ("data", "partition") and name == "kind")
    }
    assert required <= set(refusals._EXAMPLES)


@pytest.mark.parametrize(
    ("key", "name"), [(key, name) for key, names in refusals.LATER.items() for name in sorted(names)]
)
def test_what_is_planned_is_refused_as_planned(key: str, name: str) -> None:
    places: dict[str, tuple[str, object]] = {
        "clients.model": ("clients[0].model", name),
        "audit.observers": ("audit.observers", [name]),
    }
    place, value = places.get(key, (key, name))
    sentence = refused((DPSGD if key == "privacy.route" else {}) | {place: value})
    assert f"is planned, but not in this version, got {refusals.shown(name)}; choose one of " in sentence


def test_the_first_of_several_faults() -> None:
    sentence = refused({"method.rounds": 0, "method.queries": 0, "method.round": 5})
    assert sentence.startswith("federation.toml: method.round isn't a known key")
    assert sentence.endswith("(the first of 3 faults)")


# --- combinations ------------------------------------------------------------------------------

COMBINATIONS = [
    *[
        ({"data.source": kind}, "data.path", "", f"must be given for data.source = '{kind}'", "give the file")
        for kind in rules.FILES
    ],
    ({"data.path": "x"}, "data.path", "x", "must be left out", "choose a source with files"),
    (CSV, "data.label", "", "must name the column of labels for data.source = 'csv'", "give its name"),
    (
        {"data.partition.kind": "owner"},
        "data.partition.kind",
        "owner",
        "'digits'",
        "data.source = csv or parquet",
    ),
    (
        CSV | {"data.label": "y", "data.partition.kind": "owner"},
        *("data.owner", "", "must name the column that says whose a record is", "give its name"),
    ),
    (
        {"data.source": "breast-cancer", "clients[0].model": "cnn"},
        *("clients[0].model", "cnn", "doesn't fit data.source = 'breast-cancer'", "choose logistic, mlp"),
    ),
    (
        CSV | {"data.label": "y", "student.model": "resnet"},
        *("student.model", "resnet", "doesn't fit data.source = 'csv'", "choose logistic or mlp"),
    ),
    ({"clients[0].count": 1}, "clients", 1, "must be at least 2 in all", "raise count"),
    ({"method.bits": 1}, "method.bits", 1, "must be left out for method.name = 'dsfl'", "remove it"),
    (
        {"method.queries": 501},
        "method.queries",
        501,
        "at most data.public, which is 500",
        "raise data.public",
    ),
    ({"data.public": 0}, "data.public", 0, "must be at least 1 for method.name = 'dsfl'", "'fd'"),
    *[
        (
            {"student.model": tree},
            *("student.model", tree, "must be a network", "choose logistic, mlp, cnn, resnet or encoder"),
        )
        for tree in rules.TREES
    ],
    *[
        (
            {"method.name": "cfd", "sealing.kind": kind},
            *("sealing.kind", kind, "must be plain for method.name = 'cfd'", "choose 'plain'"),
        )
        for kind in ("masked", "homomorphic", "masked+homomorphic")
    ],
    (
        {"method.name": "fedct", "sealing.bits": 4},
        *("sealing.bits", 4, "must be left out for method.name = 'fedct'", "cfd has method.bits"),
    ),
    (
        {"sealing.threshold": 4},
        "sealing.threshold",
        4,
        "must be left out for sealing.kind = 'plain'",
        "masked",
    ),
    (
        {"sealing.colluders": 1},
        "sealing.colluders",
        1,
        "must be left out for sealing.kind = 'plain'",
        "masked",
    ),
    ({"sealing.honest_minimum": 3}, "sealing.honest_minimum", 3, "must be left out", "remove it"),
    ({"sealing.degree": 3}, "sealing.degree", 3, "must be left out", "remove it"),
    (
        MASKED | {"clients[0].count": 2},
        "sealing.kind",
        "masked",
        "doesn't fit 2 clients",
        "until there are 3",
    ),
    (MASKED | {"sealing.threshold": 6}, "sealing.threshold", 6, "number of clients, which is 5", "5 or less"),
    (
        MASKED | {"sealing.threshold": 3, "sealing.colluders": 1},
        *(
            "sealing.colluders",
            1,
            "less than 2 * threshold - clients = 1",
            "raise sealing.threshold (now 3 of 5",
        ),
    ),
    (
        MASKED | {"sealing.colluders": 4},
        *("sealing.honest_minimum", 2, "at most threshold - colluders = 5 - 4", "lower sealing.colluders"),
    ),
    (
        MASKED | {"sealing.threshold": 4, "sealing.honest_minimum": 5},
        *("sealing.honest_minimum", 5, "at most threshold - colluders = 4 - 0", "raise sealing.threshold"),
    ),
    (
        MASKED | {"sealing.degree": 5},
        *("sealing.degree", 5, "at most the number of other clients, which is 4", "leave it out"),
    ),
    (
        HOMOMORPHIC | {"sealing.threshold": 6},
        *("sealing.threshold", 6, "number of clients, which is 5", "5 or less"),
    ),
    (
        HOMOMORPHIC | {"sealing.degree": 3},
        *("sealing.degree", 3, "must be left out for sealing.kind = 'homomorphic'", "remove it"),
    ),
    (
        HOMOMORPHIC | {"sealing.colluders": 4},
        *("sealing.honest_minimum", 2, "at most threshold - colluders = 5 - 4", "lower sealing.colluders"),
    ),
    (
        DPSGD | {"privacy.epsilon": ABSENT},
        "privacy.epsilon",
        "neither",
        "unless privacy.noise is",
        "one of the two",
    ),
    (DPSGD | {"privacy.noise": 1.1}, "privacy.epsilon", "both", "never with it", "give one of the two"),
    (DPSGD | {"privacy.unit": "client"}, "privacy.unit", "client", "for privacy.route = 'dpsgd'", "'record'"),
    (DPSGD | {"privacy.route": "none"}, "privacy.epsilon", 8.0, "for privacy.route = 'none'", "'dpsgd'"),
    (
        DPSGD | {"privacy.route": "none", "privacy.epsilon": ABSENT, "privacy.ledger": "x"},
        *("privacy.ledger", "x", "must be left out for privacy.route = 'none'", "remove it"),
    ),
    (
        DPSGD | {"privacy.route": "none", "privacy.epsilon": ABSENT, "privacy.budget": 9.0},
        *("privacy.budget", 9.0, "must be left out for privacy.route = 'none'", "remove it"),
    ),
    (
        DPSGD | {"privacy.route": "none", "privacy.epsilon": ABSENT, "privacy.witness": "w"},
        *("privacy.witness", "w", "must be left out for privacy.route = 'none'", "remove it"),
    ),
    (
        DPSGD | {"privacy.budget": 7.9},
        *(
            "privacy.budget",
            7.9,
            "must be at least privacy.epsilon = 8",
            "raise it, or lower privacy.epsilon",
        ),
    ),
    *[
        (
            DPSGD | {"privacy.ledger": "spent/here", "privacy.witness": witness},
            *("privacy.witness", witness, "must lie outside privacy.ledger", "name a folder elsewhere"),
        )
        for witness in ("spent/here", "./spent/other/../here/", "spent/here/witness", "spent", ".")
    ],
    *[
        (
            DPSGD | {"clients[0].model": tree},
            *(
                "clients[0].model",
                tree,
                "doesn't fit privacy.route = 'dpsgd'",
                "choose logistic, mlp, cnn or resnet",
            ),
        )
        for tree in rules.TREES
    ],
    (
        DPSGD | {"method.name": "fd"},
        *("privacy.route", "dpsgd", "doesn't fit method.name = 'fd'", "such as 'dsfl'"),
    ),
    (
        DPSGD | {"method.local_steps": 0},
        "method.local_steps",
        0,
        "'dpsgd', whose steps they are",
        "1 or more",
    ),
]


@pytest.mark.parametrize(("settings", "key", "value", "rule", "remedy"), COMBINATIONS)
def test_a_combination(settings: Settings, key: str, value: object, rule: str, remedy: str) -> None:
    check(settings, key, value, rule, remedy)


@given(
    clients=st.integers(3, 12),
    threshold=st.integers(2, 12),
    colluders=st.integers(0, 6),
    honest=st.integers(2, 6),
)
def test_masks_open_only_sums_that_are_unique_and_cover_enough(
    clients: int, threshold: int, colluders: int, honest: int
) -> None:
    settings = MASKED | {
        "clients[0].count": clients,
        "sealing.threshold": threshold,
        "sealing.colluders": colluders,
        "sealing.honest_minimum": honest,
    }
    # Two sets of survivors share at least 2t - n clients, one of them honest, who confirms once.
    unique = 2 * threshold - clients > colluders
    if threshold <= clients and unique and threshold - colluders >= honest:
        assert parse_config(written(settings)).sealing.threshold == threshold
    else:
        assert "sealing." in refused(settings)
