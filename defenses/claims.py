"""What is promised, to whom, about which unit: a proven bound, an assumption, or nothing.

A number without its unit, neighbouring relation, delta and observer is not a promise, so none of
these types prints one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from securefd.errors import PrivacyError

Unit = Literal["record", "client"]
Relation = Literal["add-or-remove", "replace-one"]
Observer = Literal["server", "peer", "release", "keyholder", "coalition"]
Subject = Literal["records", "answers"]
Kind = Literal["proven", "cryptographic", "none"]
SealingKind = Literal["plain", "masked", "homomorphic", "masked+homomorphic"]

UNITS: tuple[Unit, ...] = ("record", "client")
RELATIONS: tuple[Relation, ...] = ("add-or-remove", "replace-one")


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """(epsilon, delta)-differential privacy for one ``unit`` under one neighbouring ``relation``."""

    epsilon: float
    delta: float
    unit: Unit
    relation: Relation

    def __post_init__(self) -> None:
        if not 0 <= self.epsilon < math.inf:
            raise PrivacyError(f"epsilon must be at least 0 and finite, got {self.epsilon}")
        if not 0 <= self.delta < 1:
            raise PrivacyError(f"delta must be at least 0 and below 1, got {self.delta}")
        if self.unit not in UNITS:
            raise PrivacyError(f"unit must be one of {', '.join(UNITS)}, got {self.unit!r}")
        if self.relation not in RELATIONS:
            raise PrivacyError(f"relation must be one of {', '.join(RELATIONS)}, got {self.relation!r}")

    def __str__(self) -> str:
        up = math.ceil(self.epsilon * 1000) / 1000  # a rounded bound must stay a bound
        return f"(epsilon = {up:g}, delta = {self.delta:.2g}) for one {self.unit}, {self.relation}"

    def group(self, size: int) -> Guarantee:
        """Return what the same mechanism gives to ``size`` units together, such as one person's records.

        (k * epsilon, delta * (e^(k epsilon) - 1) / (e^epsilon - 1)): k neighbouring steps one after the
        other (Vadhan, The Complexity of Differential Privacy, Lemma 2.2). Refused where delta reaches 1.
        """
        if not (isinstance(size, int) and size >= 1):
            raise PrivacyError(f"size of a group must be a whole number of at least 1, got {size}")
        # sum of e^(i epsilon), i < k: the geometric series, which at epsilon = 0 is k
        exponent = self.epsilon * size
        if self.epsilon == 0:
            factor = float(size)
        elif exponent < 700:
            factor = math.expm1(exponent) / math.expm1(self.epsilon)
        else:
            factor = math.inf
        delta = self.delta * factor if self.delta > 0 else 0.0
        if not delta < 1:
            raise PrivacyError(
                f"size of a group is {size}: its delta reaches 1, so nothing is promised to it"
            )
        return Guarantee(epsilon=exponent, delta=delta, unit=self.unit, relation=self.relation)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is promised to one observer.

    ``subject``: ``records`` is private training data, ``answers`` is what single clients sent.
    ``guarantee``: a proven bound. ``assumption``: what must hold besides mathematics. Neither: no
    promise is made. ``reason``: one or more plain sentences.
    """

    observer: Observer
    subject: Subject
    guarantee: Guarantee | None = None
    assumption: str | None = None
    reason: str

    @property
    def kind(self) -> Kind:
        """``proven`` where there is a guarantee, else ``cryptographic`` where there is an assumption."""
        if self.guarantee is not None:
            return "proven"
        return "none" if self.assumption is None else "cryptographic"

    @property
    def promise(self) -> str:
        """What is promised and under which assumption, without the reason."""
        promise = self.kind if self.guarantee is None else f"proven {self.guarantee}"
        return promise if self.assumption is None else f"{promise}, if {self.assumption}"

    def __str__(self) -> str:
        return f"{self.observer}, {self.subject}: {self.promise}. {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Promise:
    """What noise promises about private data: guarantees by observer, and what they rest on.

    ``basis``: sentences without their last full stop. ``assumption``: what the guarantees need besides
    mathematics, for `SHARED_BY` observers only.
    """

    guarantees: Mapping[Observer, Guarantee]
    basis: str
    assumption: str | None = None


