"""What pins `refshapes`: SHA-256 of picture, mask and text of the first samples of each subset and split.

    python -m segagent.data.refshapes.hashes > tests/fixtures/refshapes_hashes.json

Run it only after a change of pictures or texts that is meant, and raise `_VERSION` in `dataset.py` with it.
"""

from __future__ import annotations

import hashlib
import json

import numpy as np

from segagent.data.refshapes.dataset import RefShapes
from segagent.data.refshapes.vocabulary import SPLITS, SUBSETS
from segagent.types import Sample

SAMPLES = 8


def sample_hash(sample: Sample) -> str:
    """SHA-256, hexadecimal, over the bytes of image and target (one byte per pixel) and the UTF-8 text."""
    digest = hashlib.sha256(np.ascontiguousarray(sample.image))
    digest.update(np.ascontiguousarray(sample.target).view(np.uint8))
    digest.update(sample.text.encode())
    return digest.hexdigest()


def all_hashes() -> dict[str, str]:
    """`sample_id@size` -> hash: the first samples of each subset and split of seed 0, and one at another size."""
    hashes = {}
    for subset in SUBSETS:
        for split in SPLITS:
            for size, count in ((256, SAMPLES), (128, 1)) if split == "val" else ((256, SAMPLES),):
                dataset = RefShapes(subset=subset, split=split, size=size)
                for index in range(count):
                    sample = dataset[index]
                    hashes[f"{sample.sample_id}@{size}"] = sample_hash(sample)
    return hashes


if __name__ == "__main__":
    print(json.dumps(all_hashes(), indent=1))
