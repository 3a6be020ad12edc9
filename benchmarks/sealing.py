"""Masked sums: masks, secret sharing and whole rounds, beside Flower's masks and PyCryptodome's sharing.

All times are processor times of one thread, so that what else the machine does counts as little as possible.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.masked_round import BITS, STAGES, Case, Cost, play
from benchmarks.store import RESULTS, keep
from benchmarks.timing import in_turn, scaled, spread

PLACE = RESULTS / "sealing.json"

MASKS = {100_000: 100, 10_000_000: 10}
"""How many masks are made, or made and added, at a time, by the number of values."""
REPEATS = 11
SHARING = {"holders": 100, "threshold": 51}

SMALL, LARGE = 100, 1000
DEGREE = 51
"""Of rounds whose times are compared: it gives about the mask partners of 100 clients' complete graph."""
CASES = {
    **{Case(clients=SMALL, values=d, degree=k): 9 for d in (100_000, 10_000) for k in (None, SMALL - 1)},
    **{Case(clients=LARGE, values=d, degree=k): 3 for d in (100_000, 10_000) for k in (None, DEGREE)},
    **{Case(clients=n, values=100_000, degree=DEGREE): 3 for n in (250, 500)},
}
"""How often each round is run."""

TARGETS = {
    "mask ns": 1.0,
    "times faster": 15.0,
    "client ms": 15.0,
    "server ms": 500.0,
    "client at large": 1.5,
    "server at large": 1.25,
    "of float32": 0.55,
    "split ms": 2.0,
    "recover ms": 2.0,
}
"""At most, but ``times faster``. ``client at large``: a client's time among 1,000 by its time among 100 with
about as many mask partners; ``server at large``: the server's time a client among 1,000 by that among the
fewest in the same ring, 1 where it is exactly linear; ``of float32``: a client's upload in all stages by 4
bytes a value.
"""


def measure(
    *,
    masks: dict[int, int] = MASKS,
    cases: dict[Case, int] = CASES,
    repeats: int = REPEATS,
    place: Path = PLACE,
) -> None:
    """Time everything in one thread, and keep medians with the lowest and highest times."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        masking = [_masking(values, number, repeats) for values, number in masks.items()]
        sharing = _sharing(repeats)
        rounds = _rounds(cases)
    packages = ("cryptography", "flwr", "pycryptodome")
    keep(
        place,
        {
            "masking": masking,
            "sharing": sharing,
            "rounds": rounds,
            "repeats": repeats,
            "bits": BITS,
            "targets": TARGETS,
            "packages": {name: _version(name) for name in packages},
        },
    )


def _masking(values: int, masks: int, repeats: int) -> dict[str, Any]:
    """Nanoseconds a value and mask: to make and add ours, to make Flower's, and to add them too.

    Each is done ``masks`` times in every turn, so that memory is as warm as it gets: the first of Flower's
    in a process takes many times as long as the tenth. ``most times faster``: than Flower's, could masks be
    made as fast as AES-256 gives their bytes, and be added in no time.
    """
    import numpy as np

    from securefd.defenses.masks import apply_masks

    words = np.zeros(values, dtype="<u4")
    keys = [os.urandom(32) for _ in range(masks)]
    works = {"ns": lambda: apply_masks(words, keys, []), "keystream ns": _keystream(words.nbytes, keys)}
    works |= {name: _again(work, masks) for name, work in _flower(values).items()}
    found: dict[str, Any] = {
        name: scaled(spent, 1e9 / values / masks) for name, spent in in_turn(works, repeats).items()
    }
    ours = found["ns"]["median"]
    if "flower ns" in found:
        found["times faster"] = found["flower ns"]["median"] / ours
        found["times faster, added"] = found["flower added ns"]["median"] / ours
        found["most times faster"] = found["flower ns"]["median"] / found["keystream ns"]["median"]
    print(f"sealing: {ours:.2f} ns a value and mask, {values:,} values", flush=True)
    return {"values": values, "masks": masks, **found}


def _keystream(size: int, keys: Sequence[bytes]) -> Callable[[], object]:
    """AES-256-CTR alone, by the calls that make masks: ``size`` bytes a key, into the same buffer."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    from securefd.defenses.masks import CHUNK

    step = min(CHUNK, size)
    zeros, keystream = memoryview(bytes(step)), bytearray(step + 15)

    def work() -> None:
        streams = [Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor() for key in keys]
        for start in range(0, size, step):
            part = zeros[: min(step, size - start)]
            for stream in streams:
                stream.update_into(part, keystream)

    return work


