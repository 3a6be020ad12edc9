"""Every refusal: the key, the rule, the value and a remedy, in one sentence. And what is accepted."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefd.config import (
    ClientGroup,
    Config,
    DataConfig,
    DirichletPartition,
    MethodConfig,
    PerformanceConfig,
    SealingConfig,
    config_hash,
    load_config,
    parse_config,
    resolved,
    to_toml,
)
from securefd.errors import ConfigError
from securefd.methods import METHODS, Options

# The example of the documentation, with two more clients so that a threshold of 4 can be met.
EXAMPLE = """
name = "clinic"
seed = 7

[data]
source = "digits"
path = ""
public = 500
test = 300
partition = { kind = "dirichlet", alpha = 0.5 }
label = "diagnosis"
owner = "hospital"

[[clients]]
count = 3
model = "cnn"

[[clients]]
count = 2
model = "mlp"

[method]
name = "balanced"
rounds = 5
queries = 500

[sealing]
kind = "masked"
threshold = 4
colluders = 1
honest_minimum = 2

[privacy]
unit = "record"
route = "dpsgd"
relation = "add-or-remove"
epsilon = 8.0
delta = 1e-5
ledger = ""

[student]
model = "mlp"

[audit]
observers = ["server", "peer", "release"]
shadows = 32

