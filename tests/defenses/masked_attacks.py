"""What a malicious server could send to one client instead of what it should, and which rule refuses it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from securefd.defenses.neighbourhood import choose
from securefd.messages import (
    Advertise,
    Boxes,
    Confirm,
    Confirmations,
    Message,
    Relay,
    Roster,
    Signed,
    Survivors,
    decode,
    encode,
)
from tests.defenses.masked_parties import (
    IDENTITIES,
    LOW_ORDER,
    NOBODY,
    OTHER_SESSION,
    STRANGER,
    Drops,
    Federation,
    body_of,
    edit,
)

GRAPH = choose(n_clients=5, threshold=4, colluders=2, honest_minimum=2)
VICTIM, COLLUDERS = 0, (3, 4)
LATE: Drops = {"upload": {4}}
"""One client drops out after it has shared."""


@dataclass(frozen=True, kw_only=True)
class Attack:
    """What the server sends to one client at a stage, and the rule by which that is refused."""

    stage: str
    forge: Callable[[Federation], bytes]
    rule: str
    drops: Drops = field(default_factory=dict)


def exchanged(f: Federation) -> bytes:
    return f.roster_with({1: f.adverts[2], 2: f.adverts[1]})


def with_body(message: bytes, body: Message) -> bytes:
    """The same envelope and signature around another body."""
    return edit(message, Signed, body=encode(body))


def truncated_roster(f: Federation) -> bytes:
    return encode(Roster(adverts=tuple(f.adverts[:-1])))


def share_key_of(f: Federation, client: int) -> bytes:
    return body_of(f.adverts[client], Advertise).share_key


def mask_key_of(f: Federation, client: int) -> bytes:
    return body_of(f.adverts[client], Advertise).mask_key


def roster_attack(advert: Callable[[Federation], bytes], rule: str, client: int = 1) -> Attack:
    return Attack(stage="share", forge=lambda f: f.roster_with({client: advert(f)}), rule=rule)


def low_order_attack(key: bytes) -> Attack:
    return roster_attack(lambda f: f.advert(3, share_key=key), "client 3 .* no shared secret", 3)


SIGNATURE = "isn't by the identity that was pinned"

ROSTERS = {
    "adverts of two clients exchanged": Attack(
        stage="share", forge=exchanged, rule="holds client 2 at position 1"
    ),
    "keys of its own, signed by a stranger": roster_attack(lambda f: f.advert(1, signer=STRANGER), SIGNATURE),
    "keys of its own, signed by a colluder": roster_attack(
        lambda f: f.advert(1, signer=IDENTITIES[3]), SIGNATURE
    ),
    "keys of its own in another's envelope": roster_attack(
        lambda f: with_body(f.adverts[1], body_of(f.advert(1), Advertise)), SIGNATURE
    ),
    "a colluder in another's place": roster_attack(lambda f: f.adverts[3], "holds client 3 at position 1"),
    "a colluder in two places": roster_attack(lambda f: f.advert(3), "holds client 3 at position 1"),
    "a stranger's number": roster_attack(lambda f: f.advert(9), "isn't one of the 5 pinned"),
    "own advert left out": roster_attack(lambda f: b"", "own advertisement", VICTIM),
    "own advert replaced": roster_attack(
        lambda f: f.advert(VICTIM, signer=STRANGER), "own advertisement", VICTIM
    ),
    "own advert replaced, signature kept": roster_attack(
        lambda f: with_body(f.adverts[VICTIM], body_of(f.advert(VICTIM), Advertise)),
        "own advertisement",
        VICTIM,
    ),
    **{f"a key of low order, {name}": low_order_attack(key) for name, key in LOW_ORDER.items()},
    "one key twice": roster_attack(
        lambda f: f.advert(3, mask_key=share_key_of(f, 3), share_key=share_key_of(f, 3)), "same public key", 3
    ),
    "another's mask key": roster_attack(
        lambda f: f.advert(3, mask_key=mask_key_of(f, 1)), "same public key", 3
    ),
    "another's mask key as share key": roster_attack(
        lambda f: f.advert(3, share_key=mask_key_of(f, 1)), "same public key", 3
    ),
    "own mask key reflected": roster_attack(
        lambda f: f.advert(3, mask_key=mask_key_of(f, VICTIM)), "same public key", 3
    ),
    "own share key reflected": roster_attack(
        lambda f: f.advert(3, mask_key=share_key_of(f, VICTIM)), "same public key", 3
    ),
    "an advert for another session": roster_attack(
        lambda f: f.advert(3, session=OTHER_SESSION), "another session", 3
    ),
    "an advert for the round before": roster_attack(lambda f: f.advert(3, round=3), "another round", 3),
    "an advert for another stage": roster_attack(lambda f: f.advert(3, stage="share"), "another stage", 3),
    "an advert for another protocol": roster_attack(
        lambda f: f.advert(3, protocol=b"securefd/masked/1"), SIGNATURE, 3
    ),
    "an advert for other terms": roster_attack(lambda f: f.advert(3, roster=bytes(32)), "another roster", 3),
    "an advert that is none": roster_attack(lambda f: b"advert", "valid Signed", 3),
    "fewer than t adverts": Attack(
        stage="share", forge=lambda f: f.roster_with({1: b"", 2: b""}), rule="at least 4 clients .* got 3"
    ),
    "no adverts": Attack(
        stage="share", forge=lambda f: encode(Roster(adverts=())), rule="a place for each of 5 clients, got 0"
    ),
    "a place missing": Attack(stage="share", forge=truncated_roster, rule="each of 5 clients, got 4"),
    "a place more": Attack(
        stage="share",
        forge=lambda f: encode(Roster(adverts=(*f.adverts, f.adverts[1]))),
        rule="each of 5 clients, got 6",
    ),
    "half a roster": Attack(stage="share", forge=lambda f: f.roster[:-9], rule="valid Roster"),
    "a roster and a byte": Attack(stage="share", forge=lambda f: f.roster + b"\0", rule="valid Roster"),
}


def relay_attack(
    forge: Callable[[Federation, Relay], dict[str, object]], rule: str, drops: Drops = NOBODY
) -> Attack:
    """``forge``: the fields that differ from the victim's relay."""

    def forged(f: Federation) -> bytes:
        given = f.given["upload"][VICTIM]
        return edit(given, Relay, **forge(f, decode(given, Relay)))

    return Attack(stage="upload", forge=forged, rule=rule, drops=drops)


