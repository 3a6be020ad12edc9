"""The methods of federated distillation, as one table.

A row says what one client answers, how the answers become the consensus, and which loss takes it up.
``combine`` sees the *sum* of the answers and never a single one, so a row with it can be sealed. A row with
``combine_individual`` withstands clients that lie; it needs answers one by one, or means of groups of them.

Conventions shared by all rows:

- ``m`` queries, ``C`` classes, ``n`` clients; probabilities are softmax(logits).
- Logits have a free constant for each query and no bound, so a client first subtracts the mean over
  classes and then clips to ``[-logit_bound, logit_bound]``: what is left is comparable and bounded.
- Ties between classes are broken by rotation (`simplex`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from securefd.config import MethodConfig
from securefd.defenses import robust
from securefd.defenses.quantise import Block
from securefd.errors import ConfigError, ModelError
from securefd.simplex import normalised, on_simplex_grid, one_hot_top, powered, sharpened

Floats = NDArray[np.float64]
Arrays = tuple[Floats, ...]


@dataclass(frozen=True, kw_only=True)
class Own:
    """What one client has to answer from.

    ``logits``: ``(m, C)`` its model's logits on the queries (log-probabilities will do); finite.
    ``counts``: ``(C,)`` its records of each class, or noised counts under a record-level route; for
    ``balanced`` and ``fd``. ``classwise``: ``(C, C)`` row c is the mean of its centred and clipped
    logits over its own records of class c (`clipped`); rows of classes it hasn't are ignored; for ``fd``.
    """

    logits: Floats
    counts: Floats | None = None
    classwise: Floats | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """Every option of every method; a method uses those in `Method.uses` and ignores the others.

    ``temperature``: of ERA for ``dsfl`` and ``balanced``, of the KL for ``feddf`` and ``cfd``.
    ``power``: the exponent of ``dsfl-power``. ``cache_rounds``: for how many rounds a cached consensus
    is valid (0: no cache). ``bits``: of a quantised probability. ``logit_bound``: where centred logits
    are clipped. ``distance_weight``: of the distance to the class mean in ``fd``. ``count_bound``: the
    public cap on a client's records of one class. ``trim``: the share of answers that ``trimmed`` drops at
    each end. ``eta``: how fast a client that strays loses weight in ``expguard``.
    """

    temperature: float = 1.0
    power: float = 2.0
    cache_rounds: int = 0
    bits: int = 1
    logit_bound: float = 10.0
    distance_weight: float = 0.1
    count_bound: int = 1000
    trim: float = 0.34
    eta: float = 2.0


CombineSums = Callable[[Arrays, int, Options], Floats]
CombineIndividual = Callable[[Floats, Floats | None, Options], tuple[Floats, Floats | None]]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row of the table.

    ``blocks(m, C, options)``: names, shapes and public bounds of the arrays in an answer.
    ``answer(own, options)``: run by the client; one array for each block, inside its bounds.
    ``combine(sums, n, options)``: run by whoever opened the sums over ``n`` clients; the consensus,
    ``(m, C)`` (``fd``: ``(C, C)``), as the target of the digest loss ``loss`` in `losses.LOSSES`.
    ``combine_individual(answers, weights, options)``, in its place: run by whoever has ``(k, m, C)`` answers
    of clients, or means of groups of them; the consensus, and the ``(k,)`` weights to pass in at the next
    round: None in the first one, and always where a method has none.
    ``grid_bits(options)``: bits at which the answers are exactly on the grid of their blocks, or
    None: the sealing's own number of bits. ``local_loss``: on private records, "cross_entropy" or
    "balanced". ``private_quantities``: what an answer uses of private data besides the model. ``public``:
    needs a public set. ``dual``: the server broadcasts its student's answers instead of the mean.
    ``rehearsal``: clients learn the last consensus step by step beside their own records, not after them, so
    that what they know of others' classes isn't forgotten over their own; a digest of its own comes only at
    the end. ``coded``: answers and consensus are both on the grid, and travel unsealed as what has changed.
    """

    name: str
    exchanged: str
    blocks: Callable[[int, int, Options], tuple[Block, ...]]
    answer: Callable[[Own, Options], Arrays]
    combine: CombineSums | None = None
    combine_individual: CombineIndividual | None = None
    loss: str
    uses: frozenset[str]
    options: Options
    grid_bits: Callable[[Options], int | None]
    local_loss: str = "cross_entropy"
    private_quantities: tuple[str, ...] = ()
    public: bool = True
    dual: bool = False
    rehearsal: bool = False
    coded: bool = False

    def __post_init__(self) -> None:
        if (self.combine is None) == (self.combine_individual is None):
            raise ValueError(f"{self.name} must combine either sums or individual answers")

    @property
    def individual(self) -> bool:
        """Whether it needs answers one by one, so that it can be sealed in groups only."""
        return self.combine_individual is not None

    def resolve(self, config: MethodConfig) -> Options:
        """Return this method's defaults with what ``config`` sets.

        Raises ConfigError for an option that is set but not used: it would silently change nothing.
        """
        given = {f.name: value for f in fields(Options) if (value := getattr(config, f.name)) is not None}
        for name, value in given.items():
            if name not in self.uses:
                others = ", ".join(row.name for row in METHODS.values() if name in row.uses)
                raise ConfigError(
                    f"method.{name} must be left out for method.name = {self.name!r}, which doesn't use it, "
                    f"got {value!r}; remove it, or choose a method that does ({others})"
                )
        return replace(self.options, **given)


