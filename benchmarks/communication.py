"""What one client uploads in one round, beside the weights that fedavg would upload.

Messages of fixed size are made here, from random answers. Those of ``cfd`` and ``fedct`` are coded against
what was sent before, so that their size depends on what the models know: it comes from the runs on MNIST.
"""

from __future__ import annotations

import os
from typing import Any

from benchmarks.store import RESULTS, keep

PLACE = RESULTS / "communication.json"

CLIENTS = 10
QUERIES = 10_000
CLASSES = 10
SHAPE = (1, 28, 28)
FIXED = ("balanced", "dsfl", "dsfl-power", "feddf", "fedmd", "fd")
SEALINGS = ("plain", "masked", "homomorphic", "masked+homomorphic")
MODEL = "cnn"


def measure(*, queries: int = QUERIES) -> None:
    """Seal one round of every method of fixed size in every way, and keep the bytes."""
    rows = [
        {"method": method, "sealing": sealing, "bytes": upload(method, sealing, queries)}
        for method in FIXED
        for sealing in SEALINGS
    ]
    weights = weight_bytes()
    keep(PLACE, {"rows": rows, "weights": weights, "model": MODEL, "clients": CLIENTS, "queries": queries})
    print(f"communication: {len(rows)} uploads beside {weights:,} bytes of weights", flush=True)


def upload(method: str, sealing: str, queries: int) -> int:
    """Bytes that one client uploads in a round, from the messages themselves."""
    import numpy as np

    from securefd.defenses.neighbourhood import choose
    from securefd.defenses.sealed import make_sealing
    from securefd.defenses.sealing import value_bits
    from securefd.methods import method_named

    row = method_named(method)
    kind: Any = sealing
    size = sum(int(np.prod(block.shape)) for block in row.blocks(queries, CLASSES, row.options))
    bits = value_bits(kind, CLIENTS)
    random = np.random.default_rng(1)
    vectors = [random.integers(0, 2**bits, size=size, dtype=np.int64) for _ in range(CLIENTS)]
    everyone = choose(n_clients=CLIENTS, threshold=CLIENTS, colluders=0, honest_minimum=2)
    sealed = make_sealing(kind, CLIENTS, bits, neighbourhood=everyone)
    return max(sealed.run_round(os.urandom(32), 0, vectors, bits).up)


def weight_bytes() -> int:
    """Bytes of the weights of one client's model, in the message of a plain answer."""
    import numpy as np

    from securefd.fleet import initial
    from securefd.messages import Answer, encode
    from securefd.models import ModelSpec

    state = initial(ModelSpec(name=MODEL, shape=SHAPE, n_classes=CLASSES), 0)
    values = b"".join(value.numpy().astype(np.float32).tobytes() for value in state.values())
    return len(encode(Answer(session=bytes(32), round=0, sender=0, values=values)))
