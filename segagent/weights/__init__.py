"""The checkpoints that ship: one folder each, with a model card. A name or a path -> the path."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent


def shipped() -> list[str]:
    """Names of the checkpoints that ship, sorted."""
    return sorted(path.parent.name for path in _FOLDER.glob("*/config.json"))


def checkpoint_path(path: str | Path) -> Path:
    """What is at `path`; where nothing is, and it is the name of a checkpoint that ships, that one's folder.

    Raises `ValueError` when it is neither.
    """
    found = Path(path)
    if found.exists():
        return found
    if str(path) in shipped():
        return _FOLDER / str(path)
    raise ValueError(f"{path}: no such checkpoint file or folder, and none of that name ships ({', '.join(shipped())})")