def box_for(f: Federation, sender: int, holder: int) -> bytes:
    boxes = body_of(f.sent["share"][sender], Boxes)
    return boxes.boxes[boxes.holders.index(holder)]


def altered(box: bytes) -> bytes:
    return bytes([box[0] ^ 1]) + box[1:]


NOT_FOR_ME = "box from client 1 wasn't made for this client, round and roster"
RELAYS = {
    "boxes of two senders exchanged": relay_attack(
        lambda f, relay: {"boxes": (relay.boxes[1], relay.boxes[0], *relay.boxes[2:])}, NOT_FOR_ME
    ),
    "a box for another client": relay_attack(
        lambda f, relay: {"boxes": (box_for(f, 1, 2), *relay.boxes[1:])}, NOT_FOR_ME
    ),
    "the victim's box to the sender": relay_attack(
        lambda f, relay: {"boxes": (box_for(f, VICTIM, 1), *relay.boxes[1:])}, NOT_FOR_ME
    ),
    "a box altered": relay_attack(
        lambda f, relay: {"boxes": (altered(relay.boxes[0]), *relay.boxes[1:])}, NOT_FOR_ME
    ),
    "one box twice": relay_attack(
        lambda f, relay: {"senders": (1, *relay.senders), "boxes": (relay.boxes[0], *relay.boxes)},
        "senders must be listed once each",
    ),
    "one box for two senders": relay_attack(
        lambda f, relay: {"boxes": (relay.boxes[1], *relay.boxes[1:])}, NOT_FOR_ME
    ),
    "senders out of order": relay_attack(
        lambda f, relay: {"senders": (2, 1, 3, 4)}, "senders must be listed once each, in ascending order"
    ),
    "a box from the client itself": relay_attack(
        lambda f, relay: {"senders": (VICTIM, 2, 3, 4)}, "must come from other clients"
    ),
    "a box from a client that hasn't shared": relay_attack(
        lambda f, relay: {"sharers": (0, 1, 2, 3)}, "those that are said to have shared"
    ),
    "a box from nobody": relay_attack(
        lambda f, relay: {"senders": (1, 2, 3, 9)}, "those that are said to have shared"
    ),
    "a box more": relay_attack(
        lambda f, relay: {"boxes": (*relay.boxes, relay.boxes[0])}, "4 senders need as many boxes, got 5"
    ),
    "a box less": relay_attack(
        lambda f, relay: {"boxes": relay.boxes[1:]}, "4 senders need as many boxes, got 3"
    ),
    "fewer than t sharers": relay_attack(
        lambda f, relay: {"sharers": (0, 1, 2), "senders": (1, 2), "boxes": relay.boxes[:2]},
        "sharers must be at least 4 clients, got 3",
    ),
    "nobody else": relay_attack(
        lambda f, relay: {"sharers": (VICTIM,), "senders": (), "boxes": ()}, "at least 4 clients, got 1"
    ),
    "sharers without the client": relay_attack(
        lambda f, relay: {"sharers": (1, 2, 3, 4)}, "sharers must include this client"
    ),
    "a sharer twice": relay_attack(
        lambda f, relay: {"sharers": (0, 1, 2, 3, 4, 4)}, "sharers must be listed once each"
    ),
    "a sharer that isn't pinned": relay_attack(
        lambda f, relay: {"sharers": (0, 1, 2, 3, 4, 5)}, "sharers must be among 5 pinned clients, got 5"
    ),
    "a sharer that didn't advertise": relay_attack(
        lambda f, relay: {"sharers": (0, 1, 2, 3, 4)},
        r"clients \[4\] can't have shared",
        drops={"advertise": {4}},
    ),
    "half a relay": Attack(
        stage="upload", forge=lambda f: f.given["upload"][VICTIM][:-9], rule="valid Relay"
    ),
    "another client's relay": Attack(
        stage="upload", forge=lambda f: f.given["upload"][1], rule="must come from other clients"
    ),
}


