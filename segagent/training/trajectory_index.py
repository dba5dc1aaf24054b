"""JSONL files of trajectories -> a table of the states in them that can be learnt from.

One pass over the files, which are checked whole before any training: every broken line, every picture that is not there
is told at once. What stays in memory is a few dozen bytes a state; lines are read again when their turn comes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from tqdm import tqdm

from segagent.data.base import Dataset, check_limit
from segagent.data.trajectories import trajectory_from_json
from segagent.dialogue import Dialogue
from segagent.types import EndReason, InitKind, Trajectory

RELABELLED = "relabelled"  # source of an action that the simulated annotator put in place of what was done

# What a state may be asked; bit n of `StateTable.can` stands for the n-th.
TASKS = ("click", "iou_click", "iou", "box", "finish", "perturbed")
_SHOWN = 1000  # problems that a message lists


@dataclass(frozen=True, eq=False)
class StateTable:
    """One row per state; columns `[N]`.

    file, offset: where the line of its trajectory begins, uint16 and int64 bytes. state: int16, 0 for the mask that it
    began with, k for the mask after step k. sample: int64, its index in the dataset. can: uint8, see `TASKS`. length:
    int32, characters of the description. size: int64, pixels of the picture. trajectory: int64, counted from 0.
    picture: int64, equal for states that show the same picture.
    """

    file: np.ndarray
    offset: np.ndarray
    state: np.ndarray
    sample: np.ndarray
    can: np.ndarray
    length: np.ndarray
    size: np.ndarray
    trajectory: np.ndarray
    picture: np.ndarray

    def __len__(self) -> int:
        return len(self.file)

    def rows(self, chosen: np.ndarray) -> StateTable:
        """chosen: `[N]` bool, or indices."""
        return StateTable(**{column.name: getattr(self, column.name)[chosen] for column in fields(self)})

    def split(self, held_out: int) -> tuple[StateTable, StateTable]:
        """(to learn from, the last `held_out` trajectories, or a fifth where that is all); no picture is in both.

        Raises `ValueError` when nothing is left to learn from.
        """
        if held_out < 0:
            raise ValueError(f"validation.limit={held_out}: a number of trajectories, 0 for no validation")
        if held_out == 0 or not len(self):
            return self, self.rows(np.zeros(0, np.int64))
        count = int(self.trajectory[-1]) + 1
        if held_out >= count > 1:
            told, held_out = held_out, max(1, count // 5)
            print(
                f"validation.limit={told}: of {count} trajectories, the last {held_out} are held out", file=sys.stderr
            )
        last = self.trajectory >= count - held_out
        shared = np.isin(self.picture, self.picture[last])
        if shared.all():
            raise ValueError(
                f"validation.limit={held_out}: the trajectories held out leave none to learn from; hold out fewer"
            )
        return self.rows(~shared), self.rows(last)


def iou_of_state(trajectory: Trajectory, state: int) -> float | None:
    """True IoU of the mask of a state, None where no target is known."""
    return trajectory.steps[state].iou_before if state < len(trajectory.steps) else trajectory.final_iou


def possible_tasks(trajectory: Trajectory, state: int, dialogue: Dialogue) -> int:
    """What a state can be asked, as bits of `TASKS`."""
    at_end = state == len(trajectory.steps)
    if at_end and trajectory.end_reason is None and state and trajectory.steps[-1].action.source == RELABELLED:
        return 0  # that click was never carried out: this is the state before it once more
    step = None if at_end else trajectory.steps[state]
    clicks = step is not None and step.kept and step.action.click is not None
    knows_iou = bool(dialogue.iou) and iou_of_state(trajectory, state) is not None
    can = {
        "click": clicks,
        "iou_click": clicks and knows_iou,
        "iou": knows_iou,
        # An empty target, for which the empty mask is right, has no box.
        "box": state == 0 and trajectory.init is InitKind.EMPTY and trajectory.init_iou == 0,
        "finish": at_end and trajectory.end_reason is EndReason.FINISHED,
        "perturbed": trajectory.target is not None,
    }
    return sum(1 << bit for bit, task in enumerate(TASKS) if can[task])


def _lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """(line number from 1, offset in bytes, line)."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            yield number, offset, line
            offset += len(line)


def _other_dialogue(trajectory: Trajectory, dialogue: Dialogue) -> str:
    """A reply of the trajectory that does not say in this dialogue what was done; empty when there is none.

    Dialogues in pixels of the picture as the model saw it cannot be judged without the model.
    """
    if dialogue.absolute:
        return ""
    for step in trajectory.steps:
        if step.action.text and step.action.click is not None:
            said = dialogue.parse(step.action.text, width=trajectory.width, height=trajectory.height).click
            if said != step.action.click:
                return step.action.text
    return ""


