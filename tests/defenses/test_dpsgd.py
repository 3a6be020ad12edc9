"""DP-SGD: it samples, clips and adds noise, exactly as much as it says."""

import copy
import math
import os

import numpy as np
import pytest
import torch
from scipy.stats import binom, chisquare
from torch import nn

from securefd.defenses import dpsgd
from securefd.defenses.accounting import calibrate, epsilon
from securefd.defenses.dpsgd import DpSgd, check_module, poisson_sample, train
from securefd.errors import ConfigError, DataError, ModelError, PrivacyError


def seeded(seed):
    return np.random.default_rng(seed).bytes


def mechanism(**changes):
    return DpSgd(**{"sampling_rate": 1.0, "noise_multiplier": 1.0, "clip": 1.0, "steps": 1, **changes})


class Residual(nn.Module):
    """A small residual network with group normalisation."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.block = nn.Sequential(nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.block(x)).mean(dim=(2, 3)))


def mlp():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))


def logistic():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


def cnn():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )


MODELS = {"logistic": logistic, "mlp": mlp, "cnn": cnn, "residual": Residual}


def records(n, seed=0):
    """Return ``n`` noisy pictures of three classes, each with a bright band of its own."""
    rng = np.random.default_rng(seed)
    y = rng.integers(3, size=n)
    x = rng.uniform(0, 0.3, (n, 1, 8, 8)).astype(np.float32)
    for image, label in zip(x, y, strict=True):
        image[0, 2 * label : 2 * label + 3] += 0.7
    return x, y


def weights(module):
    return torch.cat([p.detach().ravel() for p in module.parameters()])


def moved(module, x, y, **settings):
    """Return by how much training moves the weights of a copy of ``module``."""
    other = copy.deepcopy(module)
    train(other, x, y, **settings)
    return weights(other) - weights(module)


def test_noise_is_as_large_as_stated_and_independent_from_step_to_step():
    torch.manual_seed(0)
    x, y = records(40)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 60), nn.Linear(60, 3))
    noisy = {"sampling_rate": 0.5, "noise_multiplier": 1000.0, "clip": 0.3}
    one = 0.2 * 1000.0 * 0.3 / (0.5 * 40)  # learning rate * noise * clip / expected batch
    for steps in (1, 9):
        step = moved(module, x, y, mechanism=mechanism(**noisy, steps=steps), learning_rate=0.2)
        deviation = one * math.sqrt(steps)
        within = 5 * deviation / math.sqrt(2 * len(step))
        assert abs(step.std().item() - deviation) < within
        assert abs(step.mean().item()) < 5 * deviation / math.sqrt(len(step))


def test_noise_is_fresh_in_every_run_and_repeats_only_from_a_given_source():
    x, y = records(20)
    plain = logistic()
    fresh = []
    for _ in range(2):
        torch.manual_seed(5)  # the global generator must have no say
        fresh.append(moved(plain, x, y, mechanism=mechanism()))
    assert not torch.equal(*fresh)
    fixed = [moved(plain, x, y, mechanism=mechanism(), _entropy=seeded(1)) for _ in range(2)]
    assert torch.equal(*fixed)


def test_all_of_128_bits_key_the_noise():
    x, y = records(5)
    plain = logistic()

    def keyed(key):
        return moved(plain, x, y, mechanism=mechanism(), _entropy=lambda n: key.to_bytes(n, "big"))

    streams = [keyed(key) for key in (1, 1 + 2**32, 1 + 2**64, 1 + 2**127)]
    for i, stream in enumerate(streams):
        assert not any(torch.equal(stream, other) for other in streams[:i])


def summed_gradient(module, x, y, clip, n):
    """Return the clipped sum (and the noise, the same for every call) of one full step."""
    quiet = mechanism(noise_multiplier=1e-3, clip=clip)
    return -n * moved(module, x, y, mechanism=quiet, learning_rate=1.0, _entropy=seeded(7))


@pytest.mark.parametrize("name", MODELS)
def test_one_outlier_moves_the_sum_by_at_most_the_clip(name):
    torch.manual_seed(1)
    module = MODELS[name]()
    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    x, y = records(30)
    outlier = np.full_like(x[:1], 1e4)
    wrong = module(torch.from_numpy(outlier)).argmin(1).numpy()
    loss = nn.functional.cross_entropy(module(torch.from_numpy(outlier)), torch.from_numpy(wrong))
    raw = torch.cat([g.ravel() for g in torch.autograd.grad(loss, tuple(module.parameters()))]).norm()
    clip = 0.1
    assert raw > 3 * clip
    without = summed_gradient(module, x, y, clip, 30)
    added = summed_gradient(module, np.concatenate([x, outlier]), np.concatenate([y, wrong]), clip, 31)
    change = (added - without).norm().item()
    assert 0.9 * clip < change <= clip * 1.001
    # Replacing one record by it takes the record's own part away too.
    replaced = summed_gradient(
        module, np.concatenate([x[1:], outlier]), np.concatenate([y[1:], wrong]), clip, 30
    )
    assert (replaced - without).norm().item() <= 2 * clip * 1.001


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e38])
def test_a_record_cannot_destroy_the_sum(poison):
    module = mlp()
    x, y = records(30)
    poisoned = np.concatenate([x, np.full_like(x[:1], poison)])
    without = summed_gradient(logistic_of(module), x, y, 0.1, 30)
    added = summed_gradient(logistic_of(module), poisoned, np.append(y, 0), 0.1, 31)
    assert (added - without).norm().item() <= 0.1 * 1.001


def logistic_of(module):
    """Return a logistic model that is the same for the same ``module``."""
    model = logistic()
    with torch.no_grad():
        model[1].weight.copy_(module[1].weight[:3])
        model[1].bias.copy_(module[1].bias[:3])
    return model


def test_a_step_is_the_mean_of_clipped_gradients_over_the_expected_batch():
    torch.manual_seed(2)
    module, (x, y) = cnn(), records(12)
    total = torch.zeros_like(weights(module))
    for i in range(12):
        loss = nn.functional.cross_entropy(module(torch.from_numpy(x[i : i + 1])), torch.tensor(y[i : i + 1]))
        gradient = torch.cat([g.ravel() for g in torch.autograd.grad(loss, tuple(module.parameters()))])
        total += gradient * min(1.0, 0.8 / gradient.norm().item())
    step = moved(module, x, y, mechanism=mechanism(noise_multiplier=1e-9, clip=0.8), learning_rate=0.5)
    assert torch.allclose(step, -0.5 * total / 12, atol=1e-6)


@pytest.mark.parametrize("soft", [False, True])
def test_a_loss_and_soft_targets_of_ones_own(soft):
    x, y = records(10)
    module = logistic()
    targets = np.eye(3, dtype=np.float32)[y] if soft else y

    def loss(outputs, wanted):
        return nn.functional.cross_entropy(outputs, wanted, reduction="none")

    own = moved(module, x, targets, mechanism=mechanism(), loss=loss, _entropy=seeded(3))
    assert torch.allclose(own, moved(module, x, y, mechanism=mechanism(), _entropy=seeded(3)), atol=1e-6)


def test_a_large_sample_in_parts_is_the_same_sample(monkeypatch):
    x, y = records(100)
    module = cnn()
    half = mechanism(sampling_rate=0.5, steps=3)
    whole = moved(module, x, y, mechanism=half, _entropy=seeded(4))
    monkeypatch.setattr(dpsgd, "PHYSICAL_BATCH", 7)
    assert torch.allclose(moved(module, x, y, mechanism=half, _entropy=seeded(4)), whole, atol=1e-5)


def test_an_empty_sample_still_takes_a_noisy_step():
    x, y = records(5)
    module = cnn()
    rare = mechanism(sampling_rate=1e-12, noise_multiplier=1e-9, steps=3)
    deviation = math.sqrt(3) * 1e-9 / (1e-12 * 5)
    step = moved(module, x, y, mechanism=rare)
    assert abs(step.std().item() - deviation) < 5 * deviation / math.sqrt(2 * len(step))


@pytest.mark.parametrize("rate", [0.02, 0.3, 0.9])
def test_samples_are_poisson(rate):
    n, draws = 50, 4000
    entropy = seeded(11)
    chosen = np.zeros((draws, n), dtype=bool)
    for row in chosen:
        row[poisson_sample(n, rate, entropy)] = True
    sizes = chosen.sum(axis=1)
    low, high = int(binom.ppf(0.01, n, rate)), int(binom.ppf(0.99, n, rate))
    inner = np.arange(low, high + 1)
    expected = np.array([binom.cdf(low - 1, n, rate), *binom.pmf(inner, n, rate), binom.sf(high, n, rate)])
    observed = np.array([np.sum(sizes < low), *(np.sum(sizes == s) for s in inner), np.sum(sizes > high)])
    some = expected > 0
    assert not observed[~some].any()
    assert chisquare(observed[some], draws * expected[some]).pvalue > 1e-3
    spread = math.sqrt(rate * (1 - rate) / draws)
    assert np.abs(chosen.mean(axis=0) - rate).max() < 5 * spread
    assert abs(np.mean(chosen[:, 0] & chosen[:, 1]) - rate**2) < 5 * math.sqrt(rate**2 / draws)


def test_samples_come_from_the_operating_system_and_are_sorted():
    a, b = poisson_sample(1000, 0.5), poisson_sample(1000, 0.5)
    assert not np.array_equal(a, b)
    assert np.array_equal(a, np.unique(a))
    assert np.array_equal(poisson_sample(4, 1.0), np.arange(4))


def test_each_step_draws_a_new_sample():
    x, y = records(30)
    asked = []

    def entropy(size):
        asked.append(size)
        return os.urandom(size)

    train(logistic(), x, y, mechanism=mechanism(sampling_rate=0.2, steps=5), _entropy=entropy)
    assert asked == [16, *[8 * 30] * 5]


@pytest.mark.parametrize("name", MODELS)
def test_it_learns_from_fifty_records_and_leaves_a_plain_module(name):
    torch.manual_seed(3)
    module, (x, y) = MODELS[name](), records(50)
    module.eval()

    def planned(noise):
        return mechanism(sampling_rate=0.5, noise_multiplier=noise, steps=40)

    noise = calibrate(lambda noise: [planned(noise).charge], 20.0, 1e-3, "add-or-remove")
    entropy = np.random.default_rng(5).bytes  # one draw that is known to learn: the noise isn't on trial
    assert train(module, x, y, mechanism=planned(noise), learning_rate=0.5, _entropy=entropy) == 40
    assert epsilon(planned(noise).event, 1e-3, "add-or-remove") <= 20.0
    held_x, held_y = records(300, seed=9)
    with torch.no_grad():
        accuracy = (module(torch.from_numpy(held_x)).argmax(1).numpy() == held_y).mean()
    assert accuracy > 0.6
    assert not any(part.training for part in module.modules())
    for part in module.modules():
        assert not part._forward_hooks
        assert not part._backward_hooks
        assert not hasattr(part, "activations")
    for parameter in module.parameters():
        assert not vars(parameter)
        assert parameter.grad is None


def test_a_frozen_part_stays_as_it_is():
    module, (x, y) = cnn(), records(20)
    module[0].requires_grad_(False)
    before = copy.deepcopy(module[0].state_dict())
    step = moved(module, x, y, mechanism=mechanism())
    assert torch.equal(module[0].weight, before["weight"])
    assert not step[: before["weight"].numel() + before["bias"].numel()].any()
    assert step[-100:].all()


class Centred(nn.Module):
    """Subtracts the batch's mean in its own code, which no list of layers shows."""

    def __init__(self):
        super().__init__()
        self.layer = logistic()

    def forward(self, x):
        return self.layer(x - x.mean(0))


