"""The server's side of a masked sum: each bad message of a client is refused, and the others go on."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest

from securefd.defenses.carriers import RingAdder
from securefd.defenses.masked_server import STAGES, MaskedServer
from securefd.defenses.neighbourhood import Neighbourhood
from securefd.defenses.terms import CarrierName
from securefd.errors import MessageError, ProtocolError, SealingError
from securefd.messages import (
    Advertise,
    Boxes,
    Confirm,
    Message,
    Relay,
    Reveal,
    Roster,
    Signed,
    Survivors,
    Upload,
    decode,
    encode,
)
from tests.defenses.masked_parties import (
    LOW_ORDER,
    NOBODY,
    OTHER_SESSION,
    QUESTION,
    SESSION,
    STRANGER,
    Drops,
    Federation,
    body_of,
    edit,
    make_graph,
    make_terms,
    private_key,
    public,
)

TERMS = make_terms(make_graph(5, 3, colluders=0))
LIAR, OTHER = 1, 3
"""Who sends the bad message, and who sent its own before."""
ONE_GONE: Drops = {"upload": {4}}


@dataclass(frozen=True, kw_only=True)
class Bad:
    """A message to the server at a stage, and why it is refused."""

    stage: str
    forge: Callable[[Federation], bytes]
    rule: str
    drops: Drops = field(default_factory=dict)


def honest(f: Federation, stage: str | None = None) -> bytes:
    """What the liar would send if it were honest; it still can, for its client isn't touched."""
    twin = Federation(f.terms).to(stage or f.stage, ONE_GONE if f.given["confirm"] else NOBODY)
    return twin.act(LIAR)


def changed(kind: type[Message], rule: str, **changes: object) -> dict[str, object]:
    """A message that is signed by the liar, with some fields that an honest one wouldn't have."""
    stage = {Advertise: "advertise", Boxes: "share", Upload: "upload", Reveal: "unmask"}[kind]

    def forge(f: Federation) -> bytes:
        message = honest(f)
        body = body_of(message, kind)
        made = {name: value(f, body) if callable(value) else value for name, value in changes.items()}
        return f.forge(LIAR, msgspec.structs.replace(body, **made))

    return {"stage": stage, "forge": forge, "rule": rule}


def taken(f: Federation, which: str) -> bytes:
    return bytes(getattr(body_of(f.sent["advertise"][OTHER], Advertise), which))


TAKEN = f"client {LIAR} advertised a key that is taken"
HOLDERS = f"client {LIAR} must choose holders among the others that have advertised"
ONCE = f"client {LIAR} must name each holder once, in order, with one box for each"
SHARES = f"client {LIAR} must reveal one share of each client that it holds shares of"
BOX = bytes(80)

