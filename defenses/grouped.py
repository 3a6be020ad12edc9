"""Grouped sealing: sealed sums inside groups of clients, so that their means can be combined robustly.

One sealed sum hides a liar as well as it hides everyone else. With groups the server sees one sum a group and
nothing else; a client's answers hide among those of its own group, and a rule that stands b bad groups
(`robust.liars_tolerated`) stands b liars.

**Groups are fixed for a run and follow from its public seed.** Neither is a matter of convenience:

- Were groups drawn anew in every round, sums over different groups could be subtracted. Answers hardly change
  from round to round, and those of clients that train once don't change at all; then n clients in G groups
  are n unknowns, each round brings up to G - 1 new equations, and after about n / (G - 1) rounds the
  server has every single answer. Fixed groups bring the same equations every time.
- Whoever draws the groups may put a victim among colluders, or every liar into a group of its own, and nobody
  can prove not to have drawn again until that was so. So nothing is promised that hangs on the draw:
  thresholds and colluders count as if all colluders were in one group, liars as if each were in another one.
  Then a seed that everyone has pinned is best: every client works out its group by itself, so that no
  server can tell two clients different groups; and an interrupted run resumes with the same ones.

Two runs with other seeds and the same clients are two draws: that is for the user not to do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from securefd.defenses.sealing import NO_QUESTION, Opened, PartialSum, Sealing, Vector
from securefd.errors import ProtocolError, SealingError

Groups = tuple[tuple[int, ...], ...]
"""Clients by position, ascending in each group; every client is in one group."""


def group_sizes(n_clients: int, n_groups: int) -> tuple[int, int]:
    """Return the sizes of the smallest and of the largest group: they differ by at most 1."""
    if not 1 <= n_groups <= n_clients:
        raise SealingError(f"groups must be 1 to the number of clients, {n_clients}, got {n_groups}")
    return n_clients // n_groups, -(-n_clients // n_groups)


def cut(order: NDArray[np.int64], n_groups: int) -> Groups:
    """Cut ``order``, all clients in a random order, into ``n_groups`` groups as equal as can be."""
    group_sizes(len(order), n_groups)
    return tuple(tuple(sorted(part.tolist())) for part in np.array_split(order, n_groups))


class GroupedSealing:
    """One sealing in each group. ``make(members)``: a sealing among these clients, in this order.

    As every sealing, one object serves a run, and no round is played twice in one session: a second set of
    groups for the same answers would be as bad as groups that change.
    """

    def __init__(self, groups: Groups, make: Callable[[tuple[int, ...]], Sealing]) -> None:
        members = sorted(client for group in groups for client in group)
        if not groups or members != list(range(len(members))) or not all(groups):
            raise SealingError(
                f"every client must be in exactly one group, and no group empty, got {groups}; cut them anew"
            )
        self._groups = groups
        self._inner = tuple(make(group) for group in groups)

    def run_round(
        self,
        session: bytes,
        round: int,  # noqa: A002
        vectors: Sequence[Vector],
        bits: int,
        question: bytes = NO_QUESTION,
        noise: Sequence[Vector] | None = None,
    ) -> Opened:
        """See ``Sealing.run_round``. The sums of the groups are ``groups``; ``total`` adds them up.

        An error in one group ends the round for all. Sums of groups before it were opened by then.
        """
        n_clients = sum(map(len, self._groups))
        if len(vectors) != n_clients:
            raise ProtocolError(f"a round needs the vectors of all {n_clients} clients, got {len(vectors)}")

        def of(group: tuple[int, ...], every: Sequence[Vector]) -> list[Vector]:
            return [every[client] for client in group]

        opened = [
            sealing.run_round(
                session,
                round,
                of(group, vectors),
                bits,
                question,
                None if noise is None else of(group, noise),
            )
            for group, sealing in zip(self._groups, self._inner, strict=True)
        ]
        sums = tuple(
            PartialSum(total=each.total, clients=tuple(group[position] for position in each.clients))
            for group, each in zip(self._groups, opened, strict=True)
        )
        return Opened(
            total=np.sum([part.total for part in sums], axis=0, dtype=np.int64),
            clients=tuple(sorted(client for part in sums for client in part.clients)),
            individual=None,
            groups=sums,
            up=self._by_client([each.up for each in opened]),
            down=self._by_client([each.down for each in opened]),
        )

    def _by_client(self, figures: Sequence[Sequence[int]]) -> tuple[int, ...]:
        """Figures of each group's members, put into the order of the clients."""
        found = {
            client: figure
            for group, own in zip(self._groups, figures, strict=True)
            for client, figure in zip(group, own, strict=True)
        }
        return tuple(found[client] for client in sorted(found))
