import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2

from securefd.defenses.bfv import PER_PART, PLAIN_MODULUS, SLOTS, CiphertextSum, n_parts, pack, unpack
from securefd.defenses.homomorphic import PROTOCOL, HomomorphicClient, KeyHolder
from securefd.defenses.identity import Identity, cohort_hash, sign_message
from securefd.defenses.prime_ring import apply, expand
from securefd.defenses.slots import (
    MASKED_PROTOCOL,
    OpenedSlots,
    Quorum,
    SlotClient,
    SlotKeyHolder,
    SlotServer,
)
from securefd.errors import MessageError, ProtocolError, SealingError
from securefd.messages import EncryptedSum, Opening, encode

SESSION = b"session-of-tests"
QUESTION = bytes(range(32))


def at(number: int, session: bytes = SESSION, question: bytes = QUESTION) -> dict[str, Any]:
    return {"session": session, "round": number, "question": question}


SERVER, HOLDER = Identity.generate(), Identity.generate()
PAIRS = {(low, high): bytes([low, high]) * 16 for high in range(5) for low in range(high)}
SELVES = [bytes([100 + client]) * 32 for client in range(5)]


class Masked:
    """Clients that mask by pairwise keys, and by one of their own, before they encrypt."""

    def __init__(self, n: int = 3, size: int = PER_PART + 100, threshold: int | None = None) -> None:
        self.size = size
        self.quorum = Quorum(n_clients=n, threshold=threshold or n)
        self.holder = SlotKeyHolder(HOLDER, SERVER.public, self.quorum)
        self.server = SlotServer(identity=SERVER, holder=HOLDER.public, quorum=self.quorum)
        self.client = SlotClient(holder=HOLDER.public, quorum=self.quorum)
        rng = np.random.default_rng([n, size])
        self.vectors = [rng.integers(0, 1 << 13, size) for _ in range(n)]
        self.context = self.holder.context(SESSION, 7, QUESTION)

    def masked(self, client: int, *, own: bool) -> NDArray[np.int64]:
        packed = pack(self.vectors[client])
        n = len(self.vectors)
        apply(
            packed,
            added=[PAIRS[client, other] for other in range(client + 1, n)] + [SELVES[client]] * own,
            subtracted=[PAIRS[other, client] for other in range(client)],
            modulus=PLAIN_MODULUS,
        )
        return packed

    def open(self, clients: Sequence[int], *, own: Sequence[int]) -> OpenedSlots:
        sealed = {
            client: self.client.seal(
                self.context,
                self.masked(client, own=client in own),
                **at(7),
            )
            for client in clients
        }
        return self.holder.open(self.server.add(self.context, sealed, **at(7), size=self.size))

    @property
    def expected(self) -> NDArray[np.int64]:
        return np.asarray(np.sum(self.vectors, axis=0, dtype=np.int64))


class TestMaskedAndEncrypted:
    @pytest.mark.parametrize("size", [1, PER_PART, PER_PART + 100])
    def test_pairwise_masks_cancel_under_encryption(self, size: int) -> None:
        masked = Masked(size=size)
        opened = masked.open(range(3), own=())
        assert (opened.size, opened.contributors) == (size, (0, 1, 2))
        assert opened.slots.shape == (n_parts(size), SLOTS)
        assert np.array_equal(unpack(opened.slots, size, 3 * (2**13 - 1)), masked.expected)

    def test_removing_the_masks_that_remain(self) -> None:
        """As a server does that was given the survivors' own seeds, and pair keys of those who dropped."""
        masked = Masked(n=4, threshold=2)
        opened = masked.open((0, 2, 3), own=(0, 2, 3))
        assert opened.contributors == (0, 2, 3)
        total = opened.slots.copy()
        apply(
            total,
            added=[PAIRS[1, 2], PAIRS[1, 3]],
            subtracted=[*(SELVES[client] for client in opened.contributors), PAIRS[0, 1]],
            modulus=PLAIN_MODULUS,
        )
        expected = np.sum([masked.vectors[client] for client in (0, 2, 3)], axis=0)
        assert np.array_equal(unpack(total, masked.size, 3 * (2**13 - 1)), expected)

    def test_one_mask_that_remains_hides_the_sum_from_the_key_holder(self) -> None:
        """What it opens is uniform: slot values, their lowest fields, and what a difference of two shows."""
        masked = Masked(size=4 * PER_PART)
        opened = masked.open(range(3), own=(1,)).slots.ravel()
        with pytest.raises(SealingError, match="can't be a sum"):
            unpack(opened.reshape(-1, SLOTS), masked.size, 2**16 - 1)
        for seen in (opened / PLAIN_MODULUS, opened % 2**16 / 2**16, np.diff(opened) % PLAIN_MODULUS / 2**49):
            counts, _ = np.histogram(seen, bins=64, range=(0, 1))
            expected = seen.size / 64
            statistic = float(((counts - expected) ** 2 / expected).sum())
            assert chi2.ppf(1e-6, 63) < statistic < chi2.ppf(1 - 1e-6, 63)
        assert abs(np.corrcoef(opened, pack(masked.expected).ravel())[0, 1]) < 5 / np.sqrt(opened.size)
        assert np.array_equal(
            (opened - expand(SELVES[1], opened.size, PLAIN_MODULUS)) % PLAIN_MODULUS,
            pack(masked.expected).ravel(),
        )

    def test_as_uploads_come(self) -> None:
        """A running sum gives the same message, with one sum in memory."""
        masked = Masked()
        total = CiphertextSum(masked.size)
        for client in range(3):
            total.add(
                masked.client.seal(
                    masked.context,
                    masked.masked(client, own=False),
                    **at(7),
                )
            )
        message = masked.server.hand_over(masked.context, total, (0, 1, 2), **at(7), size=masked.size)
        opened = masked.holder.open(message)
        assert np.array_equal(unpack(opened.slots, masked.size, 2**16 - 1), masked.expected)