MASKED_ASSUMPTION = (
    "X25519, HKDF, AES, SHA-256 and Ed25519 are secure, and every client has pinned the right identities of "
    "the others"
)
HOMOMORPHIC_ASSUMPTION = (
    "the BFV encryption is secure, the server follows the protocol, and server and key holder do not collude"
)
KEYHOLDER_ASSUMPTION = "the key holder is given only the encrypted sum, and does not collude with the server"
WRAPPED_ASSUMPTION = (
    f"the masks hold ({MASKED_ASSUMPTION}) or the encryption does (BFV is secure, and server and key holder "
    "do not collude); who colludes with clients meets the masks alone"
)

SHARED_BY: tuple[Observer, ...] = ("server", "coalition")
"""Observers who see more than a consensus: what hides single answers from them carries their guarantee."""

DPSGD = (
    "Each client's model is trained by DP-SGD, and answers, their sum and the student are computed from it "
    "without another look at the records. Not covered: record counts and with them the sampling rate, "
    "metrics on private data, and hyper-parameters, which are assumed to be chosen without the private data. "
    "Opacus adds floating-point noise from a generator that is not cryptographic, so epsilon is that of the "
    "ideal Gaussian. A person with records at several clients adds up the clients' costs"
)
HEAD = (
    "Each client's model is linear, on features that were learnt from public inputs alone. It is made of one "
    "sum over the client's records, to which integer noise was added, exact and drawn from the operating "
    "system's keys; answers, their sum and the student are computed from it without another look at the "
    "records. Not covered: record counts, by which the sum is divided, metrics on private data, and "
    "hyper-parameters, which are assumed to be chosen without the private data. A person with records at "
    "several clients adds up the clients' costs"
)
PATE = (
    "Each client cuts its records into parts by independent draws, teaches a teacher on each, and counts the "
    "teachers' votes on public inputs with integer noise, exact and drawn from the operating system's keys. "
    "Its model learns from these counts and public inputs alone, and answers, their sum and the student are "
    "computed from it without another look at the records. One record moves one teacher, and every vote of "
    "that teacher is taken to turn, however much the teachers agree. Not covered: record counts and with "
    "them the number of teachers, metrics on private data, and hyper-parameters, which are assumed to be "
    "chosen without the private data. Teachers, how often they agree and how accurate they are never leave "
    "the client. A person with records at several clients adds up the clients' costs"
)
_UNCOVERED = (
    "Not covered: whether a client takes part, how many records it has, accuracies that are reported, and "
    "hyper-parameters, which are assumed to be chosen without private data"
)
DISTRIBUTED = (
    "Each client adds a share of integer noise to its answers, exact and drawn from the operating system's "
    "keys, before they are masked. What is counted is the noise that this observer doesn't know, of the "
    "fewest clients whose sum opens, each of which is taken to have added its share; rounding is in the "
    "sensitivity, and what a sum of shares lacks of one discrete Gaussian is charged. "
    f"{_UNCOVERED}"
)
LOCAL = (
    "Each client noises its own answers, whole, before anything leaves it, so that nobody has to be trusted. "
    f"{_UNCOVERED}"
)
CENTRAL = f"The server adds the noise, and is trusted to: it sees the sum before. {_UNCOVERED}"
VOTES = (
    "The server counts the votes, adds integer noise, exact and drawn from the operating system's keys, and "
    "releases the top class of a query if enough clients agree; it is trusted to, and sees the counts "
    "before. Every query is charged as if it were answered, whatever the votes are; so is the figure about "
    "a run's votes that is printed beside this promise and isn't part of it. Where nobody may see the votes, "
    f"route 'distributed' has every count noised under masks. {_UNCOVERED}"
)
ENCRYPTED: tuple[SealingKind, ...] = ("homomorphic", "masked+homomorphic")
_NO_NOISE = "No noise was added, and secrecy is not privacy"
_NOT_YET = "No noise is added before this observer looks, and secrecy is not privacy"
_SEEDED = "The noise came from a known seed, as in tests, so it protects nothing"


