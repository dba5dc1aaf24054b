"""What the command's settings ask for -> the samples to work on, and who works on them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from segagent.configuration import build
from segagent.data.given_masks import GivenMasks, OwnMasks
from segagent.data.picture_folder import PictureFolder
from segagent.engines.work import RolloutWork
from segagent.policies.calibration import Calibration
from segagent.policies.reward_model import SegmenterScore, TrueIou
from segagent.policies.search import Beam, TreeSearch
from segagent.policies.second_opinion import SecondOpinion
from segagent.types import InitKind
from segagent.weights import checkpoint_path, shipped

MODES = ("annotate", "refine", "filter")
_OF_FILES = ("images", "text", "texts", "masks", "coco", "truth", "include")  # settings that data= takes the place of


def check_settings(config: DictConfig) -> None:
    """Raises `ValueError` for settings that make no sense together, before anything is loaded."""
    if config.mode not in MODES:
        raise ValueError(f"mode={config.mode!r}: choose {', '.join(MODES)}")
    if config.mode == "annotate" and config.init not in (InitKind.EMPTY, InitKind.BOX):
        raise ValueError(f"init={config.init!r}: choose empty or box (mode=refine begins with given masks)")
    if config.mode == "annotate" and config.init == InitKind.BOX and not config.coco and config.data is None:
        raise ValueError(
            "init=box: boxes are those of a COCO file or of data; say coco=FILE or data=NAME, or init=empty"
        )
    if config.segmentation not in ("rle", "polygons"):
        raise ValueError(f"segmentation={config.segmentation!r}: choose rle or polygons")
    if config.coco_text not in ("category", "caption"):
        raise ValueError(f"coco_text={config.coco_text!r}: choose category or caption")
    if config.data is None:
        _check_files(config)
    else:
        given = [name for name in (*_OF_FILES, "limit") if config[name] is not None]
        if given:
            raise ValueError(
                f"data: brings its own pictures, texts and masks; leave out {', '.join(given)} (data.limit=N: fewer)"
            )
    for name in ("precision", "bad_iou"):
        if not 0 < config.filter[name] <= 1:
            raise ValueError(f"filter.{name}={config.filter[name]}: in (0, 1], e.g. 0.9")
    threshold, shown = config.filter.threshold, config.filter.shown
    if threshold is not None and not 0 < threshold <= 1:
        raise ValueError(f"filter.threshold={threshold}: an IoU in (0, 1], e.g. 0.75, or null")
    if shown < 0:
        raise ValueError(f"filter.shown={shown}: 0 or more")
    if isinstance(config.text, str) and not config.text.strip():
        raise ValueError("text: is empty; say what to segment, or leave it out")
    if not (config.text is None or isinstance(config.text, str)):
        raise ValueError(f"text={config.text}: is read as no text; quote it: \"text='{config.text}'\"")


def _check_files(config: DictConfig) -> None:
    if not config.images:
        raise ValueError("images: not given; say images=DIR, the folder of the pictures, or data=NAME, a data source")
    if not Path(config.images).is_dir():
        raise ValueError(f"{config.images}: no such folder (images)")
    if config.coco and (config.text or config.texts or config.masks):
        raise ValueError("coco: brings its own texts and masks; leave out text, texts and masks")
    if config.mode != "annotate" and not (config.coco or config.masks):
        raise ValueError(f"mode={config.mode}: works on given masks; say coco=FILE, masks=DIR, or data=NAME")
    # A folder is searched for pictures, and would find the masks that a run leaves in it.
    if not config.coco and Path(config.out).resolve().is_relative_to(Path(config.images).resolve()):
        raise ValueError(f"out={config.out}: lies in the folder of the pictures, {config.images}; choose another one")


def source_of(config: DictConfig) -> DictConfig:
    """The settings of the samples: of a data source, of annotations of a COCO file, or of a folder of pictures."""
    if config.data is not None:
        return config.data if config.mode == "annotate" else _made(OwnMasks, dataset=config.data)
    shared = {"images": config.images, "truth": config.truth, "include": config.include, "limit": config.limit}
    if config.coco:
        return _made(GivenMasks, annotations=config.coco, text=config.coco_text, crowd=config.crowd, **shared)
    return _made(PictureFolder, text=config.text, texts=config.texts, masks=config.masks, **shared)


def policy_of(config: DictConfig) -> DictConfig:
    """`config.policy`; to filter, a search that looks at the given mask, judges it and does nothing.

    Raises `ValueError` when policy or reward cannot do what the mode needs.
    """
    if config.mode != "annotate" and get_class(config.reward._target_) is SegmenterScore:
        raise ValueError(
            f"mode={config.mode}: reward=segmenter_score speaks only of masks that the segmenter made, so not of the "
            "given ones; choose reward=predicted_iou"
        )
    if config.mode == "filter" and get_class(config.reward._target_) is TrueIou and not config.truth:
        raise ValueError(
            "mode=filter: reward=true_iou needs truth=, the right masks, which only coco= and masks= have beside the "
            "given ones; reward=predicted_iou does not"
        )
    if config.mode == "filter":
        parts = {"proposer": config.proposer, "reward": config.reward}
        replies = config.search.k if config.reward.get("statistic") == "mean" else 1
        return _made(Beam, k=replies, budget=0, keep_candidates=False, **parts)
    policy = get_class(config.policy._target_)
    if issubclass(policy, TreeSearch) and get_class(config.reward._target_) is SecondOpinion:
        raise ValueError(
            f"mode={config.mode}: reward=second_opinion judges masks that are given and nothing else, which is "
            "mode=filter; choose reward=expected_iou"
        )
    if config.mode == "refine" and not issubclass(policy, TreeSearch):
        raise ValueError(
            f"mode=refine: {policy.__name__} judges no mask, so that a worse one could be returned; choose "
            "policy=greedy, beam or mcts"
        )
    return config.policy


def _made(of: type, **arguments: Any) -> DictConfig:
    return OmegaConf.create({"_target_": f"{of.__module__}.{of.__qualname__}", **arguments})


def work_of(config: DictConfig) -> RolloutWork:
    """All of it. Raises `ValueError` when the policy cannot do what the mode needs."""
    return RolloutWork(
        data=source_of(config),
        policy=policy_of(config),
        segmenter=config.segmenter,
        rules=config.rollout,
        init=InitKind(config.init) if config.mode == "annotate" else InitKind.MASK,
        batch_size=config.batch_size,
        seed=config.seed,
        on_error=config.on_error,
        title=config.mode,
    )


def with_own_calibration(config: DictConfig) -> DictConfig:
    """The settings, for a filter with that of the checkpoint where neither a calibration nor a threshold is named.

    Told on stderr; where the checkpoint has none of the number that is asked for, that nothing will be flagged.
    """
    reward, path = config.reward, None if config.mllm is None else config.mllm.get("path")
    if config.mode != "filter" or config.filter.threshold is not None or reward.get("calibration") is not None:
        return config
    takes_one, begun = "calibration" in reward, Path(config.out) / "annotations.config.yaml"
    if takes_one and config.resume and begun.is_file():  # as it began
        then = OmegaConf.select(OmegaConf.load(begun), "reward.calibration")
        return OmegaConf.merge(config, {"reward": {"calibration": then}})
    # Of a model on a server or a hub nothing is known; a judge has numbers of its own.
    local = path is not None and (str(path) in shipped() or Path(path).is_dir())
    known = takes_one and local and reward.judge is None
    file = checkpoint_path(path) / get_class(reward._target_).calibration_file if known else None
    if file is None or not file.is_file() or Calibration.load(file).number != build(reward, judge=None).named:
        print(
            "filter: masks are ranked and none is flagged; that takes a calibration (reward.calibration=FILE, which "
            "evaltools/filtering.py calibration_out=FILE fits) or filter.threshold",
            file=sys.stderr,
        )
        return config
    print(f"filter: calibrated by {file}", file=sys.stderr)
    return OmegaConf.merge(config, {"reward": {"calibration": path}})


def calibration_of(config: DictConfig) -> Calibration | None:
    """How the reward's numbers were calibrated, for a filter. Raises `ValueError` where it cannot tell what is bad."""
    file = config.reward.get("calibration") if config.mode == "filter" else None
    if file is None:
        return None
    calibration = Calibration.load(file, get_class(config.reward._target_).calibration_file)
    calibration.reaching(config.filter.bad_iou)
    return calibration
