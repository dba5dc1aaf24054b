"""SimpleClick checkpoints: released `.pth` files and our own folders -> network; network -> folder. Runs no file.

A released file is `{"state_dict": ..., "config": {"class", "params"}}`, and its config holds a loss object. It is read
by torch's weights-only reader, to which every name of the released package (`isegm.*`) is shown as an inert record; any
other name that the reader does not know is refused. Our own format is a folder with `model.safetensors` and
`config.json`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from segagent.segmenters.simpleclick_vit import SimpleClickConfig, SimpleClickNet
from segagent.segmenters.torch_files import UNREADABLE, not_readable
from segagent.weights import checkpoint_path

# In the released files, used by nothing: the classifier's leftovers and the upsampling branches of other head variants.
_UNUSED = ("backbone.cls_token", "backbone.fc_norm.", "backbone.head.", "head.up_conv1.", "head.up_conv2.")


class _Inert:
    """Stands for any object of the released package: takes any arguments and state, does nothing with them."""

    def __new__(cls, *arguments: Any, **options: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *arguments: Any, **options: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def _read_released(path: Path) -> dict:
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except UNREADABLE as error:
        raise ValueError(not_readable(path, error)) from None
    foreign = [name for name in unknown if not name.startswith("isegm.")]
    if foreign:
        raise ValueError(f"{path}: holds {foreign[0]}, which no SimpleClick checkpoint needs; refused")
    try:
        with torch.serialization.safe_globals([(_Inert, name) for name in unknown]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ValueError(not_readable(path, error)) from None
    if isinstance(content, list) and content:  # several stages: the last one is the finished model
        content = content[-1]
    missing = {"state_dict", "config"} - set(content if isinstance(content, dict) else ())
    if missing:
        raise ValueError(f"{path}: key {sorted(missing)[0]!r} is missing; expected a released SimpleClick checkpoint")
    return content


def _config_of(config: dict[str, Any], path: Path) -> SimpleClickConfig:
    """Architecture from a released config: `{"params": {name: {"value": ...}}}`."""
    try:
        values = {name: entry["value"] for name, entry in config["params"].items()}
        backbone, neck, head = values["backbone_params"], values["neck_params"], values["head_params"]
        for name, wanted in (("use_disks", True), ("with_prev_mask", True), ("use_rgb_conv", False)):
            if values.get(name, wanted) is not wanted:
                raise ValueError(f"{path}: {name}={values[name]}; only {name}={wanted} was released, and is supported")
        if head.get("upsample", "x1") != "x1":
            raise ValueError(f"{path}: head upsample {head['upsample']!r}; only 'x1' is supported")
        return SimpleClickConfig(
            image_size=backbone["img_size"][0],
            patch_size=backbone["patch_size"][0],
            embed_dim=backbone["embed_dim"],
            depth=backbone["depth"],
            num_heads=backbone["num_heads"],
            out_dims=tuple(neck["out_dims"]),
            head_channels=head["channels"],
            click_radius=values["norm_radius"],
        )
    except ValueError as error:  # of the configuration too, which knows no file
        raise ValueError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path}: its config is not that of a released SimpleClick model ({error!r})") from None


def _fill(network: SimpleClickNet, state: dict[str, Tensor], path: Path) -> SimpleClickNet:
    state = {key: value for key, value in state.items() if not key.startswith(_UNUSED)}
    expected = network.state_dict()
    wrong = sorted(expected.keys() ^ state.keys()) or [
        key for key in expected if expected[key].shape != state[key].shape
    ]
    if wrong:
        shape = list(state[wrong[0]].shape) if wrong[0] in state else "not there"
        wanted = list(expected[wrong[0]].shape) if wrong[0] in expected else "nothing of this name"
        raise ValueError(f"{path}: {wrong[0]} is {shape}, the architecture in its config needs {wanted}")
    network.load_state_dict(state)
    return network


def load_simpleclick(path: str | Path) -> SimpleClickNet:
    """A released `.pth` file, a folder of ours or the name of one that ships -> float32 network, CPU, eval mode.

    Raises `ValueError` naming the file and the key when it is missing, foreign or does not fit its own config.
    """
    path = checkpoint_path(path)
    if path.is_dir():
        return _load_folder(path)
    content = _read_released(path)
    return _fill(SimpleClickNet(_config_of(content["config"], path)), content["state_dict"], path).eval()


def _load_folder(path: Path) -> SimpleClickNet:
    for name in ("config.json", "model.safetensors"):
        if not (path / name).is_file():
            raise ValueError(f"{path}: has no {name}; expected a folder that save_simpleclick wrote")
    try:
        values = json.loads((path / "config.json").read_text(encoding="utf-8"))
        config = SimpleClickConfig(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path / 'config.json'}: not a SimpleClick config ({error})") from None
    try:
        state = load_file(path / "model.safetensors")
    except SafetensorError as error:
        raise ValueError(f"{path / 'model.safetensors'}: cannot be read ({error}); copy it again") from None
    return _fill(SimpleClickNet(config), state, path).eval()


def save_simpleclick(network: SimpleClickNet, path: str | Path) -> None:
    """Writes `config.json` and `model.safetensors` into the folder `path`."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(asdict(network.config), indent=1) + "\n", encoding="utf-8")
    save_file({key: value.contiguous() for key, value in network.state_dict().items()}, path / "model.safetensors")
