"""What every command shares: overrides -> config, clear errors and exit codes, output files that are never lost.

Exit codes: 0 done; 1 done, but some samples were skipped and reported; 2 unsound input, configuration or output path;
3 a defect of ours, with its traceback; 130 interrupted (what was written stays; go on with resume=true).
"""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, NoReturn

from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from segagent.configuration import CONFIG_DIR, check_types, compose_config, names, quoted
from segagent.data.trajectories import aside, lock, set_aside
from segagent.mllm.families import family_of, model_folder

# Keys that change how a run is done, not what it makes: a resumed run may differ in them.
RUN_KEYS = ("out", "resume", "overwrite", "batch_size", "device", "engine", "on_error")
# Last words of keys that name files, folders and samples: whatever stands there is a name.
_NAMES = {"out", "images", "input", "sample", "masks", "coco", "truth", "texts", "trajectories", "page", "path", "root"}
_NAMES |= {"annotations", "official_out", "calibration_out", "init_from", "cache", "void_masks", "base", "start"}
# Settings of a network that may differ wherever `device` may: its own pace and memory.
_OF_DEVICE = ("device", "max_batch", "embed_batch", "memory_bytes", "cache_bytes")


def expand_checkpoints(arguments: Sequence[str]) -> list[str]:
    """Words of the command line as Hydra takes them.

    `mllm=FOLDER` -> the family that its config.json names, and its path (of a training's folder, `best/` in it).
    `mllm=null` -> `~mllm` (Hydra takes no null for a group). `proposer=NAME` -> the member of the group policy that
    stands at `proposer`. Names of files and folders, and the description `text`, are quoted (Hydra takes 2007_000033
    for a number, and stops at commas, brackets and letters beyond ASCII). Others stay as they are.

    Raises `ValueError` when it is neither a named config nor a folder of a family that there is.
    """
    expanded: list[str] = []
    for argument in arguments:
        group, _, value = argument.partition("=")
        if group == "proposer":
            expanded.append(f"policy@{argument}")
            continue
        if argument == "mllm=null":
            expanded.append("~mllm")
            continue
        last = group.rpartition(".")[2]
        if ((last in _NAMES and value[:1] not in ("", "[", "{")) or group == "text") and _is_bare(value):
            expanded.append(f"{group}={quoted(value)}")
            continue
        if group != "mllm" or value in ("", *names("mllm")):
            expanded.append(argument)
            continue
        folder = model_folder(value)
        expanded += [f"mllm={family_of(folder)}", f"mllm.path={quoted(str(folder))}"]
    return expanded


def _is_bare(text: str) -> bool:
    """Whether a text stands there without quotes of Hydra's: it may hold any letter."""
    escaped = re.search(r"\\[][(){},=: ]", text)  # by whoever knows Hydra
    return text.lower() != "null" and text[:1] not in ("'", '"') and not escaped


def _usage(entry: str, about: str) -> str:
    config = compose_config(entry)
    defaults = [
        member for member in OmegaConf.load(CONFIG_DIR / f"{entry}.yaml").get("defaults", []) if member != "_self_"
    ]
    # `policy@proposer: ...` is the group policy once more, at another place.
    groups = [group for member in defaults for group in member if re.fullmatch(r"\w+", group)]
    listed = "\n".join(f"  {group}={'|'.join(names(group))}" for group in groups)
    chosen = f" Groups (mllm takes the folder of a checkpoint too):\n{listed}" if groups else ""
    return (
        f"{about.strip()}\n\nGive settings as key=value.{chosen}\n\nSettings and defaults:\n{OmegaConf.to_yaml(config)}"
    )


