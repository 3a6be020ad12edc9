"""Claims: who is promised what, and never a number without its meaning."""

import itertools
import math
import re

import pytest

from securefd.defenses.claims import (
    DISTRIBUTED,
    DPSGD,
    Claim,
    Guarantee,
    Observer,
    Promise,
    claim_about_records,
    claims,
)
from securefd.errors import PrivacyError

EIGHT = Guarantee(epsilon=8.0, delta=1e-5, unit="record", relation="add-or-remove")
EVERYONE: tuple[Observer, ...] = ("server", "peer", "release", "keyholder", "coalition")
PROMISE = Promise(guarantees=dict.fromkeys(EVERYONE, EIGHT), basis=DPSGD)
SEALINGS = ("plain", "masked", "homomorphic", "masked+homomorphic")


def every_run():
    """Yield the arguments of every kind of run."""
    for sealing, colluders, promise, histogram, seeded in itertools.product(
        SEALINGS, (0, 2, 4), (None, PROMISE), (False, True), (False, True)
    ):
        yield {
            "sealing": sealing,
            "n_clients": 5,
            "colluders": colluders,
            "promise": promise,
            "histogram": histogram,
            "seeded": seeded,
        }


@pytest.mark.parametrize("run", list(every_run()))
def test_each_observer_has_one_claim_about_records_and_no_bare_epsilon_is_printed(run):
    found = claims(**run)
    observers = {"server", "peer", "release"}
    observers |= {"keyholder"} if "homomorphic" in run["sealing"] else set()
    observers |= {"coalition"} if run["colluders"] else set()
    assert sorted(c.observer for c in found if c.subject == "records") == sorted(observers)
    proven = run["promise"] is not None and not run["seeded"]
    for claim in found:
        text = str(claim)
        assert text.startswith(claim.observer)
        assert claim.reason.endswith(".")
        if claim.subject == "records":
            assert claim.kind == ("proven" if proven else "none")
        if claim.guarantee is not None:
            assert "(epsilon = 8, delta = 1e-05) for one record, add-or-remove" in text
        else:
            assert not re.search(r"epsilon\s*=", text)


@pytest.mark.parametrize("sealing", SEALINGS)
def test_secrecy_is_not_called_privacy(sealing):
    for claim in claims(sealing=sealing, n_clients=5):
        if claim.subject == "records":
            assert claim.kind == "none"
            assert "secrecy is not privacy" in claim.reason


def test_plain_answers_are_promised_to_nobody():
    (answers,) = (c for c in claims(sealing="plain", n_clients=5) if c.subject == "answers")
    assert (answers.observer, answers.kind) == ("server", "none")
    assert "every client's answers" in answers.reason


def test_plain_class_counts_are_named_and_called_noised_only_when_they_are():
    def reason(**more):
        return claims(sealing="plain", n_clients=5, histogram=True, **more)[-1].reason

    assert "class counts" in reason()
    assert "noised" not in reason()
    assert "noised class counts" in reason(promise=PROMISE)
    assert "noised" not in reason(promise=PROMISE, seeded=True)


@pytest.mark.parametrize("sealing", SEALINGS[1:])
def test_sealed_answers_hang_on_an_assumption_until_all_but_one_collude(sealing):
    def about_answers(colluders):
        found = claims(sealing=sealing, n_clients=5, colluders=colluders)
        return {c.observer: c for c in found if c.subject == "answers"}

    assert about_answers(0)["server"].kind == "cryptographic"
    assert about_answers(3)["coalition"].kind == "cryptographic"
    assert about_answers(4)["coalition"].kind == "none"
    assert claims(sealing=sealing, n_clients=1)[-1].kind == "none"


@pytest.mark.parametrize("threshold", [None, 5, 3])
def test_an_encrypted_sum_is_promised_by_a_server_that_follows_the_protocol(threshold):
    """Whoever sees sums of changing clients can subtract them: the key holder as well."""
    found = claims(sealing="homomorphic", n_clients=5, threshold=threshold)
    server, holder = (
        next(c for c in found if (c.observer, c.subject) == (observer, "answers"))
        for observer in ("server", "keyholder")
    )
    assert "the server follows the protocol" in str(server)
    assert "whether it follows" not in server.reason
    which = "over at least 3 of 5 clients" if threshold == 3 else "over all 5 clients"
    assert which in server.reason
    for claim in (server, holder):
        assert ("differ by one client" in claim.reason) == (threshold == 3)