class TestRefusals:
    def seal(self, masked: Masked) -> bytes:
        return masked.client.seal(masked.context, masked.masked(0, own=False), **at(7))

    def test_a_sum_over_others_than_were_added(self) -> None:
        masked = Masked(threshold=2)
        total = CiphertextSum(masked.size)
        for _ in range(2):
            total.add(self.seal(masked))
        for contributors in ((0, 1, 2), (0,), (0, 3), (1, 1)):
            with pytest.raises(ProtocolError):
                masked.server.hand_over(
                    masked.context,
                    total,
                    contributors,
                    **at(7),
                    size=masked.size,
                )

    def test_damaged_ciphertexts(self) -> None:
        masked = Masked()
        good = self.seal(masked)
        for bad in (good[:-1], good + b"\0", b"", b"\xff" * len(good)):
            with pytest.raises(MessageError):
                masked.server.add(
                    masked.context,
                    {0: good, 1: bad, 2: good},
                    **at(7),
                    size=masked.size,
                )

    def test_contexts_of_sums_without_masks(self) -> None:
        """Or a client's masked values would be opened by rules made for others."""
        masked = Masked()
        plain = KeyHolder(HOLDER, SERVER.public, 3).context(SESSION, 7, QUESTION)
        with pytest.raises(ProtocolError, match="signature"):
            masked.client.seal(plain, masked.masked(0, own=False), **at(7))
        identities = [Identity.generate() for _ in range(3)]
        client = HomomorphicClient(identities[0], [identity.public for identity in identities], HOLDER.public)
        with pytest.raises(ProtocolError, match="signature"):
            client.upload(masked.context, masked.vectors[0], **at(7), bits=13)
        assert PROTOCOL != MASKED_PROTOCOL

    @pytest.mark.parametrize(
        "bend", [{"session": b"another-session!"}, {"round": 8}, {"question": bytes(32)}], ids=repr
    )
    def test_other_rounds_and_questions(self, bend: dict[str, object]) -> None:
        masked = Masked()
        fields = at(7) | bend
        with pytest.raises(ProtocolError, match="another"):
            masked.client.seal(masked.context, masked.masked(0, own=False), **fields)
        with pytest.raises(ProtocolError, match="another"):
            masked.server.add(
                masked.context,
                {client: self.seal(masked) for client in range(3)},
                size=masked.size,
                **fields,
            )

    @pytest.mark.parametrize(
        "bend", [{"session": b"another-session!"}, {"round": 8}, {"question": bytes(32)}], ids=repr
    )
    def test_answers_are_read_where_they_belong(self, bend: dict[str, object]) -> None:
        masked = Masked()
        sealed = {client: self.seal(masked) for client in range(3)}
        asked = masked.server.add(masked.context, sealed, **at(7), size=masked.size)
        message = masked.holder.open(asked).message
        with pytest.raises(ProtocolError, match="another"):
            masked.server.read(message, asked, masked.context, **at(7) | bend)
        for bad in (asked, masked.context, b""):
            with pytest.raises(ProtocolError):
                masked.server.read(bad, asked, masked.context, **at(7))
        forged = sign_message(HOLDER, masked.quorum.context_place(**at(7), holder=HOLDER.public), 0, b"")
        with pytest.raises(ProtocolError):
            masked.server.read(message, forged, masked.context, **at(7))
        read = masked.server.read(message, asked, masked.context, **at(7))
        assert (read.size, read.contributors) == (masked.size, (0, 1, 2))

    @pytest.mark.parametrize("slot", [-1, PLAIN_MODULUS])
    def test_answers_beyond_the_modulus(self, slot: int) -> None:
        """Masked slots may be anything below it; more would wrap where masks are taken off."""
        masked = Masked(size=5)
        sealed = {client: self.seal(masked) for client in range(3)}
        asked = masked.server.add(masked.context, sealed, **at(7), size=masked.size)
        place = masked.server.check(masked.context, **at(7)).at("opening", hashlib.sha256(asked).digest())
        for wrong in (slot, PLAIN_MODULUS - 1):
            slots = np.zeros(SLOTS, dtype="<i8")
            slots[-1] = wrong
            body = encode(Opening(contributors=(0, 1, 2), size=5, slots=slots.tobytes()))
            message = sign_message(HOLDER, place, 0, body)
            if wrong == slot:
                with pytest.raises(ProtocolError, match="slots must be in"):
                    masked.server.read(message, asked, masked.context, **at(7))
        assert masked.server.read(message, asked, masked.context, **at(7)).slots[0, -1] == PLAIN_MODULUS - 1

    def test_a_second_opening(self) -> None:
        masked = Masked()
        sealed = {client: self.seal(masked) for client in range(3)}
        message = masked.server.add(masked.context, sealed, **at(7), size=masked.size)
        masked.holder.open(message)
        with pytest.raises(ProtocolError, match="second opening"):
            masked.holder.open(message)

    def test_refused_sums_leave_the_key(self) -> None:
        masked = Masked()
        sealed = {client: self.seal(masked) for client in range(3)}
        message = masked.server.add(masked.context, sealed, **at(7), size=masked.size)
        roster = hashlib.sha256(masked.context).digest()
        place = masked.quorum.context_place(SESSION, 7, HOLDER.public, QUESTION).at("sum", roster)
        few = encode(EncryptedSum(contributors=(0, 1), size=masked.size, parts=sealed[0]))
        for bad in (message[:-1], sign_message(SERVER, place, 0, few), sign_message(HOLDER, place, 0, few)):
            with pytest.raises(ProtocolError):
                masked.holder.open(bad)
        masked.holder.open(message)

    @pytest.mark.parametrize("slot", [-1, PLAIN_MODULUS])
    def test_slots_outside_the_modulus(self, slot: int) -> None:
        masked = Masked(size=5)
        wrong = masked.masked(0, own=False)
        wrong[0, 0] = slot
        with pytest.raises(SealingError, match="slots must be in"):
            masked.client.seal(masked.context, wrong, **at(7))


