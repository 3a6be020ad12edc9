"""What a privacy route needs of the rest of a configuration: refused with key, rule, value and remedy."""

from __future__ import annotations

import math
import os
from typing import TYPE_CHECKING

from securefd.refusals import either, missing, refusal
from securefd.routes import ROUTES, Route
from securefd.rules import HEAD, NETWORKS, TREES, n_clients

if TYPE_CHECKING:
    from securefd.config import Config, PrivacyConfig

USUAL_AGREEMENT = 0.4
"""Share of the clients. With the noise of `releases.CHECK_NOISE` it is best, or nearly so, in simulated
votes: 250 and 1,000 clients, 84% of them right on average, 100 to 1,000 queries, epsilon from 1 to 8."""


def check(privacy: PrivacyConfig, config: Config) -> None:
    """Raise ConfigError for the first combination that can't be."""
    _check_teachers(privacy, config.data.public)
    _check_agreement(privacy, n_clients(config))
    if privacy.route == "nfdp":
        _check_sampled(privacy, config)
        return
    if privacy.delta is None:
        raise missing("privacy.delta")
    if privacy.sample is not None:
        raise refusal(
            "privacy.sample",
            f"must be left out for privacy.route = {privacy.route!r}, where no record is left out for good",
            privacy.sample,
            "remove it, or choose privacy.route = 'nfdp', which promises nothing",
        )
    if privacy.route == "none":
        for name in ("epsilon", "noise", "ledger", "budget", "witness"):
            if getattr(privacy, name):
                raise refusal(
                    f"privacy.{name}",
                    "must be left out for privacy.route = 'none', which promises nothing",
                    getattr(privacy, name),
                    f"remove it, or choose privacy.route = {either(_promising())}",
                )
        return
    _check_route(ROUTES[privacy.route], privacy, config)
    if (privacy.epsilon is None) == (privacy.noise is None):
        both = "both" if privacy.epsilon is not None else "neither"
        raise refusal(
            "privacy.epsilon",
            "must be given unless privacy.noise is, never with it",
            both,
            "give one of the two",
        )
    _check_ledger(privacy)
    if privacy.route == "dpsgd":
        _check_trainable(config)
    elif privacy.route == "head":
        _check_all_heads(privacy, config)
    elif privacy.route == "pate":
        _check_taught(privacy, config)
    else:
        _check_answers(ROUTES[privacy.route], config)


def _check_sampled(privacy: PrivacyConfig, config: Config) -> None:
    """Whatever belongs to noise, or to a promise, has no place where there is neither."""
    _check_route(ROUTES[privacy.route], privacy, config)
    for name, field in type(privacy).model_fields.items():
        if name not in ("unit", "route", "relation", "sample") and getattr(privacy, name) != field.default:
            raise refusal(
                f"privacy.{name}",
                "must be left out for privacy.route = 'nfdp', which adds no noise and promises nothing",
                getattr(privacy, name),
                f"remove it, or choose privacy.route = {either(_promising(privacy.unit))}",
            )
    if privacy.sample is None:
        raise missing("privacy.sample")


def _promising(unit: str | None = None) -> list[str]:
    """Routes that promise something, to this unit if one is given, in quotes."""
    return [repr(row.name) for row in ROUTES.values() if row.noised is not None and unit in (None, row.unit)]


def _check_teachers(privacy: PrivacyConfig, public: int | str) -> None:
    for name in ("teachers", "labels"):
        if getattr(privacy, name) is not None and privacy.route != "pate":
            raise refusal(
                f"privacy.{name}",
                f"must be left out for privacy.route = {privacy.route!r}, where no teachers vote",
                getattr(privacy, name),
                "remove it, or choose privacy.route = 'pate'",
            )
    if isinstance(public, int) and privacy.labels is not None and privacy.labels > public:
        raise refusal(
            "privacy.labels",
            f"must be at most data.public = {public}, since teachers vote on public inputs",
            privacy.labels,
            f"give {public} or less, leave it out, or raise data.public",
        )


def usual_agreement(config: Config) -> int:
    """Return how many clients have to agree for an answer unless another number is asked for."""
    return math.ceil(USUAL_AGREEMENT * n_clients(config))


def _check_agreement(privacy: PrivacyConfig, clients: int) -> None:
    for name in ("threshold", "threshold_noise"):
        if getattr(privacy, name) is not None and privacy.route != "votes":
            raise refusal(
                f"privacy.{name}",
                f"must be left out for privacy.route = {privacy.route!r}, where no votes are seen by anyone",
                getattr(privacy, name),
                "remove it, or choose privacy.route = 'votes'",
            )
    if privacy.threshold is not None and privacy.threshold > clients:
        raise refusal(
            "privacy.threshold",
            f"must be at most the number of clients, which is {clients}, or only chance answers a query",
            privacy.threshold,
            f"give {clients} or less, or add clients",
        )


def _check_ledger(privacy: PrivacyConfig) -> None:
    if privacy.budget is not None and privacy.epsilon is not None and not privacy.budget >= privacy.epsilon:
        raise refusal(
            "privacy.budget",
            f"must be at least privacy.epsilon = {privacy.epsilon:g}, which one run spends of it",
            privacy.budget,
            "raise it, or lower privacy.epsilon",
        )
    if privacy.ledger and privacy.witness:
        witness, ledger = os.path.abspath(privacy.witness), os.path.abspath(privacy.ledger)
        if os.path.commonpath((witness, ledger)) in (witness, ledger):
            raise refusal(
                "privacy.witness",
                "must lie outside privacy.ledger, and not around it, or one backup puts both back",
                privacy.witness,
                "name a folder elsewhere, such as on another disk",
            )