def claims(
    *,
    sealing: SealingKind,
    n_clients: int,
    threshold: int | None = None,
    colluders: int = 0,
    honest: int | None = None,
    secrecy_failure: float = 0.0,
    promise: Promise | None = None,
    histogram: bool = False,
    seeded: bool = False,
) -> tuple[Claim, ...]:
    """Return every promise of a run, observer by observer: about records first, then about answers.

    ``promise``: of noise, the largest over the clients; None without any.
    ``threshold``: the least number of clients whose sum is opened; None for all.
    ``colluders``: how many clients side with the server; a coalition is listed when it is above 0.
    ``honest``: how many clients outside the coalition every opened sum covers, where a server that doesn't
    follow the protocol can leave others out; None for all that took part.
    ``secrecy_failure``: the probability in each round that masks don't hide what they should.
    ``histogram``: the method's answers carry class counts. ``seeded``: the noise is reproducible.
    Raises PrivacyError for an unknown sealing or an impossible number of colluders.
    """
    if sealing not in get_args(SealingKind):
        raise PrivacyError(f"sealing must be one of {', '.join(get_args(SealingKind))}, got {sealing!r}")
    if not n_clients >= 1:
        raise PrivacyError(f"n_clients must be at least 1, got {n_clients}")
    if not 0 <= colluders < n_clients:
        raise PrivacyError(
            f"colluders must be at least 0 and below the number of clients, {n_clients}, got {colluders}"
        )
    observers: list[Observer] = ["server", "peer", "release"]
    if sealing in ENCRYPTED:
        observers.append("keyholder")
    if colluders > 0:
        observers.append("coalition")
    records = [_about_records(o, sealing, n_clients, promise, seeded, secrecy_failure) for o in observers]
    noised = promise is not None and "server" in promise.guarantees and not seeded
    if sealing == "plain":
        return (*records, *_about_plain_answers(colluders, histogram, noised))
    survivors = n_clients if threshold is None else threshold
    return (
        *records,
        *_about_sealed_answers(sealing, n_clients, survivors, colluders, honest, secrecy_failure),
    )


def claim_about_records(all_claims: tuple[Claim, ...], observer: Observer) -> Claim:
    """Return the one promise to ``observer`` about records: what an audit of membership is held against."""
    for claim in all_claims:
        if claim.observer == observer and claim.subject == "records":
            return claim
    raise PrivacyError(f"observer {observer!r} has no claim in this run; audit one that has")


def _about_records(
    observer: Observer,
    sealing: SealingKind,
    n_clients: int,
    promise: Promise | None,
    seeded: bool,
    failure: float,
) -> Claim:
    if promise is not None and observer in promise.guarantees and not seeded:
        return Claim(
            observer=observer,
            subject="records",
            guarantee=promise.guarantees[observer],
            assumption=f"{promise.assumption}{_except(failure)}"
            if promise.assumption is not None and observer in SHARED_BY
            else None,
            reason=f"{promise.basis}.",
        )
    seen = {
        "server": {
            "plain": "every client's answers reach the server, and answers tell members from non-members",
            "masked": "the server opens the sum of all answers, and the sum still leaks",
            "homomorphic": "the server receives the opened sum of all answers, and the sum still leaks",
            "masked+homomorphic": "the server opens the sum of all answers, and the sum still leaks",
        }[sealing],
        "peer": "every client sees each consensus, which still leaks what the others' models learnt",
        "release": "whoever may query the student can test whether a record shaped it",
        "keyholder": {
            "homomorphic": "the key holder opens the sum of all answers, and the sum still leaks",
            "masked+homomorphic": "the key holder opens a masked sum, and may be a client or a user as well",
        }.get(sealing, ""),
        "coalition": _coalition_sees(n_clients),
    }[observer]
    cause = _SEEDED if seeded else _NO_NOISE if promise is None else _NOT_YET
    return Claim(observer=observer, subject="records", reason=f"{cause}: {seen}.")


