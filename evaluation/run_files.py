"""What a report ties down of a run's folder, so that an edit of either is noticed, and nothing is given away.

A configuration holds a seed, which is few bits, so a plain hash of it would give the seed away. Files are
therefore committed to under the run's own salt, which stays in its folder: whoever has the folder can check.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from pathlib import Path

from securefd.defenses.ledger import read_chain
from securefd.errors import LedgerError
from securefd.evaluation.report import FileCommitment, LedgerHead, RunFiles
from securefd.folder import read_bytes
from securefd.private_client import ledger_path
from securefd.result import Run
from securefd.rules import n_clients

STUDENT = "models/student.safetensors"
FILES = ("audit/findings.json", "config.toml", "manifest.json", "metrics.jsonl", STUDENT, "result.json")
"""What a report is made of, in a run's folder. Ledgers are tied down by the heads of their chains."""
_LABEL = b"securefd run file v1\0"


def files_of(run: Run) -> RunFiles:
    """Commit to the files and ledgers of ``run`` as they are now.

    Raises RunError where one can't be read, LedgerError for a ledger that isn't as it was written.
    """
    return RunFiles(run=run.config.name, files=tuple(_files(run.path)), ledgers=tuple(_ledgers(run)))


def student_hash(run: Run) -> str | None:
    """SHA-256, in hex, of the file of the student's weights, or None where the method has no student."""
    path = run.path / STUDENT
    return hashlib.sha256(read_bytes(path)).hexdigest() if path.exists() else None


def likeness(folder: Path, written: RunFiles) -> int:
    """How many files in ``folder`` are those of ``written``."""
    if not (folder / "salt").exists():
        return 0
    return len({*_files(folder)} & {*written.files})


def differences(folder: Path, written: RunFiles) -> tuple[str, ...]:
    """What in ``folder`` isn't as it was when it was reported, each as a sentence; empty if all is."""
    if not (folder / "salt").exists():
        return (f"{folder / 'salt'} is missing, without which no file of the run can be checked",)
    now = {each.name: each.hmac_sha256 for each in _files(folder)}
    then = {each.name: each.hmac_sha256 for each in written.files}
    found = [f"{folder / name} is missing" for name in then if name not in now]
    found += [f"{folder / name} wasn't there when the report was made" for name in now if name not in then]
    changed = [name for name in then if name in now and now[name] != then[name]]
    if changed and len(changed) == len(then.keys() & now.keys()):
        return (*found, f"{folder} is another run than the report's {written.run!r}, or its salt was changed")
    return (*found, *(f"{folder / name} was changed" for name in changed))


def chain_differences(run: Run, written: RunFiles) -> Iterator[str]:
    """What isn't right about the ledgers of ``run``, each as a sentence.

    A ledger that is shared across runs may have gone on since, but only from where it was.
    """
    assert run.config.privacy is not None or not written.ledgers
    shared = run.config.privacy is not None and bool(run.config.privacy.ledger)
    paths = dict(_ledger_paths(run))
    for head in written.ledgers:
        if head.holder not in paths:
            yield f"the ledger of {head.holder} is missing"
            continue
        path = paths[head.holder]
        try:
            hashes = read_chain(read_bytes(path), str(path))
        except LedgerError as error:
            yield str(error)
            continue
        if len(hashes) < head.lines or hashes[head.lines - 1] != head.head:
            yield f"ledger {path} isn't the one that was reported, or lines were cut from it"
        elif len(hashes) > head.lines and not shared:
            yield f"ledger {path} has gone on since the report was made"


def _files(folder: Path) -> Iterator[FileCommitment]:
    salt = read_bytes(folder / "salt")
    for name in FILES:
        path = folder / name
        if path.exists():
            content = _LABEL + name.encode() + b"\0" + read_bytes(path)
            digest = hmac.new(salt, content, hashlib.sha256).hexdigest()
            yield FileCommitment(name=name, hmac_sha256=digest)


def _ledger_paths(run: Run) -> Iterator[tuple[str, Path]]:
    if run.config.privacy is None:
        return
    for k in range(n_clients(run.config)):
        path = ledger_path(run.path / "clients" / str(k), k, run.config.privacy)
        if path.exists():
            yield f"client {k}", path


def _ledgers(run: Run) -> Iterator[LedgerHead]:
    for holder, path in _ledger_paths(run):
        hashes = read_chain(read_bytes(path), str(path))
        yield LedgerHead(holder=holder, lines=len(hashes), head=hashes[-1])
