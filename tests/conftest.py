"""Stand-ins that the tests share: a segmenter whose every mask can be worked out by hand, and small samples."""

from collections.abc import Sequence
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from segagent.segmenters.base import check_states
from segagent.types import Box, Sample

# On a machine that others use, how long an example takes says nothing about the code.
hypothesis.settings.register_profile("no deadline", deadline=None, derandomize=True)  # equal runs test the same
hypothesis.settings.load_profile("no deadline")


class Discs:
    """Paints or erases a disc around the newest click on the mask in memory; a box paints itself. Counts calls."""

    accepts_boxes = True
    waives_click_points = ""

    def __init__(self, radius: int = 6) -> None:
        self.radius = radius
        self.embedded, self.calls = 0, []

    def embed(self, images: Sequence[np.ndarray]) -> list:
        self.embedded += len(images)
        return [image.shape[:2] for image in images]

    def predict(self, embeddings, clicks, memory, boxes=None):
        boxes = boxes or [None] * len(embeddings)
        check_states(embeddings, clicks, memory, boxes, self.accepts_boxes)
        self.calls.append(len(embeddings))
        masks = [self._paint(*row) for row in zip(embeddings, clicks, memory, boxes, strict=True)]
        return masks, masks

    def _paint(self, size, clicks, memory, box: Box | None):
        mask = np.zeros(size, bool) if memory is None else memory.copy()
        if memory is None and box is not None:
            mask[box.y0 : box.y1, box.x0 : box.x1] = True
        if clicks:
            rows, columns = np.ogrid[: size[0], : size[1]]
            click = clicks[-1]
            mask[(rows - click.y) ** 2 + (columns - click.x) ** 2 <= self.radius**2] = click.is_positive
        return mask

    def remember(self, embeddings, masks):
        return [mask.copy() for mask in masks]


def make_sample(index: int = 0, size: tuple[int, int] = (40, 60), **changes) -> Sample:
    """A bright rectangle on noise; its place depends on `index`."""
    random = np.random.default_rng(index)
    image = random.integers(0, 120, (*size, 3), dtype=np.uint8)
    top, left = int(random.integers(2, size[0] // 2)), int(random.integers(2, size[1] // 2))
    target = np.zeros(size, bool)
    target[top : top + size[0] // 3, left : left + size[1] // 3] = True
    image[target] = 220
    facts = {"sample_id": f"s{index}", "image": image, "text": f"thing {index}", "target": target}
    return Sample(**{**facts, "image_name": f"{index}.png", "image_key": f"{index}.png", **changes})


class Samples(list):
    """A list of samples as a dataset."""

    def sample_id(self, index: int) -> str:
        return self[index].sample_id


@pytest.fixture
def discs() -> Discs:
    return Discs()


@pytest.fixture
def sample_of():
    return make_sample


@pytest.fixture
def dataset_of():
    return lambda count, **changes: Samples(make_sample(index, **changes) for index in range(count))


@pytest.fixture
def blank_plots(monkeypatch):
    """Plots with nothing in them, for tests that make many and look at none: drawing is most of a tiny run's time."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: Path(path).write_bytes(b"\x89PNG"))
