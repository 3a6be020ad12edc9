"""What one observer's attacks prove: the tests of both designs, held against what it was promised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from securefd.defenses.claims import Guarantee
from securefd.errors import AuditError
from securefd.evaluation.bounds import clopper_pearson_lower, clopper_pearson_upper
from securefd.evaluation.findings import Finding, Outcome, Risk, Skipped, Subject
from securefd.evaluation.game import Game
from securefd.evaluation.gaussian_bounds import gaussian_one_run_epsilon, mu_epsilon_bound
from securefd.evaluation.judge import in_terms_of_game, judge_claim
from securefd.evaluation.one_run import guessed, one_run_epsilon
from securefd.evaluation.scoring import FPRS, Tried
from securefd.evaluation.statistics import auc, tpr_at_fpr
from securefd.evaluation.thresholds import credible, fixed
from securefd.evaluation.trials import (
    ONE_RECORD_RULE,
    ONE_RUN_RULE,
    prepare_one_record,
    prepare_one_run,
    try_one_record,
    try_one_run,
)

ONE_RECORD = "one record, Clopper-Pearson"
ONE_RUN = "one run, Steinke et al."
GAUSSIAN_ONE_RECORD = "one record of a Gaussian mechanism, Nasr et al."
GAUSSIAN_ONE_RUN = "one run of a Gaussian mechanism, Mahloujifar et al."
_SPREAD = 0.05
"""Level of a risk's interval."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Terms:
    """How an observer's bounds are made.

    ``promise``: what it is promised about records, or None. ``delta``: of the bounds where nothing is
    promised. ``alpha``: the level of each bound. ``mechanism``: "gaussian" where all that depends on records
    is a sum over them plus Gaussian noise, for second bounds that know its whole curve; else None.
    """

    promise: Guarantee | None
    delta: float
    alpha: float
    mechanism: str | None = None

    def held(self, game: Game) -> Guarantee | None:
        """The promise in terms of the game."""
        return None if self.promise is None else in_terms_of_game(self.promise, game.relation)

    def delta_in(self, game: Game) -> float:
        """The delta of bounds in this game."""
        held = self.held(game)
        return self.delta if held is None else held.delta


@dataclass(frozen=True, kw_only=True, eq=False)
class Bounded:
    """``outcomes``: of both designs. ``risk``: None where no record could be singled out. ``exposure``:
    ``(n,)`` AUC of each candidate's own turns, NaN where unknown; private.
    """

    outcomes: tuple[Outcome, ...]
    risk: Risk | None
    exposure: Floats = field(repr=False)


def bounded(observer: str, tried: Sequence[Tried], game: Game, terms: Terms) -> Bounded:
    """The bounds of one observer, from all attacks that it could make. What can't be tested is an outcome.

    Where it could make none, there is nothing to test, which is an outcome of its evidence already.
    """
    outcomes: list[Outcome] = []
    if not tried:
        nothing = np.full(game.membership.shape[1], np.nan)
        return Bounded(outcomes=(), risk=None, exposure=nothing)
    risk = None
    try:
        findings, risk = _in_one_record(tried, game, terms)
        outcomes += findings
    except AuditError as error:
        outcomes.append(_skipped(observer, "in one record", error))
    try:
        outcomes += in_one_run(tried, game, terms)
    except AuditError as error:
        outcomes.append(_skipped(observer, "in one run", error))
    best = max(tried, key=lambda each: each.measured.auc.value)
    return Bounded(outcomes=tuple(outcomes), risk=risk, exposure=_exposure(best, game))


def _skipped(observer: str, attack: str, error: AuditError) -> Skipped:
    return Skipped(subject="the recipe", observer=observer, attack=attack, reason=str(error))


def _in_one_record(tried: Sequence[Tried], game: Game, terms: Terms) -> tuple[tuple[Finding, ...], Risk]:
    level = {"delta": terms.delta_in(game), "alpha": terms.alpha}
    test = prepare_one_record(tried, game, **level)
    if test is None:
        raise AuditError(
            f"{game.federations} federations are too few to single out a record on one half of them and to "
            "try it on the other; run more federations"
        )
    found, fell = try_one_record(test, game)
    scored, coin = found[:, test.coin], fell[:, test.coin]
    n_in, n_out = int(coin.sum()), int((~coin).sum())
    made = fixed(scored, coin, threshold=test.threshold, **level)
    hits, misses = made.true_positives, made.false_positives
    bounds = [(ONE_RECORD, made.epsilon, made.power)]
    if (mechanism := terms.mechanism) is not None:

        def gaussian(hits: int, misses: int) -> float:
            return mu_epsilon_bound(hits, n_in, misses, n_out, mechanism=mechanism, **level)

        bounds.append((GAUSSIAN_ONE_RECORD, gaussian(hits, misses), gaussian(n_in, 0)))
    findings = tuple(
        _finding(
            test.tried,
            (scored, coin),
            game,
            terms,
            bound=bound,
            power=power,
            credible=credible(scored, coin, threshold=test.threshold, **level).epsilon,
            method=method,
            rule=ONE_RECORD_RULE,
            remedy="run more federations",
        )
        for method, bound, power in bounds
    )
    tail = _SPREAD / 4  # of two rates, both ends each
    above = (found > test.threshold) & ~np.isnan(found)
    risk = Risk(
        observer=test.tried.piece.observer,
        attack=test.tried.name,
        highest=hits / n_in - misses / n_out,
        highest_interval=(
            clopper_pearson_lower(hits, n_in, tail) - clopper_pearson_upper(misses, n_out, tail),
            clopper_pearson_upper(hits, n_in, tail) - clopper_pearson_lower(misses, n_out, tail),
        ),
        average=float(above[fell].mean() - above[~fell].mean()),
        records=found.shape[1],
    )
    return findings, risk


