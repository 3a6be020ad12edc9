"""Each method against an example worked by hand, and the promises that every row of the table makes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from securefd.config import MethodConfig
from securefd.defenses.quantise import dequantise_sum, quantise
from securefd.errors import ConfigError, ModelError
from securefd.losses import LOSSES
from securefd.methods import (
    METHODS,
    Arrays,
    Options,
    Own,
    leave_one_out,
    method_named,
)

Floats = NDArray[np.float64]
NORMALISED = ("cross_entropy", "kl")
SUMMED = [name for name, row in METHODS.items() if not row.individual]


def own(*probabilities: list[float], counts: list[float] | None = None) -> Own:
    given = None if counts is None else np.array(counts, dtype=float)
    return Own(logits=np.log(np.array(probabilities)), counts=given)


def total(name: str, clients: list[Own], options: Options) -> Arrays:
    answers = [METHODS[name].answer(client, options) for client in clients]
    return tuple(np.sum(block, axis=0) for block in zip(*answers, strict=True))


def combined(name: str, clients: list[Own], options: Options) -> Floats:
    method = METHODS[name]
    if method.combine is not None:
        return method.combine(total(name, clients, options), len(clients), options)
    assert method.combine_individual is not None
    answers = np.stack([method.answer(client, options)[0] for client in clients])
    return method.combine_individual(answers, None, options)[0]


def consensus(name: str, clients: list[Own], **options: float) -> Floats:
    return combined(name, clients, METHODS[name].resolve(MethodConfig(name=name, **options)))


def random_client(seed: int, m: int = 7, n_classes: int = 4) -> Own:
    rng = np.random.default_rng(seed)
    return Own(
        logits=rng.normal(scale=6, size=(m, n_classes)),
        counts=rng.integers(0, 3000, n_classes).astype(float),
        classwise=rng.normal(scale=6, size=(n_classes, n_classes)),
    )


# --- worked by hand ------------------------------------------------------------------------------


def test_fedmd() -> None:
    # (1, 3, 5) less its mean 3 is (-2, 0, 2); (0, 0, 9) less 3 is (-3, -3, 6), clipped to (-3, -3, 4).
    clients = [Own(logits=np.array([[1.0, 3, 5]])), Own(logits=np.array([[0.0, 0, 9]]))]
    np.testing.assert_allclose(consensus("fedmd", clients, logit_bound=4.0), [[-2.5, -1.5, 3.0]])


def test_dsfl() -> None:
    # The mean of (.7, .1, .1, .1) and (.1, .5, .3, .1) is (.4, .3, .2, .1): exponents 4, 3, 2, 1.
    clients = [own([0.7, 0.1, 0.1, 0.1]), own([0.1, 0.5, 0.3, 0.1])]
    np.testing.assert_allclose(consensus("dsfl", clients), [[0.644, 0.237, 0.087, 0.032]], atol=5e-4)


def test_dsfl_power() -> None:
    # The mean is (.6, .4); squares .36 and .16 over .52.
    clients = [own([0.8, 0.2]), own([0.4, 0.6])]
    np.testing.assert_allclose(consensus("dsfl-power", clients), [[9 / 13, 4 / 13]])
    np.testing.assert_allclose(consensus("dsfl-power", clients, power=1.0), [[0.6, 0.4]])


def test_feddf() -> None:
    # Mean logits (-2.5, -1.5, 3) as in fedmd; e^-5.5 = .0040868, e^-4.5 = .0111090 and 1 over 1.0151958.
    clients = [Own(logits=np.array([[1.0, 3, 5]])), Own(logits=np.array([[0.0, 0, 9]]))]
    expected = [[0.0040256, 0.0109427, 0.9850317]]
    np.testing.assert_allclose(consensus("feddf", clients, logit_bound=4.0), expected, atol=1e-7)


def test_cfd_with_one_bit_is_the_share_of_top_classes() -> None:
    clients = [own([0.5, 0.3, 0.2]), own([0.1, 0.6, 0.3]), own([0.7, 0.2, 0.1])]
    np.testing.assert_allclose(consensus("cfd", clients), [[2 / 3, 1 / 3, 0]])


def test_cfd_with_two_bits() -> None:
    # Times 3: (1.5, .9, .6) rounds down to (1, 0, 0), and the remainders .9 and .6 beat .5: (1, 1, 1) / 3.
    # (.3, 1.8, .9) rounds down to (0, 1, 0), and .9 and .8 beat .3: (0, 2, 1) / 3.
    clients = [own([0.5, 0.3, 0.2]), own([0.1, 0.6, 0.3])]
    np.testing.assert_allclose(consensus("cfd", clients, bits=2), [[1 / 6, 1 / 2, 1 / 3]])


def test_fedct() -> None:
    # Query 0: votes 1, 1, 2. Query 1: votes 0, 2, 2; the loud client doesn't count more than one vote.
    clients = [
        own([0.1, 0.8, 0.1], [0.98, 0.01, 0.01]),
        own([0.2, 0.5, 0.3], [0.3, 0.3, 0.4]),
        own([0.2, 0.2, 0.6], [0.3, 0.3, 0.4]),
    ]
    np.testing.assert_array_equal(consensus("fedct", clients), [[0, 1, 0], [0, 0, 1]])


def test_fedct_splits_ties_by_position() -> None:
    # frac(i * 0.618...) is 0, .618, .236, .854: below a half prefers class 0, above it class 1.
    clients = [own(*[[0.9, 0.1]] * 4), own(*[[0.1, 0.9]] * 4)]
    assert consensus("fedct", clients).argmax(axis=1).tolist() == [0, 1, 0, 1]


def test_balanced() -> None:
    # Client 1: counts (30, 10), p = (.8, .2): (24, 2). Client 2: counts (10, 30), p = (.6, .4): (6, 12).
    # (30, 14) / (40, 40) = (.75, .35), over 1.1: (.681818, .318182). ERA: 1 / (1 + e^-3.636364) = .974328.
    clients = [own([0.8, 0.2], counts=[30, 10]), own([0.6, 0.4], counts=[10, 30])]
    result = consensus("balanced", clients, temperature=0.1)
    np.testing.assert_allclose(result, [[0.974328, 0.025672]], atol=1e-6)


def test_balanced_caps_counts_in_numerator_and_denominator_alike() -> None:
    # With B = 20: (16, 2) + (6, 8) = (22, 10) over (30, 30), renormalised (.6875, .3125). ERA with T = 1:
    # 1 / (1 + e^-.375) = .592667.
    clients = [own([0.8, 0.2], counts=[30, 10]), own([0.6, 0.4], counts=[10, 30])]
    result = consensus("balanced", clients, count_bound=20, temperature=1.0)
    np.testing.assert_allclose(result, [[0.592667, 0.407333]], atol=1e-6)


def test_balanced_undoes_label_skew_where_the_plain_mean_does_not() -> None:
    # Class 1 is known to one small client only; the mean of (.9, .1), (.9, .1), (.2, .8) would say class 0.
    clients = [
        own([0.9, 0.1], counts=[100, 0]),
        own([0.9, 0.1], counts=[100, 0]),
        own([0.2, 0.8], counts=[10, 10]),
    ]
    # Class 0: (90 + 90 + 2) / 210 = .8667; class 1: 8 / 10. Without the client's 8 of 10 it would be 0.
    result = consensus("balanced", clients, temperature=1.0)
    first, second = 182 / 210, 8 / 10
    np.testing.assert_allclose(result[0, 0], 1 / (1 + np.exp((second - first) / (first + second))))


def test_balanced_without_any_record_of_a_class_or_any_at_all() -> None:
    nobody = [own([0.8, 0.2], counts=[30, 0]), own([0.6, 0.4], counts=[10, 0])]
    # Class 1 has no weight: (.75, 0) is (1, 0), and ERA 1 / (1 + e^-10).
    result = consensus("balanced", nobody, temperature=0.1)
    np.testing.assert_allclose(result[0, 0], 1 / (1 + np.exp(-10)))
    noised = [own([0.8, 0.2], counts=[-3.0, -1.0])]
    np.testing.assert_allclose(consensus("balanced", noised), [[0.5, 0.5]])


def fd_clients() -> list[Own]:
    # Class 0 is held by clients 0 and 1, class 1 by 1 and 2, class 2 by 2 alone.
    held = {0: {0: [2, -1, -1]}, 1: {0: [4, -2, -2], 1: [-1, 3, -2]}, 2: {1: [-3, 5, -2], 2: [-9, -9, 18]}}
    clients = []
    for rows in held.values():
        classwise = np.full((3, 3), np.nan)
        for c, values in rows.items():
            classwise[c] = values
        counts = np.array([5.0 * (c in rows) for c in range(3)])
        clients.append(Own(logits=np.zeros((0, 3)), counts=counts, classwise=classwise))
    return clients


def test_fd() -> None:
    # Class 2's only row is clipped to 10.
    expected = [[3, -1.5, -1.5], [-2, 4, -2], [-9, -9, 10]]
    np.testing.assert_allclose(consensus("fd", fd_clients()), expected)


def test_fd_leaves_one_out() -> None:
    options = METHODS["fd"].options
    clients = fd_clients()
    sums = total("fd", clients, options)
    answers = [METHODS["fd"].answer(client, options) for client in clients]
    targets, known = leave_one_out(sums, answers[1], 3)
    assert known.tolist() == [True, True, True]
    np.testing.assert_allclose(targets, [[2, -1, -1], [-3, 5, -2], [-9, -9, 10]])
    targets, known = leave_one_out(sums, answers[2], 3)
    assert known.tolist() == [True, True, False]
    np.testing.assert_allclose(targets, [[3, -1.5, -1.5], [-1, 3, -2], [0, 0, 0]], atol=1e-12)


# --- what every row promises ---------------------------------------------------------------------


@pytest.mark.parametrize("name", METHODS)
@given(seed=st.integers(0, 2**32 - 10))
def test_answers_fill_their_blocks_and_stay_inside_their_bounds(name: str, seed: int) -> None:
    method, client = METHODS[name], random_client(seed)
    answers = method.answer(client, method.options)
    for block, answer in zip(method.blocks(7, 4, method.options), answers, strict=True):
        assert answer.shape == block.shape
        assert answer.dtype == np.float64
        assert (answer >= block.low).all()
        assert (answer <= block.high).all()


@pytest.mark.parametrize("name", METHODS)
@given(seed=st.integers(0, 2**32 - 10))
def test_a_consensus_is_a_target_that_its_loss_accepts(name: str, seed: int) -> None:
    # Fails if a soft target were left unnormalised: cross-entropy would have no minimum at the target.
    method = METHODS[name]
    clients = [random_client(seed + k) for k in range(3)]
    result = combined(name, clients, method.options)
    assert result.shape == ((7, 4) if method.public else (4, 4))
    assert np.isfinite(result).all()
    assert method.loss in LOSSES
    if method.loss in NORMALISED:
        assert (result >= 0).all()
        np.testing.assert_allclose(result.sum(axis=1), 1)


@pytest.mark.parametrize("name", [name for name in SUMMED if METHODS[name].loss in NORMALISED])
def test_a_consensus_stays_normalised_when_noise_makes_sums_negative(name: str) -> None:
    method = METHODS[name]
    shapes = [block.shape for block in method.blocks(7, 4, method.options)]
    rng = np.random.default_rng(0)
    result = method.combine(tuple(rng.normal(scale=5, size=shape) for shape in shapes), 3, method.options)
    assert (result >= 0).all()
    np.testing.assert_allclose(result.sum(axis=1), 1)


@pytest.mark.parametrize("name", METHODS)
def test_equal_clients_agree_with_each_other(name: str) -> None:
    # The consensus is one of means: ten equal clients make what one makes, so n is divided out.
    method, client = METHODS[name], random_client(3)
    alone = combined(name, [client], method.options)
    together = combined(name, [client] * 10, method.options)
    np.testing.assert_allclose(together, alone, atol=1e-12)


@pytest.mark.parametrize("name", METHODS)
def test_a_constant_added_to_the_logits_changes_nothing(name: str) -> None:
    method, client = METHODS[name], random_client(4)
    shifted = Own(logits=client.logits + 100, counts=client.counts, classwise=client.classwise)
    for one, other in zip(
        method.answer(client, method.options), method.answer(shifted, method.options), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-9)


@pytest.mark.parametrize(("name", "bits"), [("cfd", 1), ("cfd", 3), ("cfd", 8), ("fedct", 1)])
def test_answers_with_grid_bits_are_exactly_on_their_grid(name: str, bits: int) -> None:
    method, options = METHODS[name], Options(bits=bits)
    assert method.grid_bits(options) == bits
    (answer,) = method.answer(random_client(5), options)
    blocks = method.blocks(7, 4, options)
    vector = quantise((answer,), blocks, bits)
    assert (vector.reshape(7, 4).sum(axis=1) == 2**bits - 1).all()
    np.testing.assert_array_equal(dequantise_sum(vector, blocks, bits, 1)[0], answer)


@pytest.mark.parametrize("name", SUMMED)
def test_quantising_answers_moves_the_consensus_little(name: str) -> None:
    method = METHODS[name]
    clients = [random_client(k) for k in range(5)]
    blocks, bits = method.blocks(7, 4, method.options), method.grid_bits(method.options) or 16
    vectors = [quantise(method.answer(client, method.options), blocks, bits) for client in clients]
    sums = dequantise_sum(np.sum(vectors, axis=0), blocks, bits, 5)
    exact = method.combine(total(name, clients, method.options), 5, method.options)
    np.testing.assert_allclose(method.combine(sums, 5, method.options), exact, atol=2e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [row.name for row in METHODS.values() if row.public])
def test_logits_that_are_not_finite_are_refused(name: str, bad: float) -> None:
    client = Own(logits=np.array([[0.0, bad]]), counts=np.ones(2))
    with pytest.raises(ModelError, match="logits must be finite"):
        METHODS[name].answer(client, METHODS[name].options)


@pytest.mark.parametrize("name", ["balanced", "fd"])
def test_a_client_without_counts_can_not_answer(name: str) -> None:
    with pytest.raises(ModelError, match="counts must be given"):
        METHODS[name].answer(Own(logits=np.zeros((1, 2))), METHODS[name].options)


# --- options -------------------------------------------------------------------------------------


def test_defaults_are_the_methods_own() -> None:
    assert METHODS["dsfl"].resolve(MethodConfig(name="dsfl")).temperature == 0.1
    assert METHODS["dsfl-power"].resolve(MethodConfig(name="dsfl-power")).cache_rounds == 50
    assert METHODS["cfd"].resolve(MethodConfig(name="cfd", bits=4)) == Options(bits=4)


def test_an_option_that_changes_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"method\.bits must be left out .*'dsfl'.* got 4; .*\(cfd\)"):
        METHODS["dsfl"].resolve(MethodConfig(name="dsfl", bits=4))


@pytest.mark.parametrize("name", METHODS)
def test_every_option_that_a_method_uses_can_be_set(name: str) -> None:
    method = METHODS[name]
    for option in method.uses:
        value = {"trim": 0.25}.get(option, 3 if isinstance(getattr(method.options, option), int) else 3.0)
        assert getattr(method.resolve(MethodConfig(name=name, **{option: value})), option) == value


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    assert method_named("cfd") is METHODS["cfd"]
    with pytest.raises(ConfigError, match=r"fedmd, dsfl, .* got 'fedavgg'"):
        method_named("fedavgg")


def test_the_table_says_what_it_needs() -> None:
    assert [name for name, row in METHODS.items() if not row.public] == ["fd"]
    assert [name for name, row in METHODS.items() if row.dual] == ["cfd"]
    assert METHODS["balanced"].private_quantities == ("class counts",)
    robust = [name for name, row in METHODS.items() if row.individual]
    assert robust == ["median", "trimmed", "geometric", "cronus", "expguard"]
    assert [row.name for row in METHODS.values() if row.grid_bits(Options(bits=5))] == [
        "cfd",
        "fedct",
        "votes",
    ]
