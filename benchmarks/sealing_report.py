"""What ``RESULTS.md`` says of sealed sums: masked ones, and homomorphic ones."""

from __future__ import annotations

from benchmarks.masked_round import STAGES
from benchmarks.tables import NOT_RUN, Found, Row, at_least, at_most, table, where

_VALUES = 100_000
"""The vector for which upload, client and server have targets."""


def masked_targets(found: Found | None) -> list[Row]:
    """One row a target of masked sums, none before they were measured."""
    if not found:
        return []
    return [*_mask_targets(found), *_round_targets(found), *_scale_targets(found), *_sharing_targets(found)]


def _mask_targets(found: Found) -> list[Row]:
    limits, rows = found["targets"], list[Row]()
    for row in found["masking"]:
        of = f"{row['values']:,} values of 32 bits"
        rows.append(
            at_most(f"masking, ns a value and mask: {of}", limits["mask ns"], row["ns"]["median"], ".2f")
        )
        name, target = f"masking against Flower's generator: {of}", limits["times faster"]
        if "most times faster" in row:
            name += f"; with AES-256's bare keystream it would be {row['most times faster']:.1f} ×"
        if "times faster" in row:
            rows.append(at_least(name, target, row["times faster"], ".1f", " ×"))
        else:
            rows.append((name, f"≥ {target:g} ×", "flwr was not installed", "", None))
    return rows


def _round_targets(found: Found) -> list[Row]:
    limits, rows = found["targets"], list[Row]()
    for row in _small(found):
        if row["values"] != _VALUES:
            continue
        of = f"{row['clients']} clients, {row['dropped']} dropped, {_graph(row)}"
        size = row["bytes"] / (4 * row["values"])
        rows += [
            at_most(f"a masked sum's round, ms a client: {of}", limits["client ms"], _ms(row), ".1f"),
            at_most(
                f"a masked sum's round, ms of the server: {of}",
                limits["server ms"],
                row["server ms"]["median"],
                ".0f",
            ),
            at_most(f"a masked sum's upload by float32's: {of}", limits["of float32"], size, ".3f"),
        ]
    return rows


def _scale_targets(found: Found) -> list[Row]:
    limits, rows = found["targets"], list[Row]()
    for row, complete, _ in _compared(found):
        name = (
            f"a client's time among {row['clients']:,}, {_graph(row)}, by that among {complete['clients']}, "
            f"{_graph(complete)}: {row['values']:,} values"
        )
        rows.append(at_most(name, limits["client at large"], _ms(row) / _ms(complete), ".2f", " ×"))
    for fewest, most in _by_size(found):
        name = (
            f"the server's time a client among {most['clients']:,} by that among {fewest['clients']}, both "
            f"{_graph(most)} and {most['ring bits']}-bit ring"
        )
        rows.append(at_most(name, limits["server at large"], _served(most) / _served(fewest), ".2f", " ×"))
    return rows


def _sharing_targets(found: Found) -> list[Row]:
    limits, sharing = found["targets"], found["sharing"]
    of = f"{sharing['threshold']} of {sharing['holders']}"
    return [
        at_most(f"{what}, ms: {of}", limits[limit], sharing[key]["median"], ".2f")
        for what, key, limit in (
            ("splitting a secret", "split ms", "split ms"),
            ("recovering a secret", "recover ms", "recover ms"),
            ("recovering a second one from the same holders", "recover again ms", "recover ms"),
        )
    ]


def homomorphic_targets(found: Found | None) -> list[Row]:
    """One row a target of homomorphic sums, none before they were measured."""
    if not found:
        return []
    row, limits = found["row"], found["targets"]
    took = row["encrypt ns"]["median"]
    return [
        at_most("homomorphic upload, bytes a value", limits["bytes"], row["bytes"], ".2f"),
        at_most("encrypting and writing, ns a value", limits["encrypt ns"], took, ".0f"),
        at_least("smaller than TenSEAL's CKKS", limits["times smaller"], row["times smaller"], ".1f", " ×"),
        at_least("faster than TenSEAL's CKKS", limits["times faster"], row["times faster"], ".1f", " ×"),
    ]


def masked(found: Found | None) -> str:
    """The section about masked sums."""
    head = "## Masked sums\n\n`make bench ONLY=sealing`\n"
    if found is None:
        return f"{head}\n{NOT_RUN}\n"
    note = (
        "Processor time of one thread; medians, and lowest to highest of what is repeated in turn. "
        f"{_packages(found)}.\n"
    )
    parts = [_masking(found), _sharing(found), _rounds(found), _stages(found), _scale(found), _upload(found)]
    return "\n".join([head, note, *parts, where([found]), ""])