class Idle(nn.Module):
    """Has a layer that it never uses."""

    def __init__(self):
        super().__init__()
        self.layer = logistic()
        self.idle = nn.Linear(2, 2)

    def forward(self, x):
        return self.layer(x)


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4),
        nn.BatchNorm2d(4, affine=False),
        nn.BatchNorm2d(4, affine=False, track_running_stats=False),
        nn.SyncBatchNorm(4),
    ],
)
def test_batch_normalisation_is_refused_with_the_remedy(norm):
    module = nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Flatten(), nn.Linear(144, 3))
    with pytest.raises(ModelError, match=r"batch normalisation at '1'.*group normalisation"):
        check_module(module)
    assert module.training


def test_other_models_that_carry_records_past_the_noise_are_refused():
    x, y = records(8)
    with pytest.raises(ModelError, match="mixes records"):
        train(Centred(), x, y, mechanism=mechanism())
    buffered = logistic()
    buffered.register_buffer("mean", torch.zeros(1))
    with pytest.raises(ModelError, match="buffer 'mean'"):
        check_module(buffered)
    with pytest.raises(ModelError, match="can't be trained by DP-SGD"):
        check_module(nn.Sequential(nn.LSTM(4, 4)))
    with pytest.raises(ModelError, match="no trainable parameters"):
        check_module(nn.Flatten())
    with pytest.raises(ModelError, match=r"'idle\.weight' has no part"):
        train(Idle(), x, y, mechanism=mechanism())
    with pytest.raises(ModelError, match="one value a record"):
        train(logistic(), x, y, mechanism=mechanism(), loss=nn.functional.cross_entropy)


