"""The audit of one run by its canaries: no shadows, no second training, and a bound.

Of every canary a coin decided before the run whether it was trained on. From what an observer saw each gets a
score, the highest are guessed to be in and the lowest out, and so many right guesses bound epsilon by the
theorem of Steinke, Nasr and Jagielski 2023 (`one_run`). The game is add-or-remove of one record.

A client can do this alone, with its own canaries, and share nothing but the findings. Pooling those of all
clients takes whoever simulates the federation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from securefd.attacks.answers import Answers
from securefd.attacks.candidates import Candidates, Evidence, NoEvidence
from securefd.attacks.observe import observe
from securefd.defenses.claims import Guarantee, claim_about_records
from securefd.errors import AuditError, RunError
from securefd.evaluation.audit import DELTA, ERROR_LEVEL
from securefd.evaluation.bounding import ONE_RUN
from securefd.evaluation.controls import FOUND_AUC, NULL_LEVEL
from securefd.evaluation.findings import Control, Finding, Outcome, Skipped
from securefd.evaluation.judge import in_terms_of_game, judge_claim
from securefd.evaluation.one_run import one_run, one_run_power
from securefd.evaluation.scoring import FPRS
from securefd.evaluation.statistics import auc, tpr_at_fpr
from securefd.progress import Progress, Silent
from securefd.result import Run
from securefd.rng import generator
from securefd.runner import one_thread
from securefd.views import Observer

GUESSED = 5
"""One canary in so many is guessed to be in, and as many out. On digits more guesses are less often right,
and fewer prove less however right they are; of 10%, 20%, 25% and 33% it was the best or nearly so."""

TAUGHT = 3
"""One canary in so many teaches the attack that learns: its coin is told, and it isn't guessed."""

LEAST_TO_LEARN = 60
"""An attack that learns needs so many canaries: a third of fewer teaches it nothing."""

LOSS, LEARNT = "loss", "learnt"
RULE = "the fifth of the canaries that score highest is guessed in, the lowest fifth out, fixed beforehand"
LEARNT_RULE = f"every third canary teaches the attack; of the others, {RULE}"
REMEDY = "have more canaries"

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """The canaries that are asked about. ``scope``: whose they are, in words. ``included`` stays private."""

    about: Candidates = field(repr=False)
    included: Bools = field(repr=False)
    scope: str

    @classmethod
    def of(cls, run: Run, client: int | None) -> Asked:
        """Those of one client, or of all.

        Raises:
            AuditError: no such client, or canaries that aren't what the manifest committed to.
        """
        clients = range(len(run.split.clients))
        if client is not None and client not in clients:
            raise AuditError(f"client must be 0 to {len(clients) - 1}, got {client}; name one of the run's")
        chosen = list(clients) if client is None else [client]
        try:
            made = [run.canaries(each) for each in chosen]
        except RunError as error:
            raise AuditError(str(error)) from error
        records = [each.records for each in made]
        x, labels = np.concatenate([each.x for each in records]), np.concatenate([each.y for each in records])
        about = Candidates(
            x=x,
            labels=labels,
            client=np.repeat(chosen, [len(each) for each in records]),
            population_x=x[:0],
            population_labels=labels[:0],
            n_classes=run.split.n_classes,
        )
        scope = (
            "the canaries of all clients together, which only a simulation can do"
            if client is None
            else f"the canaries of client {client}, by itself"
        )
        return cls(about=about, included=np.concatenate([each.included for each in made]), scope=scope)


@dataclass(frozen=True, kw_only=True, eq=False)
class Guessing:
    """One attack on one observer's evidence. It gives ``(scores, coins)`` of the canaries to be guessed."""

    observer: str
    attack: str
    rule: str
    run: Callable[[], tuple[Floats, Bools]] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """``promise``: to this observer about records, or None. ``alpha``: level of this bound. ``scope``: whose
    canaries were asked about, in words.
    """

    promise: Guarantee | None
    alpha: float
    scope: str


