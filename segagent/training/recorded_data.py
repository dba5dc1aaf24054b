"""What a training learns from, and who clicks in it, where its command names no `data=` and no `segmenter=`: what
earlier commands left says it.

scripts/simulate.py writes its settings beside the trajectories, scripts/train.py beside the model.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from segagent.configuration import check_recorded
from segagent.data.trajectories import settings_file
from segagent.training.sft_data import trajectory_files


def data_of_trajectories(config: DictConfig, given: Sequence[str]) -> DictConfig:
    """Settings of scripts/train.py with data and segmenter that their trajectories were simulated with.

    given: the words of the command line. What they name stays as it is, and all of it where there are no trajectories,
    or no settings beside them. Raises `ValueError` where the settings of data beside several files differ, or are not
    sound.
    """
    return _with_segmenter(_data_of_trajectories(config, given), given, "train")


def _data_of_trajectories(config: DictConfig, given: Sequence[str]) -> DictConfig:
    if _names_data(given) or config.data.trajectories is None:
        return config
    begun = _begun(config, "train", "data")
    if begun is not None:
        return _with_data(config, begun, config.data.trajectories, given)
    found = _beside_trajectories(config, "data")
    if not found:
        return config
    file, data = next(iter(found.items()))
    other = next((path for path, settings in found.items() if settings != data), None)
    if other is not None:
        raise ValueError(f"data: that of {file} is not that of {other}; say data=NAME")
    _tell(file, data)
    return _with_data(config, data, config.data.trajectories, given)


def data_of_training(config: DictConfig, given: Sequence[str]) -> DictConfig:
    """Settings of scripts/improve.py with data and trajectories of the training that made the model, S_0, and with the
    segmenter of these trajectories.

    given: see `data_of_trajectories`. The data stays as it is where the model is no training's `best/`.
    """
    return _with_segmenter(_data_of_training(config, given), given, "improve")


def _data_of_training(config: DictConfig, given: Sequence[str]) -> DictConfig:
    own, begun = config.data.trajectories, None if _names_data(given) else _begun(config, "improve", "data")
    if begun is not None:
        return _with_data(config, begun, begun.get("trajectories") if own is None else own, given)
    path = None if config.mllm is None else config.mllm.get("path")
    file = None if path is None else Path(path).parent / "train.config.yaml"
    data = None if file is None or Path(path).name != "best" or _names_data(given) else _recorded(file, "data")
    if data is None:
        return config
    _tell(file, data)
    return _with_data(config, data, data.get("trajectories") if own is None else own, given)


def _with_segmenter(config: DictConfig, given: Sequence[str], entry: str) -> DictConfig:
    """Clicks are carried out as in the trajectories that are learnt from: those of another segmenter lead elsewhere."""
    named = any(re.match(r"[+~]*segmenter\b", word) for word in given)
    if named or "segmenter" not in config or config.data.trajectories is None:
        return config
    begun = _begun(config, entry, "segmenter")
    segmenter = _of_trajectories(config) if begun is None else begun
    if segmenter is None:
        return config
    changed = config.copy()
    changed.segmenter = segmenter
    if "device" in segmenter:  # that of then is maybe of another machine
        changed.segmenter.device = config.device
    return changed


def _of_trajectories(config: DictConfig) -> DictConfig | None:
    """The segmenter of all their files, told on stderr; None where none is known, or they differ, which is told too."""
    found = _beside_trajectories(config, "segmenter")
    if not found:
        return None
    file, segmenter = next(iter(found.items()))
    alike = {**segmenter, "device": None}
    other = next((path for path, settings in found.items() if {**settings, "device": None} != alike), None)
    if other is not None:
        print(f"segmenter: that of {file} is not that of {other}; the default one clicks", file=sys.stderr)
        return None
    name = segmenter._target_.removesuffix(".from_checkpoint").rpartition(".")[2]
    print(f"segmenter: as in {file} ({name})", file=sys.stderr)
    return segmenter


def _names_data(given: Sequence[str]) -> bool:
    keys = [word.lstrip("+~").partition("=")[0] for word in given]
    return any(re.match(r"data(\.(?!(trajectories|limit)$)|$)", key) for key in keys)


def _begun(config: DictConfig, entry: str, group: str) -> DictConfig | None:
    """What the run that is gone on with was set to: it stays, whoever said it."""
    return _recorded(Path(config.out) / f"{entry}.config.yaml", group) if config.resume else None


def _beside_trajectories(config: DictConfig, group: str) -> dict[Path, DictConfig]:
    """What the settings beside the files of trajectories say, where they are there."""
    files = [settings_file(Path(path)) for path in trajectory_files(config)]
    return {file: settings for file in files if (settings := _recorded(file, group)) is not None}


def _recorded(file: Path, group: str) -> DictConfig | None:
    """`data` or `segmenter` of a settings file, None where it is not there."""
    settings = OmegaConf.load(file).get(group) if file.is_file() else None
    if settings is None:
        return None
    check_recorded(group, OmegaConf.masked_copy(settings, [key for key in settings if key != "trajectories"]), file)
    return settings


def _tell(file: Path, data: DictConfig) -> None:
    splits = [part.split for part in (data, *(data.get("datasets") or {}).values()) if "split" in part]
    told = f" (split {splits[0]})" if splits else ""
    if splits and not all(str(split).lower() in ("train", "dis-tr") for split in splits):
        told = f" (split {splits[0]}: what is learnt from is no measure any more; take another one for that)"
    print(f"data: as in {file}{told}", file=sys.stderr)


def _with_data(config: DictConfig, data: DictConfig, trajectories: object, given: Sequence[str]) -> DictConfig:
    """`data.limit=N` then means the first N trajectories: fewer pictures would leave some without theirs."""
    changed = config.copy()
    if any(word.lstrip("+").startswith("data.limit=") for word in given):
        changed.limit = config.data.limit
    changed.data = OmegaConf.merge(data, {"trajectories": trajectories})
    return changed
