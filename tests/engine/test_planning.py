"""A plan says before a run what the run then shows, and says it so that no figure can be misread."""

import json
import math
import re

import dp_accounting as dp
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant

import securefd
from securefd.cli import main
from securefd.codec import Codec
from securefd.config import Config, parse_config
from securefd.errors import ConfigError, PrivacyError
from securefd.exchange import neighbourhood_of
from securefd.planning import Plan, Precisions, plan
from securefd.runner import run

TINY = """
name = "tiny"
seed = 3
data = { source = "digits", public = 30, test = 30 }
student = { model = "logistic", steps = 2 }

[[clients]]
count = 3
model = "logistic"

[method]
name = "dsfl"
rounds = 3
queries = 12
local_steps = 2
digest_steps = 2

"""
DPSGD = """
[privacy]
unit = "record"
route = "dpsgd"
relation = "add-or-remove"
epsilon = 8.0
delta = 1e-5
"""
RECORDS = (1797 - 30 - 30) // 3
"""Of each client: what is left of the digits after public and test."""


def tiny(
    method: str = "dsfl", sealing: str = "plain", privacy: str = "", *, old: str = "", new: str = ""
) -> Config:
    text = TINY.replace('"dsfl"', f'"{method}"') + f'[sealing]\nkind = "{sealing}"\n' + privacy
    assert old in text
    return parse_config(text.replace(old, new) if old else text)


def masked(count: int, **sealing: int) -> Config:
    keys = "".join(f"{key} = {value}\n" for key, value in sealing.items())
    return tiny("dsfl", "masked", keys, old="count = 3", new=f"count = {count}")


def measured(config: Config, folder) -> tuple[dict[str, int], list[tuple[int, int]]]:
    done = run(config, folder)
    return done.metrics["bytes"], [(line["bytes.up"], line["bytes.down"]) for line in done.rounds]


# --- bytes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "sealing"),
    [
        ("dsfl", "plain"),
        ("dsfl-power", "plain"),  # asks less in later rounds, which is known beforehand
        ("balanced", "plain"),
        ("fd", "plain"),
        ("dsfl", "masked"),
        ("fedct", "masked"),
        ("dsfl-power", "masked"),
        ("fd", "masked"),
    ],
)
def test_bytes_are_those_of_a_run(method, sealing, tmp_path) -> None:
    config = tiny(method, sealing)
    planned = plan(config)
    largest, rounds = measured(config, tmp_path / "run")
    assert planned.precision == Precisions(up="exactly", down="exactly")
    assert [(w.up, w.down) for w in planned.traffic] == rounds
    assert planned.to_dict()["bytes"] == largest


def test_nothing_is_weighed_for_a_round_that_asks_nothing(tmp_path) -> None:
    config = tiny("dsfl-power", old="queries = 12", new="queries = 30")
    planned = plan(config)
    _, rounds = measured(config, tmp_path / "run")
    assert [w.up > 0 for w in planned.traffic] == [True, False, False]
    assert [(w.up, w.down) for w in planned.traffic] == rounds


@pytest.mark.parametrize("sealing", ["homomorphic", "masked+homomorphic"])
def test_encrypted_uploads_are_exact_and_downloads_about_those_of_a_run(sealing, tmp_path) -> None:
    config = tiny("dsfl", sealing)
    planned = plan(config)
    _, rounds = measured(config, tmp_path / "run")
    assert planned.precision == Precisions(up="exactly", down="about")
    assert [w.up for w in planned.traffic] == [up for up, _ in rounds]
    assert [w.down for w in planned.traffic] == pytest.approx([down for _, down in rounds], rel=0.01)
    (line,) = (line for line in planned.lines() if "in the largest round" in line)
    up, down = planned.largest.up, planned.largest.down
    assert line.strip().startswith(f"exactly {up:,} bytes up and about {down:,} down in the largest round; e")
    assert planned.to_dict()["precision"] == {"up": "exactly", "down": "about"}


