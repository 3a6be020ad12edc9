"""The configuration of a federation: one frozen tree, validated before anything runs.

Two kinds of settings are kept apart: everything that can change a reported figure (all tables but
one), and ``[performance]``, which changes nothing but times. A `Config` is complete: a default that
depends on other keys is filled in when it is validated, so that two spellings of one federation are equal.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from securefd import privacy_rules, rules
from securefd.errors import ConfigError
from securefd.refusals import explain
from securefd.views import Observer

LARGEST_FILE = 1_000_000
"""Bytes of a configuration; anything larger is another file given by mistake."""


class Table(BaseModel):
    """A TOML table: frozen, strict, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class IidPartition(Table):
    """Every client draws from the same distribution."""

    kind: Literal["iid"] = "iid"


class DirichletPartition(Table):
    """For each class, clients' shares of its records are Dirichlet(alpha): smaller is more skewed."""

    kind: Literal["dirichlet"]
    alpha: float = Field(gt=0)


class ShardsPartition(Table):
    """Each client holds records of this many classes."""

    kind: Literal["shards"]
    classes: int = Field(ge=1)


class QuantityPartition(Table):
    """Clients' shares of all records are Dirichlet(alpha): sizes differ, labels don't."""

    kind: Literal["quantity"]
    alpha: float = Field(gt=0)


class OwnerPartition(Table):
    """Each value of the owner column is one client."""

    kind: Literal["owner"]


Partition = Annotated[
    IidPartition | DirichletPartition | ShardsPartition | QuantityPartition | OwnerPartition,
    Field(discriminator="kind"),
]


class DataConfig(Table):
    """Where records come from and how they are split."""

    source: str = Field(description=f"{', '.join(rules.SOURCES)}, or package.module:function")
    path: str = Field(default="", description="file or folder, for the file kinds")
    public: int | str = Field(
        default=500, description="public inputs: a count split off with labels dropped, or a path"
    )
    test: int | str = Field(
        default=300,
        description="test records: a count, or a path; empty, the default of idx: its own test files",
    )
    partition: Partition = Field(default=IidPartition(), description="how records are shared out to clients")
    label: str = Field(default="", description="column of labels, for csv and parquet")
    owner: str = Field(default="", description="column of owners, for csv and parquet with partition owner")
    group: str | None = Field(
        default=None,
        min_length=1,
        description="column of groups, for csv and parquet: no input, only what the student's accuracy is "
        "told by; the owners, if known, unless given",
    )
    bounds: dict[str, Annotated[tuple[float, float], Field(strict=False)]] = Field(
        default_factory=dict,
        description="[low, high] of numeric columns, for scaling; else from public data",
    )

    @model_validator(mode="after")
    def _own_test_files(self) -> DataConfig:
        if self.source == "idx" and "test" not in self.model_fields_set:
            _fill(self, test="")
        return self


class ClientGroup(Table):
    """``count`` clients with the same kind of model."""

    count: int = Field(default=1, ge=1, description="number of clients")
    model: str = Field(description=f"{', '.join(rules.MODELS)}, or package.module:factory")


class MethodConfig(Table):
    """The method of distillation and its options; an option that the method doesn't use is refused."""

    name: str = Field(description="a row of the table of methods")
    rounds: int = Field(default=5, ge=1, description="rounds of answering and digesting")
    queries: int = Field(default=500, ge=1, description="public inputs a round; at most the public set")
    selection: Literal["random", "representative"] = Field(
        default="random",
        description="which public inputs are asked about: random ones in each round, or in all of them the "
        "same, each of which stands for many that look like it",
    )
    local_steps: int = Field(default=100, ge=0, description="gradient steps on private records a round")
    digest_steps: int = Field(default=100, ge=0, description="gradient steps on the consensus a round")
    batch_size: int = Field(default=64, ge=1, description="records a gradient step")
    learning_rate: float = Field(default=1e-3, gt=0, description="of Adam")
    temperature: float | None = Field(default=None, ge=1e-3, description="of sharpening or distillation")
    power: float | None = Field(default=None, gt=0, description="exponent of dsfl-power")
    cache_rounds: int | None = Field(default=None, ge=0, description="rounds that a soft label stays cached")
    bits: int | None = Field(default=None, ge=1, le=8, description="of a quantised probability in cfd")
    logit_bound: float | None = Field(default=None, gt=0, description="centred logits are clipped to it")
    distance_weight: float | None = Field(default=None, gt=0, description="of the class means in fd")
    count_bound: int | None = Field(default=None, ge=1, description="public cap on records of a class")
    trim: float | None = Field(
        default=None, gt=0, lt=0.5, description="share of answers that trimmed drops at each end"
    )
    eta: float | None = Field(
        default=None, gt=0, le=100, description="of expguard: how fast a client that strays loses weight"
    )


