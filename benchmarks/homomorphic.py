"""Encrypted sums of 100,000 values: packed under BFV as sealed sums do, beside TenSEAL's CKKS as it comes.

All times are processor times of one thread, so that what else the machine does counts as little as possible.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.store import RESULTS, keep
from benchmarks.timing import in_turn, scaled

PLACE = RESULTS / "homomorphic.json"

VALUES = 100_000
CLIENTS = 100
REPEATS = 11
CKKS = {"degree": 8192, "primes": [60, 40, 40, 60], "scale": 2.0**40}
TARGETS = {"bytes": 8.0, "encrypt ns": 250.0, "times smaller": 7.0, "times faster": 3.0}
"""A value, at most; and at least, beside CKKS. Encrypting includes packing and writing."""


def measure(*, values: int = VALUES, repeats: int = REPEATS, place: Path = PLACE) -> None:
    """Time everything in turn and in one thread, and keep medians with the lowest and highest times."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        works, upload_bytes = _ours(values, repeats)
        ckks = _ckks(values)
        times = in_turn({**works, "CKKS encrypt ns": ckks}, repeats)
    found: dict[str, Any] = {name: scaled(time, 1e9 / values) for name, time in times.items()}
    found |= {"bytes": upload_bytes / values, "CKKS bytes": len(ckks()) / values}
    found["times smaller"] = found["CKKS bytes"] / found["bytes"]
    found["times faster"] = found["CKKS encrypt ns"]["median"] / found["encrypt ns"]["median"]
    print(
        f"homomorphic: {found['bytes']:.2f} bytes and {found['encrypt ns']['median']:.0f} ns a value, "
        f"{found['times smaller']:.1f} times smaller and {found['times faster']:.1f} times faster than CKKS",
        flush=True,
    )
    keep(
        place,
        {
            "row": found,
            "values": values,
            "clients": CLIENTS,
            "repeats": repeats,
            "ckks": CKKS,
            "targets": TARGETS,
            "packages": {"tenseal": version("tenseal")},
        },
    )


def _ours(values: int, repeats: int) -> tuple[dict[str, Callable[[], object]], int]:
    """What each party does in a round, and the bytes of one client's whole signed upload."""
    import numpy as np

    from securefd.defenses.bfv import (
        CiphertextSum,
        PublicKey,
        SecretKey,
        n_parts,
        pack,
        read_parts,
        value_bits,
    )
    from securefd.defenses.homomorphic import HomomorphicClient, KeyHolder
    from securefd.defenses.identity import Identity
    from securefd.defenses.sealing import NO_QUESTION

    bits = value_bits(CLIENTS)
    vector = np.random.default_rng(0).integers(0, 1 << bits, values)
    identities = [Identity.generate() for _ in range(CLIENTS)]
    holder = Identity.generate()
    client = HomomorphicClient(identities[0], [identity.public for identity in identities], holder.public)
    key_holder = KeyHolder(holder, Identity.generate().public, CLIENTS)
    session = bytes(16)
    contexts = [key_holder.context(session, number, NO_QUESTION) for number in range(repeats + 2)]
    rounds = iter(range(repeats + 2))

    def upload() -> bytes:
        number = next(rounds)
        return client.upload(
            contexts[number], vector, session=session, round=number, question=NO_QUESTION, bits=bits
        )

    key = SecretKey.generate()
    public = PublicKey.load(key.public)
    ciphertexts = public.encrypt(pack(vector))
    total = CiphertextSum(values)
    works: dict[str, Callable[[], object]] = {
        "encrypt ns": lambda: public.encrypt(pack(vector)),
        "whole upload ns": upload,
        "add ns": lambda: total.add(ciphertexts),
        "write sum ns": total.total,
        "open ns": lambda: key.decrypt(read_parts(ciphertexts, n_parts(values))),
        "new key ns": SecretKey.generate,
    }
    return works, len(upload())


def _ckks(values: int) -> Callable[[], bytes]:
    """TenSEAL's vectors of as many values as a ciphertext holds: longer ones it cuts so too, and warns."""
    import numpy as np
    import tenseal

    context = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, CKKS["degree"], coeff_mod_bit_sizes=CKKS["primes"], n_threads=1
    )
    context.global_scale = CKKS["scale"]
    vector = np.random.default_rng(0).random(values).tolist()
    slots = context.seal_context().data.key_context_data().parms().poly_modulus_degree() // 2
    pieces = [vector[start : start + slots] for start in range(0, values, slots)]
    return lambda: b"".join(tenseal.ckks_vector(context, piece).serialize() for piece in pieces)