@pytest.mark.parametrize(("method", "option"), [("cfd", "bits = 1"), ("cfd", "bits = 4"), ("fedct", "")])
def test_coded_answers_have_an_upper_bound(method, option, tmp_path) -> None:
    config = tiny(method, old="rounds = 3", new=f"rounds = 3\n{option}")
    planned = plan(config)
    _, rounds = measured(config, tmp_path / "run")
    assert planned.precision == Precisions(up="at most", down="at most")
    (line,) = (line for line in planned.lines() if "in the largest round" in line)
    assert re.fullmatch(
        r"  at most \S+ bytes up and \S+ down in .*; at most \S+ up and \S+ down over .*", line
    )
    for weight, (up, down) in zip(planned.traffic, rounds, strict=True):
        assert up <= weight.up < up + 40
        assert down <= weight.down < down + 40


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_the_bound_of_a_codec_holds_for_what_does_not_compress(bits) -> None:
    rng = np.random.default_rng(0)
    codec = Codec(n_classes=4, bits=bits)
    for m in (1, 100, 20_000):
        rows = rng.multinomial(codec.steps, [0.25] * 4, size=m).astype(np.int64)
        never = np.full(rows.size, -1, dtype=np.int64)
        size = len(codec.encode(rows.ravel(), never))
        assert size <= codec.most_bytes(m)


def test_larger_numbers_of_rounds_and_clients_take_more_bytes() -> None:
    """What a message weighs grows with its round number and its sender's."""
    config = tiny("dsfl", old="rounds = 3", new="rounds = 130")
    traffic = plan(config).traffic
    assert traffic[128].up == traffic[127].up + 1
    many = tiny("dsfl", old="count = 3", new="count = 140")
    assert plan(many).largest.up == plan(tiny("dsfl")).largest.up + 1


def test_fedavg_is_the_weights_of_the_student() -> None:
    planned = plan(tiny())
    assert planned.fedavg == 4 * (64 * 10 + 10)
    assert planned.to_dict()["ratio"]["up"] == planned.fedavg / planned.largest.up
    assert plan(tiny("fd")).to_dict()["ratio"] is None


def test_homomorphic_answers_can_weigh_more_than_weights() -> None:
    assert plan(tiny("dsfl", "homomorphic")).to_dict()["ratio"]["up"] < 1


# --- privacy -----------------------------------------------------------------------------------


def independent(config: Config, planned: Plan, relation: str) -> float:
    """Epsilon of client 0, composed by dp-accounting alone."""
    neighbours = {
        "add-or-remove": dp.NeighboringRelation.ADD_OR_REMOVE_ONE,
        "replace-one": dp.NeighboringRelation.REPLACE_ONE,
    }[relation]
    noise = planned.noise[0]
    step = dp.PoissonSampledDpEvent(noise.sampling_rate, dp.GaussianDpEvent(noise.noise_multiplier))
    accountant = PLDAccountant(neighbours)
    accountant.compose(step, noise.steps)
    assert config.privacy is not None
    return float(accountant.get_epsilon(config.privacy.delta))


@pytest.mark.parametrize("promise", ["add-or-remove", "replace-one"])
@pytest.mark.parametrize("amount", ["epsilon = 8.0", "noise = 1.3"])
def test_epsilon_is_that_of_an_independent_accountant(promise, amount) -> None:
    privacy = DPSGD.replace("add-or-remove", promise).replace("epsilon = 8.0", amount)
    config = tiny("dsfl", "masked", privacy)
    planned = plan(config)
    own, other = planned.spending
    assert (own.relation, own.promised, other.promised) == (promise, True, False)
    assert {own.relation, other.relation} == {"add-or-remove", "replace-one"}
    for spent in planned.spending:
        assert spent.epsilons[0] == pytest.approx(independent(config, planned, spent.relation), rel=5e-3)
    if amount.startswith("epsilon"):
        assert 7.9 < own.epsilons[0] <= 8
    else:
        assert {noise.noise_multiplier for noise in planned.noise} == {1.3}