SPECIAL: dict[str, dict[str, object]] = {
    "one key twice": changed(Advertise, TAKEN, mask_key=lambda f, body: body.share_key),
    "another's mask key": changed(Advertise, TAKEN, mask_key=lambda f, body: taken(f, "mask_key")),
    "another's share key": changed(Advertise, TAKEN, share_key=lambda f, body: taken(f, "share_key")),
    "another's mask key as share key": changed(
        Advertise, TAKEN, share_key=lambda f, body: taken(f, "mask_key")
    ),
    **{
        f"{which} of low order, {name}": changed(
            Advertise, f"client {LIAR} advertised a key that gives no shared secret", **{which: key}
        )
        for which in ("mask_key", "share_key")
        for name, key in LOW_ORDER.items()
    },
    "a holder twice": changed(Boxes, ONCE, holders=(0, 2, 2, 4)),
    "holders out of order": changed(Boxes, ONCE, holders=(2, 0, 3, 4)),
    "a box more": changed(Boxes, ONCE, boxes=(BOX,) * 5),
    "a box less": changed(Boxes, ONCE, boxes=(BOX,) * 3),
    "no box": changed(Boxes, ONCE, boxes=()),
    "itself as holder": changed(Boxes, HOLDERS, holders=(0, 1, 2, 3)),
    "a stranger as holder": changed(Boxes, HOLDERS, holders=(0, 2, 3, 5)),
    "too few holders": changed(
        Boxes, f"client {LIAR} must choose 2 to 4 holders .* got 1", holders=(0,), boxes=(BOX,)
    ),
    "no holders": changed(Boxes, f"client {LIAR} must choose 2 to 4 holders", holders=(), boxes=()),
    "too many holders": changed(
        Boxes,
        f"client {LIAR} must choose 2 to 4 holders .* got 5",
        holders=(0, 2, 3, 4, 5),
        boxes=(BOX,) * 5,
    ),
    "an upload a word short": changed(
        Upload, f"upload of client {LIAR} can't be added: .* 6 words of 2", values=bytes(10)
    ),
    "an upload a byte more": changed(Upload, f"upload of client {LIAR} .* got 13 bytes", values=bytes(13)),
    "an empty upload": changed(Upload, f"upload of client {LIAR} .* got 0 bytes", values=b""),
    "an upload of wider words": changed(Upload, f"upload of client {LIAR}", values=bytes(24)),
    "a tag less": changed(
        Upload, f"client {LIAR} must send a tag for each of its 4 holders .* got 3", tags=(bytes(16),) * 3
    ),
    "a tag more": changed(
        Upload, f"client {LIAR} must send a tag for each of its 4 holders .* got 5", tags=(bytes(16),) * 5
    ),
    "another seed": changed(Reveal, f"client {LIAR} revealed another seed", seed=bytes(32)),
    "a survivor's mask key": changed(
        Reveal,
        SHARES,
        survivors=(0, 2),
        seed_shares=(bytes(32),) * 2,
        dropped=(3, 4),
        key_shares=(bytes(32),) * 2,
    ),
    "a dropped one's seed": changed(
        Reveal, SHARES, survivors=(0, 2, 3, 4), seed_shares=(bytes(32),) * 4, dropped=(), key_shares=()
    ),
    "both of one client": changed(Reveal, SHARES, dropped=(3, 4), key_shares=(bytes(32),) * 2),
    "a share less": changed(Reveal, SHARES, seed_shares=lambda f, body: body.seed_shares[1:]),
    "a share more": changed(Reveal, SHARES, key_shares=lambda f, body: body.key_shares * 2),
    "a survivor left out": changed(
        Reveal,
        SHARES,
        survivors=lambda f, body: body.survivors[1:],
        seed_shares=lambda f, body: body.seed_shares[1:],
    ),
    "a share of its own": changed(Reveal, SHARES, survivors=(0, 1, 2, 3), seed_shares=(bytes(32),) * 4),
    "a share of a stranger": changed(Reveal, SHARES, survivors=(0, 2, 3, 7), seed_shares=(bytes(32),) * 4),
    "nothing": changed(Reveal, SHARES, survivors=(), seed_shares=(), dropped=(), key_shares=()),
    "a list out of order": changed(Reveal, SHARES, survivors=(2, 0, 3)),
    "another list": {
        "stage": "confirm",
        "forge": lambda f: f.forge(LIAR, Confirm(survivors=bytes(32))),
        "rule": f"client {LIAR} confirmed another list of survivors",
    },
    "a list that it would have liked": {
        "stage": "confirm",
        "forge": lambda f: f.forge(
            LIAR,
            Confirm(
                survivors=hashlib.sha256(encode(Survivors(survivors=(0, 1, 2), dropped=(3, 4)))).digest()
            ),
        ),
        "rule": f"client {LIAR} confirmed another list of survivors",
    },
}

