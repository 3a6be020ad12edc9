"""Records: where they come from, how they are split, and what may be said about them."""

from securefd.data.dataset import Dataset
from securefd.data.splits import Split, commit, load_split, public_hash

__all__ = ["Dataset", "Split", "commit", "load_split", "public_hash"]