class SealingConfig(Table):
    """Who can see single answers, and under which assumptions."""

    kind: Literal["plain", "masked", "homomorphic", "masked+homomorphic"] = Field(
        default="plain", description="plain: the server sees every client's answers; otherwise only their sum"
    )
    groups: int | None = Field(
        default=None,
        ge=3,
        description="seal a sum in each of so many groups, and combine their means robustly; else one sum",
    )
    threshold: int | None = Field(
        default=None,
        ge=2,
        description="clients without whom no sum opens, in each group; all of the smallest one, unless given",
    )
    colluders: int = Field(default=0, ge=0, description="clients that may work with the server")
    honest_minimum: int | None = Field(
        default=None,
        ge=2,
        description="honest clients that every opened sum covers; nine tenths of threshold - colluders, "
        "unless given",
    )
    degree: int | None = Field(
        default=None, ge=1, description="masked: holders that each client chooses; enough, unless given"
    )
    bits: int | None = Field(
        default=None, ge=1, le=20, description="of each value that is added up; as many as fit, unless given"
    )


class PrivacyConfig(Table):
    """The guarantee that is promised, and the route that earns it."""

    unit: Literal["record", "client"] = Field(description="what is protected")
    route: Literal[
        "none", "dpsgd", "head", "pate", "distributed", "local", "rr", "central", "votes", "nfdp"
    ] = Field(description="what earns it")
    relation: Literal["add-or-remove", "replace-one"] = Field(
        description="which data sets are neighbours; there is no default"
    )
    epsilon: float | None = Field(default=None, gt=0, description="the promise over all rounds")
    noise: float | None = Field(default=None, gt=0, description="noise multiplier, instead of epsilon")
    mechanism: Literal["discrete-gaussian", "skellam"] = Field(
        default="discrete-gaussian", description="noise on answers, for the routes that add some"
    )
    delta: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="below 1 / records of a client, or 1 / clients; required, but for nfdp, which has none",
    )
    sample: int | None = Field(
        default=None, ge=1, description="of nfdp: records that each client trains on, without any noise"
    )
    teachers: int | None = Field(
        default=None,
        ge=2,
        description="of pate: parts that each client cuts its records into; about one for 50 records, "
        "unless given",
    )
    labels: int | None = Field(
        default=None, ge=1, description="of pate: public inputs that teachers vote on; all, unless given"
    )
    threshold: int | None = Field(
        default=None,
        ge=1,
        description="of votes: clients that have to agree, but for noise; two in five, unless given",
    )
    threshold_noise: float | None = Field(
        default=None,
        gt=0,
        description="of votes: noise on how many agree, in deviations of that on a class's count; 1.5, "
        "unless given",
    )
    clip: float = Field(default=1.0, gt=0, description="L2 norm of one record's gradient")
    learning_rate: float = Field(default=1.0, gt=0, description="of DP-SGD's steps")
    ledger: str = Field(default="", description="folder where spending adds up across runs on the same data")
    budget: float | None = Field(
        default=None,
        gt=0,
        description="epsilon that the ledger may come to over all runs, repeats included; as one run costs, "
        "unless given",
    )
    witness: str = Field(
        default="",
        description="folder of a witness, kept across runs and away from the ledger, that notices a ledger "
        "which was cut or put back; the run's own server, unless given",
    )


class StudentConfig(Table):
    """The model that is distilled and released."""

    model: str = Field(default="mlp", description=f"{', '.join(rules.STUDENTS)}, or package.module:factory")
    steps: int = Field(default=500, ge=1, description="gradient steps of its distillation")
    self_training: int = Field(
        default=0,
        ge=0,
        description="rounds that the steps are cut into, in each of which all public inputs are labelled "
        "anew, by the answers to inputs that look alike and by the student itself; 0: it learns the answers "
        "as they are",
    )


class CanariesConfig(Table):
    """Records that are made to test this run: a coin puts each into its client's training data."""

    count: int = Field(ge=2, description="canaries of all clients together")
    kind: Literal["mislabelled", "noise", "user"] = Field(
        default="mislabelled",
        description="records of clients under a wrong label, otherwise left out; noise under random labels; "
        "or your own",
    )
    path: str = Field(default="", description="of kind user: an npz file with x and y, as records are")

    @model_validator(mode="after")
    def _own_file(self) -> CanariesConfig:
        rules.check_canaries(self)
        return self


class AuditConfig(Table):
    """Who is assumed to attack, and with how many shadow federations."""

    observers: tuple[Observer, ...] = Field(
        default=("server", "peer", "release", "label-only"),
        min_length=1,
        strict=False,
        description="who attacks",
    )
    shadows: int = Field(default=32, ge=4, description="federations that are re-run to calibrate attacks")
    candidates: int = Field(
        default=2000, ge=4, description="records, drawn at random, whose membership coins decide in these"
    )
    canaries: CanariesConfig | None = Field(
        default=None, description="records that are made to test one run; none, unless given"
    )


class PerformanceConfig(Table):
    """Changes nothing that is reported except times."""

    device: str = Field(default="cpu", description="cpu, cuda, cuda:N or mps")
    workers: int = Field(default=2, ge=1, description="processes or threads")