def audit_canaries(
    run: Run,
    progress: Progress | None = None,
    *,
    client: int | None = None,
    error_level: float = ERROR_LEVEL,
) -> tuple[Outcome, ...]:
    """Guess from each configured observer's view which canaries ``run`` trained on; empty if it has none.

    ``client``: the one that audits its own canaries; None pools all, as a simulation can. ``error_level``:
    chance that any bound is above the truth, shared out evenly over all tests, which are fixed by what the
    observers saw and never by how the coins fell. What can't be tested is an outcome with its reason, and no
    outcome says which canary was in.

    Raises:
        AuditError: canaries or coins that aren't what the manifest committed to, or no such client.
    """
    if run.config.audit.canaries is None:
        return ()
    asked = Asked.of(run, client)
    observers = run.config.audit.observers
    tests: list[Guessing | Skipped] = []
    with one_thread(), (progress or Silent()).stage("canaries", len(observers)) as advance:
        for observer in observers:
            tests += _tests_of(run, observer, asked)
            advance(1)
        alpha = error_level / max(1, sum(isinstance(each, Guessing) for each in tests))
        return tuple(
            each
            if isinstance(each, Skipped)
            else _outcome(each, Terms(promise=_promise(run, each.observer), alpha=alpha, scope=asked.scope))
            for each in tests
        )


def canary_controls(
    run: Run, *, client: int | None = None, delta: float = DELTA, error_level: float = ERROR_LEVEL
) -> tuple[Control, ...]:
    """A null and a positive control of the design, with the coins of ``run``; empty if it has no canaries.

    Raises:
        AuditError: canaries or coins that aren't what the manifest committed to, or no such client.
    """
    if run.config.audit.canaries is None:
        return ()
    coins = Asked.of(run, client).included
    # No secret: coins don't follow from it, so these scores can't know them.
    rng = generator(run.config.seed, "canaries", "controls")
    noise = rng.standard_normal(len(coins))
    leak = 20.0 * coins - 10.0 + rng.standard_normal(len(coins))
    return (
        null_control(noise, coins, delta=delta),
        positive_control(leak, coins, delta=delta, alpha=error_level),
    )


def null_control(scores: Floats, coins: Bools, *, delta: float) -> Control:
    """Passes unless scores ``(m,)`` that can't know the coins seem to; wrong once in 1,000 sound audits.

    Two tests share that level: the bound must be 0, and the AUC one half, by the rank-sum test.
    """
    level = NULL_LEVEL / 2
    try:
        bound, _ = _bounded(scores, coins, delta=delta, alpha=level)
        excess = auc(scores, coins).value - 0.5
    except AuditError as error:
        return Control(kind="null", attack="canaries", measured=str(error), passed=False)
    n_in, n_out = int(coins.sum()), int((~coins).sum())
    p_value = float(2 * norm.sf(abs(excess) / math.sqrt((n_in + n_out + 1) / (12 * n_in * n_out))))
    return Control(
        kind="null",
        attack="canaries",
        measured=f"random scores: AUC against one half has p = {p_value:.2g}, epsilon bound {bound:.2f}",
        passed=bool(p_value > level and bound == 0),
    )


def positive_control(scores: Floats, coins: Bools, *, delta: float, alpha: float) -> Control:
    """Passes if scores ``(m,)`` that are little but the coins reach half of what so many could certify."""
    try:
        bound, power = _bounded(scores, coins, delta=delta, alpha=alpha)
        area = auc(scores, coins).value
    except AuditError as error:
        return Control(kind="positive", attack="canaries", measured=str(error), passed=False)
    return Control(
        kind="positive",
        attack="canaries",
        measured=f"planted membership: AUC {area:.3f}, epsilon bound {bound:.2f} of at most {power:.2f}",
        passed=bool(area >= FOUND_AUC and bound >= power / 2),
    )


def _promise(run: Run, observer: str) -> Guarantee | None:
    """What this run promises; decisions follow from the release, so that its promise covers them."""
    to: Observer = "release" if observer == "label-only" else observer  # type: ignore[assignment]
    return claim_about_records(run.claims, to).guarantee  # type: ignore[arg-type]


def _tests_of(run: Run, observer: Observer, asked: Asked) -> Iterator[Guessing | Skipped]:
    """All tests of one observer, or why there is none."""

    def skipped(reason: str) -> Skipped:
        return Skipped(subject="this run", observer=observer, attack="canaries", reason=reason)

    if len(asked.included) < 2:
        yield skipped(f"at least 2 canaries are needed, got {len(asked.included)}; {REMEDY}")
        return
    try:
        pieces = observe([run.view(observer)], asked.about)
    except AuditError as error:
        yield skipped(str(error))
        return
    if isinstance(pieces, NoEvidence):
        yield skipped(pieces.reason)
        return
    for piece in pieces:
        coins = asked.included[piece.candidates]
        yield Guessing(
            observer=observer,
            attack=_name(LOSS, piece),
            rule=RULE,
            run=partial(sure, piece, coins),
        )
        if _more_than_confidence(piece) and len(coins) >= LEAST_TO_LEARN:
            yield Guessing(
                observer=observer,
                attack=_name(LEARNT, piece),
                rule=LEARNT_RULE,
                run=partial(learnt, piece, coins),
            )


