"""Settings of an entry -> examples: its trajectories, the pictures that they are of, the tasks."""

from __future__ import annotations

from collections.abc import Callable

from omegaconf import DictConfig, OmegaConf

from segagent.configuration import build
from segagent.data.base import Dataset
from segagent.dialogue import Dialogue
from segagent.training.cell_mentions import SceneMentions
from segagent.training.examples import Examples, TaskMix
from segagent.training.generated_states import Alternating, GeneratedStates
from segagent.training.trajectory_index import StateTable, check_files, read_states
from segagent.training.visual_words import CellWords


def build_pictures(config: DictConfig) -> Dataset:
    """The dataset; the trajectories stand beside its settings and are none of them."""
    return build(OmegaConf.masked_copy(config.data, [key for key in config.data if key != "trajectories"]))


def trajectory_files(config: DictConfig) -> list[str]:
    """`data.trajectories`: one file or several."""
    given = config.data.trajectories
    if given is None:
        raise ValueError(
            "data.trajectories=null: name trajectory files, or train on generated states alone (generated.share=1)"
        )
    return [given] if isinstance(given, str) else list(given)


def check_examples(config: DictConfig) -> None:
    """What can be told of the examples before the model is loaded, which takes minutes: raises `ValueError` for files
    of trajectories that are not there, tasks and shares that cannot be."""
    TaskMix(**config.tasks)
    share = config.generated.share
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise ValueError(f"generated.share={share}: a share in [0, 1]")
    if share > 0 and config.train.length_group != 1:
        raise ValueError(
            f"generated.share={share}: states that are made on the way have no length to be sorted by; set "
            f"train.length_group=1 (is {config.train.length_group})"
        )
    if config.data.trajectories is not None or share < 1:
        check_files(trajectory_files(config))


def make_examples(
    config: DictConfig,
    dialogue: Dialogue,
    *,
    held_out: int = 0,
    seen: Callable[..., tuple[int, int]] | None = None,
    words: int | None = None,
    mentions: int | None = None,
    needs: int | None = None,
) -> tuple[Examples, Examples | None]:
    """(examples to learn, those held out or None).

    config: has data, limit, min_final_iou, tasks, loss_weights, seed. held_out: trajectories; the last ones. seen: see
    `Examples`. words, mentions, needs: cells a side of which it is to be told what they show, which of what is
    mentioned, what they need; None for none. Raises `ValueError` as `read_states` does.
    """
    tasks, files, dataset = TaskMix(**config.tasks), trajectory_files(config), build_pictures(config)
    tasks.check(dialogue)
    states = read_states(
        files, dataset, dialogue, tasks=tasks.names, min_final_iou=config.min_final_iou, limit=config.get("limit")
    )
    learnt, kept = states.split(held_out)

    def of(part: StateTable) -> Examples:
        return Examples(
            states=part,
            paths=files,
            dataset=dataset,
            dialogue=dialogue,
            tasks=tasks,
            seen=seen,
            weights=dict(config.get("loss_weights", {})),  # none where another trainer learns
            cells=None if words is None else CellWords(dataset, words),
            mentions=None if mentions is None else SceneMentions(dataset, mentions),
            grid=needs,
            seed=config.seed,
        )

    return of(learnt), of(kept) if len(kept) else None


def with_generated(
    config: DictConfig,
    dialogue: Dialogue,
    examples: Examples | None,
    held_out: Examples | None = None,
    *,
    seen: Callable[..., tuple[int, int]] | None = None,
    words: int | None = None,
    mentions: int | None = None,
    needs: int | None = None,
) -> Examples | Alternating | GeneratedStates:
    """`generated.share` of the examples are fresh states of generated pictures. examples: None with a share of 1.

    config: passed `check_examples`. held_out: examples whose pictures are not learnt from. seen, words, mentions,
    needs: see `make_examples`.
    """
    settings = dict(config.generated)
    share = settings.pop("share")
    if share == 0:
        return examples
    dataset = build_pictures(config)
    made = GeneratedStates(
        dataset=dataset,
        dialogue=dialogue,
        weight=config.loss_weights.get("perturbed", 1.0),
        hidden=set() if held_out is None else {dataset[int(k)].image_name for k in set(held_out.states.sample)},
        seen=seen,
        cells=None if words is None else CellWords(dataset, words),
        mentions=None if mentions is None else SceneMentions(dataset, mentions),
        grid=needs,
        seed=config.seed,
        **settings,
    )
    return made if share == 1 else Alternating(examples, made, share)
