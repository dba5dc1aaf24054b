"""Models that began alike -> one model whose weights are the mean of theirs.

Of networks that were trained on from the same weights, with other data, orders or rates, the mean can be better than
each of them, at the cost of one (Wortsman et al., "Model soups", 2022; along one training: Izmailov et al., "Averaging
weights leads to wider optima", 2018). Statistics of a batch norm are averaged as well, which only comes near those of
the mean: some steps of training at a low rate make them right.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from segagent.mllm.files import read_config
from segagent.mllm.weights import read_shapes, weight_files

_INCIDENTAL = ("_name_or_path", "transformers_version")  # of config.json; say nothing of the network
# What a folder holds that speaks of its own weights, or goes on with them.
_OF_ONE = ("*calibration.json", "README.md", "training.pt")


def average(folders: Sequence[Path], out: Path, shares: Sequence[float] | None = None) -> None:
    """Writes `out`, a folder like the first one: its settings, its shards, its dtype; sums in float32.

    folders: of whole models, as safetensors. shares: one per folder, of any sum above 0 (below 0 for one that is to be
    kept away from); None: all alike. Raises `ValueError` naming the folder and the first thing that differs, for models
    of other settings or tensors, adapters, other kinds of files, shares that make no mean, and an `out` that is there.
    """
    if len(folders) < 2:
        raise ValueError(f"models: {len(folders)} given; a mean takes two or more")
    if out.exists():
        raise ValueError(f"{out}: is there already; choose another out=")
    given = [1.0] * len(folders) if shares is None else list(shares)
    if any(isinstance(share, bool) or not isinstance(share, (int, float)) for share in given):
        raise ValueError(f"shares={given}: give numbers, such as [0.6,0.4]")
    if len(given) != len(folders):
        raise ValueError(f"shares: {len(given)} for {len(folders)} models; give one for each")
    total = sum(given)
    if not 0 < total < float("inf"):
        raise ValueError(f"shares={given}: their sum is {total:g}; it has to be above 0")
    for folder in folders:
        _check_whole(folder)
    for folder in folders[1:]:
        _check_alike(folders[0], folder)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        weights = weight_files(folders[0])
        for path in folders[0].iterdir():
            if path.is_file() and path not in weights and not any(map(path.match, _OF_ONE)):
                shutil.copyfile(path, partial / path.name)
        _write_means(folders, [share / total for share in given], partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    os.replace(partial, out)


def _check_whole(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file():
        raise ValueError(f"{folder}: is an adapter; make it a whole model first (scripts/merge_adapter.py)")
    other = next((path for path in weight_files(folder) if path.suffix != ".safetensors"), None)
    if other is not None:
        raise ValueError(f"{other}: only models as safetensors are averaged, which is how trainings here leave them")


def _check_alike(first: Path, other: Path) -> None:
    for ours, theirs in ((_settings(first), _settings(other)), (read_shapes(first), read_shapes(other))):
        for key in sorted(ours.keys() | theirs.keys()):
            here, there = (list(one) if isinstance(one, tuple) else one for one in (ours.get(key), theirs.get(key)))
            if here != there:
                raise ValueError(f"{other}: {key} is {there!r}, of {first} {here!r}; only like models have a mean")


def _settings(folder: Path) -> dict:
    """Of `config.json`, and what a model of transformers says besides."""
    settings = {key: value for key, value in read_config(folder).items() if key not in _INCIDENTAL}
    beside = folder / "segagent.json"
    return settings | ({"segagent.json": json.loads(beside.read_text("utf-8"))} if beside.is_file() else {})


def _write_means(folders: Sequence[Path], shares: Sequence[float], out: Path) -> None:
    """A shard of the first one after the other; no more than that is in memory."""
    with ExitStack() as stack:
        places: list[dict[str, safe_open]] = []
        for folder in folders:
            files = {path: stack.enter_context(safe_open(path, framework="pt")) for path in weight_files(folder)}
            places.append({key: file for file in files.values() for key in file.keys()})  # noqa: SIM118 (not a dict)
        for path in weight_files(folders[0]):
            with safe_open(path, framework="pt") as shard:
                keys = list(shard.keys())
            try:
                means = {key: _mean([files[key].get_tensor(key) for files in places], shares) for key in keys}
            except SafetensorError as error:
                raise ValueError(f"{path.name}: cannot be read ({error})") from None
            save_file(means, out / path.name, {"format": "pt"})


def _mean(tensors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Whole numbers, which are counts, stay the first one's."""
    first = tensors[0]
    if not first.is_floating_point():
        return first
    total = sum(share * tensor.float() for share, tensor in zip(shares, tensors, strict=True))
    return total.to(first.dtype).contiguous()
