"""Weight files of a checkpoint folder -> tensors one by one -> a network; and back. Runs nothing that is in a file.

Read: `model.safetensors`, `pytorch_model.bin`, or shards of either with their index file. Written: safetensors only.
A network is made without storage (on torch's `meta` device) and filled tensor by tensor on the device it stays on, so
that a model never takes more than its own size.
"""

from __future__ import annotations

import json
import logging
import pickle
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)
_UNREADABLE = (SafetensorError, pickle.UnpicklingError, RuntimeError, OSError, AttributeError)
# Of a decoder nothing may be left over but what it counts anew.
_LAYER = re.compile(r"language\.model\.layers\.\d+\.(?!.*\binv_freq$)")
_SINGLE = ("model.safetensors", "pytorch_model.bin")


@contextmanager
def unsound_values_told(path: Path) -> Iterator[None]:
    """What networks raise of values in `config.json` that no check foresaw -> `ValueError` naming the file."""
    try:
        yield
    except (TypeError, AttributeError, ZeroDivisionError, StrictDataclassError) as error:
        raise ValueError(f"{path / 'config.json'}: has a value that cannot be ({str(error).splitlines()[0]})") from None


def weight_files(folder: str | Path) -> list[Path]:
    """The weight files of a checkpoint folder, in order.

    Raises `ValueError` when there are none, or a shard that the index names is missing.
    """
    folder = Path(folder)
    for name in _SINGLE:
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, TypeError, AttributeError):
                raise ValueError(f"{index}: not an index of shards (no 'weight_map'); download it again") from None
            missing = [shard for shard in shards if not (folder / shard).is_file()]
            if missing:
                raise ValueError(f"{folder}: {index.name} names {missing[0]}, which is not there; download it again")
            return [folder / shard for shard in shards]
        if (folder / name).is_file():
            return [folder / name]
    raise ValueError(f"{folder}: has no weights (model.safetensors, pytorch_model.bin, or shards with an index file)")


def read_tensors(folder: str | Path) -> Iterator[tuple[str, Tensor]]:
    """Every (key, tensor) of a checkpoint folder; one shard is open at a time, nothing is unpickled but tensors."""
    for path in weight_files(folder):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as file:
                    for key in file.keys():  # noqa: SIM118 (not a dict)
                        yield key, file.get_tensor(key)
            else:
                yield from torch.load(path, map_location="cpu", weights_only=True, mmap=True).items()
        except _UNREADABLE as error:
            raise ValueError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None


def read_shapes(folder: str | Path) -> dict[str, tuple[int, ...]]:
    """Key -> shape, without reading the numbers."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as file:
                    shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            else:
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                shapes |= {key: tuple(tensor.shape) for key, tensor in content.items()}
        except _UNREADABLE as error:
            raise ValueError(f"{path}: cannot be read ({str(error).splitlines()[0]})") from None
    return shapes


def fill(
    network: nn.Module,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    where: str | Path,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> list[str]:
    """Gives a network that was made on `meta` its parameters and what it counts (batch norm), on `device` in `dtype`
    (None: as stored).

    Returns the keys it has no use for, and reports them. Raises `ValueError` naming the first tensor that is missing or
    has another shape, and for weights of a decoder's layers that are left over.
    """
    expected = {name: parameter.shape for name, parameter in network.named_parameters(remove_duplicate=False)}
    trained = {name: parameter.requires_grad for name, parameter in network.named_parameters(remove_duplicate=False)}
    counted = {name: value.shape for name, value in network.state_dict().items() if name not in expected}
    expected |= counted
    tied = _tied(network)
    unused, left = [], set(expected)
    for name, tensor in tensors:
        if name not in expected:
            unused.append(name)
            continue
        if tensor.shape != expected[name]:
            raise ValueError(
                f"{where}: {name} is {list(tensor.shape)}, the architecture in config.json needs {list(expected[name])}"
            )
        value = tensor.to(device, dtype if tensor.is_floating_point() else None, copy=True)
        if name not in counted:
            value = nn.Parameter(value, requires_grad=trained[name])
        for alias in tied.get(name, (name,)):
            module, _, leaf = alias.rpartition(".")
            setattr(network.get_submodule(module), leaf, value)
            left.discard(alias)
    if left:
        raise ValueError(
            f"{where}: {len(left)} tensors are missing, the first is {min(left)}; is this the whole model?"
        )
    layers = [name for name in unused if _LAYER.match(name)]
    if layers:
        raise ValueError(
            f"{where}: config.json leaves out {len(layers)} weights of the decoder, such as {layers[0]}; it is of "
            "another model"
        )
    if unused:
        logger.info("%s: %d tensors are not used here and were skipped: %s", where, len(unused), summary(unused))
    return unused


def _tied(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """Name -> all names of the same parameter."""
    groups: dict[int, list[str]] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return {name: tuple(names) for names in groups.values() for name in names}


def summary(keys: Iterable[str]) -> str:
    """Keys by their first parts: "mask_extractor (16), model.norm (1)"."""
    heads = Counter(re.split(r"\.\d+\.", key)[0].removesuffix(".weight").removesuffix(".bias") for key in keys)
    shown = [f"{head} ({count})" for head, count in sorted(heads.items())]
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")


def write_folder(folder: str | Path, config: dict, tensors: dict[str, Tensor], *, shard_bytes: int = 5 * 10**9) -> None:
    """Writes `config.json` and `model.safetensors`, or shards with an index where that would exceed `shard_bytes`."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for key, tensor in tensors.items():
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][key] = tensor
        filled += tensor.nbytes
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = _SINGLE[0] if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        # Tensors that share memory (parts of a fused one) must be written apart.
        save_file(
            {key: tensor.detach().cpu().clone() for key, tensor in shard.items()}, folder / name, {"format": "pt"}
        )
        places |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())}, "weight_map": places}
    if len(shards) > 1:
        (folder / f"{_SINGLE[0]}.index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
