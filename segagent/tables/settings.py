"""Settings of a composed config <-> the words that give them on a command line."""

from __future__ import annotations

import re
import shlex
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segagent.configuration import load_named, names, quoted

_PLAIN = re.compile(r"[A-Za-z_./][\w./+-]*")
_READ_OTHERWISE = ("null", "true", "false", "nan", "inf")


def value_word(value: Any) -> str:
    """A value as Hydra reads it: `null`, `0.5`, `[1,2]`, a text in quotes where it needs them."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(value_word, value))}]"
    if not isinstance(value, str):
        return repr(value)
    if _PLAIN.fullmatch(value) and value.lower() not in _READ_OTHERWISE:
        return value
    return quoted(value)


def member_words(group: str, member: DictConfig | None, shared: DictConfig) -> list[str]:
    """A resolved member of a config group -> `group=NAME` and every setting in which it differs from NAME's file; of
    several files the one that takes the fewest words.

    shared: where the settings stand that its file refers to (`${device}`). Raises `ValueError` when it is of no file.
    """
    if member is None:
        return []
    own = _flat(OmegaConf.to_container(member))
    found: list[str] | None = None
    for name in names(group):
        named = load_named(group, name)
        if named["_target_"] != member["_target_"]:
            continue
        filed = {key: _refer(value, shared) for key, value in _flat(OmegaConf.to_container(named)).items()}
        # A list that the file has and an override has replaced is one value here, as in the file.
        words = [
            f"{'' if key in filed else '++'}{group}.{key}={value_word(own[key])}"
            for key in own
            if key not in filed or own[key] != filed[key]
        ]
        if found is None or len(words) < len(found) - 1:
            found = [f"{group}={name}", *words]
    if found is None:
        raise ValueError(f"{group}: {member['_target_']} is of none of {', '.join(names(group))}")
    return found


def _flat(settings: dict, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _refer(value: Any, shared: DictConfig) -> Any:
    reference = re.fullmatch(r"\$\{(\w+)\}", value) if isinstance(value, str) else None
    return OmegaConf.select(shared, reference[1]) if reference else value


def words_of(setting: str | None, key: str) -> list[str]:
    """`data=refshapes data.size=128` -> its words. Raises `ValueError` for one that is no `key=value`."""
    words = shlex.split(setting or "")
    for word in words:
        if "=" not in word:
            raise ValueError(f"{key}: {word!r} is no key=value; write e.g. 'data=refshapes data.size=128'")
    return words


def named_settings(entries: list[str]) -> dict[str, list[str]]:
    """`NAME: settings` each -> name -> words. Raises `ValueError` for a name that is missing or there twice."""
    found: dict[str, list[str]] = {}
    for entry in entries:
        name, colon, settings = entry.partition(":")
        name = name.strip()
        if not colon or not re.fullmatch(r"[\w+.-]+", name) or name in found:
            raise ValueError(
                f"datasets: {entry!r} is no 'NAME: data=...' with a name of its own (letters, digits, +-._)"
            )
        found[name] = words_of(settings, f"datasets, {name}")
    return found