SIGNATURE = "isn't by the identity that was pinned"
EVERYWHERE: dict[str, tuple[Callable[[Federation], bytes], str]] = {
    "signed by a stranger": (lambda f: resigned(f, signer=STRANGER), SIGNATURE),
    "in another's name": (lambda f: edit(honest(f), Signed, sender=2), SIGNATURE),
    "by a client that isn't pinned": (
        lambda f: edit(honest(f), Signed, sender=5),
        "sender 5 isn't one of the 5 pinned",
    ),
    "another session": (lambda f: resigned(f, session=OTHER_SESSION), "another session"),
    "the round before": (lambda f: resigned(f, round=3), "another round"),
    "the next round": (lambda f: resigned(f, round=5), "another round"),
    "another agreement": (lambda f: resigned(f, roster=bytes(32)), "another roster"),
    "another protocol": (lambda f: resigned(f, protocol=b"securefd/masked/1"), SIGNATURE),
    "another body": (lambda f: edit(honest(f), Signed, body=b"body"), SIGNATURE),
    "another signature": (lambda f: edit(honest(f), Signed, signature=bytes(64)), SIGNATURE),
    "a body that is none": (
        lambda f: f.forge(LIAR, b"body"),
        f"client {LIAR} signed what isn't a message of this stage: 4 bytes aren't a valid",
    ),
    "an empty body": (lambda f: f.forge(LIAR, b""), f"client {LIAR} signed what isn't a message"),
    "half a body": (
        lambda f: f.forge(LIAR, decode(honest(f), Signed).body[:-1]),
        f"client {LIAR} signed what isn't a message of this stage",
    ),
    "a body and a byte": (
        lambda f: f.forge(LIAR, decode(honest(f), Signed).body + b"\0"),
        f"client {LIAR} signed what isn't a message of this stage",
    ),
    "half a message": (lambda f: honest(f)[:-1], "valid Signed"),
    "a message and a byte": (lambda f: honest(f) + b"\0", "valid Signed"),
    "no envelope": (lambda f: decode(honest(f), Signed).body, "valid Signed"),
    "nothing": (lambda f: b"", "valid Signed"),
    "too much": (lambda f: bytes(9 << 20), "at most"),
}
BAD = {
    **{
        f"{stage}: {name}": Bad(
            stage=stage,
            forge=forge,
            rule=rule,
            drops=ONE_GONE if stage in ("confirm", "unmask") else NOBODY,
        )
        for stage in STAGES
        for name, (forge, rule) in EVERYWHERE.items()
    },
    **{
        f"{parts['stage']}: {name}, of the stage's own": Bad(
            **parts,  # type: ignore[arg-type]
            drops=ONE_GONE if parts["stage"] in ("confirm", "unmask") else NOBODY,
        )
        for name, parts in SPECIAL.items()
    },
}


def resigned(f: Federation, **changes: object) -> bytes:
    """An honest body, signed by someone else or for another place."""
    return f.forge(LIAR, decode(honest(f), Signed).body, **changes)  # type: ignore[arg-type]


def state(server: MaskedServer) -> bytes:
    """All that the server holds, written out."""

    def write(value: object) -> object:
        if isinstance(value, dict):
            return sorted((key, write(one)) for key, one in value.items())
        if isinstance(value, set):
            return sorted(value)
        if isinstance(value, list):
            return [write(one) for one in value]
        if isinstance(value, RingAdder):
            return value._total.tobytes()
        return value

    return repr({name: write(value) for name, value in vars(server).items()}).encode()


