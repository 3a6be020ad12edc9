import itertools
from pathlib import Path

import pytest

from securefd.config import config_hash
from securefd.errors import ConfigError
from securefd.evaluation.sweep_config import load_sweep, parse_sweep, setting_of, settings_of
from securefd.rules import n_clients

BASE = """
[base]
seed = 3
data = { source = "digits", public = 50, test = 50 }
clients = [{ count = 3, model = "logistic" }]
method = { name = "dsfl" }
"""
DPSGD = '{ unit = "record", route = "dpsgd", relation = "add-or-remove", delta = 1e-4 }'


def sweep(grid: str, base: str = BASE):
    return parse_sweep(f"{base}\n{grid}", "sweep.toml")


def refused(grid: str, base: str = BASE) -> str:
    with pytest.raises(ConfigError) as error:
        sweep(grid, base)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_every_combination_once() -> None:
    made = sweep(
        '[grid]\nmethods = ["dsfl", "fedmd"]\nsealing = ["plain", "masked"]\nclients = [3, 4]\nseeds = [1, 2]'
    )
    found = {
        (c.config.method.name, c.config.sealing.kind, n_clients(c.config), c.config.seed) for c in made.cells
    }
    assert found == set(itertools.product(("dsfl", "fedmd"), ("plain", "masked"), (3, 4), (1, 2)))
    assert len(made.cells) == len({cell.name for cell in made.cells}) == 16
    assert made.columns == ("method.name", "sealing.kind", "clients.count", "seed")


def test_short_names_and_dotted_keys_are_the_same() -> None:
    spellings = (
        'methods = ["dsfl"]\nepsilon = [1, 2]\nskew = [0.5]\nseeds = [4]',
        '"method.name" = ["dsfl"]\n"privacy.epsilon" = [1.0, 2]\n'
        '"data.partition" = [{ kind = "dirichlet", alpha = 0.5 }]\nseed = [4]',
        'method.name = ["dsfl"]\nprivacy.epsilon = [1, 2]\nskew = [0.5]\nseeds = [4]',
    )
    names = [{c.name for c in sweep(f"[grid]\n{s}", f"{BASE}privacy = {DPSGD}").cells} for s in spellings]
    assert names[0] == names[1] == names[2]
    assert len(names[0]) == 2


def test_a_table_takes_anothers_place_before_keys_in_it_do() -> None:
    made = sweep(f'[grid]\n"privacy.epsilon" = [1, 4]\nprivacy = [{DPSGD}]')
    assert [cell.config.privacy.epsilon for cell in made.cells] == [1, 4]
    away = sweep("[grid]\nprivacy = [{}]\nseeds = 2", f"{BASE}privacy = {{ unit = 'record' }}")
    assert [cell.config.privacy for cell in away.cells] == [None, None]


def test_a_key_in_a_list() -> None:
    made = sweep('[grid]\n"clients.0.model" = ["mlp", "logistic"]')
    assert [cell.config.clients[0].model for cell in made.cells] == ["mlp", "logistic"]
    columns = [settings_of(cell, made.columns) for cell in made.cells]
    assert columns == [{"clients.0.model": "mlp"}, {"clients.0.model": "logistic"}]


def test_seeds_count_from_the_base() -> None:
    assert [cell.config.seed for cell in sweep("[grid]\nseeds = 3").cells] == [3, 4, 5]


def test_a_cell_is_named_by_what_decides_it() -> None:
    """The same federation has the same name in any sweep, whatever else varies and however fast it runs."""
    one = sweep("[grid]\nseeds = [3]").cells[0]
    other = sweep(
        '[grid]\nmethods = ["dsfl", "fedmd"]\nskew = ["iid"]', f"{BASE}performance = {{ workers = 7 }}"
    )
    assert one.name == other.cells[0].name
    assert one.config.name == one.name
    assert config_hash(one.config) == config_hash(other.cells[0].config)
    changed = sweep("[grid]\nseeds = [3]", BASE.replace("public = 50", "public = 51"))
    assert changed.cells[0].name != one.name


def test_what_is_refused_is_a_cell_with_the_reason() -> None:
    made = sweep('[grid]\nmethods = ["dsfl", "median"]\nsealing = ["plain", "masked"]')
    (cell,) = [cell for cell in made.cells if cell.config is None]
    assert cell.varied == {"method.name": "median", "sealing.kind": "masked"}
    assert "sealing.kind must be plain" in cell.refused
    assert len(made.runnable) == 3


