"""What a training learns from where its command names no `data=`: what earlier commands left says it.

scripts/simulate.py writes the settings of its data beside the trajectories, scripts/train.py beside the model.
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
    """Settings of scripts/train.py with the data that their trajectories were simulated on.

    given: the words of the command line. Where they name data, where there are no trajectories, or no settings beside
    them, all stays as it is. Raises `ValueError` where the settings beside several files differ, or are not sound.
    """
    if _names_data(given) or config.data.trajectories is None:
        return config
    begun = _begun(config, "train")
    if begun is not None:
        return _with_data(config, begun, config.data.trajectories, given)
    files = [settings_file(Path(path)) for path in trajectory_files(config)]
    found = {file: data for file in files if (data := _recorded(file)) is not None}
    if not found:
        return config
    file, data = next(iter(found.items()))
    other = next((path for path, settings in found.items() if settings != data), None)
    if other is not None:
        raise ValueError(f"data: that of {file} is not that of {other}; say data=NAME")
    _tell(file, data)
    return _with_data(config, data, config.data.trajectories, given)


def data_of_training(config: DictConfig, given: Sequence[str]) -> DictConfig:
    """Settings of scripts/improve.py with data and trajectories of the training that made the model, S_0.

    given: see `data_of_trajectories`. Where they name data, or the model is no training's `best/`, all stays as it is.
    """
    own, begun = config.data.trajectories, None if _names_data(given) else _begun(config, "improve")
    if begun is not None:
        return _with_data(config, begun, begun.get("trajectories") if own is None else own, given)
    path = None if config.mllm is None else config.mllm.get("path")
    file = None if path is None else Path(path).parent / "train.config.yaml"
    data = None if file is None or Path(path).name != "best" or _names_data(given) else _recorded(file)
    if data is None:
        return config
    _tell(file, data)
    return _with_data(config, data, data.get("trajectories") if own is None else own, given)


def _names_data(given: Sequence[str]) -> bool:
    keys = [word.lstrip("+~").partition("=")[0] for word in given]
    return any(re.match(r"data(\.(?!(trajectories|limit)$)|$)", key) for key in keys)


def _begun(config: DictConfig, entry: str) -> DictConfig | None:
    """The data of the run that is gone on with: it stays what it was, whoever said it."""
    return _recorded(Path(config.out) / f"{entry}.config.yaml") if config.resume else None


def _recorded(file: Path) -> DictConfig | None:
    """The data of a settings file, None where it is not there."""
    data = OmegaConf.load(file).get("data") if file.is_file() else None
    if data is None:
        return None
    sources = OmegaConf.masked_copy(data, [key for key in data if key != "trajectories"])
    check_recorded("data", sources, file)
    return data


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