def list_attack(
    survivors: tuple[int, ...], dropped: tuple[int, ...], rule: str, late: bool = False
) -> Attack:
    message = encode(Survivors(survivors=survivors, dropped=dropped))
    return Attack(stage="confirm", forge=lambda f: message, rule=rule, drops=LATE if late else NOBODY)


PARTITION = "must together be exactly the clients that shared"
LISTS = {
    "one client in both": list_attack((0, 1, 2, 3, 4), (1,), r"clients \[1\] are said to have survived and"),
    "all in both": list_attack((0, 1, 2, 3, 4), (0, 1, 2, 3, 4), "are said to have survived and"),
    "the client itself in both": list_attack((0, 1, 2, 3), (0, 4), r"clients \[0\] are said", late=True),
    "a sharer in neither": list_attack((0, 1, 2, 3), (), PARTITION),
    "a late sharer in neither": list_attack((0, 1, 2, 3), (), PARTITION, late=True),
    "one that isn't pinned dropped": list_attack((0, 1, 2, 3, 4), (7,), PARTITION),
    "one that isn't pinned survived": list_attack((0, 1, 2, 3, 7), (4,), "among 5 pinned clients, got 7"),
    "without the client": list_attack((1, 2, 3, 4), (0,), "survivors must include this client"),
    "without the client, nor dropped": list_attack((1, 2, 3, 4), (), "survivors must include this client"),
    "fewer than t": list_attack((0, 1, 2), (3, 4), "survivors must be at least 4 clients, got 3"),
    "the client alone": list_attack((0,), (1, 2, 3, 4), "survivors must be at least 4 clients, got 1"),
    "nobody": list_attack((), (0, 1, 2, 3, 4), "at least 4 clients, got 0"),
    "a survivor twice": list_attack((0, 1, 2, 2), (3, 4), "survivors must be listed once each"),
    "a dropped one twice": list_attack((0, 1, 2, 3), (4, 4), "dropped must be listed once each", late=True),
    "out of order": list_attack((0, 2, 1, 3), (4,), "in ascending order"),
    "half a list": Attack(
        stage="confirm", forge=lambda f: f.given["confirm"][VICTIM][:-1], rule="valid Survivors"
    ),
}