def method_named(name: str) -> Method:
    """Return the row of the table, or raise ConfigError."""
    if name not in METHODS:
        raise ConfigError(
            f"method.name must be one of {', '.join(METHODS)}, got {name!r}; choose one of them"
        )
    return METHODS[name]


# --- what a client answers ---------------------------------------------------------------------


def clipped(logits: Floats, bound: float) -> Floats:
    """Return ``(..., C)`` logits less their mean over classes, clipped to ``[-bound, bound]``."""
    values = _finite(logits)
    centred: Floats = values - values.mean(axis=-1, keepdims=True)
    return np.clip(centred, -bound, bound)


def _answer_logits(own: Own, options: Options) -> Arrays:
    return (clipped(own.logits, options.logit_bound),)


def _answer_probabilities(own: Own, options: Options) -> Arrays:
    return (_probabilities(own),)


def _answer_quantised(own: Own, options: Options) -> Arrays:
    return (on_simplex_grid(_probabilities(own), options.bits),)


def _answer_top_class(own: Own, options: Options) -> Arrays:
    return (one_hot_top(_finite(own.logits)),)


def _answer_counted(own: Own, options: Options) -> Arrays:
    # The same capped count weighs the numerator and enters the denominator, so that a client with
    # more records than the bound still contributes a proper weighted mean.
    counts = np.clip(_needed(own.counts, "counts"), 0, options.count_bound)
    return counts * _probabilities(own), counts


def _answer_classwise(own: Own, options: Options) -> Arrays:
    present = _needed(own.counts, "counts") > 0
    means = np.where(present[:, None], _needed(own.classwise, "classwise"), 0.0)
    bound = options.logit_bound
    return np.clip(_finite(means), -bound, bound), present.astype(np.float64)


# --- how the sum of answers becomes the consensus ------------------------------------------------