class Config(Table):
    """A federation, whole. Raises ConfigError for a combination of settings that can't be."""

    name: str = Field(min_length=1, max_length=100, description="what the report calls this federation")
    seed: int = Field(
        ge=0, lt=2**63, description="of splits, initial weights and order; never of noise or keys"
    )
    data: DataConfig
    clients: tuple[ClientGroup, ...] = Field(min_length=1, strict=False)
    method: MethodConfig
    sealing: SealingConfig = SealingConfig()
    privacy: PrivacyConfig | None = None
    student: StudentConfig = StudentConfig()
    audit: AuditConfig = AuditConfig()
    performance: PerformanceConfig = PerformanceConfig()

    @model_validator(mode="after")
    def _complete(self) -> Config:
        method, public = self.method, self.data.public
        if (
            "queries" not in method.model_fields_set
            and isinstance(public, int)
            and 0 < public < method.queries
        ):
            _fill(self, method=method.model_copy(update={"queries": public}))
        if self.sealing.kind != "plain" and self.sealing.threshold is None:
            everyone = max(2, rules.covered(self)[0])
            _fill(self, sealing=self.sealing.model_copy(update={"threshold": everyone}))
        if self.sealing.kind != "plain" and self.sealing.honest_minimum is None:
            usual = rules.usual_minimum(self.sealing)
            _fill(self, sealing=self.sealing.model_copy(update={"honest_minimum": usual}))
        if self.privacy is not None and self.privacy.route == "votes" and self.privacy.threshold is None:
            usual = privacy_rules.usual_agreement(self)
            _fill(self, privacy=self.privacy.model_copy(update={"threshold": usual}))
        rules.check(self)
        if self.privacy is not None:
            privacy_rules.check(self.privacy, self)
        _fill(self, method=self.method.model_copy(update=rules.method_options(self.method)))
        return self


TABLES: Mapping[tuple[str, ...], type[Table]] = {
    (): Config,
    ("data",): DataConfig,
    ("data", "partition", "iid"): IidPartition,
    ("data", "partition", "dirichlet"): DirichletPartition,
    ("data", "partition", "shards"): ShardsPartition,
    ("data", "partition", "quantity"): QuantityPartition,
    ("data", "partition", "owner"): OwnerPartition,
    ("clients",): ClientGroup,
    ("method",): MethodConfig,
    ("sealing",): SealingConfig,
    ("privacy",): PrivacyConfig,
    ("student",): StudentConfig,
    ("audit",): AuditConfig,
    ("audit", "canaries"): CanariesConfig,
    ("performance",): PerformanceConfig,
}


def load_config(path: str | Path) -> Config:
    """Read a TOML file. Raises ConfigError, one sentence, for whatever can't be run."""
    return parse_config(read_text(path), str(path))


def parse_config(text: str, source: str = "configuration") -> Config:
    """Read TOML text; ``source`` is what errors call it. Raises ConfigError."""
    tables = read_tables(text, source)
    try:
        return validated(tables)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def validated(tables: Mapping[str, Any]) -> Config:
    """The configuration that plain tables hold. Raises ConfigError."""
    try:
        return Config.model_validate(tables)
    except ValidationError as error:
        raise ConfigError(explain(error, TABLES)) from None


def read_text(path: str | Path, absent: str = "`securefd init DIR` writes a federation.toml") -> str:
    """What a TOML file holds; ``absent``: the remedy where there is none. Raises ConfigError."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path} doesn't exist; {absent}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{path} can't be read ({reason}); give a TOML file") from None
    if len(content) > LARGEST_FILE:
        raise ConfigError(f"{path} is larger than {LARGEST_FILE:,} bytes; give a TOML file") from None
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path} isn't UTF-8 text in line {line}; save it as UTF-8") from None


def read_tables(text: str, source: str) -> dict[str, Any]:
    """The tables of TOML text; ``source`` is what errors call it. Raises ConfigError."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{source} isn't a configuration: it is nested too deeply; flatten it") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source} isn't valid TOML: {error}; correct it there") from None
    except ValueError:  # Python reads no number of more than 4,300 digits
        raise ConfigError(f"{source} isn't a configuration: it has a number of thousands of digits") from None


def resolved(config: Config) -> dict[str, Any]:
    """Return the configuration as plain tables with every default filled in; what isn't used is left out."""
    return config.model_dump(mode="json", exclude_none=True)


def to_toml(config: Config) -> str:
    """Return TOML text from which `parse_config` makes an equal configuration."""
    tables = resolved(config)
    groups = tables.pop("clients")
    top = {key: tables.pop(key) for key in ("name", "seed")}
    clients = ["[[clients]]\n" + tomli_w.dumps(group) for group in groups]
    return "\n".join([tomli_w.dumps(top), *clients, tomli_w.dumps(tables)])


def config_hash(config: Config) -> str:
    """Return the SHA-256, in hex, of everything that can change a reported figure: not ``[performance]``."""
    tables = resolved(config)
    del tables["performance"]
    return hashlib.sha256(json.dumps(tables, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _fill(table: Table, **values: object) -> None:
    """Complete a table that is still being validated: afterwards it is frozen."""
    for name, value in values.items():
        object.__setattr__(table, name, value)