def _name(attack: str, piece: Evidence) -> str:
    return f"canaries: {attack} on {piece.signal}"


def _outcome(test: Guessing, terms: Terms) -> Outcome:
    try:
        scores, coins = test.run()
        return _finding(test, scores, coins, terms)
    except AuditError as error:
        return Skipped(subject="this run", observer=test.observer, attack=test.attack, reason=str(error))


def _finding(test: Guessing, scores: Floats, coins: Bools, terms: Terms) -> Finding:
    """What one test found; counts and rates of the canaries that it guessed among."""
    held = None if terms.promise is None else in_terms_of_game(terms.promise, "add-or-remove")
    delta = DELTA if held is None else held.delta
    bound, power = _bounded(scores, coins, delta=delta, alpha=terms.alpha)
    judgement, reason = judge_claim(terms.promise, "add-or-remove", bound=bound, power=power, remedy=REMEDY)
    claimed = held or terms.promise
    area = auc(scores, coins)
    n_in, n_out = int(coins.sum()), int((~coins).sum())
    return Finding(
        subject="this run",
        observer=test.observer,
        attack=test.attack,
        n_in=n_in,
        n_out=n_out,
        auc=area.value,
        auc_interval=area.interval,
        tpr={fpr: tpr_at_fpr(scores, coins, fpr) for fpr in FPRS},
        trials_in=n_in,
        trials_out=n_out,
        bound_method=ONE_RUN,
        epsilon_bound=bound,
        epsilon_power=power,
        confidence=1 - terms.alpha,
        threshold_rule=test.rule,
        claim_epsilon=None if claimed is None else claimed.epsilon,
        delta=delta,
        judgement=judgement,
        reason=f"{reason} ({terms.scope})",
    )


def _bounded(scores: Floats, coins: Bools, *, delta: float, alpha: float) -> tuple[float, float]:
    """The bound on epsilon, and the most that so many guesses could certify."""
    guesses = max(1, len(scores) // GUESSED)
    bound = one_run(
        scores,
        coins,
        delta=delta,
        alpha=alpha,
        positives=guesses,
        negatives=guesses,
        rng=np.random.default_rng(0),  # of ties only; it knows nothing of the coins
    )
    return bound, one_run_power(2 * guesses, len(scores), delta=delta, alpha=alpha)


def sure(piece: Evidence, coins: Bools) -> tuple[Floats, Bools]:
    """Scores and coins of all canaries: how sure the answers are of a canary's label, as loss would tell."""
    return piece.confidence[0], coins


def learnt(piece: Evidence, coins: Bools) -> tuple[Floats, Bools]:
    """Scores and coins of two canaries in three, by a logistic regression on every third one's coins.

    Given the coins that it was told, the others are still independent and
    fair, so that what is bounded by them holds.

    Raises:
        AuditError: the coins that are told are all the same.
    """
    seen, told = features(piece), np.arange(len(coins)) % TAUGHT == 0
    if coins[told].all() or not coins[told].any():
        raise AuditError(f"the coins of {int(told.sum())} canaries that teach are all the same; {REMEDY}")
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.3, max_iter=1000))
    model.fit(seen[told], coins[told])
    return np.asarray(model.decision_function(seen[~told]), dtype=np.float64), coins[~told]


def features(piece: Evidence) -> Floats:
    """``(k, f)``: what an observer can hold against each canary, part after part.

    How sure the answers are of its label, how sure of any, how that grew from round to round, and how sure
    other clients are and answers to public inputs that look like it.
    """
    return np.concatenate([_features(part.answers) for part in piece.parts])


def _features(answers: Answers) -> Floats:
    columns = [answers.confidence[0, :, None], np.log(answers.probabilities[0].max(axis=-1))[:, None]]
    if answers.rounds is not None:
        columns.append(answers.rounds[0])
    for peers in (answers.others, answers.nearby):
        if peers is not None:
            columns.append(peers[0].mean(axis=-1, keepdims=True))
    return np.concatenate(columns, axis=1)


def _more_than_confidence(piece: Evidence) -> bool:
    """Whether there is more to learn from than one model's answer."""
    parts: Sequence[Answers] = [part.answers for part in piece.parts]
    return all(each.rounds is not None or each.others is not None for each in parts)
