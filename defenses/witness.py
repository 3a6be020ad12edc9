"""Countersigned heads: somebody else remembers how far a ledger had come.

A ledger's chain shows lines that were altered or moved, not that its last lines were cut off or an old copy
was put back. So before every release its owner shows the ledger's head to a witness, the server or a peer,
which writes it down, signs it, and never signs an earlier one again. The owner keeps the receipts, pins the
witness's key by the first of them, and compares when the ledger is opened.

A witness learns a random name, a number of lines and a hash: when, and how often, private data were
accessed. It is trusted to remember, and for nothing else: what it signs can't be turned against the owner,
and one that forgot is found out by the receipts.

Not detected: ledger, receipts and witness all put back to the same earlier day, so keep them where no one
backup restores all three; a ledger that is deleted together with its receipts and begun anew, which is
another ledger to a witness; an owner who means to deceive, and shows the witness what it likes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Protocol, TypeVar

import msgspec

from securefd.defenses.identity import Identity, verify
from securefd.defenses.journal import Journal
from securefd.defenses.keys import create_identity, read_identity
from securefd.errors import LedgerError, ProtocolError, SealingError

_LABEL = "securefd ledger head v1"
_Line = TypeVar("_Line", bound=msgspec.Struct)


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a ledger has come: its random name, how many lines it has, and the hash of the last, in hex."""

    name: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    lines: Annotated[int, msgspec.Meta(ge=1)]
    hash: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]

    @property
    def statement(self) -> bytes:
        """The bytes that a witness signs."""
        return msgspec.json.encode((_LABEL, self.name, self.lines, self.hash))


class Receipt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A head, and the Ed25519 signature of its statement by the owner of the public key ``witness``."""

    head: Head
    witness: bytes
    signature: bytes

    @classmethod
    def sign(cls, head: Head, identity: Identity) -> Receipt:
        """Run by a witness, after it has written the head down."""
        return cls(head=head, witness=identity.public, signature=identity.sign(head.statement))

    @property
    def is_genuine(self) -> bool:
        """Whether the signature is by ``witness``."""
        try:
            verify(self.witness, self.head.statement, self.signature)
        except ProtocolError:
            return False
        return True


class Witness(Protocol):
    """Whoever remembers heads. One that can't be reached raises OSError."""

    @property
    def key(self) -> bytes:
        """The 32 bytes of its public key."""
        ...

    def last(self, name: str) -> Receipt | None:
        """Run by the witness: what it last signed for the ledger of this name."""
        ...

    def sign(self, head: Head) -> Receipt:
        """Run by the witness: write the head down, then sign it; the same head again is signed again.

        Raises LedgerError for a head that isn't later than the last one of that name.
        """
        ...


class FolderWitness:
    """A witness whose memory is a folder: ``witness.jsonl``, its receipts, and ``witness.key``, mode 0600.

    It serves many ledgers. Several processes may use one folder: they take turns. The folder must not be in
    the one that holds the ledger, nor in the same backup.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "witness.jsonl"
        self._last: dict[str, Receipt] = {}
        self._read = 0
        self._identity: Identity | None = None

    @property
    def key(self) -> bytes:
        """The 32 bytes of its public key."""
        with self._opened():
            return self._known.public

    def last(self, name: str) -> Receipt | None:
        """What it last signed for the ledger of this name."""
        with self._opened():
            return self._last.get(name)

    def sign(self, head: Head) -> Receipt:
        """Write the head down, then sign it."""
        if _parse(msgspec.json.encode(head), Head) != head:
            raise LedgerError(
                f"a head must have a name of 32 and a hash of 64 hexadecimal digits, and a line; got {head}"
            )
        with self._opened() as journal:
            before = self._last.get(head.name)
            if before is not None and before.head == head:
                return before
            if before is not None and not head.lines > before.head.lines:
                raise LedgerError(
                    f"the witness in {self._folder} has signed line {before.head.lines} of ledger "
                    f"{head.name}, and is shown another line {head.lines} as its last: lines were cut, or an "
                    "old copy was put back; restore the newest copy of the ledger"
                )
            receipt = Receipt.sign(head, self._known)
            journal.append(msgspec.json.encode(receipt))
            self._last[head.name] = receipt
            self._read = journal.size
            return receipt

    @property
    def _known(self) -> Identity:
        assert self._identity is not None
        return self._identity

    def _opened(self) -> Journal:
        """Its file, locked and read as far as others wrote to it. Only whoever has the lock makes a key."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerError(
                f"the witness's folder {self._folder} can't be made: {error.strerror}; name another one"
            ) from error
        journal = Journal.open(self._path, "witness's file", wait=True, start=self._read)
        try:
            self._follow(journal)
        except BaseException:
            journal.close()
            raise
        return journal

    def _follow(self, journal: Journal) -> None:
        if journal.start == 0:
            self._last = {}
        # A receipt without its line feed was given to nobody; its head may as well be remembered.
        journal.settle(lambda raw: _parse(raw, Receipt) is not None)
        found = [self._receipt(raw) for raw in journal.lines]
        if self._identity is None:
            self._identity = self._own(is_new=not (found or self._last))
        for receipt in found:
            before = self._last.get(receipt.head.name)
            if (
                receipt.witness != self._identity.public
                or (before is not None and not receipt.head.lines > before.head.lines)
                or not receipt.is_genuine
            ):
                raise self._damaged()
            self._last[receipt.head.name] = receipt
        self._read = journal.size

    def _own(self, *, is_new: bool) -> Identity:
        path = self._folder / "witness.key"
        try:
            if is_new and not os.path.lexists(path):
                create_identity(self._folder, "witness")
            return read_identity(path)
        except SealingError as error:
            raise LedgerError(
                f"the witness in {self._folder} can't sign: {error}; a witness that lost its key is another "
                "one: restore its folder"
            ) from error

    def _receipt(self, raw: bytes) -> Receipt:
        receipt = _parse(raw, Receipt)
        if receipt is None:
            raise self._damaged()
        return receipt

    def _damaged(self) -> LedgerError:
        return LedgerError(
            f"the witness's file {self._path} isn't as it was written; restore the folder that it is in"
        )


