"""What a round of masked sums weighs: every message is made, with zeros in place of what is secret."""

from __future__ import annotations

from securefd.defenses.terms import Terms
from securefd.messages import (
    Advertise,
    Boxes,
    Confirm,
    Confirmations,
    Message,
    Relay,
    Reveal,
    Roster,
    Signed,
    Survivors,
    Upload,
    encode,
)

KEY, BOX, TAG, SIGNATURE = bytes(32), bytes(80), bytes(16), bytes(64)


def masked_weight(terms: Terms, *, session: bytes, round: int, values: int) -> tuple[int, int]:  # noqa: A002
    """Bytes that one client sends and receives if all attend, the most over the clients.

    ``values``: bytes of one sealed vector. Exact in a complete graph; otherwise as if each client were chosen
    by as many as it chooses, which is so on average.
    """
    n, graph = len(terms.pinned), terms.neighbourhood

    def signed(stage: str, sender: int, body: Message) -> bytes:
        return encode(
            Signed(
                session=session,
                round=round,
                stage=stage,
                sender=sender,
                roster=KEY,
                body=encode(body),
                signature=SIGNATURE,
            )
        )

    def advert(sender: int) -> bytes:
        return signed("advertise", sender, Advertise(mask_key=KEY, share_key=KEY))

    # Where every client is listed but the receiver itself, the first one receives the longest numbers; the
    # last one's own number is the longest, in each message that it sends.
    everyone, last = tuple(range(n)), n - 1
    before, after = everyone[last - graph.degree : last], everyone[n - graph.degree :]
    boxes, shares, tags = (BOX,) * graph.degree, (KEY,) * graph.degree, (TAG,) * graph.degree
    confirmed = everyone[: terms.threshold]
    up = (
        advert(last),
        signed("share", last, Boxes(seed_hash=KEY, holders=before, boxes=boxes)),
        signed("upload", last, Upload(values=bytes(values), tags=tags)),
        signed("confirm", last, Confirm(survivors=KEY)),
        signed(
            "unmask",
            last,
            Reveal(seed=KEY, survivors=before, seed_shares=shares, dropped=(), key_shares=()),
        ),
    )
    down = (
        encode(Roster(adverts=tuple(map(advert, everyone)))),
        encode(Relay(sharers=everyone, senders=after, boxes=boxes)),
        encode(Survivors(survivors=everyone, dropped=())),
        encode(
            Confirmations(
                senders=confirmed, signatures=(SIGNATURE,) * len(confirmed), owners=after, tags=tags
            )
        ),
    )
    return sum(map(len, up)), sum(map(len, down))