def _check_route(route: Route, privacy: PrivacyConfig, config: Config) -> None:
    if privacy.unit != route.unit:
        raise refusal(
            "privacy.unit",
            f"must be {route.unit} for privacy.route = {route.name!r}, which is {route.what}",
            privacy.unit,
            f"choose {route.unit!r}, or a route for that unit",
        )
    if privacy.relation not in route.relations:
        raise refusal(
            "privacy.relation",
            f"must be {either(route.relations)} for privacy.route = {route.name!r}, where an answer that "
            "isn't given shows",
            privacy.relation,
            "choose that one",
        )
    if config.sealing.kind not in route.sealings:
        raise refusal(
            "sealing.kind",
            f"must be {either(route.sealings)} for privacy.route = {route.name!r}, which is {route.what}",
            config.sealing.kind,
            "choose that, or another route",
        )
    if privacy.mechanism != type(privacy).model_fields["mechanism"].default and (
        route.noised != "answers" or route.votes
    ):
        raise refusal(
            "privacy.mechanism",
            f"must be left out for privacy.route = {route.name!r}, "
            + ("which has its own noise" if route.trusted else "which adds no noise to answers"),
            privacy.mechanism,
            "remove it",
        )


def _check_answers(route: Route, config: Config) -> None:
    """Noise on answers covers methods that need one sum, of a layout that is known beforehand."""
    from securefd.methods import METHODS  # methods needs the models that this module checks

    row = METHODS[config.method.name]
    fitting = [
        name
        for name, other in METHODS.items()
        if other.combine is not None
        and other.public
        and not other.dual
        and (not route.votes or other.blocks(1, 2, other.options)[0].name == "votes")
    ]
    if row.name not in fitting:
        why = "answers with one class" if route.votes else "adds noise to one sum of answers on public inputs"
        raise refusal(
            "method.name",
            f"doesn't fit privacy.route = {route.name!r}, which {why}",
            row.name,
            f"choose {either(fitting)}",
        )


def _check_all_heads(privacy: PrivacyConfig, config: Config) -> None:
    """The route covers class sums, and nothing else that a client might learn."""
    for index, group in enumerate(config.clients):
        if group.model != HEAD:
            raise refusal(
                f"clients[{index}].model",
                "must be head for privacy.route = 'head', for every client",
                group.model,
                "choose 'head', or privacy.route = 'dpsgd'",
            )
    _check_no_steps(privacy, "takes no gradient steps")


def _check_taught(privacy: PrivacyConfig, config: Config) -> None:
    """The route covers models that learn from shares of votes, and answers that need nothing else."""
    from securefd.methods import METHODS  # methods needs the models that this module checks

    row, public = METHODS[config.method.name], config.data.public
    fitting = [name for name, each in METHODS.items() if each.public and not each.private_quantities]
    if row.name not in fitting:
        raise refusal(
            "method.name",
            "doesn't fit privacy.route = 'pate', whose clients learn from noisy votes alone",
            row.name,
            f"choose {either(fitting)}",
        )
    for index, group in enumerate(config.clients):
        if group.model in TREES:
            raise refusal(
                f"clients[{index}].model",
                "doesn't fit privacy.route = 'pate', whose clients learn from shares of votes and never from "
                "their records again",
                group.model,
                f"choose {either((*NETWORKS, HEAD))}",
            )
        if group.model != HEAD and config.method.local_steps < 1:
            raise refusal(
                "method.local_steps",
                "must be at least 1 for privacy.route = 'pate', whose teachers take them",
                config.method.local_steps,
                "give 1 or more, or choose clients' model = 'head'",
            )
    if public == 0:
        raise refusal(
            "data.public",
            "must be at least 1 for privacy.route = 'pate', whose teachers vote on public inputs",
            public,
            "give hundreds, or a path",
        )
    _check_no_steps(privacy, "clips no gradients")


def _check_no_steps(privacy: PrivacyConfig, why: str) -> None:
    """Settings of DP-SGD have no place elsewhere."""
    for name in ("clip", "learning_rate"):
        if getattr(privacy, name) != type(privacy).model_fields[name].default:
            raise refusal(
                f"privacy.{name}",
                f"must be left out for privacy.route = {privacy.route!r}, which {why}",
                getattr(privacy, name),
                "remove it",
            )


def _check_trainable(config: Config) -> None:
    """DP-SGD covers what is trained by gradient steps and answers from the model alone."""
    for index, group in enumerate(config.clients):
        if group.model in (*TREES, HEAD):
            raise refusal(
                f"clients[{index}].model",
                "doesn't fit privacy.route = 'dpsgd', which trains by gradient steps",
                group.model,
                f"choose {either(NETWORKS)}",
            )
    if config.method.local_steps < 1:
        raise refusal(
            "method.local_steps",
            "must be at least 1 for privacy.route = 'dpsgd', whose steps they are",
            config.method.local_steps,
            "give 1 or more, or remove [privacy]",
        )
    if config.method.name == "fd":
        raise refusal(
            "privacy.route",
            "doesn't fit method.name = 'fd', whose class means come from private records, not from the model "
            "alone",
            "dpsgd",
            "choose another method, such as 'dsfl', or remove [privacy]",
        )
