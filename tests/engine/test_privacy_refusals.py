"""What no guarantee can be had of is refused before anything is trained, with what to do instead.

Through the public face, from a file: each line of bad input at least once on each kind of route that it can
befall. What a single key may hold is in `test_config_refusals`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import securefd
from securefd.defenses import dpsgd, ring
from securefd.errors import BudgetExceeded, ConfigError, ModelError, PrivacyError, SealingError, SecurefdError
from securefd.federation import Federations
from securefd.heads import Basis
from securefd.private import DpSgdPlan, HeadPlan
from securefd.releases import ReleasePlan
from tests.engine import samples

TEXT = """
name = "refused"
seed = 3
data = { source = "digits", public = 60, test = 60 }
clients = [{ count = COUNT, model = "MODEL" }]
method = { name = "dsfl", rounds = 2, local_steps = 4, digest_steps = 2, queries = 40 }
student = { model = "logistic", steps = 5 }
[sealing]
SEALING
[privacy]
PRIVACY
"""
RECORD = 'unit = "record"\nrelation = "replace-one"\n'
CLIENT = 'unit = "client"\nrelation = "replace-one"\n'
DPSGD = f'{RECORD}route = "dpsgd"\nepsilon = 4.0\ndelta = 1e-5'
HEAD = f'{RECORD}route = "head"\nepsilon = 4.0\ndelta = 1e-5'
LOCAL = f'{CLIENT}route = "local"\nepsilon = 20.0\ndelta = 1e-3'
CENTRAL = f'{CLIENT}route = "central"\nepsilon = 4.0\ndelta = 1e-3'
DISTRIBUTED = f'{CLIENT}route = "distributed"\nepsilon = 4.0\ndelta = 1e-3'
NFDP = f'{RECORD}route = "nfdp"\nsample = 20'
ROUTES = [DPSGD, HEAD, LOCAL, CENTRAL, DISTRIBUTED]
NAMES = ["dpsgd", "head", "local", "central", "distributed"]
EACH_ROUTE = pytest.mark.parametrize("privacy", ROUTES, ids=NAMES)


def written(privacy: str, *, sealing: str | None = None, count: int = 6, model: str | None = None) -> str:
    kind = "masked" if '"distributed"' in privacy else "plain"
    own = "head" if '"head"' in privacy else "logistic"
    return (
        TEXT.replace("COUNT", str(count))
        .replace("MODEL", own if model is None else model)
        .replace("SEALING", f'kind = "{kind}"' if sealing is None else sealing)
        .replace("PRIVACY", privacy)
    )


def changed(privacy: str, key: str, value: str | None) -> str:
    """With ``key`` set to another value, or without it."""
    kept = [line for line in privacy.splitlines() if not line.startswith(f"{key} =")]
    return "\n".join(kept if value is None else [*kept, f"{key} = {value}"])


@pytest.fixture
def untrained(monkeypatch) -> pytest.MonkeyPatch:
    """Whoever trains anything, learns features or draws noise, fails."""

    def fail(*_: object, **__: object) -> None:
        pytest.fail("something was trained or noised")

    for owner, name in (
        (Federations, "fit"),
        (Basis, "learn"),
        (DpSgdPlan, "train"),
        (HeadPlan, "train"),
        (ReleasePlan, "release"),
        (ReleasePlan, "noised_sum"),
        (dpsgd, "train"),
    ):
        monkeypatch.setattr(owner, name, fail)
    return monkeypatch


@pytest.fixture
def refused(tmp_path: Path, untrained) -> Callable[..., None]:
    """Check that a file is refused by everyone who gets it, in one sentence with a remedy."""

    def check(text: str, error: type[SecurefdError], sentence: str, remedy: str) -> None:
        path, told = tmp_path / "federation.toml", set()
        path.write_text(text)
        for act in (securefd.plan, lambda config: securefd.run(config, tmp_path / "run")):
            with pytest.raises(error) as caught:
                act(securefd.load_config(path))
            told.add(str(caught.value))
        assert not (tmp_path / "run").exists()
        (said,) = told
        found = re.search(sentence, said)
        assert found is not None, said
        assert "\n" not in said
        assert remedy in said[found.end() :], said

    return check


# --- epsilon, noise ------------------------------------------------------------------------------


@EACH_ROUTE
@pytest.mark.parametrize("value", ["0.0", "-1.0"])
@pytest.mark.parametrize("key", ["epsilon", "noise"])
def test_no_epsilon_and_no_noise(refused, privacy: str, key: str, value: str) -> None:
    text = written(changed(changed(privacy, "epsilon", None), key, value))
    refused(
        text, ConfigError, rf"privacy\.{key} must be greater than 0\.0, got {value}", "give a larger number"
    )


@EACH_ROUTE
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("key", ["epsilon", "noise", "delta", "budget", "clip", "learning_rate"])
def test_not_a_number(refused, privacy: str, key: str, value: str) -> None:
    text = written(changed(changed(privacy, "epsilon", None) if key == "noise" else privacy, key, value))
    rule = "greater than 0" if value == "-inf" else "less than 1" if key == "delta" and value == "inf" else ""
    sentence = rf"privacy\.{key} must be (a finite number|{rule or 'a finite number'}), got"
    refused(text, ConfigError, sentence, "give a")


# --- delta, relation -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [6, 49])
@pytest.mark.parametrize("privacy", ROUTES[2:], ids=NAMES[2:])
@pytest.mark.parametrize("times", [1.0, 1.5])
def test_a_delta_that_lets_a_client_be_published(refused, privacy: str, count: int, times: float) -> None:
    """1 / 49 * 49 is less than 1 in floating point, and 1 / 49 is 1 / n all the same."""
    text = written(changed(privacy, "delta", repr(times / count)), count=count)
    refused(text, PrivacyError, rf"delta must be below 1/{count} for {count} units", "lower it")


@pytest.mark.parametrize("privacy", ROUTES[:2], ids=NAMES[:2])
def test_a_delta_that_lets_a_record_be_published(refused, privacy: str) -> None:
    """Below 1 / n for every client: 1,797 - 60 - 60 records make 280 for five of six, and 279 here."""
    text = written(changed(privacy, "delta", repr(1 / 279)))
    refused(text, PrivacyError, r"delta must be below 1/2(80|79) for 2\d\d units", "lower it")


@EACH_ROUTE
@pytest.mark.parametrize("value", ["0.0", "-1e-5"])
def test_no_delta_at_all(refused, privacy: str, value: str) -> None:
    text = written(changed(privacy, "delta", value))
    refused(text, ConfigError, r"privacy\.delta must be greater than 0\.0", "give a larger number")


@pytest.mark.parametrize("privacy", [*ROUTES, NFDP], ids=[*NAMES, "nfdp"])
def test_a_missing_relation(refused, privacy: str) -> None:
    sentence = r"privacy\.relation is required, but missing"
    text = written(changed(privacy, "relation", None))
    refused(text, ConfigError, sentence, 'add relation = "add-or-remove" or "replace-one" under [privacy]')


@EACH_ROUTE
def test_a_missing_delta(refused, privacy: str) -> None:
    sentence = r"privacy\.delta is required, but missing"
    refused(written(changed(privacy, "delta", None)), ConfigError, sentence, "add delta = 1e-5")


def test_a_delta_for_what_promises_nothing(refused) -> None:
    sentence = (
        r"privacy\.delta must be left out for privacy\.route = 'nfdp', which .* promises nothing, got 1e-05"
    )
    refused(
        written(changed(NFDP, "delta", "1e-5")), ConfigError, sentence, "remove it, or choose privacy.route"
    )


# --- a budget that is spent ----------------------------------------------------------------------


@pytest.mark.parametrize("privacy", ROUTES, ids=NAMES)
def test_a_budget_that_is_spent(tmp_path: Path, monkeypatch, privacy: str) -> None:
    """By an earlier run on the same data: the second one trains nothing, not even without noise."""
    path = tmp_path / "federation.toml"
    path.write_text(written(changed(privacy, "ledger", f'"{tmp_path / "ledgers"}"')))
    securefd.run(securefd.load_config(path), tmp_path / "one")
    before = [each.read_bytes() for each in sorted((tmp_path / "ledgers").iterdir())]
    request: Any = pytest.fail
    for owner, name in ((Federations, "fit"), (Basis, "learn"), (DpSgdPlan, "train"), (HeadPlan, "train")):
        monkeypatch.setattr(owner, name, lambda *_, **__: request("trained"))
    monkeypatch.setattr(ReleasePlan, "release", lambda *_: request("noised"))
    with pytest.raises(BudgetExceeded, match=r"would bring ledger .* above its budget of") as caught:
        securefd.run(securefd.load_config(path), tmp_path / "two")
    assert "use fewer steps or more noise, or grant as much as it was made for" in str(caught.value)
    assert [each.read_bytes() for each in sorted((tmp_path / "ledgers").iterdir())] == before


def test_a_budget_that_one_run_exceeds(refused, tmp_path: Path) -> None:
    privacy = changed(changed(DPSGD, "budget", "3.9"), "ledger", f'"{tmp_path / "ledgers"}"')
    sentence = r"privacy\.budget must be at least privacy\.epsilon = 4"
    refused(written(privacy), ConfigError, sentence, "raise it, or lower privacy.epsilon")


# --- sealing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sealing", "sentence", "remedy"),
    [
        (
            "colluders = 5",
            r"honest_minimum must be at most threshold - colluders = 6 - 5",
            "lower sealing.colluders",
        ),
        (
            "colluders = 6",
            r"honest_minimum must be at most threshold - colluders = 6 - 6",
            "lower sealing.colluders",
        ),
        ("honest_minimum = 1", r"honest_minimum must be at least 2, got 1", "give 2 or more"),
        ("threshold = 1", r"threshold must be at least 2, got 1", "give 2 or more"),
        (
            "threshold = 3\ncolluders = 1",
            r"colluders must be less than 2 \* threshold",
            "raise sealing.threshold",
        ),
    ],
)
def test_a_threshold_that_leaves_no_honest_client(refused, sealing: str, sentence: str, remedy: str) -> None:
    text = written(DISTRIBUTED, sealing=f'kind = "masked"\n{sealing}')
    refused(text, ConfigError, rf"sealing\.{sentence}", remedy)


def test_a_ring_too_narrow_for_sum_and_noise(refused, monkeypatch) -> None:
    """The samplers refuse the noise before the widest ring would: this one has 16 bits."""
    monkeypatch.setattr(ring, "BITS", (8, 16))
    text = written(changed(DISTRIBUTED, "epsilon", "0.1"))
    refused(
        text, SealingError, r"^6 clients of 8 bits with noise of deviation \d+", "lower the bits or the noise"
    )
    text = written(changed(changed(DISTRIBUTED, "epsilon", None), "noise", "1e10"))
    refused(
        text, PrivacyError, r"^variance of a share of .* noise must be", "use fewer bits for each value, or"
    )


# --- models --------------------------------------------------------------------------------------


def test_dpsgd_of_a_model_that_mixes_records(refused) -> None:
    text = written(DPSGD, model=samples.NET)
    refused(
        text, ModelError, r"has batch normalisation at '1', which mixes records", "use group normalisation"
    )
