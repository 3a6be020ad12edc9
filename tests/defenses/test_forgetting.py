"""What a client of a masked sum keeps: no secret longer than it is needed, and no clock decides anything."""

import time
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from securefd.defenses.masked_client import MaskedClient
from securefd.defenses.masked_server import STAGES
from securefd.defenses.terms import Terms
from tests.defenses.masked_parties import (
    IDENTITIES,
    QUESTION,
    SESSION,
    Federation,
    reachable,
)
from tests.defenses.masked_secrets import COMPLETE, SPARSE, boxes_of, opened, secret, seed_of


def holds(thing: object, secrets: set[bytes]) -> bool:
    """Whether any of these bytes can be reached from ``thing``, in whole or as part of others."""
    held = [bytes(one) for one in reachable(thing) if isinstance(one, bytes | bytearray | memoryview)]
    return any(secret in one for one in held for secret in secrets)


def long_bytes(thing: object) -> set[bytes]:
    return {one for one in reachable(thing) if isinstance(one, bytes) and len(one) >= 16}


def x25519_keys(thing: object) -> list[object]:
    return [one for one in reachable(thing) if isinstance(one, X25519PrivateKey)]


class TestForgetting:
    """What can't be reached from a client any more can't be taken from it."""

    @pytest.mark.parametrize("terms", [COMPLETE, SPARSE], ids=["complete", "sparse"])
    def test_stage_by_stage(self, terms: Terms) -> None:
        f = Federation(terms, number=3)
        f.clients = [MaskedClient(IDENTITIES[k], terms) for k in f.everyone]
        f.to("share")
        client = f.clients[0]
        assert len(x25519_keys(client)) == 2
        f.to("upload")
        assert len(x25519_keys(client)) == 2
        seed = seed_of(f, 0)
        owners = [k for k in f.everyone if 0 in boxes_of(f, k).holders]
        shares = {share for k in owners for share in opened(f, k)[0]}
        agreed = {secret(f, 1, 0, k) for k in boxes_of(f, 0).holders}
        assert holds(client, {seed})
        assert holds(client, agreed)
        assert not holds(client, shares)  # still in boxes
        f.to("confirm", {"upload": {1}})
        assert not x25519_keys(client)
        raw = {key.private_bytes_raw() for key in f.privates[0]}
        assert not holds(client, agreed | raw)
        assert holds(client, {seed})
        assert all(holds(client, {share}) for share in shares)
        f.to("unmask")
        assert holds(client, {seed})
        f.finish()
        assert not holds(client, {seed} | shares | agreed | raw)
        assert client._turn is None

    @pytest.mark.parametrize("stage", ["share", "upload", "confirm", "unmask"])
    def test_the_next_round_forgets_the_one_before(self, stage: str) -> None:
        """Wherever that was given up: no key, seed, share or message of it is left."""
        f = Federation(COMPLETE, number=3)
        f.clients = [MaskedClient(IDENTITIES[k], COMPLETE) for k in f.everyone]
        f.to(stage)
        client = f.clients[0]
        old = long_bytes(client._turn)
        client.advertise(SESSION, 4, question=QUESTION, size=6)
        fresh = MaskedClient(IDENTITIES[0], COMPLETE)
        fresh.advertise(SESSION, 4, question=QUESTION, size=6)
        assert old - long_bytes(fresh)
        assert long_bytes(client) & old <= long_bytes(fresh)
        assert len(x25519_keys(client)) == 2
        assert not holds(client, {key.private_bytes_raw() for key in f.privates[0]})

    @pytest.mark.parametrize("stage", STAGES)
    def test_nothing_secret_is_printed(self, stage: str) -> None:
        f = Federation(COMPLETE).to(stage, {"upload": {4}})
        client = f.clients[0]
        secrets = {key.private_bytes_raw() for key in f.privates[0]}
        if STAGES.index(stage) > 1:
            secrets |= {seed_of(f, 0), *(share for pair in opened(f, 1).values() for share in pair)}
            secrets |= {secret(f, which, 0, k) for k in range(1, 5) for which in (0, 1)}
        things = [client, client._turn, f.server, vars(client), client._identity, f.terms]
        things.append(getattr(client._turn, "uploaded", None))
        printed = [text for thing in things for text in (repr(thing), str(thing), f"{thing}")]
        for hidden in secrets:
            for form in (repr(hidden)[2:-1], hidden.hex(), str(int.from_bytes(hidden, "big"))):
                assert not any(form in text for text in printed)


class TestClock:
    def test_no_message_depends_on_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whatever the clock says: nobody asks, and every byte is the same."""

        def play() -> list[bytes]:
            first = Federation(SPARSE, number=3)
            first.finish({"upload": {1}})
            second = Federation(SPARSE, before=first)
            second.finish()
            return [sent.message for sent in second.log]

        expected, asked = play(), []

        def jump(name: str) -> Callable[..., int]:
            def read(*_: object) -> int:
                asked.append(name)
                return -(10**9) if len(asked) % 2 else 10**12

            return read

        names = (
            "time",
            "monotonic",
            "perf_counter",
            "process_time",
            "localtime",
            "gmtime",
            "strftime",
            "sleep",
        )
        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(time, name, jump(name))
                if hasattr(time, f"{name}_ns"):
                    patch.setattr(time, f"{name}_ns", jump(f"{name}_ns"))
            found = play()
        assert found == expected
        assert not asked
