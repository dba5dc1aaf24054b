"""The small files of a checkpoint folder, read without torch."""

from __future__ import annotations

import json
from pathlib import Path


def read_config(folder: str | Path) -> dict:
    """`config.json` of a checkpoint folder. Raises `ValueError` when there is none or it is no JSON object."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder}: has no config.json; give the folder of a checkpoint")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: holds {type(config).__name__}, expected an object with settings")
    return config