def test_the_module_is_plain_again_after_a_failure():
    x, y = records(8)
    module = Idle()
    with pytest.raises(ModelError):
        train(module, x, y, mechanism=mechanism())
    assert not any(part._forward_hooks for part in module.modules())
    assert not any(vars(parameter) for parameter in module.parameters())


def test_bad_records_and_rates_are_refused():
    x, y = records(8)
    for wrong in ((x[:0], y[:0]), (x, y[:7])):
        with pytest.raises(DataError, match="same number of records"):
            train(logistic(), *wrong, mechanism=mechanism())
    for rate in (0.0, math.nan, math.inf):
        with pytest.raises(ConfigError, match="learning_rate"):
            train(logistic(), x, y, mechanism=mechanism(), learning_rate=rate)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sampling_rate", 0.0),
        ("sampling_rate", 1.1),
        ("sampling_rate", math.nan),
        ("noise_multiplier", 0.0),
        ("noise_multiplier", math.nan),
        ("noise_multiplier", math.inf),
        ("clip", 0.0),
        ("clip", math.nan),
        ("clip", math.inf),
        ("steps", 0),
    ],
)
def test_impossible_mechanisms_are_refused(field, value):
    with pytest.raises(PrivacyError, match=f"{field} must be .*{value}"):
        mechanism(**{field: value})


def test_a_part_of_a_schedule_costs_its_share():
    whole = mechanism(sampling_rate=0.5, noise_multiplier=2.0, steps=60)
    assert whole.part(12) == mechanism(sampling_rate=0.5, noise_multiplier=2.0, steps=12)
    assert whole.charge.event == whole.event
