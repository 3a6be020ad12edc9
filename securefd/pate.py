"""Private aggregation of teacher ensembles (PATE) within one client, as its part of a run.

Papernot et al. 2017, Semi-supervised Knowledge Transfer for Deep Learning from Private Training Data, and
2018, Scalable Private Learning with PATE (GNMax). A client's records teach many teachers, each another part
of them; the teachers vote on public inputs, the votes are counted with noise, and the model that answers
learns from nothing else. Nobody but the client sees a teacher, a vote, or which record taught which.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from securefd import heads
from securefd.defenses.charges import Charge, Votes
from securefd.defenses.claims import Guarantee
from securefd.defenses.csprng import Stream, below
from securefd.defenses.head import DIMENSIONS
from securefd.defenses.noise import CountNoise
from securefd.defenses.samplers import LARGEST_DEVIATION, discrete_gaussian
from securefd.errors import DataError, PrivacyError
from securefd.features import width
from securefd.fleet import Lesson, Objective, State, initial, predict, train
from securefd.given import Given
from securefd.models import ModelSpec
from securefd.rng import generator

Inputs = NDArray[np.float32]
Integers = NDArray[np.int64]

FEWEST_TEACHERS = 10
RECORDS_A_TEACHER = 50
"""Unless the number of teachers is given: one knows less of fewer records, but more of them share the noise.
On MNIST (6,000 records, epsilon = 4) heads were a little better with 50 than with 100, much better than with
200."""
STEPS, BATCH = 100, 512
"""Of a network that learns from counts, and the public inputs of a step. On digits and MNIST, with more steps
it learnt noise by heart, and with smaller batches each step followed the noise on a few inputs."""
NOISE_A_DIMENSION = 64
"""Of a head that learns from counts: squared teachers by the number of labels, over the variance of the noise
on a count, for each dimension."""


def usual_teachers(records: int) -> int:
    """How many teachers so many records teach, unless it is said: a function of public figures."""
    return max(min(FEWEST_TEACHERS, records), records // RECORDS_A_TEACHER)


@dataclass(frozen=True, kw_only=True)
class VoteCounts:
    """Count the votes of ``teachers`` on each of ``labels`` inputs, and add N_Z(0, variance) to each count.

    Unit of privacy: one record. Relation: either, and it costs the same, for a number of teachers that is
    fixed beforehand: one that follows from the number of records is as unprotected as that is.

    **Who teaches whom.** Each record is given to one of the teachers by a uniform draw of its own
    (`assigned`), independent of all other draws and of whatever any record holds. So the draws have the same
    distribution whatever the records are, and two neighbouring data sets can be compared draw by draw:

    - Replace-one: let the record in the same place have the same draw. Then all parts are the same but for
      one, in which one record is another.
    - Add-or-remove: let the records that both have the same draws, whatever the additional one draws. Then
      all parts are the same but for one, which has a record more.

    A teacher is a function of its own part, its number, and what is public, down to the last bit: it is
    trained for as many steps whatever its part holds, and one without records learns from a public input,
    so that those which are trained beside it are computed as they always are. So at most one teacher differs,
    and with it one vote on each input: the counts of each input differ by at most 1 in two classes, which
    makes 2 ``labels`` squared in L2 and 2 ``labels`` in L1. That is `Votes` with ``turned``. It holds for
    any draws, and so for the mixture over all of them: the hockey-stick divergence is jointly convex, and
    a Renyi divergence jointly quasi-convex.
    """

    teachers: int
    labels: int
    n_classes: int
    variance: float

    def __post_init__(self) -> None:
        for name, least in (("teachers", 2), ("labels", 1), ("n_classes", 2)):
            if not getattr(self, name) >= least:
                raise PrivacyError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.variance <= LARGEST_DEVIATION**2:
            raise PrivacyError(
                f"variance must be > 0 and at most 2^62, got {self.variance}; ask for a larger epsilon, or "
                "for fewer labels"
            )

    @classmethod
    def of(cls, noise_multiplier: float, *, teachers: int, labels: int, n_classes: int) -> VoteCounts:
        """With noise of ``noise_multiplier`` times as far as one record moves all counts."""
        if not 0 < noise_multiplier < math.inf:
            raise PrivacyError(f"noise_multiplier must be > 0 and finite, got {noise_multiplier}")
        variance = 2 * labels * noise_multiplier**2
        return cls(teachers=teachers, labels=labels, n_classes=n_classes, variance=variance)

    @property
    def deviation(self) -> float:
        """Of the noise on each count, in votes."""
        return math.sqrt(self.variance)

    @property
    def class_deviation(self) -> float:
        """Of the noise on the mean vote over all inputs of a class, if the classes are equally frequent."""
        return self.deviation / self.teachers / math.sqrt(max(1.0, self.labels / self.n_classes))

    @property
    def charge(self) -> Votes:
        """What all counts together cost."""
        return Votes(
            variance=self.variance, shares=1, answers=self.labels, classes=self.n_classes, turned=True
        )

    def __call__(self, votes: Integers, *, _key: bytes | None = None) -> Integers:
        """``(teachers, labels)`` classes to noised counts ``(labels, n_classes)``; charged at each call."""
        exact = self.exactly(votes)
        noise = discrete_gaussian(self.variance, exact.size, _key=_key).reshape(exact.shape)
        noised: Integers = exact + noise
        return noised

    def exactly(self, votes: Integers) -> Integers:
        """The same without noise."""
        if votes.shape != (self.teachers, self.labels):
            raise DataError(f"votes must be ({self.teachers}, {self.labels}), got {votes.shape}")
        if votes.dtype.kind not in "iu" or not ((votes >= 0) & (votes < self.n_classes)).all():
            raise DataError(f"votes must be whole numbers from 0 to {self.n_classes - 1}; correct them")
        counts = np.zeros((self.labels, self.n_classes), dtype=np.int64)
        np.add.at(counts, (np.arange(self.labels), votes), 1)
        return counts


@dataclass(frozen=True, kw_only=True)
class PatePlan:
    """Teachers are taught without noise, vote once, and the client's model learns from the noised counts.

    ``public``: how many inputs there are, of which the teachers vote on ``mechanism.labels``, drawn by
    ``seed``. ``teaching``, ``learning``: what networks minimise, teachers and the client's own. ``basis``,
    features: no function of records.
    """

    mechanism: VoteCounts
    public: int
    seed: int
    teaching: Objective
    learning: Objective
    guarantee: Guarantee
    counts: CountNoise | None = None
    parts: tuple[int, ...] = (1,)

    def charge(self, steps: int) -> Charge:
        """That of all votes at once."""
        return self.mechanism.charge

    def train(self, given: Given, state: State, steps: int) -> State:
        """Teach teachers, count their votes with noise, and learn from the counts alone."""
        asked = given.public[self.asked()]
        votes = self._votes(given, assigned(len(given.x), self.mechanism.teachers), asked)
        # From here on nothing looks at a record.
        public_only = replace(given, x=given.x[:0], y=given.y[:0])
        return self._learnt(public_only, state, asked, self.mechanism(votes))

    def asked(self) -> Integers:
        """Sorted indices of the public inputs that teachers vote on."""
        draw = generator(self.seed, "labels")
        return np.sort(draw.choice(self.public, size=self.mechanism.labels, replace=False)).astype(np.int64)

    def _votes(self, given: Given, rows: Sequence[Integers], asked: Inputs) -> Integers:
        """``(teachers, labels)`` top classes; row t is a function of the records in ``rows[t]`` only."""
        spec, basis, device = given.spec, given.basis, given.device
        # The part of a teacher without records: a public input, of the first class.
        x, y = np.concatenate([given.x, asked[:1]]), np.append(given.y, 0)
        taught = [own if len(own) else np.array([len(x) - 1]) for own in rows]
        if spec.is_head:
            assert basis is not None, "a head needs a basis"
            teachers = [heads.fitted(basis, x[own], y[own], spec.n_classes) for own in taught]
            return np.stack([heads.logits(basis, each, asked).argmax(-1) for each in teachers])
        start = [initial(spec, self._draw("initial", t)) for t in range(len(taught))]
        records, labels = torch.from_numpy(x), torch.from_numpy(y)
        lessons = [
            Lesson(x=records, target=labels, rows=own, order=generator(self.seed, "teacher", t, "order"))
            for t, own in enumerate(taught)
        ]
        states = self._trained(spec, start, lessons, self.teaching, device)
        votes: Integers = predict(spec, states, torch.from_numpy(asked), device=device).argmax(-1)
        return votes

    def _learnt(self, given: Given, state: State, asked: Inputs, noised: Integers) -> State:
        """Post-processing: of noised counts ``(labels, n_classes)`` and public inputs."""
        if given.spec.is_head:
            assert given.basis is not None, "a head needs a basis"
            dimensions = worthwhile(self.mechanism, at_most=width(given.spec.shape))
            return heads.counted(given.basis, asked, noised, self.mechanism.teachers, dimensions)
        lesson = Lesson(
            x=torch.from_numpy(asked),
            target=torch.from_numpy((noised / self.mechanism.teachers).astype(np.float32)),
            rows=np.arange(len(asked)),
            order=generator(self.seed, "pupil", "order"),
        )
        (learnt,) = self._trained(given.spec, [state], [lesson], self.learning, given.device)
        return learnt

    def _trained(
        self,
        spec: ModelSpec,
        states: Sequence[State],
        lessons: Sequence[Lesson],
        objective: Objective,
        device: str,
    ) -> list[State]:
        if spec.is_ours:
            return train(spec, states, lessons, objective, device=device)
        trained = []
        for number, (state, lesson) in enumerate(zip(states, lessons, strict=True)):
            # A user's network may draw from torch's one generator (dropout): one at a time, seeded.
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self._draw("network", number))
                trained += train(spec, [state], [lesson], objective, device=device)
        return trained

    def _draw(self, label: str, number: int) -> int:
        return int(generator(self.seed, "teacher", number, label).integers(2**63))


def assigned(records: int, teachers: int, *, _key: bytes | None = None) -> list[Integers]:
    """Which records teach which teacher: each record one of them, by a uniform draw of its own.

    The draws are the operating system's; ``_key``: for tests only.
    """
    stream, drawn = Stream(_key=_key), np.empty(0, dtype=np.int64)
    while len(drawn) < records:
        found, kept = below(teachers, stream.words(records - len(drawn)))
        drawn = np.concatenate([drawn, found[kept]])
    return [np.flatnonzero(drawn == teacher) for teacher in range(teachers)]


def worthwhile(mechanism: VoteCounts, *, at_most: int) -> int:
    """How many dimensions of a head are worth the noise on votes, as a rule of thumb.

    A function of public figures. A direction of d has variance 1 / d among inputs, so that its mean over M
    inputs, each times a share with noise of deviation s / T, has noise of deviation s / (T sqrt(M d)).
    """
    share = mechanism.variance / (mechanism.labels * mechanism.teachers**2)
    return min(DIMENSIONS, at_most, max(mechanism.n_classes, int(1 / (NOISE_A_DIMENSION * share))))
