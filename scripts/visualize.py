"""One sample of a trajectory file as a picture: target, start, and the mask after every click.

    python scripts/visualize.py trajectories=runs/traj.jsonl sample=ID out=sample.png

Pictures come from the data of the run that made the file, or from images=DIR.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from omegaconf import DictConfig, OmegaConf

from segagent.configuration import build_recorded
from segagent.data.images import load_image, resolve_inside
from segagent.data.segagent_json import image_path_of
from segagent.data.trajectories import read_trajectories, settings_file
from segagent.entry import run_entry
from segagent.overlay import picture_strip
from segagent.report.pictures import LoadImage, trajectory_panels
from segagent.results import image_loader
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


def loader(lines: Path, images: str | None) -> LoadImage:
    """Where pictures come from. Raises `ValueError` when neither a folder nor the run's settings are there."""
    if images is not None:
        return lambda trajectory: load_image(resolve_inside(images, image_path_of(trajectory.image_name)))
    config_file = settings_file(lines)
    if not config_file.is_file():
        raise ValueError(f"{config_file}: not there, so the data of this run is unknown; say images=DIR")
    try:
        return image_loader(build_recorded("data", OmegaConf.load(config_file).data, config_file))
    except ValueError as error:
        raise ValueError(f"{error}; say images=DIR") from None


def draw(trajectory: Trajectory, load: LoadImage, side: int, columns: int) -> np.ndarray:
    """`[H, W, 3]` uint8 strip; a picture that cannot be read is grey, with the reason in its caption."""
    panels = trajectory_panels(trajectory, load, side)
    captions = [panel.caption() for panel in panels]
    if trajectory.end_reason is not None:
        captions[-1] += f"\nend: {trajectory.end_reason.value.replace('_', ' ')}"
    captions[0] += f"\n{trajectory.text}"
    return picture_strip([panel.picture for panel in panels], captions, columns)


def main(config: DictConfig) -> int:
    out, lines = Path(config.out), Path(config.trajectories)
    for name in ("side", "columns"):
        if config[name] < 1:
            raise ValueError(f"{name}={config[name]}: at least 1")
    own = lines.with_suffix(".trajectories.jsonl")
    if lines.suffix == ".json" and own.is_file():
        raise ValueError(f"trajectories={lines}: are predictions; say trajectories={own}")
    trajectory = find(read_trajectories(lines), str(config.sample))
    strip = draw(trajectory, loader(lines, config.images), config.side, config.columns)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        written = cv2.imwrite(str(out), cv2.cvtColor(strip, cv2.COLOR_RGB2BGR))
    except cv2.error:
        raise ValueError(f"out={out}: not the name of a picture; end it in .png or .jpg") from None
    if not written:
        raise OSError(f"{out}: could not be written")
    print(f"{out}: {len(trajectory.steps)} steps of {trajectory.sample_id}")
    return 0


if __name__ == "__main__":
    run_entry(main, "visualize", __doc__)
