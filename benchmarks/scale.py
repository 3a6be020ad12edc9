"""250 clients with 240 MNIST records each: one round of local training, and their answers."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.store import RESULTS, keep

PLACE = RESULTS / "scale.json"

CLIENTS = 250
RECORDS = 240
STEPS = 150
BATCH = 64
QUERIES = 1000
MODEL = "cnn"
TARGET_SECONDS = 180.0


def measure(mnist: Path, *, clients: int = CLIENTS, steps: int = STEPS, place: Path = PLACE) -> None:
    """Train and answer once, and keep the seconds of both."""
    import numpy as np

    from securefd.cohort import Cohort, Member, Pool
    from securefd.config import DataConfig
    from securefd.data.splits import load_split
    from securefd.fleet import Objective
    from securefd.models import ModelSpec
    from securefd.rng import generator
    from securefd.runner import one_thread

    # All training images are the clients', so the queries are test images, whose labels measure the outcome.
    split = load_split(DataConfig(source="idx", path=str(mnist), public=0, test=QUERIES), 1, 1)
    (everyone,) = split.clients
    rows = generator(1, "scale").permutation(len(everyone))[: clients * RECORDS].reshape(clients, RECORDS)
    spec = ModelSpec(name=MODEL, shape=everyone.x.shape[1:], n_classes=everyone.n_classes)
    members = [Member(federation=0, client=k, model=spec, rows=own) for k, own in enumerate(rows)]
    pool = Pool(x=everyone.x, y=everyone.y, n_classes=everyone.n_classes)
    cores = os.cpu_count() or 1
    with one_thread():
        began = time.perf_counter()
        cohort = Cohort(members, pool, seed=1, workers=cores)
        cohort.fit("fit", Objective(loss="cross_entropy", steps=steps, batch_size=BATCH, learning_rate=1e-3))
        trained = time.perf_counter()
        answers = cohort.logits(split.test.x)
        answered = time.perf_counter()
    accuracy = (answers.argmax(-1) == split.test.y).mean(axis=1)
    found = {
        "clients": clients,
        "records": RECORDS,
        "steps": steps,
        "batch": BATCH,
        "epochs": steps * BATCH / RECORDS,
        "queries": QUERIES,
        "model": MODEL,
        "workers": cores,
        "training seconds": trained - began,
        "answering seconds": answered - trained,
        "seconds": answered - began,
        "target seconds": TARGET_SECONDS,
        "accuracy alone": float(np.mean(accuracy)),
    }
    keep(place, found)
    print(f"scale: {clients} clients, {steps} steps each, in {found['seconds']:.0f} s", flush=True)
