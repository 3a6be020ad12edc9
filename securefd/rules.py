"""Combinations that can't be: each is refused with the key, the rule, the value and a remedy.

What needs the records themselves (a delta against their number, owners against clients) is checked
where they are read.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from securefd.defenses.grouped import group_sizes
from securefd.defenses.robust import liars_tolerated
from securefd.refusals import either, refusal, unknown_name

if TYPE_CHECKING:
    from securefd.config import CanariesConfig, Config, DataConfig, MethodConfig, SealingConfig

TABLE_FILES = ("csv", "parquet")
FILES = ("idx", "npz", *TABLE_FILES, "images")
EMBEDDED = ("digits", "breast-cancer")
SOURCES = (*EMBEDDED, *FILES)
TABULAR = ("breast-cancer", *TABLE_FILES)
TREES = ("forest", "boosting")
HEAD = "head"
ENCODER = "encoder"
IMAGE_MODELS = ("cnn", "resnet", ENCODER)
NETWORKS = ("logistic", "mlp", "cnn", "resnet")
MODELS = (*NETWORKS, *TREES, HEAD)
STUDENTS = (*NETWORKS, ENCODER)


_OWN = ', or "package.module:function"'
_OWN_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def n_clients(config: Config) -> int:
    """How many clients the federation has, over all groups."""
    return sum(group.count for group in config.clients)


def covered(config: Config) -> tuple[int, int]:
    """How many clients one sum covers, at least and at most: all, or those of one group."""
    clients = n_clients(config)
    return group_sizes(clients, min(config.sealing.groups or 1, clients))


def one_group(config: Config, size: int) -> Config:
    """The federation as the ``size`` clients of one group see it when they seal their answers together."""
    together = config.clients[0].model_copy(update={"count": size})
    alone = config.sealing.model_copy(update={"groups": None})
    return config.model_copy(update={"clients": (together,), "sealing": alone})


def tolerated(config: Config) -> int | None:
    """How many lying clients the method tolerates (`liars_tolerated`); None where it takes a mean."""
    from securefd.methods import METHODS  # methods needs the models that this module checks

    row = METHODS[config.method.name]
    if not row.individual:
        return None
    answers = config.sealing.groups or n_clients(config)
    return liars_tolerated(row.name, answers, trim=row.resolve(config.method).trim)


def check(config: Config) -> None:
    """Raise ConfigError for the first combination that can't be."""
    _check_data(config.data)
    _check_models(config)
    _check_method(config)
    _check_heads(config)
    _check_features(config)
    _check_robust(config)
    _check_sealing(config.sealing, n_clients(config), config.method)
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", config.performance.device):
        raise refusal(
            "performance.device",
            "must be cpu, cuda, cuda:N or mps",
            config.performance.device,
            'write "cpu" if in doubt',
        )
    seen = config.audit.observers
    if len(set(seen)) < len(seen):
        raise refusal("audit.observers", "must name each observer once", seen, "remove the repetition")
    _check_asked(config)


def check_canaries(canaries: CanariesConfig) -> None:
    """Raise ConfigError for a path without its kind, or the kind without it."""
    if canaries.kind == "user" and not canaries.path:
        raise refusal(
            "audit.canaries.path",
            "must be given for audit.canaries.kind = 'user'",
            canaries.path,
            "give an npz file with x and y",
        )
    if canaries.kind != "user" and canaries.path:
        raise refusal(
            "audit.canaries.path",
            f"must be left out for audit.canaries.kind = {canaries.kind!r}, which makes its own records",
            canaries.path,
            "remove it, or choose audit.canaries.kind = 'user'",
        )


def _check_asked(config: Config) -> None:
    """Where nobody asks about an input, nobody can tell whether a canary was in."""
    from securefd.methods import METHODS  # methods needs the models that this module checks

    if config.audit.canaries is not None and not METHODS[config.method.name].public:
        raise refusal(
            "audit.canaries",
            f"must be left out for method.name = {config.method.name!r}, which asks about no public input "
            "and has no student, so that nothing shows an observer whether a canary was in",
            config.audit.canaries.count,
            "remove it, or choose another method, such as 'dsfl'",
        )


