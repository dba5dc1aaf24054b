"""YAML <-> objects. A config is a constructor's arguments with its `_target_`; `configs/` holds the named ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

CONFIG_DIR = Path(__file__).resolve().parents[1] / "configs"


def names(group: str) -> list[str]:
    """The named configs of a group (`data`, `segmenter`, ...), sorted."""
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


def load_named(group: str, name: str) -> DictConfig:
    """`configs/<group>/<name>.yaml`. Raises `ValueError` with the names there are."""
    if name not in names(group):
        raise ValueError(f"no {group} {name!r}; there are {', '.join(names(group))} in {CONFIG_DIR / group}")
    return OmegaConf.load(CONFIG_DIR / group / f"{name}.yaml")


def compose_config(entry: str, overrides: Sequence[str] = ()) -> DictConfig:
    """`configs/<entry>.yaml` with command-line overrides. Raises Hydra's errors on unknown keys and groups."""
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return compose(entry, overrides=list(overrides))


def quoted(text: str) -> str:
    """A text as Hydra reads it: in quotes a backslash stands for itself, but before a quote or at the end."""
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ("\\" if found[2] else "") + found[2], text)
    return f'"{escaped}"'


def build_recorded(group: str, settings: DictConfig, source: Path) -> Any:
    """What settings that were read from a file describe, of a group of `configs/`.

    The file may have come from elsewhere: it may not say what is run here. Raises `ValueError` for anything that no
    member of the group is made of.
    """
    ours = {target for name in names(group) for target in _targets(OmegaConf.to_container(load_named(group, name)))}
    foreign = [target for target in _targets(OmegaConf.to_container(settings)) if target not in ours]
    if foreign:
        raise ValueError(f"{source}: {group} is of {foreign[0]}, which is none of configs/{group}")
    return build(settings)


def _targets(node: object) -> Iterator[object]:
    """All that a config would construct."""
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key == "_target_")
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _targets(inner)


def build(config: DictConfig, **arguments: Any) -> Any:
    """The object a config stands for. Raises the `ValueError` or `OSError` of its constructor unwrapped."""
    try:
        return instantiate(config, _convert_="all", **arguments)
    except InstantiationException as error:
        if isinstance(error.__cause__, (ValueError, OSError)):
            raise error.__cause__ from None
        raise