def signatures_attack(
    forge: Callable[[Federation, Confirmations], dict[str, object]], rule: str, late: bool = False
) -> Attack:
    def forged(f: Federation) -> bytes:
        given = f.given["unmask"][VICTIM]
        return edit(given, Confirmations, **forge(f, decode(given, Confirmations)))

    return Attack(stage="unmask", forge=forged, rule=rule, drops=LATE if late else NOBODY)


def list_hash(f: Federation, stage: str = "confirm") -> Confirm:
    return Confirm(survivors=hashlib.sha256(next(iter(f.given[stage].values()))).digest())


def signature(message: bytes) -> bytes:
    return decode(message, Signed).signature


def with_signature(client: int, forge: Callable[[Federation], bytes]) -> Callable[..., dict[str, object]]:
    """Instead of a client's signature, that of a forged message."""

    def changes(f: Federation, given: Confirmations) -> dict[str, object]:
        signatures = list(given.signatures)
        signatures[given.senders.index(client)] = signature(forge(f))
        return {"signatures": tuple(signatures)}

    return changes


OTHER_LIST = Confirm(
    survivors=hashlib.sha256(encode(Survivors(survivors=(0, 1, 2, 3), dropped=(4,)))).digest()
)
CONFIRMATIONS = {
    "too few": signatures_attack(
        lambda f, given: {"senders": given.senders[1:], "signatures": given.signatures[1:]},
        "confirmations must be at least 4 clients, got 3",
    ),
    "too many": signatures_attack(
        lambda f, given: {
            "senders": (0, 1, 2, 3, 4),
            "signatures": tuple(signature(f.sent["confirm"][k]) for k in range(5)),
        },
        "exactly 4 confirmations are needed, got 5",
    ),
    "none": signatures_attack(
        lambda f, given: {"senders": (), "signatures": ()}, "at least 4 clients, got 0"
    ),
    "a signature less": signatures_attack(
        lambda f, given: {"signatures": given.signatures[1:]}, "got 4 clients and 3 signatures"
    ),
    "a signature more": signatures_attack(
        lambda f, given: {"signatures": (*given.signatures, given.signatures[0])},
        "got 4 clients and 5 signatures",
    ),
    "a sender twice": signatures_attack(
        lambda f, given: {"senders": (0, 1, 1, 2)}, "confirmations must be listed once each"
    ),
    "out of order": signatures_attack(lambda f, given: {"senders": (1, 0, 2, 3)}, "in ascending order"),
    "a client that isn't pinned": signatures_attack(
        lambda f, given: {"senders": (0, 1, 2, 5)}, "among 5 pinned clients, got 5"
    ),
    "a client that dropped out": signatures_attack(
        lambda f, given: {
            "senders": (0, 1, 2, 4),
            "signatures": (*given.signatures[:3], signature(f.forge(4, list_hash(f), stage="confirm"))),
        },
        r"clients \[4\] confirmed a list they aren't on",
        late=True,
    ),
    "signatures exchanged": signatures_attack(
        lambda f, given: {"signatures": (given.signatures[1], given.signatures[0], *given.signatures[2:])},
        SIGNATURE,
    ),
    "no signature at all": signatures_attack(
        lambda f, given: {"signatures": (bytes(64), *given.signatures[1:])}, SIGNATURE
    ),
    "the client's own signature replaced": signatures_attack(
        with_signature(VICTIM, lambda f: f.forge(VICTIM, list_hash(f), signer=STRANGER, stage="confirm")),
        SIGNATURE,
    ),
    "signed by a stranger": signatures_attack(
        with_signature(1, lambda f: f.forge(1, list_hash(f), signer=STRANGER, stage="confirm")), SIGNATURE
    ),
    "signed by a colluder in another's name": signatures_attack(
        with_signature(1, lambda f: f.forge(1, list_hash(f), signer=IDENTITIES[3], stage="confirm")),
        SIGNATURE,
    ),
    "another list": signatures_attack(
        with_signature(3, lambda f: f.forge(3, OTHER_LIST, stage="confirm")), SIGNATURE
    ),
    "the round before": signatures_attack(
        with_signature(3, lambda f: f.forge(3, list_hash(f), stage="confirm", round=3)), SIGNATURE
    ),
    "another session": signatures_attack(
        with_signature(3, lambda f: f.forge(3, list_hash(f), stage="confirm", session=OTHER_SESSION)),
        SIGNATURE,
    ),
    "another stage": signatures_attack(
        with_signature(3, lambda f: f.forge(3, list_hash(f), stage="unmask")), SIGNATURE
    ),
    "another roster": signatures_attack(
        with_signature(3, lambda f: f.forge(3, list_hash(f), stage="confirm", roster=bytes(32))), SIGNATURE
    ),
    "no tags": signatures_attack(
        lambda f, given: {"owners": (), "tags": ()},
        r"a tag of each survivor that this client holds a share of is needed, \[1, 2, 3, 4\], got 0 of \[\]",
    ),
    "a tag less": signatures_attack(lambda f, given: {"tags": given.tags[1:]}, "got 3 of"),
    "a tag more": signatures_attack(lambda f, given: {"tags": (*given.tags, given.tags[0])}, "got 5 of"),
    "a survivor's tag left out": signatures_attack(
        lambda f, given: {"owners": given.owners[1:], "tags": given.tags[1:]}, r"got 3 of \[2, 3, 4\]"
    ),
    "a tag of a client that dropped out": signatures_attack(
        lambda f, given: {"owners": (1, 2, 3, 4), "tags": (*given.tags, bytes(16))}, "got 4 of", late=True
    ),
    "tags in other names": signatures_attack(
        lambda f, given: {"owners": (1, 2, 3, 9)}, r"got 4 of \[1, 2, 3, 9\]"
    ),
    "tags out of order": signatures_attack(
        lambda f, given: {"owners": given.owners[::-1], "tags": given.tags[::-1]}, r"got 4 of \[4, 3, 2, 1\]"
    ),
    "tags exchanged": signatures_attack(
        lambda f, given: {"tags": (given.tags[1], given.tags[0], *given.tags[2:])},
        "client 1 masked its vector for other clients",
    ),
    "a tag invented": signatures_attack(
        lambda f, given: {"tags": (*given.tags[:2], bytes(16), given.tags[3])},
        "client 3 masked its vector for other clients",
    ),
    "a tag made for another holder": signatures_attack(
        lambda f, given: {"tags": (decode(f.given["unmask"][2], Confirmations).tags[1], *given.tags[1:])},
        "client 1 masked its vector for other clients",
    ),
    "the victim's own tag": signatures_attack(
        lambda f, given: {"tags": (decode(f.given["unmask"][1], Confirmations).tags[0], *given.tags[1:])},
        "client 1 masked its vector for other clients",
    ),
    "half of them": Attack(
        stage="unmask", forge=lambda f: f.given["unmask"][VICTIM][:-9], rule="valid Confirmations"
    ),
}

ATTACKS = {
    f"{attack.stage}: {name}": attack
    for attacks in (ROSTERS, RELAYS, LISTS, CONFIRMATIONS)
    for name, attack in attacks.items()
}
