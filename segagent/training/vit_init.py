"""Weights to begin with: random, a pretrained ViT (MAE's names), or a SimpleClick checkpoint."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from segagent.segmenters.simpleclick_checkpoint import load_simpleclick
from segagent.segmenters.simpleclick_vit import SimpleClickConfig, SimpleClickNet, resize_positions


def fresh_network(config: SimpleClickConfig, seed: int) -> SimpleClickNet:
    """Random weights that depend on the seed alone; torch's own random state is left as it was.

    Linear layers of the ViT: Xavier uniform, as MAE. Position table: sines and cosines of both axes (Vaswani et al.,
    2017, 2-D as in MAE), so that a short training need not find out what lies beside what.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SimpleClickNet(config)
        for layer in network.backbone.blocks.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
    with torch.no_grad():
        network.backbone.pos_embed[0, 1:] = sine_positions(config.grid_side, config.embed_dim)
    return network


def sine_positions(side: int, dim: int) -> Tensor:
    """`[side * side, dim]` float32, row by row; a quarter each: sine and cosine of the row, then of the column."""
    frequencies = 10000 ** -(torch.arange(dim // 4) / max(1, dim // 4))
    angles = torch.arange(side)[:, None] * frequencies
    axis = torch.cat([angles.sin(), angles.cos()], 1)
    both = torch.cat([axis[:, None].expand(side, side, -1), axis[None].expand(side, side, -1)], 2).flatten(0, 1)
    return nn.functional.pad(both, (0, dim - both.shape[1]))


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, SafetensorError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"init_from={path}: cannot be read as weights alone ({reason})") from None
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise ValueError(f"init_from={path}: holds no dictionary of tensors")
    return content


def load_pretrained(network: SimpleClickNet, path: str | Path) -> list[str]:
    """Fills the ViT of `network` from a file in MAE's names, or all of it from a SimpleClick checkpoint folder.

    path: `.pth` or `.safetensors` with `patch_embed.proj.*`, `pos_embed`, `blocks.N.*` (`{"model": {...}}` is looked
    into; decoder, class token, final norm and head are not used), or a folder as `save_simpleclick` writes it. The
    position table is resized to the network's grid. Returns the names that were filled. Raises `ValueError` naming file
    and tensor when one is missing or of another shape.
    """
    path = Path(path)
    if path.is_dir():
        state = load_simpleclick(path).state_dict()
        return _fill(network, state, path)
    if not path.is_file():
        raise ValueError(f"init_from={path}: no such file or folder")
    state = _read_state(path)
    if "pos_embed" in state:
        state["pos_embed"] = _fitted(state["pos_embed"], network.config.grid_side, path)
    return _fill(network.backbone, state, path)


def _fitted(table: Tensor, side: int, path: Path) -> Tensor:
    """A `[1, 1 + s*s, C]` position table at `side` x `side` places."""
    old = math.isqrt(max(0, table.shape[1] - 1)) if table.ndim == 3 else 0
    if not old or old * old != table.shape[1] - 1:
        raise ValueError(f"init_from={path}: pos_embed is {list(table.shape)}; expected [1, 1 + side * side, channels]")
    return resize_positions(table.float(), (old, old), (side, side))


def _fill(module: nn.Module, state: dict[str, Tensor], path: Path) -> list[str]:
    wanted = module.state_dict()
    for name, value in wanted.items():
        if name not in state:
            raise ValueError(f"init_from={path}: {name} is missing; expected the usual names of a ViT (MAE)")
        if state[name].shape != value.shape:
            raise ValueError(
                f"init_from={path}: {name} is {list(state[name].shape)}, this network needs {list(value.shape)}; "
                "choose the network= of the same size"
            )
    module.load_state_dict({name: state[name] for name in wanted})
    return list(wanted)
