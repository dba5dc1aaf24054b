"""Settings of an entry -> examples: its trajectories, the pictures that they are of, the tasks."""

from __future__ import annotations

from collections.abc import Callable

from omegaconf import DictConfig, OmegaConf

from segagent.configuration import build
from segagent.data.base import Dataset
from segagent.dialogue import Dialogue
from segagent.training.examples import Examples, TaskMix
from segagent.training.trajectory_index import StateTable, read_states
from segagent.training.visual_words import CellWords


def build_pictures(config: DictConfig) -> Dataset:
    """The dataset; the trajectories stand beside its settings and are none of them."""
    return build(OmegaConf.masked_copy(config.data, [key for key in config.data if key != "trajectories"]))


def trajectory_files(config: DictConfig) -> list[str]:
    """`data.trajectories`: one file or several."""
    given = config.data.trajectories
    return [given] if isinstance(given, str) else list(given)


def make_examples(
    config: DictConfig,
    dialogue: Dialogue,
    *,
    held_out: int = 0,
    seen: Callable[..., tuple[int, int]] | None = None,
    grid: int | None = None,
) -> tuple[Examples, Examples | None]:
    """(examples to learn, those held out or None).

    config: has data, min_final_iou, tasks, loss_weights, seed. held_out: trajectories; the last ones. seen: see
    `Examples`. grid: cells a side whose words are to be told, None for none. Raises `ValueError` as `read_states` does.
    """
    tasks, files, dataset = TaskMix(**config.tasks), trajectory_files(config), build_pictures(config)
    tasks.check(dialogue)
    states = read_states(files, dataset, dialogue, tasks=tasks.names, min_final_iou=config.min_final_iou)
    learnt, kept = states.split(held_out)

    def of(part: StateTable) -> Examples:
        return Examples(
            states=part,
            paths=files,
            dataset=dataset,
            dialogue=dialogue,
            tasks=tasks,
            seen=seen,
            weights=dict(config.loss_weights),
            cells=None if grid is None else CellWords(dataset, grid),
            seed=config.seed,
        )

    return of(learnt), of(kept) if len(kept) else None