def in_one_run(
    tried: Sequence[Tried], game: Game, terms: Terms, *, subject: Subject = "the recipe"
) -> tuple[Finding, ...]:
    """What guessing all coins of the last federation proves; of a Gaussian mechanism twice.

    Raises:
        AuditError: too few federations or coins, or a mechanism for which there is no such bound.
    """
    delta, alpha = terms.delta_in(game), terms.alpha
    test = prepare_one_run(tried, game, delta=delta, alpha=alpha)
    if test is None:
        raise AuditError(f"{game.federations} federations are too few to prepare guesses with; run more")
    found, fell = try_one_run(test, game)
    known = ~np.isnan(found)
    scored, coins = found[known], fell[known]
    if len(scored) < 2 * test.guesses:
        raise AuditError(f"only {len(scored)} coins can be guessed, of {2 * test.guesses} that were to be")
    # Ties are broken without knowing the coins.
    high, low = guessed(scored, test.guesses, test.guesses, np.random.default_rng(0))
    right = int(coins[high].sum() + (~coins[low]).sum())
    made, coins_tossed = 2 * test.guesses, len(scored)
    proven = partial(one_run_epsilon, guesses=made, canaries=coins_tossed, delta=delta, alpha=alpha)
    bounds = [(ONE_RUN, proven(right), proven(made))]
    if terms.mechanism is not None:
        gaussian = partial(
            gaussian_one_run_epsilon,
            guesses=made,
            canaries=coins_tossed,
            delta=delta,
            alpha=alpha,
            mechanism=terms.mechanism,
        )
        bounds.append((GAUSSIAN_ONE_RUN, gaussian(right), gaussian(made)))
    return tuple(
        _finding(
            test.tried,
            (scored, coins),
            game,
            terms,
            bound=bound,
            power=power,
            credible=None,
            method=method,
            rule=ONE_RUN_RULE,
            remedy="have more candidates",
            subject=subject,
        )
        for method, bound, power in bounds
    )


def _finding(
    tried: Tried,
    trials: tuple[Floats, Bools],
    game: Game,
    terms: Terms,
    *,
    bound: float,
    power: float,
    credible: float | None,
    method: str,
    rule: str,
    remedy: str,
    subject: Subject = "the recipe",
) -> Finding:
    """A finding of scores and coins ``(t,)`` that are independent trials."""
    scored, coins = trials
    judgement, reason = judge_claim(terms.promise, game.relation, bound=bound, power=power, remedy=remedy)
    claimed = terms.held(game) or terms.promise
    area = auc(scored, coins)
    return Finding(
        subject=subject,
        observer=tried.piece.observer,
        attack=tried.name,
        n_in=int(coins.sum()),
        n_out=int((~coins).sum()),
        auc=area.value,
        auc_interval=area.interval,
        tpr={fpr: tpr_at_fpr(scored, coins, fpr) for fpr in FPRS},
        trials_in=int(coins.sum()),
        trials_out=int((~coins).sum()),
        bound_method=method,
        epsilon_bound=bound,
        epsilon_credible=credible,
        epsilon_power=power,
        confidence=1 - terms.alpha,
        threshold_rule=rule,
        claim_epsilon=None if claimed is None else claimed.epsilon,
        delta=terms.delta_in(game),
        judgement=judgement,
        reason=reason,
    )


def _exposure(tried: Tried, game: Game) -> Floats:
    """Of each candidate ``(n,)``, the AUC of its own turns; ties count half."""
    scored, fell = tried.everywhere, game.coins(tried.piece.candidates)
    n_in, n_out = fell.sum(axis=0), (~fell).sum(axis=0)
    above = np.where(fell, rankdata(scored, axis=0), 0.0).sum(axis=0) - n_in * (n_in + 1) / 2
    with np.errstate(invalid="ignore"):
        return game.by_candidate(above / (n_in * n_out), tried.piece.candidates)