def method_options(method: MethodConfig) -> dict[str, Any]:
    """Return the options that the method uses, its own defaults filled in."""
    from securefd.methods import METHODS  # methods needs the models that this module checks

    row = METHODS[method.name]
    options = row.resolve(method)
    return {name: getattr(options, name) for name in row.uses}


def _check_data(data: DataConfig) -> None:
    own = _OWN_NAME.fullmatch(data.source) is not None
    if data.source not in SOURCES and not own:
        raise unknown_name("data.source", data.source, SOURCES, also=_OWN)
    if data.source in FILES and not data.path:
        raise refusal(
            "data.path",
            f"must be given for data.source = {data.source!r}",
            data.path,
            "give the file or folder",
        )
    if data.source in EMBEDDED and data.path:
        raise refusal(
            "data.path",
            f"must be left out for data.source = {data.source!r}, which comes with scikit-learn",
            data.path,
            f"remove it, or choose a source with files ({', '.join(FILES)})",
        )
    if data.source in TABLE_FILES and not data.label:
        raise refusal(
            "data.label",
            f"must name the column of labels for data.source = {data.source!r}",
            data.label,
            "give its name",
        )
    if data.group is not None and data.source not in TABLE_FILES:
        raise refusal(
            "data.group",
            f"doesn't fit data.source = {data.source!r}, which has no columns",
            data.group,
            f"remove it, or choose data.source = {' or '.join(TABLE_FILES)}",
        )
    _check_owner(data)
    _check_parts(data)
    for column, (low, high) in data.bounds.items():
        if not low < high:
            raise refusal(
                f"data.bounds.{column}",
                "must be [low, high] with low < high",
                (low, high),
                "swap or correct them",
            )


def _check_owner(data: DataConfig) -> None:
    if data.partition.kind != "owner" or _OWN_NAME.fullmatch(data.source):
        return  # a function can return owners with its records
    if data.source not in TABLE_FILES:
        raise refusal(
            "data.partition.kind",
            f"doesn't fit data.source = {data.source!r}, which has no column of owners",
            "owner",
            f"choose another partition, or data.source = {' or '.join(TABLE_FILES)}",
        )
    if not data.owner:
        raise refusal(
            "data.owner",
            "must name the column that says whose a record is for data.partition.kind = 'owner'",
            data.owner,
            "give its name, or choose another partition",
        )


def _check_parts(data: DataConfig) -> None:
    for key, value, least in (("data.public", data.public, 0), ("data.test", data.test, 1)):
        if isinstance(value, int) and value < least:
            raise refusal(
                key, f"must be at least {least} as a count", value, f"give {least} or more, or a path"
            )
    if data.public == "":
        raise refusal(
            "data.public", "must be a count or a path", data.public, "write 500, or a path in quotes"
        )
    if data.test == "" and data.source != "idx":
        raise refusal(
            "data.test",
            f"must be a count or a path for data.source = {data.source!r}",
            data.test,
            "write 300, or a path in quotes",
        )


def _check_models(config: Config) -> None:
    if config.student.model in TREES:
        raise refusal(
            "student.model",
            "must be a network, because the student is released as weights, never as a pickle",
            config.student.model,
            f"choose {either(STUDENTS)}",
        )
    named = [(f"clients[{index}].model", group.model, MODELS) for index, group in enumerate(config.clients)]
    for key, model, known in [*named, ("student.model", config.student.model, STUDENTS)]:
        if model not in known and not _OWN_NAME.fullmatch(model):
            raise unknown_name(key, model, known, also=_OWN)
        if model in IMAGE_MODELS and config.data.source in TABULAR:
            raise refusal(
                key,
                f"doesn't fit data.source = {config.data.source!r}, whose records are rows of a table",
                model,
                f"choose {either([name for name in known if name not in IMAGE_MODELS])}",
            )
    if n_clients(config) < 2:
        raise refusal(
            "clients",
            "must be at least 2 in all",
            n_clients(config),
            "raise count, or add a [[clients]] table",
        )