def test_a_sparse_graph_promises_the_honest_minimum_and_not_the_threshold():
    def about_answers(honest):
        found = claims(sealing="masked", n_clients=100, threshold=80, colluders=5, honest=honest)
        return {c.observer: c.reason for c in found if c.subject == "answers"}

    complete, sparse = about_answers(None), about_answers(10)
    assert "at least 75 clients" in complete["coalition"]
    assert "at least 10 clients" in sparse["coalition"]
    assert "at least 10 that don't work with it" in sparse["server"]
    assert "don't work with it" not in complete["server"]


def test_the_noise_of_opacus_is_described_as_it_is():
    reason = claim_about_records(claims(sealing="masked", n_clients=5, promise=PROMISE), "release").reason
    for caveat in ("floating-point", "not cryptographic", "record counts", "hyper-parameters"):
        assert caveat in reason


def test_seeded_noise_earns_nothing():
    claim = claim_about_records(claims(sealing="plain", n_clients=2, promise=PROMISE, seeded=True), "server")
    assert claim.kind == "none"
    assert "known seed" in claim.reason


def test_a_guarantee_under_an_assumption_prints_both():
    claim = Claim(observer="server", subject="records", guarantee=EIGHT, assumption="masks hold", reason="R")
    assert claim.kind == "proven"
    assert str(claim) == (
        "server, records: proven (epsilon = 8, delta = 1e-05) for one record, add-or-remove, if masks hold. R"
    )


def test_a_guarantee_that_rests_on_masks_says_how_likely_they_fail():
    promise = Promise(guarantees=dict.fromkeys(EVERYONE, EIGHT), basis=DISTRIBUTED, assumption="masks hold")
    found = claims(
        sealing="masked",
        n_clients=100,
        threshold=80,
        colluders=5,
        honest=60,
        secrecy_failure=2**-41,
        promise=promise,
    )
    said = {claim.observer: claim.assumption for claim in found if claim.subject == "records"}
    assert said["server"] == said["coalition"] == "masks hold, but for a probability of 2^-41 a round"
    assert said["peer"] is said["release"] is None


def test_printing_rounds_a_bound_upwards():
    assert "epsilon = 7.124," in str(
        Guarantee(epsilon=7.12301, delta=0.0, unit="record", relation="replace-one")
    )


@pytest.mark.parametrize("size", [1, 2, 7])
def test_group_privacy_is_the_sum_of_a_geometric_series(size):
    one = Guarantee(epsilon=0.7, delta=1e-6, unit="record", relation="replace-one")
    group = one.group(size)
    assert group.epsilon == pytest.approx(0.7 * size)
    assert group.delta == pytest.approx(1e-6 * sum(math.exp(0.7 * i) for i in range(size)))
    assert (group.unit, group.relation) == ("record", "replace-one")


def test_group_privacy_at_the_edges():
    assert Guarantee(epsilon=0.0, delta=1e-6, unit="record", relation="replace-one").group(3).delta == 3e-6
    pure = Guarantee(epsilon=5.0, delta=0.0, unit="record", relation="replace-one").group(1000)
    assert (pure.epsilon, pure.delta) == (5000.0, 0.0)
    for size in (10, 1000):
        with pytest.raises(PrivacyError, match="nothing is promised"):
            EIGHT.group(size)
    for size in (0, 1.5):
        with pytest.raises(PrivacyError, match="whole number"):
            EIGHT.group(size)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epsilon", math.nan),
        ("epsilon", math.inf),
        ("epsilon", -1.0),
        ("delta", math.nan),
        ("delta", 1.0),
        ("delta", -1e-9),
        ("unit", "person"),
        ("relation", "swap"),
    ],
)
def test_impossible_guarantees_are_refused_by_name_and_value(field, value):
    fields = {"epsilon": 1.0, "delta": 1e-5, "unit": "record", "relation": "replace-one"}
    with pytest.raises(PrivacyError, match=f"{field} must .*{value}"):
        Guarantee(**{**fields, field: value})


@pytest.mark.parametrize(
    "wrong",
    [{"sealing": "wax"}, {"n_clients": 0}, {"colluders": 5}, {"colluders": -1}, {"colluders": math.nan}],
)
def test_impossible_runs_are_refused(wrong):
    with pytest.raises(PrivacyError, match=next(iter(wrong))):
        claims(**{"sealing": "plain", "n_clients": 5, **wrong})


def test_an_observer_without_a_claim_is_refused():
    with pytest.raises(PrivacyError, match="keyholder"):
        claim_about_records(claims(sealing="plain", n_clients=5), "keyholder")