class TestBadMessages:
    @pytest.mark.parametrize("name", BAD)
    def test_refused(self, name: str) -> None:
        """The first time and the second; then the honest message of the same client is taken."""
        bad = BAD[name]
        f = Federation(TERMS).to(bad.stage, bad.drops)
        f.collect([OTHER])
        before = state(f.server)
        message = bad.forge(f)
        for _ in range(2):
            with pytest.raises(ProtocolError, match=bad.rule):
                f.server.receive(message)
        assert state(f.server) == before
        assert f.server.received == (OTHER,)
        opened = f.finish(bad.drops)
        assert LIAR in opened.clients

    @pytest.mark.parametrize("name", BAD)
    def test_others_go_on_without_the_sender(self, name: str) -> None:
        bad = BAD[name]
        drops = {**bad.drops, bad.stage: {LIAR}}
        f = Federation(TERMS).to(bad.stage, drops)
        f.collect([OTHER])
        with pytest.raises(ProtocolError):
            f.server.receive(bad.forge(f))
        opened = f.finish(drops)
        assert (LIAR in opened.clients) == (bad.stage in ("confirm", "unmask"))

    @pytest.mark.parametrize("stage", STAGES)
    def test_a_second_message(self, stage: str) -> None:
        """Also if it says something else: the first one counts."""
        f = Federation(TERMS).to(stage)
        f.collect([LIAR])
        other = f.forge(LIAR, b"something else")
        for message in (f.sent[stage][LIAR], other):
            with pytest.raises(ProtocolError, match=f"client {LIAR} sent a second message at stage {stage}"):
                f.server.receive(message)
        f.finish()

    def test_messages_of_every_other_stage(self) -> None:
        past = Federation(TERMS)
        past.finish()
        f = Federation(TERMS)
        for stage in STAGES:
            f.to(stage)
            for other in STAGES:
                if other != stage:
                    message = (f.sent[other] or past.sent[other])[LIAR]
                    with pytest.raises(ProtocolError, match=f"another stage was refused at stage {stage}"):
                        f.server.receive(message)
        f.finish()

    @pytest.mark.parametrize("stage", STAGES[1:])
    def test_a_client_that_dropped_out(self, stage: str) -> None:
        """It missed the stage before, and what it sends now doesn't count."""
        missed = STAGES[STAGES.index(stage) - 1]
        f = Federation(TERMS).to(stage, {missed: {LIAR}})
        body = decode(honest(Federation(TERMS).to(stage)), Signed).body
        with pytest.raises(
            ProtocolError, match=f"client {LIAR} has dropped out, and stage {stage} can't be joined"
        ):
            f.server.receive(f.forge(LIAR, body))
        f.finish()

    @pytest.mark.parametrize("stage", STAGES[:-1])
    def test_a_message_that_comes_too_late(self, stage: str) -> None:
        f = Federation(TERMS).to(stage)
        f.collect(k for k in (f.given[stage] or f.everyone) if k != LIAR)
        late = f.act(LIAR)
        f.close()
        with pytest.raises(ProtocolError, match="message of another"):
            f.server.receive(late)
        f.finish()

    def test_messages_for_the_round_of_another_server(self) -> None:
        f = Federation(TERMS, number=3)
        f.finish()
        now = Federation(TERMS, before=f)
        for stage in STAGES:
            now.to(stage)
            with pytest.raises(ProtocolError, match="another round"):
                now.server.receive(f.sent[stage][LIAR])
        now.finish()

    @pytest.mark.parametrize(
        "wrong",
        [None, 3, "text", bytearray(b"message"), memoryview(b"message")],
        ids=lambda wrong: type(wrong).__name__,
    )
    def test_what_isnt_bytes(self, wrong: object) -> None:
        f = Federation(TERMS)
        for stage in STAGES:
            f.to(stage)
            with pytest.raises(MessageError, match="must be bytes"):
                f.server.receive(wrong)  # type: ignore[arg-type]
        f.finish()