def _coalition_sees(n_clients: int) -> str:
    if n_clients == 1:
        return "there is no other client"
    return "colluders subtract their own answers from the sum, and what is left leaks more"


def _about_plain_answers(colluders: int, histogram: bool, noised: bool) -> list[Claim]:
    counts = f", and with them its {'noised ' if noised else ''}class counts" if histogram else ""
    reason = f"The server sees every client's answers{counts}."
    found = [Claim(observer="server", subject="answers", reason=reason)]
    if colluders > 0:
        found.append(Claim(observer="coalition", subject="answers", reason=reason))
    return found


def _about_sealed_answers(
    sealing: SealingKind,
    n_clients: int,
    survivors: int,
    colluders: int,
    honest: int | None,
    failure: float,
) -> list[Claim]:
    """Return who can see single clients' answers. A sum over one client is that client's answers."""
    if n_clients < 2:
        alone = "There is one client, so the sum is its answers."
        return [Claim(observer="server", subject="answers", reason=alone)]
    hidden = {
        "masked": MASKED_ASSUMPTION,
        "homomorphic": HOMOMORPHIC_ASSUMPTION,
        "masked+homomorphic": WRAPPED_ASSUMPTION,
    }[sealing]
    dishonest = "" if sealing == "homomorphic" else ", whether it follows the protocol or not,"
    which = f"all {n_clients}" if survivors == n_clients else f"at least {survivors} of {n_clients}"
    if honest is not None:
        which = (
            f"{which} clients, or, if it doesn't follow the protocol, one sum over fewer, but at least "
            f"{honest} that don't work with it"
        )
    else:
        which = f"{which} clients"
    server = (
        f"The server{dishonest} sees only the sum over {which}{_except(failure)}. "
        f"{_differences(n_clients, survivors)}Whoever colludes with all of them but one has the last one's "
        "answers."
    )
    found = [Claim(observer="server", subject="answers", assumption=hidden, reason=server)]
    if sealing == "homomorphic":
        opens = f"The key holder opens the sum and nothing else. {_differences(n_clients, survivors)}".strip()
        found.append(
            Claim(observer="keyholder", subject="answers", assumption=KEYHOLDER_ASSUMPTION, reason=opens)
        )
    elif sealing == "masked+homomorphic":
        opens = "The key holder opens a masked sum, which tells it nothing."
        found.append(Claim(observer="keyholder", subject="answers", assumption=hidden, reason=opens))
    if colluders > 0:
        found.append(_coalition_about_answers(n_clients, survivors, colluders, honest, hidden, failure))
    return found


def _coalition_about_answers(
    n_clients: int, survivors: int, colluders: int, least: int | None, hidden: str, failure: float
) -> Claim:
    honest = survivors - colluders if least is None else least
    who = f"The server and {colluders} of {n_clients} clients"
    if honest <= 1:
        reason = f"{who} subtract their own answers from the sum and have the last client's."
        return Claim(observer="coalition", subject="answers", reason=reason)
    others = "the other" if survivors == n_clients and least is None else "at least"
    reason = (
        f"{who} see the sum of {others} {honest} clients' answers and no single one{_except(failure)}. "
        f"{_differences(n_clients, survivors)}".strip()
    )
    return Claim(observer="coalition", subject="answers", assumption=hidden, reason=reason)


def _except(failure: float) -> str:
    if failure == 0:
        return ""
    return f", but for a probability of 2^{math.ceil(math.log2(failure))} a round"


def _differences(n_clients: int, survivors: int) -> str:
    """What sums over several rounds add up to, where not every client must be in each."""
    if survivors == n_clients:
        return ""
    return (
        "Where two rounds' survivors differ by one client, so do their sums by about its answers: only noise "
        "protects against that. "
    )