def leave_one_out(sums: Arrays, own: Arrays, n_clients: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Return one client's targets in ``fd``: the other clients' mean logits of each class.

    ``sums`` over all ``n_clients``, ``own`` what this client added to them, after quantising. Returns
    ``(C, C)`` targets and ``(C,)`` whether any other client has the class; the other rows are zero.
    """
    return _class_means(sums[0] - own[0], sums[1] - own[1], n_clients - 1)


def _combine_mean(sums: Arrays, n_clients: int, options: Options) -> Floats:
    return sums[0] / n_clients


def _combine_era(sums: Arrays, n_clients: int, options: Options) -> Floats:
    return sharpened(sums[0] / n_clients, options.temperature)


def _combine_power(sums: Arrays, n_clients: int, options: Options) -> Floats:
    return powered(sums[0] / n_clients, options.power)


def _combine_softmax(sums: Arrays, n_clients: int, options: Options) -> Floats:
    return sharpened(sums[0] / n_clients, 1.0)


def _combine_probabilities(sums: Arrays, n_clients: int, options: Options) -> Floats:
    return normalised(np.maximum(sums[0], 0))


def _combine_majority(sums: Arrays, n_clients: int, options: Options) -> Floats:
    return one_hot_top(np.rint(sums[0]))


def _combine_counted(sums: Arrays, n_clients: int, options: Options) -> Floats:
    # A class that nobody has (or whose noised count is no longer positive) would divide by zero: a
    # denominator of at least one record lets its numerator, about zero, stand.
    weighted, counts = sums
    likelihood = np.clip(weighted / np.maximum(counts, 1.0), 0.0, 1.0)
    return sharpened(normalised(likelihood), options.temperature)


def _combine_classwise(sums: Arrays, n_clients: int, options: Options) -> Floats:
    return _class_means(sums[0], sums[1], n_clients)[0]


def _combine_median(answers: Floats, weights: Floats | None, options: Options) -> tuple[Floats, None]:
    return robust.coordinate_median(answers), None


def _combine_trimmed(answers: Floats, weights: Floats | None, options: Options) -> tuple[Floats, None]:
    return robust.trimmed_mean(answers, options.trim), None


def _combine_geometric(answers: Floats, weights: Floats | None, options: Options) -> tuple[Floats, None]:
    return robust.geometric_median(answers), None


def _combine_cronus(answers: Floats, weights: Floats | None, options: Options) -> tuple[Floats, None]:
    return robust.cronus(answers), None


def _combine_expguard(
    answers: Floats, weights: Floats | None, options: Options
) -> tuple[Floats, Floats | None]:
    before = np.full(len(answers), 1 / len(answers)) if weights is None else weights
    updated, consensus = robust.expguard(answers, before, options.eta)
    return consensus, updated


def _class_means(totals: Floats, holders: Floats, n_clients: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Return ``(C, C)`` means over those who hold a class, and ``(C,)`` whether anyone of them does."""
    number = np.clip(np.rint(holders), 0, n_clients)
    known = number >= 1
    means = totals / np.maximum(number, 1)[:, None]
    return np.where(known[:, None], means, 0.0), known


# --- shared pieces -------------------------------------------------------------------------------


def _finite(logits: Floats) -> Floats:
    values = np.asarray(logits, dtype=np.float64)
    if not np.isfinite(values).all():
        bad = values[~np.isfinite(values)][0]
        raise ModelError(
            f"a client's logits must be finite, got {bad}; lower method.learning_rate, or floor the "
            "probabilities of a model whose logits are their logarithms"
        )
    return values


def _needed(value: Floats | None, name: str) -> Floats:
    if value is None:
        raise ModelError(
            f"{name} must be given to a client that answers by this method, got None; pass Own({name}=...)"
        )
    return np.asarray(value, dtype=np.float64)


def _probabilities(own: Own) -> Floats:
    return sharpened(_finite(own.logits), 1.0)


def _unit_block(n_queries: int, n_classes: int, options: Options) -> tuple[Block, ...]:
    return (Block(name="probabilities", shape=(n_queries, n_classes), low=0.0, high=1.0, simplex=True),)


def _vote_block(n_queries: int, n_classes: int, options: Options) -> tuple[Block, ...]:
    return (Block(name="votes", shape=(n_queries, n_classes), low=0.0, high=1.0, simplex=True),)


def _logit_block(n_queries: int, n_classes: int, options: Options) -> tuple[Block, ...]:
    bound = options.logit_bound
    return (Block(name="logits", shape=(n_queries, n_classes), low=-bound, high=bound),)


def _counted_blocks(n_queries: int, n_classes: int, options: Options) -> tuple[Block, ...]:
    bound = float(options.count_bound)
    return (
        Block(name="weighted probabilities", shape=(n_queries, n_classes), low=0.0, high=bound, simplex=True),
        Block(name="class counts", shape=(n_classes,), low=0.0, high=bound),
    )


def _classwise_blocks(n_queries: int, n_classes: int, options: Options) -> tuple[Block, ...]:
    bound = options.logit_bound
    return (
        Block(name="class means", shape=(n_classes, n_classes), low=-bound, high=bound),
        Block(name="class indicators", shape=(n_classes,), low=0.0, high=1.0),
    )


def _sealing_bits(options: Options) -> int | None:
    return None


def _one_bit(options: Options) -> int | None:
    return 1


def _option_bits(options: Options) -> int | None:
    return options.bits


def _robust(name: str, combine: CombineIndividual, *uses: str) -> Method:
    """A row that answers as ``dsfl`` does, and withstands clients that lie."""
    return Method(
        name=name,
        exchanged="class probabilities",
        blocks=_unit_block,
        answer=_answer_probabilities,
        combine_individual=combine,
        loss="cross_entropy",
        uses=frozenset(uses),
        options=Options(),
        grid_bits=_sealing_bits,
    )


_ROWS = (
    Method(  # Li and Wang 2019, arXiv 1910.03581
        name="fedmd",
        exchanged="clipped logits",
        blocks=_logit_block,
        answer=_answer_logits,
        combine=_combine_mean,
        loss="l1",
        uses=frozenset({"logit_bound"}),
        options=Options(),
        grid_bits=_sealing_bits,
    ),
    Method(  # Itahara et al. 2021, arXiv 2008.06180
        name="dsfl",
        exchanged="class probabilities",
        blocks=_unit_block,
        answer=_answer_probabilities,
        combine=_combine_era,
        loss="cross_entropy",
        uses=frozenset({"temperature"}),
        options=Options(temperature=0.1),
        grid_bits=_sealing_bits,
    ),
    Method(  # Azuma et al. 2026, arXiv 2504.19602
        name="dsfl-power",
        exchanged="class probabilities of queries that aren't cached",
        blocks=_unit_block,
        answer=_answer_probabilities,
        combine=_combine_power,
        loss="cross_entropy",
        uses=frozenset({"power", "cache_rounds"}),
        options=Options(power=2.0, cache_rounds=50),
        grid_bits=_sealing_bits,
    ),
    Method(  # Lin et al. 2020, arXiv 2006.07242
        name="feddf",
        exchanged="clipped logits",
        blocks=_logit_block,
        answer=_answer_logits,
        combine=_combine_softmax,
        loss="kl",
        uses=frozenset({"temperature", "logit_bound"}),
        options=Options(temperature=1.0),
        grid_bits=_sealing_bits,
    ),
    Method(  # Sattler et al. 2022, arXiv 2012.00632
        name="cfd",
        exchanged="quantised class probabilities",
        blocks=_unit_block,
        answer=_answer_quantised,
        combine=_combine_probabilities,
        loss="kl",
        uses=frozenset({"bits", "temperature"}),
        options=Options(bits=1, temperature=1.0),
        grid_bits=_option_bits,
        dual=True,
        coded=True,
    ),
    Method(  # Abourayya et al. 2025, arXiv 2310.05696
        name="fedct",
        exchanged="top classes",
        blocks=_vote_block,
        answer=_answer_top_class,
        combine=_combine_majority,
        loss="cross_entropy",
        uses=frozenset(),
        options=Options(),
        grid_bits=_one_bit,
        coded=True,
    ),
    Method(  # this project's: what is added up is all that the loss needs, so noise averages out in it
        name="votes",
        exchanged="top classes",
        blocks=_vote_block,
        answer=_answer_top_class,
        combine=_combine_mean,
        loss="squared",
        uses=frozenset(),
        options=Options(),
        grid_bits=_one_bit,
    ),
    Method(  # this project's: weights and local training undo each client's label skew
        name="balanced",
        exchanged="class probabilities weighted by class counts, and the counts",
        blocks=_counted_blocks,
        answer=_answer_counted,
        combine=_combine_counted,
        loss="cross_entropy",
        uses=frozenset({"temperature", "count_bound"}),
        options=Options(temperature=0.25, count_bound=1000),
        grid_bits=_sealing_bits,
        local_loss="balanced",
        rehearsal=True,
        private_quantities=("class counts",),
    ),
    Method(  # Jeong et al. 2018, arXiv 1811.11479
        name="fd",
        exchanged="mean logits of each class, and which classes a client has",
        blocks=_classwise_blocks,
        answer=_answer_classwise,
        combine=_combine_classwise,
        loss="distance",
        uses=frozenset({"distance_weight", "logit_bound"}),
        options=Options(),
        grid_bits=_sealing_bits,
        private_quantities=("per-class mean logits", "class indicators"),
        public=False,
    ),
    _robust("median", _combine_median),  # Yin et al. 2018, arXiv 1803.01498
    _robust("trimmed", _combine_trimmed, "trim"),  # Yin et al. 2018, arXiv 1803.01498
    _robust("geometric", _combine_geometric),  # Vardi and Zhang 2000, PNAS 97(4)
    _robust("cronus", _combine_cronus),  # Chang et al. 2019, arXiv 1912.11279
    _robust("expguard", _combine_expguard, "eta"),  # Roux et al. 2024, arXiv 2402.12265
)

METHODS: Mapping[str, Method] = {row.name: row for row in _ROWS}