def test_under_a_shared_ledger_training_costs_what_its_filter_counts(tmp_path) -> None:
    """More than a loss distribution makes of the same noise."""
    planned = plan(tiny("dsfl", "masked", f'{DPSGD}\nledger = "{tmp_path}"'))
    own = planned.spending[0]
    assert 7.9 < own.epsilons[0] <= 8.0
    assert independent(tiny("dsfl", "masked", DPSGD), planned, own.relation) < 0.99 * own.epsilons[0]


def test_rate_and_steps_are_those_of_the_training() -> None:
    noise = plan(tiny("dsfl", "masked", DPSGD)).noise
    assert [n.steps for n in noise] == [2, 2, 2]
    assert noise[2].sampling_rate == 64 / RECORDS
    assert noise[0].count_deviation is None


def test_noisy_counts_are_told_and_paid_for() -> None:
    planned = plan(tiny("balanced", "masked", DPSGD))
    share = 0.05 * 8  # of epsilon; P(x) is proportional to exp(-share |x|)
    x = np.arange(-300, 301)
    weights = np.exp(-share * np.abs(x))
    assert planned.noise[0].count_deviation == pytest.approx(
        math.sqrt((x**2 * weights).sum() / weights.sum())
    )
    plain = plan(tiny("dsfl", "masked", DPSGD))
    assert planned.noise[0].noise_multiplier > plain.noise[0].noise_multiplier
    assert planned.spending[0].epsilons[0] <= 8


def test_claims_are_those_of_the_run(tmp_path) -> None:
    config = tiny("balanced", "masked", DPSGD)
    planned, done = plan(config), run(config, tmp_path / "run")
    told = [(c.observer, c.subject, c.kind, c.assumption, c.reason) for c in planned.claims]
    assert told == [(c.observer, c.subject, c.kind, c.assumption, c.reason) for c in done.claims]
    (before,) = {c.guarantee for c in planned.claims if c.guarantee}
    (after,) = {c.guarantee for c in done.claims if c.guarantee}
    assert after.epsilon <= before.epsilon == 8
    assert after.epsilon == pytest.approx(max(planned.spending[0].epsilons), rel=1e-3)


@pytest.mark.parametrize("sealing", ["plain", "masked", "homomorphic", "masked+homomorphic"])
def test_every_observer_of_a_claim_is_among_those_who_see(sealing) -> None:
    planned = plan(tiny("dsfl", sealing, DPSGD))
    assert {claim.observer for claim in planned.claims} == set(planned.sees)
    assert set(planned.spending[0].observers) == set(planned.sees)


@pytest.mark.parametrize("amount", ["epsilon = 8.0", "noise = 0.05"])
def test_no_epsilon_without_unit_relation_delta_and_observer(amount) -> None:
    planned = plan(tiny("balanced", "masked", DPSGD.replace("epsilon = 8.0", amount)))
    lines = [
        line for line in planned.lines() if re.search("epsilon|ε", line) and "a larger epsilon" not in line
    ]
    assert len(lines) >= 3
    for line in lines:
        assert re.search("one (record|client)", line), line
        assert ("add-or-remove" in line) != ("replace-one" in line), line
        assert "delta = 1e-05" in line, line
        assert re.search("server|every observer", line), line


def test_no_epsilon_in_tables_without_unit_relation_delta_and_observer() -> None:
    found = []

    def walk(node: object, observer: object = None) -> None:
        if isinstance(node, dict):
            known = node.get("observer") or node.get("observers") or observer
            if {"epsilon", "epsilons"} & node.keys():
                found.append(node)
                assert {"unit", "relation", "delta"} <= node.keys()
                assert known
            for child in node.values():
                walk(child, known)
        elif isinstance(node, list | tuple):
            for child in node:
                walk(child, observer)

    walk(plan(tiny("balanced", "masked", DPSGD)).to_dict())
    assert len(found) >= 4


def test_two_relations_are_never_in_one_table() -> None:
    lines = plan(tiny("dsfl", "masked", DPSGD)).lines()
    tables = "\n".join(lines).split("\n\n")
    titled = [table for table in tables if "epsilon at delta" in table]
    assert len(titled) == 2
    for table in titled:
        assert len(re.findall("add-or-remove|replace-one", table)) == 1
        assert len(re.findall(r"client \d: [\d.]+$", table, re.M)) == 3


