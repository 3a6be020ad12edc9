"""The losses against numbers worked by hand, and against the faults that public implementations have."""

import math

import pytest
import torch
from torch.nn.functional import one_hot

from securefd.losses import LOSSES, balanced_cross_entropy, cross_entropy, distance, kl, l1, squared

ANY = torch.Generator().manual_seed(0)
LOGITS = torch.randn(3, 4, 5, generator=ANY, dtype=torch.float64)
TARGET = torch.softmax(torch.randn(3, 4, 5, generator=ANY, dtype=torch.float64), dim=-1)


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor(probabilities, dtype=torch.float64).log()


def row(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_cross_entropy_of_a_soft_target() -> None:
    # -(.5 ln .5 + .5 ln .25) = .5 * .693147 + .5 * 1.386294
    assert cross_entropy(logs(0.5, 0.25, 0.25), row(0.5, 0.5, 0)).item() == pytest.approx(1.0397208)


def test_cross_entropy_of_a_hard_target_is_minus_the_log_of_its_probability() -> None:
    target = one_hot(torch.tensor([2, 0]), 3).double()
    logits = torch.stack([logs(0.5, 0.3, 0.2), logs(0.5, 0.3, 0.2)])
    assert cross_entropy(logits, target).tolist() == pytest.approx([-math.log(0.2), -math.log(0.5)])


def test_squared_error_of_probabilities() -> None:
    # (.5 - .8)^2 + (.25 - .3)^2 + (.25 + .1)^2
    assert squared(logs(0.5, 0.25, 0.25), row(0.8, 0.3, -0.1)).item() == pytest.approx(0.215)


def test_squared_error_is_least_at_the_mean_of_noisy_targets() -> None:
    mean, generator = row(0.6, 0.3, 0.1), torch.Generator().manual_seed(1)
    noisy = mean + 3 * torch.randn(20_000, 3, generator=generator, dtype=torch.float64)
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=100)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = squared(logits, noisy).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    found = torch.softmax(logits.detach(), dim=-1)
    assert (found - mean).abs().max() < 0.05
    assert abs(noisy.argmax(-1).eq(0).double().mean() - 0.6) > 0.1  # a vote on each would be far off


def test_kl_has_the_teacher_first() -> None:
    # .5 ln(.5/.9) + .5 ln(.5/.1) = .5 * -.587787 + .5 * 1.609438; the other way round it is .368064.
    assert kl(logs(0.9, 0.1), row(0.5, 0.5)).item() == pytest.approx(0.5108256)


def test_kl_softens_both_sides_and_scales_by_the_square_of_the_temperature() -> None:
    # T = 2: (.8, .2) has square roots in the ratio 2:1, so (2/3, 1/3); (.9, .1) gives (3/4, 1/4).
    # 2/3 ln(8/9) + 1/3 ln(4/3) = -.0785220 + .0958940 = .0173720, times 4.
    assert kl(logs(0.9, 0.1), row(0.8, 0.2), 2.0).item() == pytest.approx(0.0694881, abs=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_kl_of_probabilities_softens_as_the_teachers_logits_would(temperature: float) -> None:
    teacher = torch.randn(6, 5, generator=ANY, dtype=torch.float64)
    student = torch.randn(6, 5, generator=ANY, dtype=torch.float64)
    p, q = (torch.softmax(z / temperature, dim=-1) for z in (teacher, student))
    expected = temperature**2 * (p * (p / q).log()).sum(-1)
    torch.testing.assert_close(kl(student, torch.softmax(teacher, dim=-1), temperature), expected)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_kl_of_a_one_hot_teacher_is_finite_and_so_is_its_gradient(temperature: float) -> None:
    logits = logs(0.25, 0.75).requires_grad_()
    loss = kl(logits, row(1, 0), temperature)
    loss.backward()
    # T = 1: -ln .25; T = 2: the student is (1, sqrt 3) / (1 + sqrt 3), so 4 ln(1 + sqrt 3).
    assert loss.item() == pytest.approx(
        temperature**2 * math.log(4 if temperature == 1 else 1 + math.sqrt(3))
    )
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_kl_is_zero_only_for_the_teacher_itself() -> None:
    assert kl(TARGET.log(), TARGET, 2.0).abs().max().item() == pytest.approx(0, abs=1e-12)
    assert (kl(LOGITS, TARGET, 2.0) > 1e-3).all()


def test_l1_is_the_mean_over_classes() -> None:
    # (|1 - 0| + |2 - 4| + |4 - 4|) / 3
    assert l1(row(1, 2, 4), row(0, 4, 4)).item() == pytest.approx(1.0)


def test_distance_ignores_the_constant_of_the_logits() -> None:
    # (1, 3, 5) less its mean is (-2, 0, 2); to (-1, 0, 1): (1 + 0 + 1) / 3.
    assert distance(row(1, 3, 5), row(-1, 0, 1)).item() == pytest.approx(2 / 3)
    assert distance(row(101, 103, 105), row(-1, 0, 1)).item() == pytest.approx(2 / 3)


def test_balanced_cross_entropy_explains_frequencies_by_the_prior() -> None:
    # Equal logits and 3 records to 1: the rare class has probability 1/4 within the loss.
    prior = row(3, 1).log()
    loss = balanced_cross_entropy(row(0, 0).expand(2, 2), torch.tensor([0, 1]), prior)
    assert loss.tolist() == pytest.approx([-math.log(3 / 4), -math.log(1 / 4)])


def test_balanced_cross_entropy_is_least_where_the_prior_alone_explains_the_labels() -> None:
    labels = torch.tensor([0, 0, 0, 1])
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    balanced_cross_entropy(logits.expand(4, 2), labels, row(3, 1).log()).mean().backward()
    assert logits.grad is not None
    assert logits.grad.tolist() == pytest.approx([0, 0])


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_one_number_an_example_whatever_is_beside_it(name: str) -> None:
    # A loss reduced over the batch, or divided by its size or by the classes of the batch, fails here.
    together = LOSSES[name](LOGITS, TARGET, 2.0)
    assert together.shape == (3, 4)
    for i in range(3):
        for j in range(4):
            torch.testing.assert_close(together[i, j], LOSSES[name](LOGITS[i, j], TARGET[i, j], 2.0))


@pytest.mark.parametrize(("name", "temperature"), [("cross_entropy", 1.0), ("kl", 1.0), ("kl", 4.0)])
def test_gradient_is_what_the_formula_says(name: str, temperature: float) -> None:
    # d/dz of T² KL(q_T ‖ softmax(z/T)) is T (softmax(z/T) - q_T): the teacher's place and the reduction
    # both show.
    logits = LOGITS.clone().requires_grad_()
    LOSSES[name](logits, TARGET, temperature).sum().backward()
    softened = TARGET ** (1 / temperature) / (TARGET ** (1 / temperature)).sum(-1, keepdim=True)
    expected = temperature * (torch.softmax(LOGITS / temperature, dim=-1) - softened)
    torch.testing.assert_close(logits.grad, expected)
