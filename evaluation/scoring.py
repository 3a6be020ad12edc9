"""From evidence to scores: one attack on some federations, with others of which membership is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from securefd.attacks.answers import References
from securefd.attacks.candidates import Evidence
from securefd.attacks.table import ATTACKS, Attack
from securefd.errors import AuditError
from securefd.evaluation.curves import Points, mean_curve
from securefd.evaluation.game import Game
from securefd.evaluation.statistics import Estimate, Rate, auc, tpr_at_fpr

FPRS = (0.1, 0.01, 0.001)
"""False-positive rates at which true-positive rates are stated."""

TURNS = 16
"""Groups in which federations take their turn as targets, all others being their shadows."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def attacks_on(piece: Evidence, *, references: bool = True) -> tuple[Attack, ...]:
    """Those that this evidence feeds; without ``references``, those that need none."""
    first = piece.parts[0]
    there = {
        "references": references,
        "population": all(part.answers.population is not None for part in piece.parts),
        "features": first.records.features is not None,
        **{
            name: all(getattr(part.answers, name) is not None for part in piece.parts)
            for name in ("rounds", "nearby", "others", "resampled")
        },
    }
    usable = [attack for attack in ATTACKS if all(there[need] for need in attack.needs)]
    if piece.signal == "labels":
        # Frequencies of decisions are no probabilities that a model gave: their shape means nothing.
        usable = [attack for attack in usable if attack.label_only or "references" in attack.needs]
    return tuple(usable)


def check_evidence(piece: Evidence, federations: int, records: int) -> None:
    """Raise AuditError for evidence that isn't about so many federations and these records."""
    for part in piece.parts:
        answered = part.answers.probabilities.shape
        if len(answered) != 3 or answered[:2] != (federations, len(part.candidates)):
            raise AuditError(
                f"answers must be ({federations}, {len(part.candidates)}, C), a row a federation and a "
                f"column a candidate, got shape {answered}"
            )
    candidates = piece.candidates
    if len(candidates) and not (candidates.min() >= 0 and candidates.max() < records):
        raise AuditError(f"candidates must be 0..{records - 1}, got {candidates.min()}..{candidates.max()}")


def scores(attack: Attack, piece: Evidence, game: Game, targets: Ints, references: Ints) -> Floats:
    """``(t, g)`` for federations ``targets``, with ``references`` for shadows; NaN where it can't be told.

    Raises:
        AuditError: what the attack refuses.
    """
    columns = []
    for part in piece.parts:
        known = None
        if "references" in attack.needs:
            known = References(
                answers=part.answers.take(references),
                membership=game.membership[np.ix_(references, part.candidates)],
            )
        columns.append(attack.score(part.answers.take(targets), part.records, known))
    return game.told(np.concatenate(columns, axis=1), piece.candidates)


def turns(attack: Attack, piece: Evidence, game: Game, among: Ints) -> Floats:
    """Scores ``(len(among), g)``: each federation is attacked in its turn, the others being its shadows."""
    if "references" not in attack.needs:
        return scores(attack, piece, game, among, among[:0])
    found: Floats | None = None
    for chosen in np.array_split(np.arange(len(among)), min(TURNS, len(among))):
        rest = np.delete(among, chosen)
        part = scores(attack, piece, game, among[chosen], rest)
        found = np.full((len(among), part.shape[1]), np.nan) if found is None else found
        found[chosen] = part
    assert found is not None
    return found


def references_of(game: Game) -> Ints:
    """The federations, the first half, that prepare tests rather than being trials."""
    return np.arange(game.federations // 2)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """AUC and TPR, averaged over federations. ``n_in``, ``n_out``: the fewest in any of them.

    So are the ends of their 95% intervals: a mean varies no more than its terms do on average, however much
    the turns depend on one another, so this errs on the wide side. ``roc``: see `curves.mean_curve`.
    """

    auc: Estimate
    tpr: dict[float, Rate]
    n_in: int
    n_out: int
    roc: Points = ()


def measure(scored: Floats, coins: Bools) -> Measured:
    """Of scores and coins ``(F, g)``. AuditError where nothing can be measured."""
    kept = measurable(scored, coins)
    aucs = [auc(*federation) for federation in kept]
    return Measured(
        auc=Estimate(
            float(np.mean([each.value for each in aucs])), _mean_interval([each.interval for each in aucs])
        ),
        tpr={fpr: _mean_rate([tpr_at_fpr(*federation, fpr) for federation in kept]) for fpr in FPRS},
        n_in=min(int(member.sum()) for _, member in kept),
        n_out=min(int((~member).sum()) for _, member in kept),
        roc=mean_curve(kept),
    )


def measurable(scored: Floats, coins: Bools) -> list[tuple[Floats, Bools]]:
    """The scores and coins of each federation ``(F, g)``, without those that have no score (NaN).

    Federations with fewer than two coins of either side among them can't be measured and are left out.

    Raises:
        AuditError: none is left.
    """
    kept = [(row[~np.isnan(row)], coin[~np.isnan(row)]) for row, coin in zip(scored, coins, strict=True)]
    found = [(row, coin) for row, coin in kept if 2 <= coin.sum() <= len(coin) - 2]
    if not found:
        raise AuditError(
            f"none of {len(scored)} federations has 2 members and 2 non-members that can be scored; "
            "give more candidates or more federations"
        )
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Tried:
    """An attack on a piece of evidence, each federation in its turn.

    ``everywhere``: ``(F, g)`` with all other federations for shadows. ``among_references``: ``(h, g)`` of the
    first half, with the others of that half alone for shadows; NaN where these are too few.
    """

    piece: Evidence
    attack: Attack
    everywhere: Floats = field(repr=False)
    among_references: Floats = field(repr=False)
    measured: Measured

    @property
    def name(self) -> str:
        """Of the attack, and what it was made with."""
        return f"{self.attack.name} on {self.piece.signal}"

    def strength(self, game: Game) -> float:
        """Mean AUC among the references alone, one half where it can't be measured."""
        fell = game.coins(self.piece.candidates)[references_of(game)]
        try:
            kept = measurable(self.among_references, fell)
        except AuditError:
            return 0.5
        return float(np.mean([auc(*federation).value for federation in kept]))

    @classmethod
    def of(cls, attack: Attack, piece: Evidence, game: Game) -> Self:
        """Try it. AuditError for evidence that doesn't fit the game, or that the attack refuses."""
        check_evidence(piece, *game.membership.shape)
        half = references_of(game)
        everywhere = turns(attack, piece, game, np.arange(game.federations))
        among = everywhere[half]
        if "references" in attack.needs:
            try:
                among = turns(attack, piece, game, half)
            except AuditError:  # half of the federations may be too few, where all of them aren't
                among = np.full_like(among, np.nan)
        measured = measure(everywhere, game.coins(piece.candidates))
        return cls(
            piece=piece, attack=attack, everywhere=everywhere, among_references=among, measured=measured
        )


def _mean_rate(rates: Sequence[Rate]) -> Rate:
    """Not measurable unless every federation could measure it."""
    values = [rate.value for rate in rates if rate.value is not None]
    intervals = [rate.interval for rate in rates if rate.interval is not None]
    if len(values) < len(rates):
        return Rate(None, None)
    return Rate(float(np.mean(values)), _mean_interval(intervals))


def _mean_interval(intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    low, high = np.mean(np.asarray(intervals), axis=0)
    return float(low), float(high)