# --- what to beware of -------------------------------------------------------------------------


def warned(config: Config) -> str:
    return "\n".join(plan(config).cautions)


def test_no_promise_is_said_first() -> None:
    first = plan(tiny()).cautions[0]
    assert "nothing is promised" in first
    assert "nothing is promised" not in warned(tiny("dsfl", "masked", DPSGD))


@pytest.mark.parametrize(("delta", "close"), [("1e-5", False), ("1e-3", True)])
def test_delta_close_to_one_record(delta, close) -> None:
    told = warned(tiny("dsfl", "masked", DPSGD.replace("1e-5", delta)))
    assert ("is close to 1 / 579" in told) is close
    assert ("give 0.0001 or less" in told) is close


def test_delta_that_publishes_a_record_is_no_plan() -> None:
    with pytest.raises(PrivacyError, match="delta must be below 1/"):
        plan(tiny("dsfl", "masked", DPSGD.replace("1e-5", "0.01")))


@pytest.mark.parametrize(("epsilon", "weak"), [("10.0", False), ("10.1", True)])
def test_a_weak_epsilon(epsilon, weak) -> None:
    assert ("says little" in warned(tiny("dsfl", "masked", DPSGD.replace("8.0", epsilon)))) is weak


def test_too_much_noise_to_learn() -> None:
    steps = "local_steps = 100"
    learns = tiny("dsfl", "masked", DPSGD, old="local_steps = 2", new=steps)
    assert "too few records" not in warned(learns)
    drowned = tiny("dsfl", "masked", DPSGD.replace("8.0", "0.1"), old="local_steps = 2", new=steps)
    assert "too few records for so much noise at every client" in warned(drowned)


def test_a_batch_that_nobody_can_fill() -> None:
    config = tiny("dsfl", "masked", DPSGD, old="local_steps = 2", new="local_steps = 2\nbatch_size = 1000")
    assert "fewer records than method.batch_size at every client" in warned(config)


def test_a_shared_ledger_is_not_in_the_figures() -> None:
    assert "ledger /somewhere" in warned(tiny("dsfl", "masked", DPSGD + 'ledger = "/somewhere"\n'))


@pytest.mark.parametrize(
    ("method", "sealing", "what"),
    [
        ("balanced", "plain", "class counts of each client, without noise"),
        ("balanced", "masked", "class counts summed over the clients, without noise"),
        ("fd", "plain", "per-class mean logits and class indicators of each client"),
    ],
)
def test_private_quantities_beside_the_model(method, sealing, what) -> None:
    assert what in warned(tiny(method, sealing))
    assert what not in warned(tiny("dsfl", sealing))


def test_noisy_counts_are_not_called_unprotected() -> None:
    assert "without noise" not in warned(tiny("balanced", "masked", DPSGD))


def test_masks_need_everybody_unless_a_threshold_lets_some_go() -> None:
    assert "every client must attend every round" in warned(tiny("dsfl", "masked"))
    assert "every client must attend" not in warned(tiny("dsfl", "plain"))
    two = tiny("dsfl", "masked", old='kind = "masked"', new='kind = "masked"\nthreshold = 2')
    assert "every client must attend" not in warned(two)


def test_the_graph_of_masks_and_its_probabilities_are_printed() -> None:
    planned = plan(masked(60, threshold=42, colluders=3, degree=25))
    assert planned.graph is not None
    assert (planned.graph.n_clients, planned.graph.degree) == (60, 25)
    assert planned.graph.describe() in "\n".join(planned.lines())
    assert "at least 35 that don't work with it" in "\n".join(planned.lines())  # nine tenths of 42 - 3
    chances = re.search(
        r"secrecy failure: 2\^(-[\d.]+); of an unneeded abort when 18 random clients drop: 2\^(-[\d.]+)\.",
        planned.graph.describe(),
    )
    assert chances is not None
    assert float(chances[1]) <= -40
    assert float(chances[2]) <= -20
    assert planned.to_dict()["graph"]["secrecy_failure"] == planned.graph.secrecy_failure <= 2**-40


