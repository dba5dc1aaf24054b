"""Annotation from Python: pictures as arrays and texts -> trajectories, with the settings of the command.

::

    from segagent import annotate, returned_mask

    trajectory = annotate("photo.jpg", "the left red cup", model="runs/sft/best")
    mask = returned_mask(trajectory)  # [H, W] bool
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from segagent.configuration import build, compose_config
from segagent.data.images import load_image
from segagent.entry import expand_checkpoints
from segagent.environment import Environment
from segagent.overlay import check_image
from segagent.policies.search import TreeSearch
from segagent.rollout import rollout
from segagent.types import Box, InitKind, Sample, Trajectory


class Annotator:
    """Model, segmenter and search, built once from settings of `scripts/annotate.py`.

    settings: `key=value` as on its command line, such as `mllm=FOLDER`, `segmenter=sam`, `search.k=5`. Raises
    `ValueError` for values that do not fit, Hydra's errors for keys that there are not.
    """

    def __init__(self, *settings: str) -> None:
        config = compose_config("annotate", expand_checkpoints(settings))
        OmegaConf.resolve(config)
        self.policy, self.init, self.batch_size = build(config.policy), config.init, config.batch_size
        segmenter = build(config.segmenter)
        self.environment = Environment(segmenter=segmenter, seed=config.seed, **config.rollout)

    def annotate(
        self,
        images: Sequence[np.ndarray | str | Path],
        texts: Sequence[str],
        *,
        masks: Sequence[np.ndarray] | None = None,
        boxes: Sequence[Box] | None = None,
    ) -> list[Trajectory]:
        """One trajectory per picture and text, `batch_size` at a time; `returned_mask` gives the mask of each.

        images: `[H, W, 3]` uint8 RGB, or files. masks: `[H, W]` bool, to refine: each comes back unless a mask is found
        that is predicted to be better. boxes: to begin from. Raises `ValueError` for lists of unequal length,
        what is no picture, mask, box or text, and both masks and boxes.
        """
        if masks is not None and boxes is not None:
            raise ValueError("masks and boxes exclude each other: a trajectory begins from one of them")
        if masks is not None and not isinstance(self.policy, TreeSearch):
            raise ValueError(f"{type(self.policy).__name__} judges no mask, so refines none; choose policy=greedy")
        given = {"texts": texts, "masks": masks, "boxes": boxes}
        for name, values in given.items():
            if values is not None and len(values) != len(images):
                raise ValueError(f"{len(images)} images and {len(values)} {name}: give as many of each")
        for index, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise ValueError(f"text {index} is {text!r}: say what is to be segmented")
        for name, values, kind, wanted in (
            ("mask", masks, np.ndarray, "[H, W] bool arrays"),
            ("box", boxes, Box, "segagent.types.Box(x0, y0, x1, y1) in pixels"),
        ):
            for index, value in enumerate(values or ()):
                if not isinstance(value, kind):
                    raise ValueError(f"{name} {index} is {value!r:.80}: give {wanted}")
        samples = [
            Sample(
                sample_id=str(index),
                image=_picture(image),
                text=text,
                mask=None if masks is None else masks[index],
                box=None if boxes is None else boxes[index],
                image_name=str(image) if isinstance(image, str | Path) else "",
                image_key=str(image) if isinstance(image, str | Path) else id(image),
            )
            for index, (image, text) in enumerate(zip(images, texts, strict=True))
        ]
        init = InitKind.MASK if masks is not None else InitKind.BOX if boxes is not None else self.init
        batches = rollout(
            samples, policy=self.policy, environment=self.environment, init=init, batch_size=self.batch_size
        )
        return list(chain.from_iterable(batches))


def _picture(image: np.ndarray | str | Path) -> np.ndarray:
    if isinstance(image, str | Path):
        return load_image(image)
    check_image(image)
    return image


@lru_cache(maxsize=1)
def _annotator(settings: tuple[str, ...]) -> Annotator:
    return Annotator(*settings)


def annotate(
    image: np.ndarray | str | Path,
    text: str,
    *,
    model: str | Path | None = None,
    mask: np.ndarray | None = None,
    box: Box | None = None,
    settings: Sequence[str] = (),
) -> Trajectory:
    """What an annotator that is told `text` does with a picture; `returned_mask(trajectory)` is the mask.

    image: `[H, W, 3]` uint8 RGB, or a file. model: name or checkpoint folder of the MLLM, None for that of
    `configs/annotate.yaml`, the nano that ships. mask: `[H, W]` bool, a mask to refine. box: a `segagent.types.Box` in
    pixels, to begin from. settings: further `key=value` of `scripts/annotate.py`. What was built stays for the next
    call with equal settings; for many pictures take an `Annotator`, which works in batches.
    """
    if isinstance(settings, str):
        raise ValueError(f"settings={settings!r}: give several texts, such as settings=({settings!r},)")
    chosen = [] if model is None else [f"mllm={model}"]
    return _annotator((*chosen, *settings)).annotate(
        [image], [text], masks=None if mask is None else [mask], boxes=None if box is None else [box]
    )[0]