def _again(work: Callable[[], object], times: int) -> Callable[[], object]:
    def again() -> None:
        for _ in range(times):
            work()

    return again


def _flower(values: int) -> dict[str, Callable[[], object]]:
    """What masks vectors in Flower's SecAgg and SecAgg+, modulo 2**32 as there; nothing if not installed."""
    import numpy as np

    try:
        from flwr.common.secure_aggregation.ndarrays_arithmetic import parameters_addition
        from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
    except ImportError:
        return {}
    vector = [np.zeros(values, dtype=np.int64)]

    def mask() -> Any:
        return pseudo_rand_gen(os.urandom(32), 1 << 32, [(values,)])

    return {"flower ns": mask, "flower added ns": lambda: parameters_addition(vector, mask())}


def _sharing(repeats: int) -> dict[str, Any]:
    """Milliseconds to split a 32-byte secret and to recover it, Lagrange coefficients known or not."""
    from securefd.defenses import shamir

    holders, threshold = range(SHARING["holders"]), SHARING["threshold"]
    secret = shamir.draw_secret()
    shares = shamir.split(secret, holders, threshold)
    enough = {holder: shares[holder] for holder in holders[-threshold:]}

    def cold() -> bytes:
        shamir._lagrange_at_zero.cache_clear()
        return shamir.recover(enough, threshold)

    works: dict[str, Callable[[], object]] = {
        "split ms": lambda: shamir.split(secret, holders, threshold),
        "recover ms": cold,
        "recover again ms": lambda: shamir.recover(enough, threshold),
        **_pycryptodome(secret, **SHARING),
    }
    found = {name: scaled(spent, 1e3) for name, spent in in_turn(works, repeats).items()}
    print(
        f"sealing: a secret split in {found['split ms']['median']:.2f} ms, recovered in "
        f"{found['recover ms']['median']:.2f} ms",
        flush=True,
    )
    return {**SHARING, **found}


def _pycryptodome(secret: bytes, *, holders: int, threshold: int) -> dict[str, Callable[[], object]]:
    """Its shares have 16 bytes, so that a secret of 32 is split twice; nothing where it isn't installed."""
    try:
        from Crypto.Protocol.SecretSharing import Shamir
    except ImportError:
        return {}
    halves = [secret[:16], secret[16:]]
    shares = [Shamir.split(threshold, holders, half)[-threshold:] for half in halves]
    return {
        "pycryptodome split ms": lambda: [Shamir.split(threshold, holders, half) for half in halves],
        "pycryptodome recover ms": lambda: [Shamir.combine(some) for some in shares],
    }


def _rounds(cases: dict[Case, int]) -> list[dict[str, Any]]:
    """Each case as often as asked, all of them in turn."""
    graphs = {case: case.graph() for case in cases}
    costs: dict[Case, list[Cost]] = {case: [] for case in cases}
    for repeat in range(max(cases.values())):
        for case in (case for case, repeats in cases.items() if repeat < repeats):
            costs[case].append(play(case, graphs[case]))
    rows = [_row(case, graphs[case], costs[case]) for case in cases]
    for row in rows:
        print(
            f"sealing: {row['clients']} clients of degree {row['degree']}, {row['values']:,} values: "
            f"{row['client ms']['median']:.1f} ms a client, {row['server ms']['median']:.0f} ms the server",
            flush=True,
        )
    return rows


def _row(case: Case, graph: Any, costs: Sequence[Cost]) -> dict[str, Any]:
    from securefd.defenses.ring import narrowest

    one = costs[0]
    return {
        "clients": case.clients,
        "values": case.values,
        "dropped": case.dropped,
        "threshold": graph.threshold,
        "colluders": graph.colluders,
        "degree": graph.degree,
        "chosen": case.degree is None,
        "complete": graph.is_complete,
        "share threshold": graph.share_threshold,
        "checked": graph.checked,
        "partners": graph.partners,
        "ring bits": narrowest(bits=BITS, n_clients=case.clients).bits,
        "repeats": len(costs),
        "client ms": scaled(spread([cost.a_client(case.clients) for cost in costs]), 1e3),
        "stayed ms": scaled(spread([cost.stayed() for cost in costs]), 1e3),
        "server ms": scaled(spread([sum(cost.server.values()) for cost in costs]), 1e3),
        "client stages ms": {
            stage: statistics.median(1e3 * cost.clients[stage] / cost.present[stage] for cost in costs)
            for stage in STAGES
        },
        "server stages ms": {
            stage: statistics.median(1e3 * cost.server[stage] for cost in costs) for stage in STAGES
        },
        "stage bytes": one.bytes,
        "bytes": max(cost.most_bytes for cost in costs),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
