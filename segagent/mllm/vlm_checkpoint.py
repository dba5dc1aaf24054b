"""A checkpoint folder or hub name -> network, and where its tokenizer lies. Runs no code from a checkpoint.

A folder holds a whole model, or a LoRA adapter that names its base. Weights that do not fit are refused: transformers
would fill the gaps with random numbers and go on.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig, PreTrainedConfig
from transformers.utils import cached_file

from segagent.devices import torch_device, warn_if_slow
from segagent.mllm.parts import NOT_QUANTIZED, part_of

_ADAPTER = "adapter_config.json"
_SMALL = (".json", ".jinja", ".txt", ".model")
_OF_NETWORK = ("config.json", "generation_config.json", _ADAPTER, "segagent.json")
_LAYER = re.compile(r"\blayers\.\d+\.(?!.*\binv_freq$)")
_DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where the parts of a model lie. adapter: folder of a LoRA adapter, None for a whole model."""

    path: str
    base: str
    adapter: Path | None

    @property
    def tokenizer(self) -> str:
        """The adapter's folder when training saved a tokenizer there, else the base."""
        if self.adapter is not None and (self.adapter / "tokenizer_config.json").is_file():
            return str(self.adapter)
        return self.base

    @property
    def dialogue(self) -> str | None:
        """`dialogue` of `segagent.json` in a local folder: what the checkpoint was trained on."""
        note = Path(self.path) / "segagent.json"
        if not note.is_file():
            return None
        try:
            return json.loads(note.read_text(encoding="utf-8"))["dialogue"]
        except (ValueError, KeyError, TypeError):
            raise ValueError(f'{note}: not of the form {{"dialogue": "NAME"}}') from None


def find_checkpoint(path: str | Path, base: str | None) -> Checkpoint:
    """Reads whether `path` is an adapter, and of what. Raises `ValueError` when files of a local folder are missing."""
    path = Path(path)
    if not path.is_dir():
        if path.exists() or not _may_be_on_hub(path):
            raise ValueError(f"{path}: no such folder; give a checkpoint folder or a hub name (OWNER/NAME)")
        if base is not None:
            raise ValueError(f"mllm.base={base}: is for an adapter in a local folder, and {path} is none")
        return Checkpoint(str(path), str(path), None)
    if (path / _ADAPTER).is_file():
        return Checkpoint(str(path), _base_of(path, base), path)
    if base is not None:
        raise ValueError(f"mllm.base={base}: is for adapters, and {path} has no {_ADAPTER}")
    _check_whole(path)
    return Checkpoint(str(path), str(path), None)


def _may_be_on_hub(path: Path) -> bool:
    """Whether it has the form OWNER/NAME."""
    return len(path.parts) == 2 and not path.is_absolute() and path.parts[0] != ".."


