"""Bounds that hold for mechanisms whose output is Gaussian noise on what a record moves, and for no others.

Such a mechanism's error rates follow one curve, Gaussian differential privacy's with one parameter mu (Dong,
Roth and Su 2019). A bound on mu from one point of the curve says where all the others are, which is why
these bounds are larger; of another mechanism they "prove" more than the truth: on an exactly 1-private
Laplace mechanism they claim more than 1 in half of all experiments, or always.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtri

from securefd.errors import AuditError
from securefd.evaluation.bounds import clopper_pearson_lower, clopper_pearson_upper
from securefd.evaluation.checks import check_count, check_delta, check_share

_HALVINGS = 50
_NORMAL = NormalDist()
_OTHERS = {
    "dpsgd": "a subsampled Gaussian is a mixture, and mixtures have another curve",
    "laplace": "its curve is that of Laplace noise",
    "discrete-laplace": "its curve is that of discrete Laplace noise",
    "randomised-response": "its curve is that of one coin",
}


def mu_bound(
    true_positives: int, n_in: int, false_positives: int, n_out: int, *, alpha: float, mechanism: str
) -> float:
    """What a Gaussian mechanism's mu is at least, from counts of independent trials at a threshold fixed
    beforehand; above the truth in at most ``alpha`` of experiments.

    From one-sided Clopper-Pearson bounds at ``alpha / 2``: isf(FPR) - ppf(FNR) of the normal distribution,
    and 0 where that is negative.

    Source: Nasr et al. 2023, "Tight Auditing of Differentially Private Machine Learning".

    Raises:
        AuditError: a mechanism that isn't "gaussian", counts that can't be, or alpha out of range.
    """
    check_gaussian(mechanism)
    check_share("alpha", alpha)
    tpr = clopper_pearson_lower(true_positives, n_in, alpha / 2)
    fpr = clopper_pearson_upper(false_positives, n_out, alpha / 2)
    return max(0.0, float(ndtri(tpr) - ndtri(fpr)))


def mu_epsilon_bound(
    true_positives: int,
    n_in: int,
    false_positives: int,
    n_out: int,
    *,
    delta: float,
    alpha: float,
    mechanism: str,
) -> float:
    """`mu_bound` as an epsilon at ``delta``, which must be above 0: a Gaussian promises no other."""
    mu = mu_bound(true_positives, n_in, false_positives, n_out, alpha=alpha, mechanism=mechanism)
    return gaussian_epsilon(mu, delta=delta)


def gaussian_one_run_epsilon(
    correct: int, guesses: int, canaries: int, *, delta: float, alpha: float, mechanism: str
) -> float:
    """`one_run_epsilon` for a Gaussian mechanism: larger, since it knows the whole curve.

    A claim of mu is refuted where the recursion of Mahloujifar et al. 2024, "Auditing f-Differential Privacy
    in One Run", algorithm 3 (with abstentions), on the curve ``g(x) = cdf(ppf(x) - mu)``, says that so many
    right guesses have probability below ``alpha``. The largest mu refuted, found by halving, as an epsilon.

    Raises:
        AuditError: a mechanism that isn't "gaussian", counts that can't be, or delta or alpha out of range.
    """
    check_gaussian(mechanism)
    check_count("guesses", guesses, canaries, "the number of canaries")
    check_count("correct", correct, guesses, "the number of guesses")
    check_share("alpha", alpha)
    if not _refuted(0.0, correct, guesses, canaries, alpha):
        return gaussian_epsilon(0.0, delta=delta)
    low, high = 0.0, 1.0
    while _refuted(high, correct, guesses, canaries, alpha):
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _refuted(middle, correct, guesses, canaries, alpha):
            low = middle
        else:
            high = middle
    return gaussian_epsilon(low, delta=delta)


def gaussian_epsilon(mu: float, *, delta: float) -> float:
    """Smallest epsilon of Gaussian noise with deviation ``1 / mu`` times what a record moves, at ``delta``.

    Source: Balle and Wang 2018, theorem 8; Dong, Roth and Su 2019, corollary 2.13.

    Raises:
        AuditError: mu below 0 or infinite, or a delta outside (0, 1).
    """
    if not 0 <= mu < math.inf:
        raise AuditError(f"mu must be >= 0 and finite, got {mu}")
    check_delta(delta)
    if not delta > 0:
        raise AuditError(f"delta must be > 0, got {delta}; Gaussian noise has no finite epsilon at 0")

    def excess(epsilon: float) -> float:
        near = float(log_ndtr(mu / 2 - epsilon / mu))
        far = epsilon + float(log_ndtr(-mu / 2 - epsilon / mu))
        return near + math.log(-math.expm1(min(far - near, -1e-300))) - math.log(delta)

    if mu == 0 or excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-12))


def _refuted(mu: float, correct: int, guesses: int, canaries: int, alpha: float) -> bool:
    """Whether so many right guesses are too unlikely for mu: as the recursion rises above all guesses."""
    right = alpha * correct / canaries
    wrong = alpha * (guesses - correct) / canaries
    for number in range(correct - 1, -1, -1):
        if not right < 1:
            return True
        least = _NORMAL.cdf(_NORMAL.inv_cdf(right) - mu)
        if not least > wrong:
            break
        right += number / (guesses - number) * (least - wrong)
        wrong = least
    return right + wrong > guesses / canaries


def check_gaussian(mechanism: str) -> None:
    """Raise AuditError unless ``mechanism`` is "gaussian", and say what is wrong with others."""
    if mechanism != "gaussian":
        why = _OTHERS.get(mechanism, "no other mechanism has a Gaussian's curve")
        raise AuditError(
            f"mechanism must be 'gaussian' for this bound, got {mechanism!r}: {why}, and the bound would "
            "exceed the truth; use Clopper-Pearson or the one-run bound"
        )
