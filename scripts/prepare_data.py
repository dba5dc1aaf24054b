"""Checks a public dataset's folder: is everything there, is it as many as published, can all of it be read.

    python scripts/prepare_data.py check data=refcoco data.root=DIR
    python scripts/prepare_data.py check data=dis5k data.root=DIR every=10       # opens every tenth sample only
    python scripts/prepare_data.py where data=refcoco data.root=.                # where to get it

Nothing is downloaded or written. Exit code 1 when a split is missing, has another count than published, or holds a
sample that cannot be read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from omegaconf import DictConfig, OmegaConf
from tqdm import tqdm

from segagent.configuration import build, load_named, names
from segagent.data.base import Dataset
from segagent.data.published import ORIGINS, Origin, Split
from segagent.entry import run_entry

ACTIONS = ("check", "where")


@dataclass
class Findings:
    """Of one split: counts (None where the layout does not tell), samples opened, what is wrong."""

    name: str
    samples: int = 0
    objects: int | None = None
    images: int | None = None
    opened: int = 0
    problems: list[str] = field(default_factory=list)


def origin_of(data: DictConfig) -> tuple[str, Origin | None]:
    """(name, origin) of the dataset that a config builds; `(?, None)` for one without publisher."""
    for name in names("data"):
        named = load_named("data", name)
        same = named.get("dataset") == data.get("dataset") and named._target_ == data._target_
        if same and name in ORIGINS:
            return name, ORIGINS[name]
    return "?", None


def counted(dataset: Dataset, method: str) -> int | None:
    """How many different objects or images the samples have, without opening any."""
    key = getattr(dataset, method, None)
    return None if key is None else len({key(index) for index in range(len(dataset))})


def check_split(data: DictConfig, split: Split, every: int) -> Findings:
    """Builds the split and opens its samples; what goes wrong is collected, not raised."""
    settings = OmegaConf.merge(data, split.settings)
    found = Findings(" ".join(split.settings.values()) or settings.get("split") or "all")
    try:
        dataset = build(settings)
    except ValueError as error:
        found.problems.append(str(error))
        return found
    found.samples = len(dataset)
    found.objects, found.images = counted(dataset, "object_key"), counted(dataset, "image_key")
    if data.get("limit") is None:
        found.problems += differences(found, split, settings.get("level") != "instance")
    for index in tqdm(range(0, len(dataset), every) if every else (), desc=found.name, unit="sample"):
        found.opened += 1
        try:
            dataset[index]
        except ValueError as error:
            found.problems.append(str(error))
    return found


def differences(found: Findings, split: Split, by_expression: bool) -> list[str]:
    """One sentence for each count that is not the published one."""
    pairs = [("objects", found.objects, split.objects), ("images", found.images, split.images)]
    if by_expression:
        pairs.append(("samples", found.samples, split.samples))
    return [
        f"{found.name}: {count} {what}, published are {published}"
        for what, count, published in pairs
        if count is not None and published is not None and count != published
    ]


def row(found: Findings, split: Split) -> str:
    cells = [f"{found.name:<14}"]
    for what, count, published in (
        ("samples", found.samples, split.samples),
        ("objects", found.objects, split.objects),
        ("images", found.images, split.images),
    ):
        said = "" if published is None else f" of {published}"
        cells.append(f"{what} {'-' if count is None else count}{said}")
    return "  ".join([*cells, f"opened {found.opened}", f"problems {len(found.problems)}"])


def main(config: DictConfig) -> int:
    if config.action not in ACTIONS:
        raise ValueError(f"action={config.action}: choose {' or '.join(ACTIONS)}")
    if config.data is None:
        raise ValueError(f"data: not given; say data=NAME data.root=DIR ({', '.join(ORIGINS)})")
    if config.splits not in ("all", "given") or config.every < 0:
        raise ValueError(f"splits={config.splits} every={config.every}: splits is all or given, every 0 or more")
    name, origin = origin_of(config.data)
    print(f"{name}: {'no publisher known' if origin is None else origin.source}\n(layout: docs/datasets.md)\n")
    if config.action == "where":
        return 0
    splits = origin.splits if origin is not None else (Split({}),)
    if config.splits == "given":
        wanted = {key: config.data[key] for key in ("split", "split_by") if key in config.data}
        splits = tuple(split for split in splits if split.settings == wanted) or (Split(wanted),)
    wrong = 0
    for split in splits:
        found = check_split(config.data, split, config.every)
        print(row(found, split))
        for problem in found.problems[: config.show]:
            print(f"  {problem}")
        wrong += bool(found.problems)
    print(f"\n{len(splits) - wrong} of {len(splits)} splits sound")
    return 1 if wrong else 0


if __name__ == "__main__":
    run_entry(main, "prepare_data", __doc__, actions=ACTIONS)