def _masking(found: Found) -> str:
    note = (
        "Masks of 32-bit words, ns a value and mask. Here: made by AES-256-CTR and added; beside it that "
        "keystream alone, by the same calls, added to nothing. Flower: the function that makes the masks of "
        "its SecAgg and SecAgg+, at its modulus of 2³², alone and with its own addition. *At most*: Flower's "
        "made, by the keystream alone, since masks can't be made faster than AES-256 gives their bytes. Each "
        "figure is of many masks in a row, after as many that don't count: the first ones of a process take "
        "longer, Flower's many times. "
        f"{found['repeats']} repeats.\n"
    )
    lines = []
    for row in found["masking"]:
        line = [f"{row['values']:,}", _ranged(row["ns"], ".2f"), _ranged(row.get("keystream ns"), ".2f")]
        for key, ratios in (
            ("flower ns", ("times faster", "most times faster")),
            ("flower added ns", ("times faster, added",)),
        ):
            line.append(_ranged(row.get(key), ".2f"))
            line += [f"{row[ratio]:.1f}" if ratio in row else "–" for ratio in ratios]
        lines.append(line)
    columns = ["values", "here", "keystream alone", "Flower, made", "times faster", "at most"]
    columns += ["Flower, added", "times faster"]
    return f"{note}\n{table(columns, lines)}"


def _sharing(found: Found) -> str:
    sharing = found["sharing"]
    note = (
        f"Shamir's sharing of a 32-byte secret, {sharing['threshold']} of {sharing['holders']}, in "
        "milliseconds; again: with the Lagrange coefficients of the same holders kept. PyCryptodome shares "
        f"two halves. {found['repeats']} repeats.\n"
    )
    operations = ("split", "recover", "recover again")
    lines = [
        [name, *(_ranged(sharing.get(f"{prefix}{key} ms"), ".3g") for key in operations)]
        for name, prefix in (("here", ""), ("PyCryptodome", "pycryptodome "))
    ]
    return f"{note}\n{table(['', *operations], lines)}"


def _rounds(found: Found) -> str:
    note = (
        f"Whole rounds in one process, {found['bits']}-bit values, milliseconds of computation. A tenth may "
        "drop out, and does, after sharing; a twentieth may collude. *Chosen*: the fewest holders that are "
        "sound. *A client*: all clients' time, divided by how many started; *stays*: one "
        "that takes part in every stage.\n"
    )
    lines = [
        (
            f"{row['clients']:,}",
            f"{row['values']:,}",
            _graph(row) + (", chosen" if row["chosen"] else ""),
            f"{row['partners']:.0f}",
            f"{row['share threshold']}",
            f"{row['checked']}",
            f"{row['ring bits']}",
            _ranged(row["client ms"], ".1f"),
            f"{row['stayed ms']['median']:.1f}",
            _ranged(row["server ms"], ".0f"),
            f"{_served(row):.2f}",
            f"{row['repeats']}",
        )
        for row in found["rounds"]
    ]
    columns = [
        "clients",
        "values",
        "graph",
        "mask partners",
        "shares needed",
        "signatures checked",
        "ring bits",
    ]
    columns += ["a client", "stays", "server", "server, a client", "repeats"]
    return f"{note}\n{table(columns, lines)}"


def _stages(found: Found) -> str:
    lines = [
        [f"{row['clients']} clients, {row['values']:,} values, {_graph(row)}: {who}"]
        + [f"{row[key][stage]:.2f}" for stage in STAGES]
        for row in _small(found)
        for who, key in (("a client", "client stages ms"), ("server", "server stages ms"))
    ]
    note = "Milliseconds by stage; a client's are the mean of those who took part in it.\n"
    return f"{note}\n{table(['', *STAGES], lines)}"


def _scale(found: Found) -> str:
    lines = [
        [f"{row['values']:,}", f"{row['clients']:,} clients, {_graph(row)}", f"{row['partners']:.0f}"]
        + [f"{_ms(row) / _ms(other):.2f} ({other['partners']:.0f} partners)" for other in (complete, sparse)]
        for row, complete, sparse in _compared(found)
    ]
    small = min(row["clients"] for row in found["rounds"])
    columns = ["values", "a client's time among", "mask partners"]
    columns += [f"by {small} clients', complete", f"by {small} clients', chosen graph"]
    return table(columns, lines)