def test_columns_hold_defaults_of_cells_that_do_not_vary_them() -> None:
    made = sweep('[[grid]]\nskew = ["iid", 0.5]\n[[grid]]\nmethods = ["fedmd"]\nclients = [5]')
    found = [settings_of(cell, made.columns) for cell in made.cells]
    assert found == [
        {
            "data.partition.kind": kind,
            "data.partition.alpha": alpha,
            "method.name": method,
            "clients.count": n,
        }
        for kind, alpha, method, n in (
            ("iid", None, "dsfl", 3),
            ("dirichlet", 0.5, "dsfl", 3),
            ("iid", None, "fedmd", 5),
        )
    ]


def test_settings_differ_in_more_than_columns() -> None:
    made = sweep(
        '[grid]\nclients = [[{ count = 3, model = "mlp" }], [{ count = 3, model = "cnn" }]]\nseeds = 2'
    )
    assert len({setting_of(cell) for cell in made.cells}) == 2


@pytest.mark.parametrize(
    ("grid", "says"),
    [
        ("[grid]", "must vary something"),
        ("[grid]\nseeds = [1, 1]", "asks for one federation twice"),
        ("[grid]\nepsilon = [1, 1.0]\nprivacy = [{ unit = 'record', route = 'dpsgd', delta = 1e-4, "
         "relation = 'add-or-remove' }]", "asks for one federation twice"),
        ("[[grid]]\nseeds = [1]\n[[grid]]\nmethods = ['dsfl']\nseeds = [1]", "asks for one federation twice"),
        ("[grid]\nseeds = []", "grid.seeds must be a list of values"),
        ("[grid]\nseeds = true", "grid.seeds must be a list of values"),
        ("[grid]\nseeds = 20000", "grid.seeds must be a list, or a count"),
        ("[grid]\nmethods = 'dsfl'", "grid.methods must be a list of values"),
        ("[grid]\nskew = ['round']", "grid.skew must hold alphas"),
        (f"[grid]\nseeds = 200\n'student.steps' = {list(range(1, 99))}", "at most 10,000 cells, got 19,600"),
        ("[grid]\nmethod = ['dsfl']", "none of its 1 cells can be run"),
        ("[grid]\n'method.nmae' = ['dsfl']", "did you mean method.name?"),
        ("[grid]\n'clients.7.model' = ['mlp']", "isn't a key of a federation"),
        ("[grid]\nseeds = [1]\n[gird]\nx = 1", "gird isn't a known key"),
        ("[grid]\n'privacy.ledger' = ['x']\nprivacy = [{ unit = 'record', route = 'dpsgd', delta = 1e-4, "
         "epsilon = 1, relation = 'add-or-remove' }]", "privacy.ledger must be left out of a sweep"),
    ],
)  # fmt: skip
def test_bad_input(grid: str, says: str) -> None:
    assert says in refused(grid)


def test_the_frontier_is_towards_an_observer_that_is_attacked() -> None:
    assert "frontier must be one of" in refused("[grid]\nseeds = 2", f"frontier = 'nobody'\n{BASE}")


def test_a_count_needs_one_kind_of_client() -> None:
    two = BASE.replace("{ count = 3", "{ model = 'mlp' }, { count = 3")
    assert "can be counts only for a base with one" in refused("[grid]\nclients = [3]", two)


def test_the_base_is_a_file_beside_the_sweep(tmp_path: Path) -> None:
    (tmp_path / "federation.toml").write_text(f'name = "x"\n{BASE.replace("[base]", "")}')
    (tmp_path / "sweep.toml").write_text('base = "federation.toml"\n[grid]\nseeds = 2')
    assert len(load_sweep(tmp_path / "sweep.toml").cells) == 2
    (tmp_path / "sweep.toml").write_text('base = "federatoin.toml"\n[grid]\nseeds = 2')
    with pytest.raises(ConfigError, match=r"federatoin\.toml doesn't exist; correct base"):
        load_sweep(tmp_path / "sweep.toml")
    with pytest.raises(ConfigError, match=r"nothing\.toml doesn't exist; write one"):
        load_sweep(tmp_path / "nothing.toml")


def test_the_example_is_one() -> None:
    made = load_sweep(Path(__file__).parents[2] / "examples" / "sweep.toml")
    assert len(made.runnable) == len(made.cells) == 32
