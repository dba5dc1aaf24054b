"""States of trajectories -> supervised examples: what the model sees, what it should say, and how much that counts.

Example k of a run depends on the seed and k alone: neither workers nor a restart change what the model is shown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path

import numpy as np

from segagent.data.base import Dataset
from segagent.data.trajectories import trajectory_from_json
from segagent.dialogue import Dialogue, Observation
from segagent.environment import stable_generator
from segagent.masks import bounding_box, decode_rle, iou, next_click
from segagent.training.cell_targets import CellTargets
from segagent.training.mask_noise import perturbed
from segagent.training.trajectory_index import TASKS, StateTable, iou_of_state
from segagent.types import Click, Sample, Trajectory


@dataclass(frozen=True, kw_only=True)
class TaskMix:
    """How often each task is learnt, relative to the others that a state allows, and how much it counts.

    click: the next click. iou_click: the IoU of the mask shown, then the next click (the form of a process reward
    model). iou: the IoU; the reply is learnt up to there, not that it ends. box: the target's box as the first action.
    finish: that the work is done, where a trajectory ended so. perturbed: the mask is replaced by a wrong one, whose
    IoU is told as well when the dialogue has words for it, and the annotator's click; 0 leaves a task out.
    """

    click: float = 0.0
    iou_click: float = 1.0
    iou: float = 0.5
    box: float = 0.0
    finish: float = 0.0
    perturbed: float = 0.3

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) < 0:
                raise ValueError(f"tasks.{field.name}={getattr(self, field.name)}: a weight, 0 or more")
        if not self.names:
            raise ValueError("tasks: all weights are 0, so there is nothing to learn")

    @property
    def names(self) -> list[str]:
        """The tasks that are learnt."""
        return [task for task in TASKS if getattr(self, task) > 0]

    def check(self, dialogue: Dialogue) -> None:
        """Raises `ValueError` for tasks that the dialogue has no words for."""
        wanting = [task for task in ("iou_click", "iou") if getattr(self, task) > 0]
        if wanting and not dialogue.iou:
            raise ValueError(
                f"tasks.{wanting[0]}: this dialogue announces no IoU; set tasks.{wanting[0]}=0 (and tasks.click=1), or "
                "give a dialogue with an iou wording"
            )

    def draw(self, can: int, random: np.random.Generator) -> str:
        """A task that a state can be asked. can: bits of `TASKS`."""
        tasks = [task for task in self.names if can >> TASKS.index(task) & 1]
        weights = np.array([getattr(self, task) for task in tasks])
        return tasks[int(random.choice(len(tasks), p=weights / weights.sum()))]


@dataclass(frozen=True, eq=False)
class Example:
    """observation: what the model sees. answer: what it should say. task: see `TaskMix`.

    open: the reply may go on after the answer, so that its end is not learnt. weight: of its tokens in the loss.
    sample: the picture with its target. mask: `[H, W]` bool, the one shown. cells: what the cells of the picture show,
    see `visual_words.CellWords`; asked: what they need, see `cell_targets.CellTargets`; mentions: which of what the
    text mentions they show, see `cell_mentions.SceneMentions`; None where it is not asked for.
    """

    number: int
    observation: Observation
    answer: str
    task: str
    sample: Sample
    mask: np.ndarray
    open: bool = False
    weight: float = 1.0
    cells: np.ndarray | None = None
    asked: CellTargets | None = None
    mentions: np.ndarray | None = None


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return stable_generator("sft order", seed, epoch).permutation(count)


def mask_of_state(trajectory: Trajectory, state: int) -> np.ndarray:
    """`[H, W]` bool, the mask before step `state`."""
    return decode_rle(trajectory.init_mask if state == 0 else trajectory.steps[state - 1].mask)


class Examples:
    """Map from number to `Example`; every state comes once an epoch, in an order of the epoch's own.

    states, paths: the table and the files that it is of. dataset: the pictures. dialogue: how the model speaks. seen:
    of dialogues in absolute pixels, see `MLLM.seen_size`: a function (width, height) -> size, else None. weights: task
    -> weight in the loss (1 where not named). cells: index in the dataset -> `Example.cells`. mentions: (index, text)
    -> `Example.mentions`. grid: cells a side of `Example.asked`, None for none. seed: of order and tasks.
    """

    def __init__(
        self,
        *,
        states: StateTable,
        paths: Sequence[str | Path],
        dataset: Dataset,
        dialogue: Dialogue,
        tasks: TaskMix,
        seen: Callable[..., tuple[int, int]] | None = None,
        weights: dict[str, float] | None = None,
        cells: Callable[[int], np.ndarray] | None = None,
        mentions: Callable[[int, str], np.ndarray] | None = None,
        grid: int | None = None,
        seed: int = 0,
    ) -> None:
        tasks.check(dialogue)
        unknown = sorted(set(weights or {}) - set(TASKS))
        if unknown:
            raise ValueError(f"loss_weights: no task {unknown[0]!r}; there are {', '.join(TASKS)}")
        if not len(states):
            raise ValueError("no examples: no state of the trajectories is left to learn from")
        self.states, self.paths, self.dataset = states, [Path(path) for path in paths], dataset
        self.dialogue, self.tasks, self.seen, self.seed = dialogue, tasks, seen, seed
        self.weights, self.cells, self.mentions, self.grid = dict(weights or {}), cells, mentions, grid

    def __len__(self) -> int:
        """Examples of an epoch."""
        return len(self.states)

    def row(self, number: int) -> int:
        """Which state comes at place `number` of the run."""
        epoch, place = divmod(number, len(self))
        return int(_order(self.seed, epoch, len(self))[place])

    def lengths(self, numbers: np.ndarray) -> np.ndarray:
        """`[N, 2]` int64: pixels and characters, by which examples of like length are put together."""
        rows = np.array([self.row(int(number)) for number in numbers], np.int64)
        return np.stack([self.states.size[rows], self.states.length[rows].astype(np.int64)], 1)

    def __getitem__(self, number: int) -> Example:
        """Raises `ValueError` when picture and trajectory do not fit each other."""
        return self.example(number, self.row(number), stable_generator("example", self.seed, number))

    def example(self, number: int, row: int, random: np.random.Generator) -> Example:
        """The example of a row of the table; number: what it is called."""
        trajectory = self.trajectory(row)
        sample = self.picture(row, trajectory)
        state, task = int(self.states.state[row]), self.tasks.draw(int(self.states.can[row]), random)
        mask, known = mask_of_state(trajectory, state), iou_of_state(trajectory, state)
        said: dict = {}
        if task == "perturbed":
            mask, said = self._perturbed(sample, mask, random)
        elif task in ("click", "iou_click"):
            said["click"] = trajectory.steps[state].action.click
        elif task == "box":
            said["box"] = bounding_box(sample.target)
        elif task == "finish":
            said["finished"] = True
        # A click alone is a task of its own; an end says how good the mask is where there are words for it.
        if task in ("iou_click", "iou") or (task == "finish" and self.dialogue.iou):
            said["predicted_iou"] = known
        index = int(self.states.sample[row])
        size = {"width": trajectory.width, "height": trajectory.height}
        seen = self.seen(**size) if self.dialogue.absolute else None
        return Example(
            number=number,
            observation=self.dialogue.observe(sample.image, mask, trajectory.text),
            answer=self.dialogue.format(**size, **said, seen=seen),
            task=task,
            sample=sample,
            mask=mask,
            open=set(said) == {"predicted_iou"},
            weight=self.weights.get(task, 1.0),
            cells=None if self.cells is None else self.cells(index),
            asked=None if self.grid is None else self._asked(sample, mask, said.get("click")),
            mentions=None if self.mentions is None else self.mentions(index, trajectory.text),
        )

    def _asked(self, sample: Sample, mask: np.ndarray, click: Click | None) -> CellTargets:
        if sample.target is None:
            raise ValueError(
                f"sample {sample.sample_id!r}: its trajectory has no target, which train.needs and train.gaze ask for; "
                "set them to 0, or learn from trajectories on data with masks"
            )
        return CellTargets.of(sample.target, mask, click, self.grid, sample.void)

    def _perturbed(self, sample: Sample, mask: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, dict]:
        """(mask, what is to be said of it); the mask of the state where the target is empty."""
        if sample.target.any():
            mask = perturbed(sample.target, sample.void, random)
        said: dict = {"predicted_iou": iou(mask, sample.target, sample.void)} if self.dialogue.iou else {}
        click = next_click(sample.target, mask, (), sample.void)
        said |= {"click": click} if click is not None else {} if said else {"finished": True}
        return mask, said

    def trajectory(self, row: int) -> Trajectory:
        path = self.paths[int(self.states.file[row])]
        with path.open("rb") as file:
            file.seek(int(self.states.offset[row]))
            return trajectory_from_json(json.loads(file.readline()))

    def picture(self, row: int, trajectory: Trajectory) -> Sample:
        """The sample of the dataset, with the trajectory's own target, void and text."""
        sample = self.dataset[int(self.states.sample[row])]
        if (sample.height, sample.width) != (trajectory.height, trajectory.width):
            raise ValueError(
                f"sample {trajectory.sample_id!r}: the picture is {[sample.height, sample.width]}, its trajectory says "
                f"{[trajectory.height, trajectory.width]}; give the data= that it was simulated on"
            )
        target = None if trajectory.target is None else decode_rle(trajectory.target)
        void = None if trajectory.void is None else decode_rle(trajectory.void)
        return Sample(
            sample_id=sample.sample_id,
            image=sample.image,
            text=trajectory.text,
            target=target,
            void=void,
            image_name=sample.image_name,
            image_key=sample.image_key,
        )