@pytest.mark.parametrize("sealing", ["plain", "homomorphic"])
def test_without_masks_there_is_no_graph(sealing) -> None:
    planned = plan(tiny("dsfl", sealing))
    assert planned.graph is None
    assert "masks" not in planned.lines()


@pytest.mark.parametrize("sealing", ["homomorphic", "masked+homomorphic"])
def test_with_fewer_than_all_clients_a_plan_warns_of_differences(sealing) -> None:
    """And it says which sums are opened; with all of them in every sum there is nothing to subtract."""
    clients = "count = 5"
    for threshold, what in ((4, "at least 4 of 5 clients"), (5, "all 5 clients")):
        config = tiny("dsfl", sealing, f"threshold = {threshold}\n", old="count = 3", new=clients)
        told = [c for c in plan(config).claims if c.subject == "answers" and c.observer == "server"]
        assert [what in claim.reason for claim in told] == [True]
        assert ["differ by one client" in claim.reason for claim in told] == [threshold == 4]
        assert ("every client must attend every round" in warned(config)) == (threshold == 5)


def test_a_degree_that_cannot_keep_secrets_is_refused() -> None:
    """1,000 clients, 20% colluding and 30% dropping: 100 holders are too few, whatever recovers a secret."""
    config = masked(1000, threshold=700, colluders=200, degree=100)
    with pytest.raises(ConfigError, match=r"^sealing\.degree must allow a secrecy failure <=") as refused:
        neighbourhood_of(config)
    assert "got 100 for 1000 clients with 200 colluding and 300 dropping" in str(refused.value)
    enough = re.search(r"set degree to (\d+)", str(refused.value))
    assert enough is not None
    found = neighbourhood_of(masked(1000, threshold=700, colluders=200, degree=int(enough[1])))
    assert found is not None
    assert found.secrecy_failure <= 2**-40
    assert found.unneeded_abort <= 2**-20


def test_two_clients_see_through_a_sum() -> None:
    assert "each finds the other's answers" in warned(
        tiny("dsfl", "homomorphic", old="count = 3", new="count = 2")
    )


def test_lengths_of_coded_answers_tell() -> None:
    assert "how many of its answers changed" in warned(tiny("cfd"))
    assert "how many of its answers changed" not in warned(tiny("dsfl"))


def test_long_tables_are_shortened() -> None:
    lines = plan(tiny("dsfl", old="count = 3", new="count = 40")).lines()
    rows = [line for line in lines if line.startswith("  client ")]
    assert len(rows) == 11
    assert "  (29 more; --json has them all)" in lines
    assert rows[-1].startswith("  client 39:")


# --- the command -------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, capsys):
    def call(text: str, *options: str) -> tuple[int, str, str]:
        path = tmp_path / "federation.toml"
        path.write_text(text)
        code = main(["plan", str(path), *options])
        return code, *capsys.readouterr()

    return call


HOPELESS = TINY + '[sealing]\nkind = "masked"\n' + DPSGD.replace("8.0", "0.001")


@pytest.mark.parametrize("text", [TINY, HOPELESS, TINY + DPSGD.replace("epsilon = 8.0", "noise = 0.05")])
def test_a_plan_is_printed_however_hopeless(command, text) -> None:
    code, out, err = command(text)
    assert (code, err) == (0, "")
    assert "beware" in out


def test_json_is_json(command) -> None:
    code, out, err = command(HOPELESS, "--json")
    assert (code, err) == (0, "")
    result = json.loads(out, parse_constant=lambda text: pytest.fail(f"{text} isn't JSON"))
    assert result["config"]["privacy"]["epsilon"] == 0.001
    assert result["bytes"].keys() == {"up", "down"}
    assert [table["relation"] for table in result["spending"]] == ["add-or-remove", "replace-one"]
    assert len(result["clients"]) == len(result["noise"]) == 3


def test_the_public_face_plans() -> None:
    assert securefd.plan(tiny()).lines()[0].startswith("tiny: 3 clients, 10 classes, method dsfl, 3 rounds")