def _upload(found: Found) -> str:
    lines = [
        (
            _graph(row),
            *(f"{row['stage bytes'][stage]:,.0f}" for stage in STAGES),
            f"{row['bytes']:,}",
            f"{row['bytes'] / (4 * row['values']):.3f}",
        )
        for row in _small(found)
        if row["values"] == _VALUES
    ]
    (bits,) = {row["ring bits"] for row in _small(found)}
    note = (
        f"Bytes that a client uploads, signatures and shares included, for {_VALUES:,} values of "
        f"{found['bits']} bits in a ring of {bits}: the mean by stage, and all stages of the client with "
        "most, beside 4 bytes a value of plain float32.\n"
    )
    return f"{note}\n{table(['graph', *STAGES, 'all', 'of float32'], lines)}"


def homomorphic(found: Found | None) -> str:
    """The section about homomorphic sums."""
    head = "## Homomorphic sums\n\n`make bench ONLY=homomorphic`\n"
    if found is None:
        return f"{head}\n{NOT_RUN}\n"
    row, ckks = found["row"], found["ckks"]
    primes = ", ".join(map(str, ckks["primes"]))
    note = (
        f"Sums of {found['clients']} clients' {found['values']:,} values, processor time of one thread; "
        f"medians, and lowest to highest, of {found['repeats']} repeats in turn. {_packages(found)}. CKKS: "
        f"TenSEAL's vectors, {ckks['degree']} coefficients, primes of {primes} bits.\n"
    )
    lines = [
        (
            "upload, bytes a value",
            f"{row['bytes']:.2f}",
            f"{row['CKKS bytes']:.1f}",
            f"{row['times smaller']:.1f} times smaller",
        ),
        (
            "encrypt and write, ns a value",
            _ranged(row["encrypt ns"], ".0f"),
            _ranged(row["CKKS encrypt ns"], ".0f"),
            f"{row['times faster']:.1f} times faster",
        ),
    ]
    lines += [
        (f"{what}, ns a value", _ranged(row[key], ".1f"), "–", "")
        for what, key in (
            ("a client's whole upload", "whole upload ns"),
            ("the server adds one", "add ns"),
            ("the server writes the sum", "write sum ns"),
            ("the key holder opens it", "open ns"),
            ("a new key", "new key ns"),
        )
    ]
    return "\n".join([head, note, table(["", "BFV, packed", "CKKS", ""], lines), where([found]), ""])


def _small(found: Found) -> list[Found]:
    """The rounds of the smallest federation."""
    fewest = min(row["clients"] for row in found["rounds"])
    return [row for row in found["rounds"] if row["clients"] == fewest]


def _compared(found: Found) -> list[tuple[Found, Found, Found]]:
    """Each round of the largest federation, with the complete and the chosen one of the smallest."""
    most = max(row["clients"] for row in found["rounds"])
    return [
        (row, complete, sparse)
        for row in found["rounds"]
        if row["clients"] == most
        for complete in _small(found)
        if complete["complete"] and complete["values"] == row["values"]
        for sparse in _small(found)
        if sparse["chosen"] and sparse["values"] == row["values"]
    ]


def _by_size(found: Found) -> list[tuple[Found, Found]]:
    """Rounds of one degree, size and ring, of the smallest federation that has such and of the largest."""
    alike: dict[tuple[int, int, int], list[Found]] = {}
    for row in found["rounds"]:
        if not row["chosen"] and not row["complete"]:
            alike.setdefault((row["degree"], row["values"], row["ring bits"]), []).append(row)
    ordered = [sorted(rows, key=lambda row: int(row["clients"])) for rows in alike.values()]
    return [(rows[0], rows[-1]) for rows in ordered if len(rows) > 1]


def _graph(row: Found) -> str:
    return "complete graph" if row["complete"] else f"sparse graph of degree {row['degree']}"


def _ms(row: Found) -> float:
    return float(row["client ms"]["median"])


def _served(row: Found) -> float:
    return float(row["server ms"]["median"] / row["clients"])


def _packages(found: Found) -> str:
    return ", ".join(f"{name} {number or 'not installed'}" for name, number in found["packages"].items())


def _ranged(spread: Found | None, shown: str) -> str:
    if spread is None:
        return "–"
    return f"{spread['median']:{shown}} ({spread['lowest']:{shown}} to {spread['highest']:{shown}})"