[performance]
device = "cpu"
workers = 2
"""

SMALL = """
name = "small"
seed = 1
[data]
source = "digits"
[[clients]]
count = 5
model = "mlp"
[method]
name = "dsfl"
"""

PRIVACY = """
[privacy]
unit = "record"
route = "dpsgd"
relation = "add-or-remove"
epsilon = 8.0
delta = 1e-5
"""


def changed(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert text.count(old) == 1, f"{old!r} must be in the text once"
        text = text.replace(old, new)
    return text


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "federation.toml")
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def data(lines: str) -> str:
    return changed(SMALL, ('source = "digits"', lines))


def files(kind: str, *lines: str) -> str:
    return data("\n".join([f'source = "{kind}"', 'path = "somewhere"', *lines]))


def method(name: str, *lines: str) -> str:
    return changed(SMALL, ('name = "dsfl"', "\n".join([f'name = "{name}"', *lines])))


def sealing(kind: str, *lines: str) -> str:
    return SMALL + "\n".join(["[sealing]", f'kind = "{kind}"', *lines])


def privacy(*changes: tuple[str, str]) -> str:
    return SMALL + changed(PRIVACY, *changes)


# --- accepted ----------------------------------------------------------------------------------


def test_example_loads_as_it_is_written() -> None:
    config = parse_config(EXAMPLE)
    written = tomllib.loads(EXAMPLE)
    filled = resolved(config)
    for table, keys in written.items():
        if isinstance(keys, dict):
            assert {key: filled[table][key] for key in keys} == keys
        else:
            assert filled[table] == keys


def test_small_one_gets_every_default() -> None:
    config = parse_config(SMALL)
    assert config.data.partition.kind == "iid"
    assert (config.data.public, config.data.test) == (500, 300)
    assert config.sealing == SealingConfig()
    assert config.privacy is None
    assert config.audit.observers == ("server", "peer", "release", "label-only")
    assert config.method.temperature == METHODS["dsfl"].options.temperature
    assert config.method.power is None


@pytest.mark.parametrize("text", [EXAMPLE, SMALL, SMALL + PRIVACY, sealing("masked"), sealing("homomorphic")])
def test_round_trip(text: str) -> None:
    config = parse_config(text)
    assert parse_config(to_toml(config)) == config


@pytest.mark.parametrize("name", METHODS)
def test_every_method_loads_and_round_trips(name: str) -> None:
    config = parse_config(method(name))
    assert config.method.name == name
    assert parse_config(to_toml(config)) == config


@given(
    name=st.text(min_size=1, max_size=100),
    path=st.text(min_size=1),
    rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False),
    column=st.text(),
    count=st.integers(min_value=2, max_value=2**70),
)
def test_any_text_and_number_survives_a_round_trip(
    name: str, path: str, rate: float, column: str, count: int
) -> None:
    config = Config(
        name=name,
        seed=0,
        data=DataConfig(source="npz", path=path, bounds={column: (-rate, rate)}),
        clients=(ClientGroup(count=count, model="mlp"),),
        method=MethodConfig(name="dsfl", learning_rate=rate),
    )
    assert parse_config(to_toml(config)) == config


def test_built_in_python_it_is_the_same() -> None:
    config = Config(
        name="clinic",
        seed=7,
        data=DataConfig(source="digits", partition=DirichletPartition(kind="dirichlet", alpha=0.5)),
        clients=[ClientGroup(count=5, model="mlp")],  # type: ignore[arg-type]
        method=MethodConfig(name="dsfl"),
    )
    text = changed(SMALL, ('name = "small"', 'name = "clinic"'), ("seed = 1", "seed = 7"))
    text = changed(
        text, ('source = "digits"', 'source = "digits"\npartition = { kind = "dirichlet", alpha = 0.5 }')
    )
    assert config == parse_config(text)


def test_impossible_in_python_too() -> None:
    with pytest.raises(ConfigError, match=r"method\.queries"):
        Config(
            name="a",
            seed=1,
            data=DataConfig(source="digits", public=10),
            clients=(ClientGroup(count=2, model="mlp"),),
            method=MethodConfig(name="dsfl", queries=11),
        )


def test_default_queries_are_no_more_than_the_public_set() -> None:
    assert parse_config(data('source = "digits"\npublic = 60')).method.queries == 60
    assert parse_config(data('source = "digits"\npublic = "public.npz"')).method.queries == 500
    assert parse_config(data('source = "digits"\npublic = 900')).method.queries == 500


def test_default_threshold_is_everyone() -> None:
    assert parse_config(sealing("masked")).sealing.threshold == 5
    assert parse_config(sealing("homomorphic")).sealing.threshold == 5
    assert parse_config(sealing("masked+homomorphic")).sealing.threshold == 5
    assert parse_config(sealing("plain")).sealing.threshold is None


def test_idx_has_test_files_of_its_own() -> None:
    config = parse_config(files("idx"))
    assert config.data.test == ""
    assert parse_config(to_toml(config)) == config
    assert parse_config(files("idx", "test = 100")).data.test == 100


def test_method_without_public_data_needs_none() -> None:
    text = changed(method("fd"), ('source = "digits"', 'source = "digits"\npublic = 0'))
    assert parse_config(text).data.public == 0


@pytest.mark.parametrize(
    "text",
    [
        files("csv", 'label = "y"', 'owner = "site"', 'partition = { kind = "owner" }'),
        data('source = "hospital.data:load"\npartition = { kind = "owner" }'),
        changed(SMALL, ('model = "mlp"', 'model = "hospital.models:net"')),
        changed(SMALL, ('model = "mlp"', 'model = "forest"')),
        sealing("masked", "threshold = 4", "colluders = 2"),
        sealing("masked", "threshold = 3"),
        sealing("masked", "degree = 4", "bits = 8"),
        sealing("homomorphic", "colluders = 3"),
        sealing("homomorphic", "threshold = 2", "bits = 13"),
        sealing("masked+homomorphic", "threshold = 4", "colluders = 2"),
        sealing("plain", "colluders = 0"),
        sealing("masked", "honest_minimum = 2"),
        privacy(("epsilon = 8.0", "noise = 1.1")),
        privacy(("epsilon = 8.0\n", ""), ("dpsgd", "none")),
        privacy(("epsilon = 8.0", "epsilon = 8.0\nlearning_rate = 0.25")),
        method("dsfl", "temperature = 0.001"),
        changed(SMALL, ('name = "dsfl"', 'name = "dsfl"\n[student]\nmodel = "hospital.models:net"')),
        SMALL + '[performance]\ndevice = "cuda:1"',
    ],
)
def test_possible_combinations(text: str) -> None:
    config = parse_config(text)
    assert parse_config(to_toml(config)) == config


@pytest.mark.parametrize(
    ("count", "lines", "taken"),
    [
        (5, [], 4),
        (5, ["threshold = 4", "colluders = 2"], 2),
        (3, ["threshold = 2"], 2),
        (100, ["threshold = 90", "colluders = 5"], 76),
        (100, ["threshold = 90", "colluders = 5", "honest_minimum = 2"], 2),
    ],
)
@pytest.mark.parametrize("kind", ["masked", "homomorphic"])
def test_nine_tenths_of_the_honest_survivors_are_promised(
    kind: str, count: int, lines: list[str], taken: int
) -> None:
    """What is promised is part of the configuration, so that it is printed, hashed and written."""
    text = changed(sealing(kind, *lines), ("count = 5", f"count = {count}"))
    config = parse_config(text)
    assert resolved(config)["sealing"]["honest_minimum"] == taken
    assert parse_config(to_toml(config)) == config
    assert parse_config(text + f"\nhonest_minimum = {taken}" * ("honest" not in text)) == config


# --- the hash ----------------------------------------------------------------------------------


def test_hash_leaves_out_performance_only() -> None:
    config = parse_config(EXAMPLE)
    faster = config.model_copy(update={"performance": PerformanceConfig(workers=64)})
    assert config_hash(faster) == config_hash(config)
    for old, new in [
        ('"clinic"', '"other"'),
        ("seed = 7", "seed = 8"),
        ("test = 300", "test = 301"),
        ("count = 3", "count = 4"),
        ("rounds = 5", "rounds = 6"),
        ("colluders = 1", "colluders = 0"),
        ("epsilon = 8.0", "epsilon = 7.0"),
        ('[student]\nmodel = "mlp"', '[student]\nmodel = "cnn"'),
        ("shadows = 32", "shadows = 33"),
    ]:
        assert config_hash(parse_config(changed(EXAMPLE, (old, new)))) != config_hash(config), old


def test_hash_is_the_same_for_defaults_written_out() -> None:
    assert config_hash(parse_config(method("dsfl", "temperature = 0.1", "rounds = 5"))) == config_hash(
        parse_config(SMALL)
    )


def test_sources_without_known_form_may_be_images() -> None:
    text = changed(files("npz"), ('"mlp"', '"cnn"'))
    assert parse_config(text).clients[0].model == "cnn"


def test_every_option_of_a_method_can_be_configured() -> None:
    assert set(Options.__dataclass_fields__) <= set(MethodConfig.model_fields)


# --- refused: files ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name =", "isn't valid TOML: Invalid value (at "),
        ('name = "a"\nname "b"', "line 2"),
        ("x = " + "[" * 5000, "nested too deeply"),
        ("seed = " + "9" * 5000, "thousands of digits"),
        ("x = 1979-05-27", "isn't a known key"),
        ('"a\\nb" = 1', "a?b isn't a known key"),
        ("", "name is required, but missing"),
    ],
)
def test_text_that_is_no_configuration(text: str, part: str) -> None:
    assert part in refused(text)


def test_long_values_are_cut() -> None:
    assert len(refused(data(f'source = "{"x" * 10_000}"'))) < 400


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "federation.toml"
    with pytest.raises(ConfigError, match=r"federation\.toml doesn't exist; `securefd init DIR`"):
        load_config(path)
    with pytest.raises(ConfigError, match="can't be read"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match="can't be read"):
        load_config("a\0b")
    path.write_bytes(b'name = "a"\nseed = 1 # \xff')
    with pytest.raises(ConfigError, match="isn't UTF-8 text in line 2"):
        load_config(path)
    path.write_bytes(b"#" * 1_000_001)
    with pytest.raises(ConfigError, match="larger than 1,000,000 bytes"):
        load_config(path)
    path.write_bytes(SMALL.replace("\n", "\r\n").encode())
    assert load_config(path) == parse_config(SMALL)
    path.write_text("name = 5")
    with pytest.raises(ConfigError, match=f"^{path}: name must be a text"):
        load_config(path)


def test_a_budget_and_a_witness_for_many_runs() -> None:
    more = 'budget = 8.0\nledger = "spent/here"\nwitness = "spent/hereafter"\n'
    privacy = parse_config(SMALL + PRIVACY + more).privacy
    assert privacy is not None
    assert (privacy.budget, privacy.witness) == (8.0, "spent/hereafter")
    without = parse_config(SMALL + PRIVACY).privacy
    assert without is not None
    assert (without.budget, without.witness) == (None, "")