class TestStages:
    CLOSINGS = ("roster", "relays", "survivors", "confirmations", "open_sum")

    @pytest.mark.parametrize("stage", STAGES)
    def test_only_the_current_one_can_be_closed(self, stage: str) -> None:
        f = Federation(TERMS).to(stage)
        f.collect(f.given[stage] or f.everyone)
        before = state(f.server)
        for closing in self.CLOSINGS:
            if STAGES[self.CLOSINGS.index(closing)] != stage:
                with pytest.raises(ProtocolError, match=rf"is at stage {stage}, so stage .* can't be closed"):
                    getattr(f.server, closing)()
        assert state(f.server) == before
        f.finish()

    @pytest.mark.parametrize("stage", STAGES)
    @pytest.mark.parametrize("heard", [0, 2])
    def test_too_few_clients(self, stage: str, heard: int) -> None:
        """With one more, it can still be closed."""
        f = Federation(TERMS).to(stage)
        f.collect(range(heard))
        before = state(f.server)
        with pytest.raises(ProtocolError, match=f"stage {stage} needs at least 3 clients, got {heard}: wait"):
            f.close()
        assert state(f.server) == before
        assert f.stage == stage
        f.finish()

    def test_what_it_says(self) -> None:
        """Who is there, and who isn't, in every message to clients."""
        f = Federation(TERMS).to("share", {"advertise": {0}})
        roster = decode(f.roster, Roster).adverts
        assert roster == (b"", *(f.sent["advertise"][k] for k in (1, 2, 3, 4)))
        f.to("upload")
        for k in (1, 2, 3, 4):
            relay = decode(f.given["upload"][k], Relay)
            assert relay.sharers == (1, 2, 3, 4)
            assert relay.senders == tuple(one for one in (1, 2, 3, 4) if one != k)
            for sender, box in zip(relay.senders, relay.boxes, strict=True):
                boxes = body_of(f.sent["share"][sender], Boxes)
                assert box == boxes.boxes[boxes.holders.index(k)]
        f.to("confirm", {"upload": {2}})
        assert {*f.given["confirm"].values()} == {encode(Survivors(survivors=(1, 3, 4), dropped=(2,)))}
        f.collect([4])
        assert (f.server.stage, f.server.received) == ("confirm", (4,))

    def test_only_sharers_get_a_relay(self) -> None:
        f = Federation(TERMS).to("upload", {"share": {0}})
        assert set(f.given["upload"]) == {1, 2, 3, 4}
        assert decode(f.given["upload"][1], Relay).senders == (2, 3, 4)

    @pytest.mark.parametrize("heard", [3, 4, 5])
    def test_t_confirmations_are_passed_on(self, heard: int) -> None:
        f = Federation(TERMS).to("confirm")
        f.collect(range(5 - heard, 5))
        f.close()
        assert set(f.given["unmask"]) == set(range(5 - heard, 5))
        f.finish()

    @pytest.mark.parametrize(
        ("session", "number"), [(b"short", 0), (bytes(65), 0), (SESSION, -1), (SESSION, 2**32)]
    )
    def test_impossible_rounds(self, session: bytes, number: int) -> None:
        with pytest.raises(ProtocolError, match=r"session must be 16\.\.64 bytes"):
            MaskedServer(TERMS, session=session, round=number, question=QUESTION, size=1)

    def test_impossible_questions(self) -> None:
        with pytest.raises(SealingError, match="size must be in 1"):
            MaskedServer(TERMS, session=SESSION, round=0, question=QUESTION, size=0)
        with pytest.raises(SealingError, match="32 bytes"):
            MaskedServer(TERMS, session=SESSION, round=0, question=b"what?", size=1)

    def test_another_carrier(self) -> None:
        class Other(RingAdder):
            @property
            def name(self) -> CarrierName:
                return "bfv"

        with pytest.raises(SealingError, match="values must travel by ring, as agreed, got bfv"):
            MaskedServer(TERMS, session=SESSION, round=0, question=QUESTION, size=1, adder=Other(TERMS, 1))


