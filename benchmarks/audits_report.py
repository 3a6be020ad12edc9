"""Audits, as ``RESULTS.md`` tells of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import audits
from benchmarks.tables import NOT_RUN, Found, Row, at_most, table, where

WHAT = {
    "plain": "none: the server gets every client's answers",
    "masked": "masks: the server opens only the sum",
    "head": f"noised linear heads, ε = {audits.EPSILON['head']:g}",
    "dpsgd": f"DP-SGD, ε = {audits.EPSILON['dpsgd']:g}",
    "nfdp": f"each client trains on {audits.SAMPLE} of its records, drawn once, without noise",
    "drawn": "what `nfdp` draws: coins decide which records are trained on, and nothing protects these",
}
COLUMNS = (
    "protection",
    "observer",
    "AUC",
    "TPR at 1%",
    "TPR at 0.1%",
    "ε at least",
    "of at most",
    "claimed",
    "label KL",
)


def targets(demo: Found | None) -> list[Row]:
    """Rows of the table of targets."""
    name = "auditing the demo's recipe: 64 shadow federations, all attacks and observers, two processes"
    if demo is None:
        return [(name, f"≤ {audits.DEMO_SECONDS:g} s", None, "", None)]
    return [at_most(name, audits.DEMO_SECONDS, demo["seconds"], ".0f", " s")]


def demo(found: Found | None) -> str:
    """The part of RESULTS.md on how long an audit takes."""
    head = "## How long the demo's audit takes\n\n`make bench ONLY=demo`\n\n"
    if found is None:
        return head + f"{NOT_RUN}\n"
    return (
        head
        + f"{found['federations']} shadow federations of the demo's plain configuration played afresh, and "
        f"{found['attacks']} pairs of attack and evidence by all observers on these and on the run, in two "
        f"processes: {found['seconds']:.0f} s. How much faster clients are that are trained as stacks is "
        "told in *A fleet against one by one*: shadow federations use the same stacks.\n\n"
        + where([found])
        + "\n"
    )


def section(found: Mapping[str, Found]) -> str:
    """The part of RESULTS.md on what each protection buys against whom."""
    head = "## What each protection buys, against whom\n\n`make bench ONLY=audits MNIST=folder`\n\n"
    if not found:
        return head + f"{NOT_RUN}\n"
    rows: list[Sequence[str]] = []
    for name in audits.PROTECTIONS:
        told = f"`{name}`: {WHAT[name]}"
        if name not in found:
            rows.append([told, NOT_RUN, *[""] * (len(COLUMNS) - 2)])
            continue
        rows += _rows(told, found[name])
    parts = [_settings(), table(COLUMNS, rows).rstrip(), *_notes(found), where(found.values())]
    return head + "\n\n".join(parts) + "\n"


def _settings() -> str:
    from securefd.evaluation.audit import DELTA

    method = audits.METHOD
    return (
        f"MNIST: {audits.CLIENTS} clients with {audits.RECORDS} training images each on average, classes "
        f"dealt out by Dirichlet({audits.ALPHA:g}); {audits.PUBLIC:,} test images without labels are public, "
        f"and {audits.TEST:,} others judge the student. Method {method['name']}, {method['rounds']} round, "
        f"{method['local_steps']} local steps ({audits.DPSGD['local_steps']} of DP-SGD), multilayer "
        f"perceptrons (but for `head`). {audits.FEDERATIONS} shadow federations, each record in or out by a "
        f"coin of its own, in all rows alike: claims are under {audits.RELATION}, with δ = {audits.DELTA:g} "
        f"(bounds where nothing is claimed: {DELTA:g}). *AUC*: of an observer's strongest attack, with the "
        "mean of the federations' 95% intervals; being the best of all that were tried it is slightly too "
        "high where nothing leaks. *TPR*: of the same attack, at 1% and 0.1% false positives; not measurable "
        "with fewer than 1,000 non-members for 0.1%. *ε at least*: the larger of two lower bounds, which "
        "hold at 95% for all observers of a protection together; *of at most*: the most that either "
        "could have certified. *Label KL*: from what the server infers of each client's classes to the "
        "truth, in nats, beside the same for their mean, which is no secret."
    )


def _rows(told: str, cell: Found) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    told = f"{told}; student {cell['accuracy']:.1%}"
    for observer in audits.OBSERVERS:
        each = cell["observers"].get(observer)
        if each is None:
            continue
        low, high = each["auc interval"]
        claimed = "none" if each["claim"] is None else f"{each['claim']:.2f}: {each['judgement']}"
        rows.append(
            [
                "" if rows else told,
                observer,
                f"{each['auc']:.3f} [{low:.3f}, {high:.3f}] ({each['attack']})",
                _rate(each["tpr"]["0.01"]),
                _rate(each["tpr"]["0.001"]),
                _shown(each["bound"]),
                _shown(each["power"]),
                claimed,
                _divergence(cell["divergence"]) if observer == "server" else "",
            ]
        )
    return rows


def _notes(found: Mapping[str, Found]) -> list[str]:
    """What the table doesn't say by itself."""
    notes = []
    if {"nfdp", "drawn"} <= set(found):
        notes.append(_of_sampling(found["nfdp"], found["drawn"]))
    for name, cell in found.items():
        for control in cell["controls"]:
            if not control["passed"]:
                notes.append(
                    f"The {control['kind']} control of `{name}` failed ({control['attack']}: "
                    f"{control['measured']}), so "
                    + (
                        "none of its bounds can be trusted."
                        if control["kind"] == "null"
                        else "that little was found there doesn't show that little leaks."
                    )
                )
    return notes


def _of_sampling(nfdp: Found, drawn: Found) -> str:
    """What `nfdp` protects, by comparing how exposed a client's records are with those that were drawn."""
    from securefd.nfdp import theorem

    least = min(nfdp["sizes"])
    epsilon, delta = theorem(least, audits.SAMPLE, audits.RELATION)
    all_of_them, those = (cell["observers"]["server"]["auc"] for cell in (nfdp, drawn))
    share = audits.SAMPLE / audits.RECORDS
    return (
        f"All that `nfdp` protects by is chance: about {share:.0%} of records are drawn, and nothing "
        f"protects these. The server tells whether a client has a record with an AUC of {all_of_them:.3f}, "
        f"and whether a record was trained on with {those:.3f}: as that is all there is to tell, "
        f"{0.5 + share * (those - 0.5):.3f} is to be expected of the former. The argument behind it comes to "
        f"ε = {epsilon:.2f} at "
        f"δ = {delta:.2f} for the smallest client, of {least} records, which whoever publishes the drawn "
        "records whole can claim as well; so no claim is made."
    )


def _divergence(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "none told apart"
    low, high = found["interval"] or (None, None)
    spread = "" if low is None else f" [{low:.2f}, {high:.2f}]"
    return f"{found['value']:.2f}{spread}; of the mean {found['baseline']:.2f}"


def _shown(value: float | None) -> str:
    return "not measurable" if value is None else f"{value:.2f}"


def _rate(rate: Sequence[Any]) -> str:
    value, interval = rate
    return "not measurable" if value is None else f"{value:.1%} [{interval[0]:.1%}, {interval[1]:.1%}]"
