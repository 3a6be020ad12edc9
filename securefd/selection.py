"""Which public inputs a round asks about, where not all of them: those that stand for many others.

With fewer queries each gets less noise for the same epsilon, and what is known of one carries over to what
looks like it. The choice is made of public inputs alone, and costs no privacy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import MiniBatchKMeans


def representative(features: NDArray[np.floating], count: int, *, seed: int) -> NDArray[np.int64]:
    """Sorted indices of ``count`` of ``(n, p)`` rows: the nearest to the centre of each of so many clusters.

    Clusters are of directions, as neighbours are. A centre whose nearest row another one has already taken
    gets its nearest one that is left.
    """
    rows = np.asarray(features, dtype=np.float32)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    directions = rows / np.where(length > 0, length, 1.0)
    if count >= len(rows):
        return np.arange(len(rows), dtype=np.int64)
    clusters = MiniBatchKMeans(count, random_state=seed % 2**32, n_init=1, batch_size=4096, max_iter=20)
    centres = clusters.fit(directions).cluster_centers_
    squares = np.square(directions).sum(axis=1)
    left = np.ones(len(rows), dtype=np.bool_)
    for centre in centres:
        distance = np.where(left, squares - 2 * directions @ centre, np.inf)
        left[int(distance.argmin())] = False
    return np.flatnonzero(~left).astype(np.int64)