class Receipts:
    """Run by a ledger's owner: the receipts that it keeps in a file, and the witness that gives them.

    Without a witness, as when it can't be reached on opening, the stored receipts alone are compared: that
    finds a ledger that is older than its receipts, and not one that was put back together with them.
    """

    def __init__(self, path: Path, witness: Witness | None) -> None:
        self.path = path
        self._witness = witness

    def check(self, ledger: Path, name: str, hashes: Sequence[str]) -> None:
        """Refuse a ledger, given by the hashes of its lines, that doesn't hold what was countersigned.

        Raises LedgerError that names what is old, or isn't genuine, and the remedy.
        """
        own = self._stored()
        if own is not None:
            if own.head.name != name:
                raise LedgerError(
                    f"the receipts in {self.path} are of another ledger than {ledger}; restore the ledger "
                    "that was there, or put each where it belongs"
                )
            _check_holds(ledger, hashes, own)
        if self._witness is None:
            return
        try:
            key, theirs = self._witness.key, self._witness.last(name)
        except OSError:
            return  # the stored receipts were compared; nothing is released before it can be reached
        self._check_key(own, key)
        if theirs is not None:
            self._check_genuine(theirs, key, name)
            _check_holds(ledger, hashes, theirs)
        known = 0 if theirs is None else theirs.head.lines
        if own is not None and known < own.head.lines:
            raise LedgerError(
                f"the witness of ledger {ledger} has signed its line {own.head.lines}, as the receipts in "
                f"{self.path} show, and remembers {f'line {known}' if known else 'nothing'}: it lost its "
                "memory, or an old copy of it was put back; restore the witness. If that can't be, and the "
                "ledger is known to be the newest, move the receipts away: a new witness is pinned then, "
                "which vouches for nothing before"
            )
        if theirs is not None and theirs != own:
            self._store(theirs)

    def countersign(self, head: Head) -> None:
        """Show the head, and store the receipt. Nothing may be released before this returned.

        Raises LedgerError where that can't be done.
        """
        if self._witness is None:
            raise LedgerError(
                f"the receipts in {self.path} can't grow without their witness; open the ledger with it"
            )
        try:
            receipt = self._witness.sign(head)
        except OSError as error:
            raise LedgerError(
                f"the witness of ledger {head.name} can't be reached ({error}); nothing may be released "
                "before it signed what was spent; try again later"
            ) from error
        own = self._stored()
        self._check_key(own, receipt.witness)
        self._check_genuine(receipt, receipt.witness, head.name)
        if receipt.head != head:
            raise LedgerError(
                f"the witness of ledger {head.name} was shown line {head.lines} and signed something else; "
                "nothing may be released; ask who runs it"
            )
        if receipt != own:
            self._store(receipt)

    def _check_key(self, own: Receipt | None, key: bytes) -> None:
        if own is not None and key != own.witness:
            raise LedgerError(
                f"the witness has another key than the one that is pinned in {self.path}: it isn't the one "
                "that signed before, or lost its key; restore that witness, or name it in privacy.witness"
            )

    def _check_genuine(self, receipt: Receipt, key: bytes, name: str) -> None:
        if receipt.witness != key or receipt.head.name != name or not receipt.is_genuine:
            raise LedgerError(
                f"the witness gave a receipt of ledger {name} that isn't genuine: another key's, another "
                "ledger's or forged; nothing may be released; ask who runs it"
            )

    def _stored(self) -> Receipt | None:
        """The last receipt in the file, if it and its signature are as they were written."""
        if not os.path.lexists(self.path):
            return None
        with Journal.open(self.path, "receipts") as journal:
            journal.settle(lambda raw: _parse(raw, Receipt) is not None)
            found = [_parse(raw, Receipt) for raw in journal.lines]
        if not found:
            return None
        whole = [receipt for receipt in found if receipt is not None]
        lines = [receipt.head.lines for receipt in whole]
        if (
            len(whole) < len(found)
            or len({(receipt.witness, receipt.head.name) for receipt in whole}) > 1
            or lines != sorted(set(lines))
            or not whole[-1].is_genuine
        ):
            raise LedgerError(
                f"the receipts in {self.path} aren't as they were written, or aren't genuine; restore them, "
                "or move them away to pin the witness anew, which vouches for nothing before"
            )
        return whole[-1]

    def _store(self, receipt: Receipt) -> None:
        with Journal.open(self.path, "receipts") as journal:
            journal.append(msgspec.json.encode(receipt))


def _check_holds(ledger: Path, hashes: Sequence[str], receipt: Receipt) -> None:
    line = receipt.head.lines
    if line > len(hashes):
        raise LedgerError(
            f"ledger {ledger} has {len(hashes)} lines, and its witness has signed line {line}: the last ones "
            "were cut off, or an old copy was put back; restore the newest copy, or treat its data set as "
            "spent"
        )
    if hashes[line - 1] != receipt.head.hash:
        raise LedgerError(
            f"line {line} of ledger {ledger} isn't the one that its witness has signed: an old copy was put "
            "back and went on from there, or lines were written anew; restore the copy that was signed, or "
            "treat its data set as spent"
        )


def _parse(raw: bytes, kind: type[_Line]) -> _Line | None:
    """Return the line, or None if it isn't one in exactly the bytes that this module writes."""
    try:
        line = msgspec.json.decode(raw, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return line if msgspec.json.encode(line) == raw else None