def _check_whole(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise ValueError(
            f"{path}: has no config.json, so it is no checkpoint of a model (nor {_ADAPTER} of an adapter)"
        )
    if not any(path.glob("*.safetensors")) and not any(path.glob("pytorch_model*.bin")):
        raise ValueError(f"{path}: has no weights (model*.safetensors or pytorch_model*.bin); was the copy finished?")


def _base_of(path: Path, base: str | None) -> str:
    try:
        named = json.loads((path / _ADAPTER).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError):
        raise ValueError(f"{path / _ADAPTER}: not the JSON of an adapter") from None
    if not any(path.glob("adapter_model.*")):
        raise ValueError(f"{path}: has no weights (adapter_model.safetensors); was the copy finished?")
    base = base or named
    if not base:
        raise ValueError(f"{path / _ADAPTER}: names no base model (base_model_name_or_path); set mllm.base")
    if Path(base).is_dir():
        _check_whole(Path(base))
    elif not _may_be_on_hub(Path(base)):
        raise ValueError(f"{path}: an adapter of {base}, which is not there; set mllm.base to the folder of its base")
    return str(base)


def copy_preprocessing(checkpoint: Checkpoint, folder: str | Path) -> None:
    """Copies the small files of a checkpoint that are not about its network, from the hub's cache where it is there."""
    for source in dict.fromkeys((checkpoint.base, checkpoint.tokenizer)):
        there = Path(source) if Path(source).is_dir() else Path(cached_file(source, "config.json")).parent
        for path in sorted(there.iterdir()):
            of_network = path.name in _OF_NETWORK or path.name.endswith(".index.json")
            if path.suffix in _SMALL and not of_network:
                shutil.copyfile(path, Path(folder) / path.name)


def load_config(checkpoint: Checkpoint) -> PreTrainedConfig:
    """Raises `ValueError` for a model that transformers does not read images with, `OSError` when it is not there."""
    try:
        config = AutoConfig.from_pretrained(checkpoint.base, trust_remote_code=False)
    except ValueError as error:
        raise ValueError(f"{checkpoint.base}: {_first_line(error)}") from None
    except OSError as error:
        raise OSError(
            f"{checkpoint.base}: no folder here, and not to be had from the hub: {_first_line(error)}"
        ) from None
    if type(config) not in AutoModelForImageTextToText._model_mapping:
        raise ValueError(
            f"{checkpoint.base}: model_type {config.model_type!r} is no model that reads a picture and writes text"
        )
    return config


def load_network(
    checkpoint: Checkpoint,
    config: PreTrainedConfig,
    *,
    dtype: str,
    quantization: str,
    device_map: str | None,
    device: str,
    merge_adapter: bool,
) -> nn.Module:
    """The network in eval mode where it is to run; the arguments are those of `TransformersVLM`."""
    options = _placement(dtype, quantization, device_map)
    placed = torch_device(device)
    if quantization != "none" and device_map is None and (placed.type != "cuda" or placed.index is not None):
        options["device_map"] = {"": placed}  # else bitsandbytes takes the current GPU
    try:
        network, report = AutoModelForImageTextToText.from_pretrained(
            checkpoint.base, config=config, trust_remote_code=False, output_loading_info=True, **options
        )
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"{checkpoint.base}: its weights cannot be read: {_first_line(error)}") from None
    for problem in ("missing_keys", "mismatched_keys"):
        if report.get(problem):
            keys = sorted(str(key) for key in report[problem])
            raise ValueError(
                f"{checkpoint.base}: {len(keys)} weights do not fit config.json ({problem}, such as {keys[0]}); "
                "the checkpoint is incomplete or of another model"
            )
    unused = report.get("unexpected_keys") or ()
    over = sorted(key for key in unused if _LAYER.search(key) and part_of(key) == "language")
    if over:
        raise ValueError(
            f"{checkpoint.base}: config.json leaves out {len(over)} weights of the language model, such as {over[0]}; "
            "it is of another model"
        )
    if checkpoint.adapter is not None:
        if merge_adapter and quantization != "none":
            raise ValueError("merge_adapter=true would round the adapter to the quantized weights: set it to false")
        network = _with_adapter(network, checkpoint.adapter, merge_adapter)
    if device_map is None and quantization == "none":
        network = network.to(placed)
        warn_if_slow(placed, network.dtype, "mllm.dtype")
    return network.eval()


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _placement(dtype: str, quantization: str, device_map: str | None) -> dict[str, Any]:
    if dtype not in _DTYPES:
        raise ValueError(f"dtype={dtype!r}: choose {', '.join(_DTYPES)}")
    options: dict[str, Any] = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    if quantization not in ("none", "8bit", "4bit"):
        raise ValueError(f"quantization={quantization!r}: choose none, 8bit or 4bit")
    if quantization != "none":
        if importlib.util.find_spec("bitsandbytes") is None:
            raise ValueError(f"quantization={quantization} needs the package bitsandbytes: pip install bitsandbytes")
        computed = torch.bfloat16 if dtype == "auto" else options["dtype"]
        # The language model only: the projector is small, and trained beside low-rank updates (QLoRA).
        kept = {"llm_int8_skip_modules": [NOT_QUANTIZED]}
        options["quantization_config"] = (
            BitsAndBytesConfig(load_in_8bit=True, **kept)
            if quantization == "8bit"
            else BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=computed, **kept
            )
        )
    if device_map is not None:
        options["device_map"] = device_map
    return options


def _with_adapter(network: nn.Module, adapter: Path, merge: bool) -> nn.Module:
    try:
        with warnings.catch_warnings():
            # peft only warns of layers for which the adapter has no weights, and leaves them untouched.
            warnings.filterwarnings("error", message=".*missing adapter keys", category=UserWarning)
            adapted = PeftModel.from_pretrained(network, str(adapter))
    except (RuntimeError, KeyError, ValueError, SafetensorError, UserWarning) as error:
        raise ValueError(f"{adapter}: does not fit its base model: {_first_line(error)}") from None
    return adapted.merge_and_unload() if merge else adapted
