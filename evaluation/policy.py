"""A policy: what a run must promise, how it must be protected, and what audits of it must have shown.

A TOML file, read strictly: a rule that isn't known is refused, since one that is ignored would pass whatever
it was meant to stop. Limits are finite numbers. ``policy_rules`` holds runs against it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, Field, ValidationError, model_validator

from securefd.config import Table, read_tables, read_text
from securefd.defenses import claims
from securefd.errors import ConfigError
from securefd.evaluation.report import Text, Word
from securefd.refusals import explain, refusal
from securefd.views import Observer

SCHEMA_VERSION = "1.0"
"""Of policies. It is part of the hash, so that a rule which comes to mean something else has another."""

Subject = Literal["this run", "the recipe"]
Number = Annotated[float, AfterValidator(float)]
Observers = Annotated[tuple[Observer, ...], Field(min_length=1, strict=False, description="who attacks")]
Promised = Annotated[
    tuple[claims.Observer, ...], Field(min_length=1, strict=False, description="to whom it is promised")
]
Subjects = Annotated[tuple[Subject, ...], Field(min_length=1, strict=False, description="what was attacked")]


class PrivacyRule(Table):
    """Private records: (epsilon, delta) that must be proven to each observer, in these terms and no other."""

    observers: Promised
    unit: claims.Unit = Field(description="what is protected")
    relation: claims.Relation = Field(description="which data sets are neighbours; there is no default")
    epsilon: Number = Field(ge=0, description="the largest that is allowed")
    delta: Number = Field(ge=0, lt=1, description="the largest that is allowed")


class ClaimRule(Table):
    """Something that must be promised to each observer, in one of these ways."""

    observers: Promised
    subject: claims.Subject = Field(description="private records, or the answers that single clients sent")
    kinds: Annotated[tuple[Literal["proven", "cryptographic"], ...], Field(min_length=1, strict=False)] = (
        Field(default=("proven", "cryptographic"), description="ways that count")
    )


class FederationRule(Table):
    """How a federation must be made."""

    sealing: Annotated[tuple[claims.SealingKind, ...], Field(min_length=1, strict=False)] | None = Field(
        default=None, description="kinds of sealing that are allowed"
    )
    clients: int | None = Field(default=None, ge=1, description="the least number of clients")
    threshold: int | None = Field(
        default=None, ge=2, description="the least number of clients that an opened sum may cover"
    )


class AttackRule(Table):
    """The most that any attack on membership may achieve, by the upper end of its confidence interval."""

    observers: Observers
    subjects: Subjects = ("the recipe",)
    fpr: Number = Field(gt=0, lt=1, description="false-positive rate: 0.1, 0.01 and 0.001 are measured")
    tpr: Number = Field(gt=0, lt=1, description="the largest true-positive rate that is allowed at it")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if not self.tpr > self.fpr:
            raise refusal(
                "attacks.tpr", f"must be above fpr = {self.fpr:g}", self.tpr, "guessing has as much"
            )
        return self


class AuditRule(Table):
    """Audits that must have been made, whole and with sound controls, of each observer and subject."""

    observers: Observers
    subjects: Subjects = ("the recipe",)
    power: Number | None = Field(
        default=None, gt=0, description="the least epsilon that a test must have been able to certify"
    )
    claims_tested: bool = Field(
        default=False, description="a test must have been able to contradict the claim, and didn't"
    )


class AccuracyRule(Table):
    """Accuracies on the test set, by the lower end of their confidence intervals."""

    student: Number | None = Field(default=None, gt=0, le=1, description="the least that is allowed")
    clients_together: Number | None = Field(default=None, gt=0, le=1, description="mean over clients")


class Policy(Table):
    """A policy. Only rules that are given are judged, but a violated claim fails any policy."""

    name: Word = Field(max_length=100, description="what reports call it")
    description: Text = Field(default="", description="what it is for, and whose it is")
    privacy: tuple[PrivacyRule, ...] = Field(default=(), strict=False)
    claims: tuple[ClaimRule, ...] = Field(default=(), strict=False)
    federation: FederationRule = FederationRule()
    attacks: tuple[AttackRule, ...] = Field(default=(), strict=False)
    audits: tuple[AuditRule, ...] = Field(default=(), strict=False)
    accuracy: AccuracyRule = AccuracyRule()
    dependencies: dict[str, str] = Field(
        default_factory=dict, description="the oldest version that is allowed, by name of a package"
    )

    @model_validator(mode="after")
    def _sound(self) -> Self:
        for name, version in self.dependencies.items():
            try:
                Version(version)
            except InvalidVersion:
                raise refusal(
                    f"dependencies.{name}", "must be a version", version, 'write it as torch = "2.6"'
                ) from None
        names = [canonicalize_name(name) for name in self.dependencies]
        if len(set(names)) < len(names):
            raise refusal("dependencies", "must name each package once", [*self.dependencies], "drop one")
        asked = self.model_dump(exclude={"name", "description"}, exclude_none=True)
        if not any(asked.values()):
            raise ConfigError(
                "a policy must have at least one rule, since one without any would pass everything; "
                "`securefd init DIR` writes a policy.toml to start from"
            )
        return self

    @property
    def sha256(self) -> str:
        """In hex, of the content: comments, the order of keys and spelled-out defaults don't change it.

        The order of rules does, since reports name them by it.
        """
        content = {"schema": SCHEMA_VERSION, "policy": self.model_dump(mode="json", exclude_none=True)}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()


TABLES: Mapping[tuple[str, ...], type[Table]] = {
    (): Policy,
    ("privacy",): PrivacyRule,
    ("claims",): ClaimRule,
    ("federation",): FederationRule,
    ("attacks",): AttackRule,
    ("audits",): AuditRule,
    ("accuracy",): AccuracyRule,
}


def load_policy(path: str | Path) -> Policy:
    """Read a policy from a TOML file. Raises ConfigError, one sentence, for whatever isn't one."""
    return parse_policy(read_text(path, absent="`securefd init DIR` writes a policy.toml"), str(path))


def parse_policy(text: str, source: str = "policy") -> Policy:
    """Read TOML text; ``source`` is what errors call it. Raises ConfigError."""
    tables = read_tables(text, source)
    try:
        return Policy.model_validate(tables)
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain(error, TABLES)}") from None
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
