"""Checkpoint folder -> the member of `configs/mllm/` that loads it, by its config.json. No torch."""

from __future__ import annotations

from pathlib import Path

from segagent.configuration import names
from segagent.mllm.files import read_config

_OTHERS = "transformers_vlm"  # whatever else transformers loads; adapters too


def model_folder(folder: str | Path) -> Path:
    """The folder itself, or, where it has no weights of its own, what is in it: `best/` of a training, the model of the
    last round of scripts/improve.py."""
    folder = Path(folder)
    if any((folder / name).exists() for name in ("config.json", "adapter_config.json")):
        return folder
    if (folder / "best").is_dir():
        return folder / "best"
    # The layout is that of improvement/folder.py.
    rounds = [path for path in folder.glob("round_*/train/best") if path.parents[1].name[6:].isdecimal()]
    return max(rounds, key=lambda path: int(path.parents[1].name[6:]), default=folder)


def family_of(folder: str | Path) -> str:
    """`nano`, `osprey`, `qwen_vl_chat`, ... Raises `ValueError` when the folder is no checkpoint of a known family."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"mllm={folder}: neither one of {', '.join(names('mllm'))} nor a folder")
    if (folder / "adapter_config.json").is_file() and _OTHERS in names("mllm"):
        return _OTHERS
    values = read_config(folder)
    kind, ours = values.get("model_type"), values.get("segagent")
    if isinstance(ours, dict) and ours.get("family") in names("mllm"):
        return ours["family"]
    architecture = (values.get("architectures") or [""])[0]
    if kind == "osprey" or architecture.startswith("Osprey"):
        return "osprey"
    if kind == "qwen" and "visual" in values:
        return "qwen_vl_chat"
    if kind is not None and _OTHERS in names("mllm"):
        return _OTHERS
    raise ValueError(
        f"{folder / 'config.json'}: model_type={kind!r} is of no family that is supported "
        f"({', '.join(names('mllm'))}); see docs/models.md"
    )