class TestQuorum:
    def test_it_takes_at_least_two(self) -> None:
        for n, threshold in ((1, 1), (3, 1), (3, 4), (2001, 3)):
            with pytest.raises(SealingError):
                Quorum(n_clients=n, threshold=threshold)

    @pytest.mark.parametrize("contributors", [(0, 2), (1, 2, 3), (0, 1, 2, 3)])
    def test_contributors(self, contributors: tuple[int, ...]) -> None:
        Quorum(n_clients=4, threshold=2).check_contributors(contributors)

    @pytest.mark.parametrize("contributors", [(), (1,), (1, 1), (2, 1), (-1, 1), (3, 4)])
    def test_refused(self, contributors: tuple[int, ...]) -> None:
        with pytest.raises(ProtocolError):
            Quorum(n_clients=4, threshold=2).check_contributors(contributors)

    def test_places_differ(self) -> None:
        places = {
            Quorum(n_clients=3, threshold=2, protocol=protocol).context_place(SESSION, 7, holder, question)
            for protocol in (PROTOCOL, MASKED_PROTOCOL)
            for holder in (HOLDER.public, SERVER.public)
            for question in (QUESTION, bytes(32))
        }
        assert len(places) == 8
        assert {place.roster for place in places} == {
            cohort_hash((identity.public, question))
            for identity in (HOLDER, SERVER)
            for question in (QUESTION, bytes(32))
        }