def _explain(error: Exception) -> str:
    """Hydra's reason in one line; the outer error says which override, its cause says what is wrong with it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = [line.strip() for line in str(error.__cause__ or "").splitlines()[:1]]
    noise = ("See https", "full_key", "object_type", "Set the env", "To append")
    told = [line for line in lines + cause if not line.startswith(noise) and "--multirun" not in line]
    if isinstance(error, OverrideParseException):
        told.append("Quotes, brackets, = and letters beyond ASCII need quotes of their own: \"KEY='VALUE'\"")
    return " ".join(dict.fromkeys(told))


def run_entry(
    main: Callable[[DictConfig], int],
    entry: str,
    about: str,
    actions: Sequence[str] = (),
    *,
    aliases: Mapping[str, str] = MappingProxyType({}),
    complete: Callable[[DictConfig, Sequence[str]], DictConfig] | None = None,
) -> None:
    """Composes `configs/<entry>.yaml` with the command line, calls `main`, ends the process with its exit code.

    actions: words that may stand first, short for `action=WORD`. aliases: other names of keys. complete: given the
    config and the words of the command line, fills in what they leave open. `--help` prints `about` and the settings;
    `--config` prints the composed config.
    """
    global _held
    _held = {}
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    arguments = sys.argv[1:]
    if arguments and arguments[0] in actions:
        arguments[0] = f"action={arguments[0]}"
    try:
        if any(argument in ("-h", "--help") for argument in arguments):
            print(_usage(entry, about))
            sys.exit(0)
        settings = [_renamed(argument, aliases) for argument in arguments if argument != "--config"]
        settings = expand_checkpoints(settings)
        config = compose_config(entry, settings)
        OmegaConf.resolve(config)
        check_types(entry, settings, config)
        missing = sorted(OmegaConf.missing_keys(config))
        if complete is not None and not missing:
            config = complete(config, settings)
        if "--config" in arguments:
            print(OmegaConf.to_yaml(config))
            sys.exit(0)
        if missing:
            raise ValueError(f"{', '.join(missing)}: not given; say {missing[0]}=... (--help lists all settings)")
    except (HydraException, OmegaConfBaseException) as error:
        _fail(f"{_explain(error)} (--help lists all settings)")
    except (ValueError, OSError) as error:
        _fail(str(error))
    except Exception:
        _end_with_defect()
    try:
        sys.exit(main(config))
    except HydraException as error:  # a config that a constructor does not take
        _fail(_explain(error))
    except (ValueError, OSError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        how = ": go on with resume=true" if "resume" in config else ""
        print(f"\ninterrupted; what was written is whole{how}", file=sys.stderr)
        sys.exit(130)
    except Exception:
        _end_with_defect()


def _renamed(argument: str, aliases: Mapping[str, str]) -> str:
    """`ALIAS=VALUE` and `ALIAS.KEY=VALUE` by the name of the config."""
    name = re.match(r"\w*", argument)[0]
    return aliases.get(name, name) + argument[len(name) :]


def _end_with_defect() -> NoReturn:
    """No other exit code may stand for it."""
    traceback.print_exc()
    sys.exit(3)


def _fail(reason: str) -> NoReturn:
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(2)


def git_hash() -> str:
    """The commit of this checkout, with `-dirty` when files differ; `unknown` outside git."""
    call = ["git", "-C", str(CONFIG_DIR.parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def differing_settings(old: DictConfig, new: DictConfig, but: Sequence[str] = RUN_KEYS) -> list[str]:
    """Settings in which two configs differ, as `key (value, value)`; what is under the keys in `but`, or is one of them
    (`train.workers`), may differ."""
    flat = [_flatten(OmegaConf.to_container(config)) for config in (old, new)]
    keys = sorted(flat[0].keys() | flat[1].keys())
    return [
        f"{key} ({flat[0].get(key)} then, {flat[1].get(key)} now)"
        for key in keys
        if key not in but
        and key.partition(".")[0] not in but
        and not ("device" in but and key.rpartition(".")[2] in _OF_DEVICE)
        and flat[0].get(key) != flat[1].get(key)
    ]


def _flatten(settings: dict, prefix: str = "") -> dict:
    flat = {}
    for key, value in settings.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def beside(out: str | Path, ending: str) -> Path:
    """`results/NAME.json`, or .jsonl, .csv -> `results/NAME<ending>`; of another name, a point in it is no suffix."""
    out = Path(out)
    return out.with_name((out.stem if out.suffix in (".json", ".jsonl", ".csv") else out.name) + ending)


def claim_output(
    out: str | Path,
    config: DictConfig,
    data_file: Path,
    but: Sequence[str] = RUN_KEYS,
    *,
    grows: bool = False,
    resumable: bool = True,
) -> None:
    """Makes sure that writing to `out` loses nothing, and writes `NAME.config.yaml` beside it.

    data_file: where results stand while the run goes on. but: keys that a resumed run may change. grows: it is a
    trajectory file; an old one, of other settings, must not stand beside the new ones, and is set aside (and put back
    where nothing new was begun: resume). resumable: whether the command can go on from it. Raises `ValueError` when it
    or `out` exists and neither `resume` nor `overwrite` is set, or when a resumed run has other settings; `OSError`
    when the folder cannot be written, or another process is at work on it.
    """
    config_file = beside(out, ".config.yaml")
    if config.resume and config.overwrite:
        raise ValueError("resume=true and overwrite=true exclude each other")
    if config_file.exists() and beside(config.out, ".config.yaml") == config_file:  # out is a file, not a folder
        other = OmegaConf.load(config_file).get("out")
        if other is not None and Path(other).suffix != Path(str(config.out)).suffix:
            raise ValueError(f"{config_file}: is of the run with out={other}; choose another name for this one's out=")
    if config.resume and grows:
        _hold(config_file)
        _put_back((data_file, config_file, *_results(out)), data_file, config_file, config, but)
    there = next((file for file in (data_file, Path(out)) if file.exists()), None)
    if there is not None and not config.overwrite:
        if not config.resume:
            how = "resume=true to go on, or overwrite=true" if resumable else "overwrite=true"
            raise ValueError(f"{there}: is there already; say {how} to begin anew")
        if not data_file.exists():
            raise ValueError(
                f"{out}: cannot be gone on with ({data_file} is not there); choose another out=, or say overwrite=true"
            )
        if config_file.exists():
            changed = differing_settings(OmegaConf.load(config_file), config, but)
            if changed:
                raise ValueError(f"{config_file}: cannot resume with other settings: {'; '.join(changed)}")
    try:
        config_file.parent.mkdir(parents=True, exist_ok=True)
        _hold(config_file)
        if config.overwrite and grows:
            if data_file.is_file():
                set_aside(data_file)
                if config_file.is_file():  # its settings; those of a run that never began are not kept
                    os.replace(config_file, aside(config_file))
            # What was made of it would else stand beside the new settings until the run ends, or is killed.
            for made in _results(out):
                if made.is_file():
                    os.replace(made, aside(made))
        write_text(config_file, f"# git {git_hash()}\n{OmegaConf.to_yaml(config)}")
        _hold(config_file)  # the new file of that name
    except BlockingIOError:  # somebody else writes to it
        raise
    except OSError as error:
        raise OSError(
            error.errno, f"{error.strerror}: cannot write to {config_file.parent}; choose another out="
        ) from None


_held: dict[Path, BinaryIO] | None = None  # by a command; other processes go on after a run, and hold nothing


def _hold(config_file: Path) -> None:
    """Nobody else begins a run of that name before this command ends, while it still loads its models too.

    Raises `BlockingIOError` where somebody is at it.
    """
    if _held is None or os.name == "nt" or not config_file.is_file():  # Windows replaces no open file
        return
    name = config_file.resolve()
    if name in _held:
        _held.pop(name).close()
    file = open(config_file, "rb")  # noqa: SIM115 - as long as the process
    try:
        lock(file, config_file)
    except OSError:
        file.close()
        raise
    _held[name] = file


def _results(out: str | Path) -> set[Path]:
    return {Path(out), *(beside(out, ending) for ending in (".metrics.json", ".html", ".png"))}


def _put_back(
    files: Iterable[Path], data_file: Path, config_file: Path, config: DictConfig, but: Sequence[str]
) -> None:
    """What a run set aside (overwrite=true) that then never began is there again, for who goes on with its settings."""
    if data_file.exists() or not (aside(data_file).is_file() and aside(config_file).is_file()):
        return
    if not differing_settings(OmegaConf.load(aside(config_file)), config, but):
        for file in files:
            if aside(file).is_file():
                os.replace(aside(file), file)


def drop_aside(out: str | Path, data_file: Path) -> None:
    """At the end of a run: removes what `claim_output` set aside, which there are new ones for now."""
    for made in {*_results(out), beside(out, ".config.yaml"), data_file}:
        aside(made).unlink(missing_ok=True)


def refuse_own_start(config: DictConfig, paths: Iterable[str | None], deleted: Iterable[Path]) -> None:
    """Raises `ValueError` where `overwrite` would delete what the run begins from. paths: of models and files. deleted:
    the folders that go."""
    folders = [folder.resolve() for folder in deleted]
    for path in paths:
        if config.overwrite and path and any(Path(path).resolve().is_relative_to(folder) for folder in folders):
            raise ValueError(f"overwrite=true would delete {path}, which this run begins from; choose another out=")


def write_text(path: Path, text: str) -> None:
    """Writes a whole file or leaves the old one: a kill or a full disk never leaves half of it."""
    partial = path.with_name(path.name + ".partial")
    try:
        # Half of a surrogate pair, as a cut emoji leaves it, becomes \udXXX, which JSON reads back.
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(partial, path)
    except OSError:  # no room
        partial.unlink(missing_ok=True)
        raise