def _check_method(config: Config) -> None:
    from securefd.methods import METHODS  # methods needs the models that this module checks

    method, data = config.method, config.data
    if method.name not in METHODS:
        raise unknown_name("method.name", method.name, METHODS)
    row = METHODS[method.name]
    row.resolve(method)
    if row.public and isinstance(data.public, int):
        if data.public < 1:
            raise refusal(
                "data.public",
                f"must be at least 1 for method.name = {method.name!r}, which asks about public inputs",
                data.public,
                "give a count or a path, or choose method.name = 'fd', which needs none",
            )
        if method.queries > data.public:
            raise refusal(
                "method.queries",
                f"must be at most data.public, which is {data.public}",
                method.queries,
                f"give {data.public} or less, or raise data.public",
            )


def _check_robust(config: Config) -> None:
    """A robust method that tolerates nobody would be a mean by another name."""
    if tolerated(config) != 0:
        return
    method, answers = config.method, config.sealing.groups or n_clients(config)
    if answers >= 3:
        raise refusal(
            "method.trim",
            f"must be at least 1 / {answers}, so that one of {answers} answers is dropped at each end",
            method_options(method)["trim"],
            f"give {math.ceil(100 / answers) / 100} or more, or have more answers combined",
        )
    raise refusal(
        "clients",
        f"must be at least 3 in all for method.name = {method.name!r}, which tolerates no lie of 2",
        answers,
        "raise count, or choose a method that takes a mean, such as 'dsfl'",
    )


def _check_groups(sealing: SealingConfig, clients: int, method: str) -> None:
    from securefd.methods import METHODS  # methods needs the models that this module checks

    robust = [name for name, row in METHODS.items() if row.individual]
    if sealing.groups is not None and method not in robust:
        raise refusal(
            "sealing.groups",
            f"must be left out for method.name = {method!r}, which needs one sum only: sums of groups would "
            "show the server more, and withstand no liar",
            sealing.groups,
            f"remove it, or choose {either(robust)}",
        )
    if sealing.groups is not None and sealing.groups > clients // 3:
        raise refusal(
            "sealing.groups",
            f"must be at most a third of the clients, of whom there are {clients}, so that each group has 3",
            sealing.groups,
            "give less, or add clients; there must be 9 at least",
        )


def _check_sealing(sealing: SealingConfig, clients: int, method: MethodConfig) -> None:
    from securefd.methods import METHODS  # methods needs the models that this module checks

    row = METHODS[method.name]
    if sealing.bits is not None and row.grid_bits(row.resolve(method)) is not None:
        raise refusal(
            "sealing.bits",
            f"must be left out for method.name = {method.name!r}, which quantises its answers by itself",
            sealing.bits,
            "remove it; cfd has method.bits",
        )
    if sealing.kind == "plain":
        for name in ("groups", "threshold", "colluders", "honest_minimum", "degree"):
            if getattr(sealing, name) != type(sealing).model_fields[name].default:
                raise refusal(
                    f"sealing.{name}",
                    "must be left out for sealing.kind = 'plain', where the server sees every answer",
                    getattr(sealing, name),
                    "remove it, or choose sealing.kind = 'masked'",
                )
        return
    _check_sealable(sealing, method.name)
    _check_groups(sealing, clients, method.name)
    # Whoever draws the groups can put all colluders into any of them, so every size must stand them all.
    for size in sorted(set(group_sizes(clients, sealing.groups or 1))):
        _check_one_sum(sealing, size, "clients" if sealing.groups is None else "clients of a group")


def _check_one_sum(sealing: SealingConfig, clients: int, what: str) -> None:
    _check_threshold(sealing, clients, what)
    if sealing.kind == "homomorphic":
        if sealing.degree is not None:
            raise refusal(
                "sealing.degree",
                "must be left out for sealing.kind = 'homomorphic', where clients exchange nothing",
                sealing.degree,
                "remove it, or choose sealing.kind = 'masked'",
            )
        return
    _check_masked(sealing, clients, what)


def _check_sealable(sealing: SealingConfig, method: str) -> None:
    from securefd.methods import METHODS  # methods needs the models that this module checks

    if method == "cfd":
        why = "which answers changed would show in the length of a sealed message"
    elif METHODS[method].individual and sealing.groups is None:
        why = "it needs every client's own answers"
    else:
        return
    groups = ", give sealing.groups" if METHODS[method].individual else ""
    raise refusal(
        "sealing.kind",
        f"must be plain for method.name = {method!r}, because {why}",
        sealing.kind,
        f"choose 'plain'{groups}, or a method that can be sealed, such as 'dsfl'",
    )


