"""Audit a Hugging Face style classifier that was never federated: python examples/audit_transformer.py

This example needs transformers, securefd doesn't: pip install transformers. The model is made from a
configuration and the sentences are drawn here, so nothing is downloaded. As in audit_sklearn.py, all models
follow one recipe, coins decide what each is trained on, and the bound holds for the last of them, the target.
"""

import sys

import numpy as np
import torch

import securefd as sfd
from securefd.evaluation.findings import Skipped

try:
    from transformers import BertConfig, BertForSequenceClassification
except ImportError as missing:
    print(f"this example needs transformers ({missing}); run: pip install transformers", file=sys.stderr)
    sys.exit(2)

SHADOWS, SENTENCES, WORDS, LENGTH, TOPICS, STEPS = 24, 300, 60, 12, 3, 120

rng = np.random.default_rng()
torch.set_num_threads(1)  # more only slow so small a model

# Each topic has words that it likes. A fifth of the labels are drawn blindly: a model that gets those right
# has remembered them, and that is what gives members away.
topics = rng.integers(TOPICS, size=SENTENCES)
liked = rng.dirichlet(np.full(WORDS, 0.3), TOPICS)
tokens = torch.tensor(np.stack([rng.choice(WORDS, LENGTH, p=liked[topic]) for topic in topics]))
labels = np.where(rng.random(SENTENCES) < 0.2, rng.integers(TOPICS, size=SENTENCES), topics)
coins = rng.random((SHADOWS + 1, SENTENCES)) < 0.5  # one row a model, one column a sentence

configuration = BertConfig(
    vocab_size=WORDS,
    hidden_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=64,
    max_position_embeddings=LENGTH,
    num_labels=TOPICS,
)


def logits(chosen: np.ndarray) -> np.ndarray:
    """Of a model trained on the ``chosen`` sentences, about all of them: (sentences, topics)."""
    model = BertForSequenceClassification(configuration).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        batch = rng.choice(np.flatnonzero(chosen), 32)
        optimizer.zero_grad()
        model(input_ids=tokens[batch], labels=torch.from_numpy(labels[batch])).loss.backward()
        optimizer.step()
    with torch.no_grad():
        return model.eval()(input_ids=tokens).logits.numpy()


answers = np.stack([logits(chosen) for chosen in coins])
audit = sfd.audit_scores(
    target=answers[-1],
    shadows=answers[:-1],
    membership=coins[:-1],
    member=coins[-1],
    labels=labels,
    coin_flips=True,
)
for outcome in audit.outcomes:
    if isinstance(outcome, Skipped):
        print(f"{outcome.attack}: SKIPPED, {outcome.reason}")
    elif outcome.epsilon_bound is None:
        low, high = outcome.auc_interval
        print(f"{outcome.attack}: AUC {outcome.auc:.3f} [{low:.3f}, {high:.3f}]")
    else:
        print(
            f"epsilon is at least {outcome.epsilon_bound:.2f} ({outcome.confidence:.0%} confidence, delta = "
            f"{outcome.delta:g}; {outcome.epsilon_power:.2f} could have been certified), by {outcome.attack}"
        )
print(f"judgement: {audit.judgement}")  # INCONCLUSIVE: nothing is claimed that this could contradict
