"""YAML <-> objects. A config is a constructor's arguments with its `_target_`; `configs/` holds the named ones."""

from __future__ import annotations

import difflib
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


def check_types(entry: str, overrides: Sequence[str], config: DictConfig) -> None:
    """Raises `ValueError`, naming key and value, where an override is of another type than the default: `overwrite=no`
    is a text for Hydra, and every text is true.

    config: what `compose_config` made of them, resolved. Keys whose default is null take anything but what `_NUMBERS`
    says; null is taken by all but true and false, and what `_COUNTED` names. A seed is not negative.
    """
    chosen = [override for override in overrides if (CONFIG_DIR / re.split("[=@]", override.lstrip("+~"))[0]).is_dir()]
    plain = OmegaConf.to_container(compose_config(entry, chosen))
    _compare_types(OmegaConf.to_container(config), plain, "")
    for override in overrides:
        if override.startswith("+"):
            _check_added(override.lstrip("+").partition("=")[0], plain)


def _check_added(key: str, plain: dict) -> None:
    """Raises `ValueError` for a new key among settings that nobody looks through, such as +limt=1: it would do nothing.
    What is built of a `_target_` refuses keys itself."""
    *parents, last = key.split(".")
    for parent in parents:
        plain = plain.get(parent) if isinstance(plain, dict) else None
    closed = (
        isinstance(plain, dict) and "_target_" not in plain and not all(isinstance(v, dict) for v in plain.values())
    )
    if closed and last not in plain and "@" not in key:
        near = difflib.get_close_matches(last, plain)
        raise ValueError(f"{key}: no such setting" + (f"; {near[0]}?" if near else " (--help lists all)"))


# Last words of keys: what no command can do without, whatever else may be null; and numbers whose default is null.
_COUNTED = {"batch_size", "max_clicks", "k", "width", "seed", "rounds"}
_NUMBERS = {"patience", "tau_stop", "tau_diff", "budget", "stop_reward", "limit", "threads", "threshold"}


def _compare_types(given: Any, default: Any, key: str) -> None:
    if isinstance(given, dict) and isinstance(default, dict):
        for name in given:
            if name in default:
                _compare_types(given[name], default[name], f"{key}.{name}" if key else str(name))
    elif default == "???":
        if given is None and key == "out":  # what else has no default may be null: data.trajectories
            raise ValueError(f"{key}: not given; say {key}=... (--help lists all settings)")
    elif not (isinstance(given, (dict, list)) or (isinstance(default, str) and "${" in default)):
        _check_number(given, default, key)
        wanted = _WANTED.get(type(default))
        whole = isinstance(default, int) and isinstance(given, float) and given.is_integer()  # 4e9
        number = key.rpartition(".")[2] == "device" and type(given) is int  # of a GPU
        if wanted is not None and type(given) not in wanted[0] and not (whole or number):
            raise ValueError(f"{key}={given!r}: {wanted[1]}, such as {OmegaConf.to_yaml([default])[2:].strip()}")


def _check_number(given: Any, default: Any, key: str) -> None:
    last, is_number = key.rpartition(".")[2], type(given) in (int, float)
    if last in _COUNTED and given is None and default is not None:
        raise ValueError(f"{key}=null: give a whole number, such as {default}")
    if last in _NUMBERS and default is None and not (given is None or is_number):
        raise ValueError(f"{key}={given!r}: a number, or null")
    if last == "seed" and is_number and given < 0:
        raise ValueError(f"{key}={given}: a whole number, 0 or more")


# Type of a default -> types that are taken, and how they are called.
_WANTED: dict[type, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "say true or false"),
    int: ((int, type(None)), "a whole number"),
    float: ((float, int, type(None)), "a number"),
    str: ((str, type(None)), "a text (in quotes where it looks like something else)"),
    list: ((list, type(None)), "a list"),
}


def quoted(text: str) -> str:
    """A text as Hydra reads it: in quotes a backslash stands for itself, but before a quote or at the end."""
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ("\\" if found[2] else "") + found[2], text)
    return f'"{escaped}"'


def build_recorded(group: str, settings: DictConfig, source: Path) -> Any:
    """What settings that were read from a file describe, of a group of `configs/`; see `check_recorded`."""
    check_recorded(group, settings, source)
    return build(settings)


def check_recorded(group: str, settings: DictConfig, source: Path) -> None:
    """Settings that were read from a file may have come from elsewhere: they may not say what is run here.

    Raises `ValueError` for anything that no member of the group is made of.
    """
    ours = {target for name in names(group) for target in _targets(OmegaConf.to_container(load_named(group, name)))}
    foreign = [target for target in _targets(OmegaConf.to_container(settings)) if target not in ours]
    if foreign:
        raise ValueError(f"{source}: {group} is of {foreign[0]}, which is none of configs/{group}")


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
