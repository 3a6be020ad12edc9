"""A federation from Python, with models of one's own: a network and a scikit-learn classifier.

    python examples/own_model.py [FOLDER]

A factory is named in the configuration as "module:function". It is called with the shape of one input, the
number of classes and a seed, and returns a torch.nn.Module that gives logits, or a scikit-learn classifier
with predict_proba.
"""

import sys
import tempfile

from sklearn.neighbors import KNeighborsClassifier
from torch import nn

import securefd as sfd


def narrow(shape: tuple[int, ...], n_classes: int, seed: int) -> nn.Module:
    """Small enough for a client with few records. PyTorch's generator is seeded already."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Flatten(), nn.Linear(channels * height * width, 16), nn.GELU(), nn.Linear(16, n_classes)
    )


def neighbours(shape: tuple[int, ...], n_classes: int, seed: int) -> KNeighborsClassifier:
    """No gradients at all: such a client learns the class that the consensus finds likeliest."""
    return KNeighborsClassifier(n_neighbors=3)


CONFIGURATION = """
name = "own models"
seed = 7
data = { source = "digits", public = 300, test = 300, partition = { kind = "dirichlet", alpha = 0.5 } }
student = { model = "mlp", steps = 200 }

[[clients]]
count = 2
model = "own_model:narrow"

[[clients]]
model = "own_model:neighbours"

[[clients]]
model = "logistic"

[method]
name = "dsfl"
rounds = 3
queries = 300
local_steps = 60
digest_steps = 60
learning_rate = 3e-3

[sealing]
kind = "masked"
"""


def main(folder: str) -> None:
    """Plan the federation, run it into ``folder``, and use its student."""
    config = sfd.parse_config(CONFIGURATION)
    print(*sfd.plan(config).lines(), sep="\n")
    run = sfd.run(config, out=folder)
    print()
    for name in ("local", "clients", "student"):
        print(f"{name}: {run.metrics[f'{name}.accuracy']:.3f}")
    print(*run.claims, sep="\n")
    test = run.split.test
    print("the student is surest of", test.class_names[run.student.predict_proba(test.x[:1]).argmax()])


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(temporary)
