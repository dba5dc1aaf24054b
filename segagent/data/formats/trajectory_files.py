"""The two files that hold clicks: ours (JSONL) and the released trajectory JSON."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from segagent.data.segagent_json import image_path_of, is_refclef, read_official, write_official
from segagent.data.trajectories import TrajectoryWriter, read_trajectories
from segagent.types import Trajectory


class TrajectoryJsonl:
    """Our trajectory file (docs/files.md); it holds everything. path: the file. images: not needed."""

    holds = ("clicks", "clicks that were not kept", "void pixels", "texts", "categories")

    def __init__(self, *, path: str, images: str | None = None) -> None:
        self.path = path

    def read(self) -> Iterator[Trajectory]:
        return read_trajectories(self.path)

    def write(self, trajectories: Iterable[Trajectory]) -> int:
        """The file appears whole or not at all."""
        partial, count = Path(f"{self.path}.partial"), 0
        try:
            with TrajectoryWriter(partial, overwrite=True) as writer:
                for trajectory in trajectories:
                    writer.write([trajectory])
                    count += 1
            os.replace(partial, self.path)
        finally:
            partial.unlink(missing_ok=True)
        return count


class OfficialTrajectories:
    """The released trajectory JSON (`data.segagent_json`). Cannot say: void pixels, category, sample ids, texts of
    replies, why a trajectory ended; it refuses starts other than the empty mask. path: the file. images: not needed.
    """

    holds = ("clicks", "texts")

    def __init__(self, *, path: str, images: str | None = None) -> None:
        self.path = path

    def read(self) -> Iterator[Trajectory]:
        """In a file of RefCLEF a number is of a picture of ImageCLEF, which no other format could tell: its path takes
        the number's place."""
        for trajectory in read_official(self.path):
            number = isinstance(trajectory.image_name, int) and is_refclef(self.path)
            name = image_path_of(trajectory.image_name, refclef=True) if number else trajectory.image_name
            yield replace(trajectory, image_name=name)

    def write(self, trajectories: Iterable[Trajectory]) -> int:
        return write_official(self.path, trajectories)