class _Scan:
    """Collects rows and problems over all files."""

    def __init__(self, dialogue: Dialogue, wanted: int, min_final_iou: float | None) -> None:
        self.dialogue, self.wanted, self.min_final_iou = dialogue, wanted, min_final_iou
        self.columns: list[tuple[int, int, int, int, int, int, int]] = []
        self.sample_ids: list[str] = []
        self.pictures: dict[str, int] = {}
        self.picture_of: list[int] = []
        self.problems: list[str] = []
        self.lines = 0

    def read(self, file: int, path: Path, limit: int | None, bar: tqdm) -> None:
        """limit: of lines, over all files. bar: of bytes."""
        for number, offset, line in _lines(path):
            if self.lines == limit:
                return
            self.lines += 1
            bar.update(len(line))
            try:
                trajectory = trajectory_from_json(json.loads(line))
            except ValueError as error:
                self.problems.append(f"{path}, line {number}: {error}")
                continue
            foreign = _other_dialogue(trajectory, self.dialogue)
            if foreign:
                self.problems.append(
                    f"{path}, line {number}: the reply {foreign!r} is of another dialogue; say "
                    "mllm.dialogue=NAME of the one that it was recorded in"
                )
                continue
            self._add(file, offset, trajectory)

    def _add(self, file: int, offset: int, trajectory: Trajectory) -> None:
        last = trajectory.final_iou
        if self.min_final_iou is not None and (last is None or last < self.min_final_iou):
            return
        name = str(trajectory.image_name)
        rows = [
            (file, offset, state, can, len(trajectory.text), trajectory.height * trajectory.width, len(self.sample_ids))
            for state in range(len(trajectory.steps) + 1)
            if (can := possible_tasks(trajectory, state, self.dialogue)) & self.wanted
        ]
        if rows:
            self.columns += rows
            self.sample_ids.append(trajectory.sample_id)
            self.picture_of.append(self.pictures.setdefault(name, len(self.pictures)))


def _find_samples(sample_ids: Sequence[str], dataset: Dataset, problems: list[str]) -> list[int]:
    """Index in the dataset of each; those that are not there, or whose picture is not, become problems."""
    wanted, places = set(sample_ids), {}
    for index in range(len(dataset)):
        if len(places) == len(wanted):
            break
        if (sample_id := dataset.sample_id(index)) in wanted:
            places[sample_id] = index
    missing = [sample_id for sample_id in dict.fromkeys(sample_ids) if sample_id not in places]
    problems += [
        f"sample {sample_id!r}: data has no such picture; give the data= of its simulation" for sample_id in missing
    ]
    # Generated sources have no files, folders list those that there are.
    if hasattr(dataset, "picture_path"):
        paths = dict.fromkeys(dataset.picture_path(index) for index in places.values())
        problems += [f"{path}: no such picture" for path in paths if path is not None and not path.is_file()]
    return [places.get(sample_id, -1) for sample_id in sample_ids]


def _check_sizes(files: Sequence[Path], columns: Sequence[tuple], samples: Sequence[int], dataset: Dataset) -> None:
    """Of the first picture of each file: ids of generated ones say nothing of their size, and nothing else is asked
    before the training."""
    known: set[int] = set()
    for file, *_, pixels, trajectory in columns:
        if file not in known:
            known.add(file)
            check_size(dataset, samples[trajectory], pixels, files[file])


def check_size(dataset: Dataset, index: int, pixels: int, path: Path) -> None:
    """Raises `ValueError` where the picture of a sample has another size than a trajectory in `path` says."""
    sample = dataset[index]
    if sample.width * sample.height != pixels:
        raise ValueError(
            f"{path}: its picture of sample {sample.sample_id!r} has {pixels} pixels, that of data has "
            f"{sample.width * sample.height}; give the data= (and data.size=) that it was simulated on"
        )


def check_files(paths: Sequence[str | Path]) -> None:
    """Raises `ValueError` that lists the files that are not there."""
    _complain([f"{path}: no such file" for path in paths if not Path(path).is_file()])


def read_states(
    paths: Sequence[str | Path],
    dataset: Dataset,
    dialogue: Dialogue,
    *,
    tasks: Sequence[str],
    min_final_iou: float | None = None,
    limit: int | None = None,
) -> StateTable:
    """The states of all files that at least one of `tasks` fits.

    dataset: the pictures, found by sample id. min_final_iou: leave out trajectories that end below it. limit: read the
    first so many trajectories only. Raises `ValueError` that lists all problems: files and pictures that are not there,
    lines that are no trajectory, replies of another dialogue; and when no state is left.
    """
    check_limit(limit)
    files = [Path(path) for path in paths]
    check_files(files)
    scan = _Scan(dialogue, sum(1 << TASKS.index(task) for task in tasks), min_final_iou)
    size = sum(path.stat().st_size for path in files)
    with tqdm(total=size, desc="trajectories", unit="B", unit_scale=True, delay=2, leave=False) as bar:
        for number, path in enumerate(files):
            scan.read(number, path, limit, bar)
    samples = _find_samples(scan.sample_ids, dataset, scan.problems)
    _complain(scan.problems)
    _check_sizes(files, scan.columns, samples, dataset)
    if not scan.columns:
        raise ValueError(
            f"{', '.join(map(str, files))}: {scan.lines} trajectories, none with a state to learn {', '.join(tasks)} "
            f"from (min_final_iou={min_final_iou}); simulate more, or give other tasks"
        )
    file, offset, state, can, length, size, trajectory = np.array(scan.columns, np.int64).T
    return StateTable(
        file=file.astype(np.uint16),
        offset=offset,
        state=state.astype(np.int16),
        sample=np.array(samples, np.int64)[trajectory],
        can=can.astype(np.uint8),
        length=length.astype(np.int32),
        size=size,
        trajectory=trajectory,
        picture=np.array(scan.picture_of, np.int64)[trajectory],
    )


def _complain(problems: Sequence[str]) -> None:
    if problems:
        more = f"\n... and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        listed = "\n".join(problems[:_SHOWN])
        raise ValueError(f"cannot train on this ({len(problems)} problems):\n{listed}{more}")