class TestMessagesToEach:
    """What they have in common is encoded once, and nobody can tell."""

    @pytest.mark.parametrize(
        ("graph", "drops"),
        [
            (make_graph(7, 4), {"share": {3}, "upload": {1}, "confirm": {0}}),
            (make_graph(10, 6, degree=3, share_threshold=1), {"share": {3}, "upload": {1}, "confirm": {0}}),
            (make_graph(9, 5, degree=1, share_threshold=1), NOBODY),
        ],
        ids=["complete", "degree 3", "degree 1"],
    )
    def test_as_if_encoded_one_by_one(self, graph: Neighbourhood, drops: Drops) -> None:
        f = Federation(make_terms(graph)).to("upload", drops)
        made = {k: body_of(message, Boxes) for k, message in f.sent["share"].items()}
        unchosen = 0
        for k, relay in f.given["upload"].items():
            senders = tuple(sender for sender in sorted(made) if k in made[sender].holders)
            boxes = tuple(made[sender].boxes[made[sender].holders.index(k)] for sender in senders)
            assert relay == encode(Relay(sharers=tuple(sorted(made)), senders=senders, boxes=boxes))
            unchosen += not senders
        assert unchosen or graph.degree > 1
        f.to("unmask", drops)
        signatures = {k: decode(message, Signed).signature for k, message in f.sent["confirm"].items()}
        first = {k: signatures[k] for k in sorted(signatures)[: graph.threshold]}
        assert f.given["unmask"].keys() == signatures.keys()
        for k, message in f.given["unmask"].items():
            assert message == f.confirmations(k, f.sent["upload"].keys(), first)


