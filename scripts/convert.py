"""Converts objects and trajectories between file formats; docs/files.md says what each format can hold.

    python scripts/convert.py from=segagent_json input=train.json to=trajectories out=runs/train.jsonl
    python scripts/convert.py from=trajectories input=runs/traj.jsonl to=coco out=runs/instances.json
    python scripts/convert.py from=yolo_seg input=DIR images=DIR/images to=png_folders out=DIR2

Formats: trajectories (ours), segagent_json (released), coco, labelme, yolo_seg, png_folders. Facts that the new format
cannot hold are counted and told, never dropped in silence.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from omegaconf import DictConfig

from segagent.configuration import build, load_named
from segagent.data.formats.base import FileFormat
from segagent.entry import run_entry
from segagent.types import Trajectory


def count_losses(trajectories: Iterable[Trajectory], losses: Counter, to: FileFormat) -> Iterator[Trajectory]:
    """Passes trajectories on and counts what `to` cannot hold: clicks and void pixels."""
    for trajectory in trajectories:
        losses["clicks"] += bool(trajectory.steps) and "clicks" not in to.holds
        losses["void pixels"] += trajectory.void is not None and "void pixels" not in to.holds
        yield trajectory


def main(config: DictConfig) -> int:
    out = Path(config.out)
    if not config.input:
        raise ValueError("input: not given; say input=FILE (or the folder, of labelme, yolo_seg and png_folders)")
    if not Path(config.input).exists():
        raise ValueError(f"{config.input}: no such file or folder (input)")
    if out.exists() and not config.overwrite and (out.is_file() or any(out.iterdir())):
        raise ValueError(f"{out}: is there already; say overwrite=true, or another out=")
    if out.exists() and out.resolve() == Path(config.input).resolve():
        raise ValueError(f"{out}: out is the input; choose another out=")
    source = build(load_named("format", config["from"]), path=config.input, images=config.images)
    sink = build(load_named("format", config.to), path=str(out), images=config.images)
    losses: Counter = Counter()
    written = sink.write(count_losses(source.read(), losses, sink))
    print(f"{written} samples: {config['from']} {config.input} -> {config.to} {out}")
    for what, count in losses.items():
        if count:
            print(f"{config.to} cannot hold {what}: {count} samples had some", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run_entry(main, "convert", __doc__)
