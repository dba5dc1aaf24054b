"""What the command's settings ask for -> the samples to work on, and who works on them."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from segagent.configuration import build
from segagent.data.base import Dataset
from segagent.data.given_masks import GivenMasks
from segagent.data.picture_folder import PictureFolder
from segagent.policies.base import Policy
from segagent.policies.search import Beam, TreeSearch
from segagent.types import InitKind

MODES = ("annotate", "refine", "filter")


def check_settings(config: DictConfig) -> None:
    """Raises `ValueError` for settings that make no sense together, before anything is loaded."""
    if config.mode not in MODES:
        raise ValueError(f"mode={config.mode!r}: choose {', '.join(MODES)}")
    if config.segmentation not in ("rle", "polygons"):
        raise ValueError(f"segmentation={config.segmentation!r}: choose rle or polygons")
    if not config.images:
        raise ValueError("images: not given; say images=DIR, the folder of the pictures")
    if not Path(config.images).is_dir():
        raise ValueError(f"{config.images}: no such folder (images)")
    if config.coco and (config.text or config.texts or config.masks):
        raise ValueError("coco: brings its own texts and masks; leave out text, texts and masks")
    if config.mode != "annotate" and not (config.coco or config.masks):
        raise ValueError(f"mode={config.mode}: works on given masks; say coco=FILE, or masks=DIR")
    # A folder is searched for pictures, and would find the masks that a run leaves in it.
    if not config.coco and Path(config.out).resolve().is_relative_to(Path(config.images).resolve()):
        raise ValueError(f"out={config.out}: lies in the folder of the pictures, {config.images}; choose another one")
    for name in ("precision", "bad_iou"):
        if not 0 < config.filter[name] <= 1:
            raise ValueError(f"filter.{name}={config.filter[name]}: in (0, 1], e.g. 0.9")


def open_source(config: DictConfig) -> Dataset:
    """The annotations of a COCO file, or a folder of pictures."""
    shared = {"images": config.images, "truth": config.truth, "include": config.include, "limit": config.limit}
    if config.coco:
        return GivenMasks(annotations=config.coco, text=config.coco_text, **shared)
    return PictureFolder(text=config.text, texts=config.texts, masks=config.masks, **shared)


def open_policy(config: DictConfig) -> Policy | TreeSearch:
    """`config.policy`; to filter, a search that looks at the given mask, judges it and does nothing.

    Raises `ValueError` when the policy cannot do what the mode needs.
    """
    if config.mode == "filter":
        proposer, reward = build(config.proposer), build(config.reward)
        return Beam(proposer=proposer, reward=reward, k=1, budget=0, keep_candidates=False)
    policy = build(config.policy)
    if config.mode == "refine" and not isinstance(policy, TreeSearch):
        raise ValueError(
            f"mode=refine: {type(policy).__name__} judges no mask, so that a worse one could be returned; choose "
            "policy=greedy, beam or mcts"
        )
    return policy


def init_of(config: DictConfig) -> InitKind:
    return InitKind(config.init) if config.mode == "annotate" else InitKind.MASK
