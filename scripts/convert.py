"""Converts objects and trajectories between file formats; docs/files.md says what each format can hold.

    python scripts/convert.py from=segagent_json input=train.json to=trajectories out=runs/train.jsonl
    python scripts/convert.py from=trajectories input=runs/traj.jsonl to=coco out=runs/instances.json
    python scripts/convert.py from=yolo_seg input=DIR images=DIR/images to=png_folders out=DIR2

Formats: trajectories (ours), segagent_json (released), coco, labelme, yolo_seg, png_folders. Clicks, void
pixels, texts and categories that the new format cannot hold are counted and told; ids that it has no room for are made
anew from the places of the objects.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from segagent.configuration import build, load_named
from segagent.data.formats.base import FileFormat
from segagent.data.mask_folders import is_hidden
from segagent.entry import run_entry
from segagent.types import Trajectory


def count_losses(trajectories: Iterable[Trajectory], losses: Counter, to: FileFormat) -> Iterator[Trajectory]:
    """Passes trajectories on and counts the samples that lose something, since `to` does not hold it."""
    for trajectory in trajectories:
        there = {
            "clicks": bool(trajectory.steps),
            "clicks that were not kept": "clicks" in to.holds and not all(step.kept for step in trajectory.steps),
            "void pixels": trajectory.void is not None,
            # A text that is the category's name is not lost with it.
            "texts": trajectory.text != (trajectory.category or trajectory.text),
            "categories": trajectory.category is not None,
        }
        losses.update(fact for fact, told in there.items() if told and fact not in to.holds)
        yield trajectory


def bar(trajectories: Iterable[Trajectory]) -> Iterable[Trajectory]:
    return tqdm(trajectories, desc="convert", unit="sample", disable=None, file=sys.stderr)


def take_back(out: Path, existed: bool) -> None:
    """Removes what a conversion that failed left in a folder, which held hidden files at most before."""
    for path in [path for path in out.iterdir() if not is_hidden(path, out)] if out.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    if out.is_dir() and not existed:
        out.rmdir()


def main(config: DictConfig) -> int:
    out = Path(config.out)
    if not config.input:
        raise ValueError("input: not given; say input=FILE (or the folder, of labelme, yolo_seg and png_folders)")
    if not Path(config.input).exists():
        raise ValueError(f"{config.input}: no such file or folder (input)")
    if out.is_file() and not config.overwrite:
        raise ValueError(f"{out}: is there already; say overwrite=true, or another out=")
    if out.is_dir() and not all(is_hidden(path, out) for path in out.iterdir()):
        raise ValueError(f"{out}: holds files, which would be read with the new ones; empty it, or choose another out=")
    if out.exists() and out.resolve() == Path(config.input).resolve():
        raise ValueError(f"{out}: out is the input; choose another out=")
    own = {"crowd": config.crowd} if config["from"] == "coco" else {}
    source = build(load_named("file_format", config["from"]), path=config.input, images=config.images, **own)
    sink = build(load_named("file_format", config.to), path=str(out), images=config.images)
    if hasattr(source, "categories") and hasattr(sink, "categories"):
        sink.categories = source.categories  # filled as it is read
    losses: Counter = Counter()
    existed = out.exists()
    try:
        written = sink.write(count_losses(bar(source.read()), losses, sink))
    except BaseException:
        take_back(out, existed)
        raise
    print(f"{written} samples: {config['from']} {config.input} -> {config.to} {out}")
    for what, count in losses.items():
        print(f"{config.to} cannot hold {what}: {count} samples had some", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run_entry(main, "convert", __doc__)
