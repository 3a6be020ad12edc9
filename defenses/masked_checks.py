"""What a client of a masked sum takes from the server: anything else is a typed error that says why.

Nothing here has a secret, but for `check_tags`, or changes anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hmac import compare_digest
from itertools import pairwise

from securefd.defenses.identity import Place, verify_message
from securefd.defenses.terms import Terms
from securefd.errors import ProtocolError
from securefd.messages import KIB, Advertise, Confirmations, Relay, Roster, decode


@dataclass(frozen=True, kw_only=True)
class Checks:
    """For the client at ``position``, which has agreed to ``terms``."""

    terms: Terms
    position: int

    def roster(self, roster: Roster, own: bytes) -> None:
        """A place for each pinned client, ``own`` in this one's, and at least t advertisements."""
        adverts, n = roster.adverts, len(self.terms.pinned)
        if len(adverts) != n:
            raise ProtocolError(f"the roster must have a place for each of {n} clients, got {len(adverts)}")
        if adverts[self.position] != own:
            raise ProtocolError("the roster doesn't hold this client's own advertisement at its position")
        present = sum(1 for advert in adverts if advert)
        if present < self.terms.threshold:
            raise ProtocolError(
                f"at least {self.terms.threshold} clients must advertise, got {present}; wait for more"
            )

    def relay(self, message: Relay, roster: Roster) -> tuple[int, ...]:
        """At least t sharers that advertised, and boxes that some of them made; returns the sharers."""
        sharers = self.positions(message.sharers, "sharers")
        check_ascending(message.senders, "senders")
        if len(message.boxes) != len(message.senders):
            raise ProtocolError(
                f"{len(message.senders)} senders need as many boxes, got {len(message.boxes)}"
            )
        if self.position in message.senders or not {*message.senders} <= {*message.sharers}:
            raise ProtocolError(
                "boxes must come from other clients, and from those that are said to have shared"
            )
        if missing := [position for position in message.sharers if not roster.adverts[position]]:
            raise ProtocolError(f"clients {missing} can't have shared: they didn't advertise")
        return sharers

    def positions(self, positions: Sequence[int], what: str) -> tuple[int, ...]:
        """At least t pinned clients, ascending; this one among them, except where others have confirmed."""
        check_ascending(positions, what)
        n, threshold = len(self.terms.pinned), self.terms.threshold
        if positions and not positions[-1] < n:
            raise ProtocolError(f"{what} must be among {n} pinned clients, got {positions[-1]}")
        if len(positions) < threshold:
            raise ProtocolError(
                f"{what} must be at least {threshold} clients, got {len(positions)}; nothing is opened below"
            )
        if what != "confirmations" and self.position not in positions:
            raise ProtocolError(f"{what} must include this client, which did its part")
        return tuple(positions)

    def alive(self, alive: Sequence[int], what: str) -> None:
        """As many of the own holders as recover a secret."""
        needed = self.terms.neighbourhood.share_threshold
        if len(alive) < needed:
            raise ProtocolError(
                f"at least {needed} of this client's holders must {what}, got {len(alive)}: with fewer, the "
                "server could have it stand alone; start a new round"
            )

    def advert(self, roster: Roster, place: Place, position: int) -> Advertise:
        """The keys of one client, which signed them for this ``place``."""
        sender, body = verify_message(roster.adverts[position], place, self.terms.pinned, KIB)
        if sender != position:
            raise ProtocolError(f"the roster holds client {sender} at position {position}")
        return decode(body, Advertise)


def check_ascending(positions: Sequence[int], what: str) -> None:
    """Each position once, the lowest first."""
    if any(not one < other for one, other in pairwise(positions)):
        raise ProtocolError(f"{what} must be listed once each, in ascending order")


def check_tags(message: Confirmations, expected: Mapping[int, bytes]) -> None:
    """Of each of these survivors the tag that it has to show, compared in constant time."""
    if message.owners != tuple(expected) or len(message.tags) != len(expected):
        raise ProtocolError(
            f"a tag of each survivor that this client holds a share of is needed, {list(expected)}, got "
            f"{len(message.tags)} of {list(message.owners)}; nothing was revealed"
        )
    for owner, tag in zip(message.owners, message.tags, strict=True):
        if not compare_digest(tag, expected[owner]):
            raise ProtocolError(
                f"client {owner} masked its vector for other clients than those that have shared, so it may "
                "stand alone; nothing was revealed"
            )


def check_distinct(peers: Mapping[int, Advertise], own: Sequence[bytes]) -> None:
    """A key that two clients advertise, or that comes back to its owner, would cancel or repeat a mask."""
    every = [*own, *(key for peer in peers.values() for key in (peer.mask_key, peer.share_key))]
    if len(set(every)) != len(every):
        raise ProtocolError("two clients of the roster have the same public key; start a new round")
