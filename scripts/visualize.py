"""One sample of a trajectory file as a picture: target, start, and the mask after every click.

python scripts/visualize.py --trajectories runs/traj.jsonl --sample 3 --images data/images --out sample.png
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np

from segagent.data.images import load_image, resolve_inside
from segagent.data.trajectories import read_trajectories
from segagent.overlay import picture_strip
from segagent.report.pictures import trajectory_panels
from segagent.types import Trajectory


def find(trajectories: Iterable[Trajectory], wanted: str) -> Trajectory:
    """The trajectory with that sample id, else the one at that place (from 0) in the file.

    Raises `ValueError` when there is neither.
    """
    at_place, count = None, 0
    for place, trajectory in enumerate(trajectories):
        if trajectory.sample_id == wanted:
            return trajectory
        if str(place) == wanted:
            at_place = trajectory
        count = place + 1
    if at_place is None:
        raise ValueError(f"no sample {wanted!r} among {count}: give a sample_id, or a place from 0 to {count - 1}")
    return at_place


def draw(trajectory: Trajectory, images: Path, side: int, columns: int) -> np.ndarray:
    """`[H, W, 3]` uint8 strip; a picture that cannot be read is grey, with the reason in its caption."""

    def load(of: Trajectory) -> np.ndarray:
        return load_image(resolve_inside(images, str(of.image_name)))

    panels = trajectory_panels(trajectory, load, side)
    captions = [panel.caption() for panel in panels]
    if trajectory.end_reason is not None:
        captions[-1] += f"\nend: {trajectory.end_reason.value.replace('_', ' ')}"
    captions[0] += f"\n{trajectory.text}"
    return picture_strip([panel.picture for panel in panels], captions, columns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=Path, required=True, help="JSONL, one trajectory a line")
    parser.add_argument("--sample", required=True, help="sample_id, or the place in the file from 0")
    parser.add_argument("--images", type=Path, required=True, help="folder that image_name is relative to")
    parser.add_argument(
        "--out", type=Path, required=True, help="picture to write; its ending is the format (.png, .jpg)"
    )
    parser.add_argument("--side", type=int, default=360, help="longer side of one picture, pixels")
    parser.add_argument("--columns", type=int, default=4, help="pictures in a row")
    arguments = parser.parse_args()
    try:
        trajectory = find(read_trajectories(arguments.trajectories), arguments.sample)
        strip = draw(trajectory, arguments.images, arguments.side, arguments.columns)
    except (OSError, ValueError) as error:
        parser.exit(1, f"visualize: {error}\n")
    if not cv2.imwrite(str(arguments.out), cv2.cvtColor(strip, cv2.COLOR_RGB2BGR)):
        parser.exit(1, f"visualize: cannot write {arguments.out}: does its folder exist?\n")
    print(f"{arguments.out}: {len(trajectory.steps)} steps of {trajectory.sample_id}")


if __name__ == "__main__":
    main()
