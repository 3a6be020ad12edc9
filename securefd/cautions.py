"""What a person should know before a federation is run as configured, in plain sentences.

Nothing here forbids anything: what can't be is refused by ``rules``, what is unwise is said here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from securefd.config import Config, SealingConfig
from securefd.defenses.head import RECORDS_A_DIMENSION
from securefd.exchange import codec_of
from securefd.nfdp import NFDP
from securefd.outlook import HOPELESS, WORKABLE, Outlook
from securefd.pate import PatePlan
from securefd.private import DpSgdPlan, HeadPlan, PrivatePlan
from securefd.recipe import Recipe
from securefd.rules import covered, n_clients

WEAK_EPSILON = 10.0
"""Odds of a membership that may grow e^10 = 22,000-fold are hardly bounded."""
LARGE_DELTA = 0.1
"""Of 1 / records: delta is the chance that nothing holds, for each record."""
SIGNAL = 2.0
"""A rule of thumb for `_signal`: on small images, models above it learnt and those below hardly did."""


def cautions(
    config: Config,
    recipe: Recipe,
    private: Sequence[PrivatePlan],
    sizes: Sequence[int],
    weights: Sequence[int | None],
    answers: Outlook | None,
) -> Iterator[str]:
    """Yield sentences, the gravest first. ``private``: by client, or empty; ``sizes``: records of each.

    ``answers``: their noise, if they have some.
    """
    if answers is not None:
        yield from _about_answers(config, answers)
        yield from _about_ledger(config)
    elif not private:
        yield (
            "nothing is promised about single records: privacy.route = 'nfdp' is here to be compared and "
            "audited, so choose 'dpsgd' or 'head' for records that matter"
            if config.privacy is not None and config.privacy.route == NFDP
            else "nothing is promised about single records: add a [privacy] table, or be sure that whoever "
            "sees sums and student may know who is in the data"
        )
        if quantities := recipe.method.private_quantities:
            seen = "of each client" if config.sealing.kind == "plain" else "summed over the clients"
            yield f"the server gets {' and '.join(quantities)} {seen}, without noise"
    else:
        yield from _about_guarantee(private, sizes)
        yield from _about_learning(private, sizes, weights)
        if recipe.settings.rounds > 1:
            yield (
                "private clients train once, and answer every round from that model: a round that asks what "
                "was asked before costs bytes and brings nothing new"
            )
        yield from _about_ledger(config)
    yield from _about_sealing(config.sealing, covered(config)[0])
    lengths = ", how many of its answers changed" if codec_of(recipe, config.sealing) is not None else ""
    yield (
        "not protected by anything: how many records a client has, whether it takes part, how long it takes"
        f"{lengths}, and accuracies on the test set"
    )


def _about_ledger(config: Config) -> Iterator[str]:
    if config.privacy is None or not config.privacy.ledger:
        return
    yield (
        f"what earlier runs wrote into ledger {config.privacy.ledger} counts against the same budget and "
        "isn't in these figures: a client whose budget is used up refuses to take part"
    )
    if not config.privacy.witness:
        yield (
            "nobody who is kept across runs countersigns that ledger, so that one which is cut between two "
            "runs looks whole: name a folder as privacy.witness"
        )


def _about_answers(config: Config, answers: Outlook) -> Iterator[str]:
    if (hopeless := answers.caution(n_clients(config))) is not None:
        yield hopeless
    worst = max(answers.epsilons.values())
    if worst > WEAK_EPSILON:
        yield (
            f"epsilon = {worst:.4g} at delta = {answers.delta:g} for one {answers.unit}, {answers.relation}, "
            "towards the observer who knows most, says little: it lets odds grow "
            f"e^{worst:.3g}-fold; below 1 is strong, up to {WEAK_EPSILON:g} is usual"
        )


def _about_guarantee(private: Sequence[PrivatePlan], sizes: Sequence[int]) -> Iterator[str]:
    worst = max((plan.guarantee for plan in private), key=lambda guarantee: guarantee.epsilon)
    if worst.epsilon > WEAK_EPSILON:
        yield (
            f"{worst}, towards every observer, says little: it lets the odds that a record was used grow "
            f"e^{worst.epsilon:.3g}-fold; below 1 is strong, up to {WEAK_EPSILON:g} is usual"
        )
    most = max(sizes)
    if worst.delta * most > LARGE_DELTA:
        enough = 10.0 ** math.floor(math.log10(LARGE_DELTA / most))
        yield (
            f"delta = {worst.delta:g} is close to 1 / {most:,}, one over the records of the largest client, "
            f"and it is a record's chance that the promise fails; give {enough:g} or less"
        )


def _about_learning(
    private: Sequence[PrivatePlan], sizes: Sequence[int], weights: Sequence[int | None]
) -> Iterator[str]:
    drowned = [
        k
        for k, (plan, size, count) in enumerate(zip(private, sizes, weights, strict=True))
        if count and isinstance(plan, DpSgdPlan) and _signal(plan, size, count) < SIGNAL
    ]
    faint = [
        k
        for k, (plan, size) in enumerate(zip(private, sizes, strict=True))
        if isinstance(plan, HeadPlan) and size < _enough(plan)
    ]
    yield from _about_teachers(private)
    if faint:
        yield (
            f"too few records for so much noise at {_clients(faint, len(sizes))}: a head needs about "
            f"{max(_enough(private[k]) for k in faint):,} there; use fewer and larger clients, or a larger "
            "epsilon"
        )
    if drowned:
        yield (
            f"too few records for so much noise at {_clients(drowned, len(sizes))}: DP-SGD will teach those "
            "models little; use fewer and larger clients, smaller models (logistic), a larger batch_size, "
            "or a larger epsilon"
        )
    everyone = [
        k
        for k, plan in enumerate(private)
        if isinstance(plan, DpSgdPlan) and plan.mechanism.sampling_rate >= 1
    ]
    if everyone:
        yield (
            f"fewer records than method.batch_size at {_clients(everyone, len(sizes))}: every step uses all "
            "of them, so that nothing is gained by sampling; lower it"
        )


def _about_teachers(private: Sequence[PrivatePlan]) -> Iterator[str]:
    hopeless = [
        (k, plan.mechanism)
        for k, plan in enumerate(private)
        if isinstance(plan, PatePlan) and plan.mechanism.class_deviation > HOPELESS
    ]
    if hopeless:
        votes = max((each for _, each in hopeless), key=lambda each: each.class_deviation)
        enough = math.ceil(votes.teachers * votes.class_deviation / WORKABLE)
        yield (
            f"hopeless at {_clients([k for k, _ in hopeless], len(private))}: noise on the votes of "
            f"{votes.teachers} teachers has a standard deviation of {votes.deviation / votes.teachers:.2g} "
            f"on each mean vote, and {votes.class_deviation:.2g} even on the mean over all inputs of a "
            f"class, where a certain vote is 1: have {enough:,} teachers or more (privacy.teachers), if "
            "there are records for them, or choose privacy.route = 'head' or 'dpsgd'"
        )


def _enough(plan: PrivatePlan) -> int:
    """Records that are worth as many features as there are classes."""
    assert isinstance(plan, HeadPlan)
    mechanism = plan.mechanism
    return math.ceil(RECORDS_A_DIMENSION * mechanism.noise_multiplier * mechanism.n_classes)


def _signal(plan: DpSgdPlan, size: int, weights: int) -> float:
    """The longest possible sum of clipped gradients over all steps, by the length of the noise on it."""
    mechanism = plan.mechanism
    batch = mechanism.sampling_rate * size
    return batch * math.sqrt(mechanism.steps) / (mechanism.noise_multiplier * math.sqrt(weights))


def _about_sealing(sealing: SealingConfig, clients: int) -> Iterator[str]:
    if sealing.kind == "plain":
        return
    if sealing.threshold == clients:
        yield (
            "every client must attend every round, or the round opens nothing: lower sealing.threshold to "
            "let clients drop out"
        )
    if clients == 2:
        yield "with two clients, each finds the other's answers by taking its own from the consensus"
    yield (
        "all parties run in one process here: this shows the protocol at work, and separates nobody from "
        "anybody"
    )


def _clients(numbers: Sequence[int], clients: int) -> str:
    if len(numbers) == clients:
        return "every client"
    if len(numbers) > 5:
        return f"{len(numbers)} of {clients} clients"
    return f"client{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"