class TestOpening:
    @pytest.mark.parametrize("bits", [1, 6, 8, 14, 16, 30, 32])
    @pytest.mark.parametrize("drops", [NOBODY, {"upload": {0, 4}}, {"unmask": {1, 3}}], ids=str)
    def test_the_largest_values(self, bits: int, drops: Drops) -> None:
        f = Federation(make_terms(make_graph(5, 3), bits=bits))
        f.vectors = [np.full(6, 2**bits - 1)] * 5
        f.finish(drops)

    @pytest.mark.parametrize("size", [1, 7, 70_000])
    @pytest.mark.parametrize("n", [3, 8])
    def test_sizes(self, n: int, size: int) -> None:
        f = Federation(make_terms(make_graph(n, n - n // 4), bits=20), size=size)
        opened = f.finish()
        assert opened.total.dtype == np.int64
        assert opened.total.shape == (size,)

    def test_once(self) -> None:
        f = Federation(TERMS)
        f.finish()
        with pytest.raises(ProtocolError, match="opened already; a second opening is refused"):
            f.server.open_sum()
        with pytest.raises(ProtocolError, match="second message"):
            f.server.receive(f.sent["unmask"][LIAR])

    def test_more_shares_are_waited_for(self) -> None:
        """All four holders of client 4 are needed for its seed, though any three reveals close the stage."""
        f = Federation(make_terms(make_graph(5, 3, share_threshold=4))).to("unmask", {"confirm": {4}})
        f.collect((0, 1, 2))
        before = state(f.server)
        with pytest.raises(ProtocolError, match=r"client 3 dropped out, and 4 of its holders .* got 3: wait"):
            f.server.open_sum()
        assert state(f.server) == before
        f.collect([3])
        opened = f.server.open_sum()
        assert opened.clients == (0, 1, 2, 3, 4)
        assert np.array_equal(opened.total, f.plain_sum(opened.clients))

    def lying(self, f: Federation, liar: int, changes: Callable[[Reveal], dict[str, object]]) -> None:
        """All unmask; the liar's reveal is changed."""
        for k in f.given["unmask"]:
            message = f.act(k)
            if k == liar:
                body = body_of(message, Reveal)
                message = f.forge(k, msgspec.structs.replace(body, **changes(body)))
            f.server.receive(message)

    def test_a_wrong_share_of_a_mask_key(self) -> None:
        """It can't be told which holder lied: the client whose secret is missing is named."""
        f = Federation(TERMS).to("unmask", {"upload": {4}})
        self.lying(f, 0, lambda body: {"key_shares": (body.key_shares[0][:-1] + b"\0",)})
        for _ in range(2):
            with pytest.raises(
                ProtocolError, match=r"shares of client 4 don't recover .* nothing was opened"
            ):
                f.server.open_sum()

    def test_a_wrong_share_of_a_seed(self) -> None:
        f = Federation(TERMS).to("unmask", {"confirm": {4}})
        self.lying(f, 0, lambda body: {"seed_shares": (*body.seed_shares[:-1], bytes(32))})
        with pytest.raises(ProtocolError, match="shares of client 4 don't recover"):
            f.server.open_sum()

    def test_a_share_that_is_none(self) -> None:
        f = Federation(TERMS).to("unmask", {"upload": {4}})
        self.lying(f, 0, lambda body: {"key_shares": (b"\xff" * 32,)})
        with pytest.raises(SealingError, match="the share of 0 must be below"):
            f.server.open_sum()

    def test_a_wrong_share_that_isnt_needed(self) -> None:
        """A survivor that reveals its own seed needs nobody's share of it."""
        f = Federation(TERMS).to("unmask")
        self.lying(f, 0, lambda body: {"seed_shares": (bytes(32),) * 4})
        assert np.array_equal(f.server.open_sum().total, f.plain_sum(f.everyone))

    def test_a_commitment_to_no_seed(self) -> None:
        """It is found out when the liar has dropped out after its upload, so that its seed is recovered."""
        f = Federation(TERMS).to("share")
        body = body_of(f.act(4), Boxes)
        f.server.receive(f.forge(4, msgspec.structs.replace(body, seed_hash=bytes(32))))
        f.to("unmask", {"share": {4}, "confirm": {4}})
        f.collect(range(4))
        with pytest.raises(ProtocolError, match="shares of client 4 don't recover what it committed to"):
            f.server.open_sum()

    @pytest.mark.parametrize("values", [b"\xff" * 12, bytes(12), b"\x00\x80" * 6])
    def test_a_vector_without_its_masks(self, values: bytes) -> None:
        """What comes out is out of bounds: 1276 of 65536 words aren't, and all six would have to be such."""
        f = Federation(TERMS).to("upload")
        f.collect(range(4))
        upload = body_of(f.act(4), Upload)
        f.server.receive(f.forge(4, Upload(values=values, tags=upload.tags)))
        f.close()
        f.to("unmask")
        f.collect(f.everyone)
        for _ in range(2):
            with pytest.raises(SealingError, match=r"sums must be in 0\.\.1275, got"):
                f.server.open_sum()

    def test_a_value_beyond_the_bound(self) -> None:
        """A client that adds something to its masked vector, beyond what all together could hold."""
        f = Federation(TERMS).to("upload")
        f.collect(range(4))
        upload = body_of(f.act(4), Upload)
        words = np.frombuffer(upload.values, "<u2") + np.uint16(5 * 255 + 1)
        f.server.receive(f.forge(4, Upload(values=words.tobytes(), tags=upload.tags)))
        f.close()
        f.to("unmask")
        f.collect(f.everyone)
        with pytest.raises(SealingError, match="a client left the bound"):
            f.server.open_sum()

    def test_nothing_is_kept_of_a_server(self) -> None:
        """Two rounds at once, of different sessions, don't touch one another."""
        one = Federation(TERMS, seed=1)
        other = Federation(TERMS, seed=2, session=OTHER_SESSION)
        for stage in STAGES[1:]:
            one.to(stage)
            other.to(stage)
        one.finish()
        other.finish()


def test_keys_that_were_refused_arent_taken() -> None:
    """A refused advert doesn't keep its second key from being used by whom it belongs to."""
    f = Federation(TERMS)
    fresh = public(private_key(1))
    with pytest.raises(ProtocolError, match="no shared secret"):
        f.server.receive(f.advert(LIAR, mask_key=fresh, share_key=LOW_ORDER["one"]))
    f.server.receive(f.advert(2, mask_key=fresh))
    assert f.server.received == (2,)