def usual_minimum(sealing: SealingConfig) -> int:
    """Return how many honest clients every opened sum covers unless another number is asked for."""
    from securefd.defenses import neighbourhood  # slow to load, and of no use where nothing is sealed

    assert sealing.threshold is not None
    return neighbourhood.usual_minimum(sealing.threshold, sealing.colluders)


def _check_threshold(sealing: SealingConfig, clients: int, what: str) -> None:
    assert sealing.threshold is not None  # filled in before the rules are checked
    assert sealing.honest_minimum is not None
    if sealing.threshold > clients:
        raise refusal(
            "sealing.threshold",
            f"must be at most the number of {what}, which is {clients}",
            sealing.threshold,
            f"give {clients} or less, or add clients",
        )
    if sealing.threshold - sealing.colluders < sealing.honest_minimum:
        raise refusal(
            "sealing.honest_minimum",
            f"must be at most threshold - colluders = {sealing.threshold} - {sealing.colluders}, so that "
            "every opened sum covers that many honest clients",
            sealing.honest_minimum,
            "lower sealing.colluders, or raise sealing.threshold",
        )


def _check_masked(sealing: SealingConfig, clients: int, what: str) -> None:
    threshold, colluders = sealing.threshold, sealing.colluders
    assert threshold is not None
    if clients < 3:
        raise refusal(
            "sealing.kind",
            f"doesn't fit {clients} clients: each would learn the other's answers from the sum",
            sealing.kind,
            "add clients until there are 3, or choose 'plain'",
        )
    if sealing.degree is not None and sealing.degree > clients - 1:
        raise refusal(
            "sealing.degree",
            f"must be at most the number of other {what}, which is {clients - 1}",
            sealing.degree,
            "give less, or leave it out",
        )
    if not colluders < 2 * threshold - clients:
        raise refusal(
            "sealing.colluders",
            f"must be less than 2 * threshold - clients = {2 * threshold - clients}, so that no two "
            "groups of survivors can both be confirmed",
            colluders,
            f"give less, or raise sealing.threshold (now {threshold} of {clients} {what})",
        )


def _check_heads(config: Config) -> None:
    """A head stands on features of the public set, and is a sum over records."""
    from securefd.methods import METHODS  # methods needs the models that this module checks

    heads = [index for index, group in enumerate(config.clients) if group.model == HEAD]
    if not heads:
        return
    row, public = METHODS[config.method.name], config.data.public
    fitting = [name for name, each in METHODS.items() if each.public and not each.private_quantities]
    if row.name not in fitting:
        raise refusal(
            f"clients[{heads[0]}].model",
            f"doesn't fit method.name = {row.name!r}, which uses {' and '.join(row.private_quantities)} "
            "besides models",
            HEAD,
            f"choose another model, or method.name = {either(fitting)}",
        )
    if isinstance(public, int) and public < 2:
        raise refusal(
            "data.public",
            "must be at least 2 for clients' model = 'head', whose features are learnt from public inputs",
            public,
            "give hundreds, or a path",
        )


def _check_features(config: Config) -> None:
    """What the student and the choice of queries take from the public set must be there to be taken."""
    from securefd.methods import METHODS  # methods needs the models that this module checks

    row, student, selection = METHODS[config.method.name], config.student, config.method.selection
    if student.self_training and (not row.public or row.dual):
        fitting = [name for name, each in METHODS.items() if each.public and not each.dual]
        why = "whose student answers in every round" if row.dual else "which has no student"
        raise refusal(
            "student.self_training",
            f"must be 0 for method.name = {row.name!r}, {why}",
            student.self_training,
            f"remove it, or choose method.name = {either(fitting)}",
        )
    if student.self_training > student.steps:
        raise refusal(
            "student.self_training",
            f"must be at most student.steps = {student.steps}, which are cut into so many rounds",
            student.self_training,
            "give less, such as 4, or raise student.steps",
        )
    if not row.public and selection != "random":
        raise refusal(
            "method.selection",
            f"must be left out for method.name = {row.name!r}, which asks about no public inputs",
            selection,
            "remove it",
        )
