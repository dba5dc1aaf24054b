"""Settings of an entry -> a supervised training: model, examples, validation, processes.

Shared by the entries that train (scripts/train.py, scripts/improve.py).
"""

from __future__ import annotations

import copy

from accelerate import Accelerator
from omegaconf import DictConfig

from segagent.configuration import build
from segagent.dialogue import Dialogue, load_dialogue
from segagent.mllm.base import MLLM
from segagent.training.cell_mentions import CellMentions
from segagent.training.cell_needs import CellNeeds
from segagent.training.click_gaze import ClickGaze
from segagent.training.collate import Collator, without_weights
from segagent.training.examples import Examples, TaskMix
from segagent.training.sft import Auxiliary, SftTrainer, out_of_memory_told
from segagent.training.sft_checkpoint import SftFolder
from segagent.training.sft_data import build_pictures, check_examples, make_examples, with_generated
from segagent.training.sft_network import prepare_network
from segagent.training.sft_processes import check_sharing, is_sharded, start_processes
from segagent.training.sft_settings import SftSettings
from segagent.training.sft_validation import SftValidation
from segagent.training.tracking import Tracker
from segagent.training.visual_words import CellWords, VisualWords


def dialogue_of(mllm: MLLM) -> Dialogue:
    """The dialogue that the model is to learn. Raises `ValueError` when none is named."""
    if mllm.dialogue is None:
        raise ValueError("the checkpoint names no dialogue; say mllm.dialogue=NAME (configs/dialogue/)")
    return load_dialogue(mllm.dialogue)


def place(config: DictConfig, accelerator: Accelerator) -> None:
    """Several processes: each has its own device. Weights that will be shared out are loaded into memory first."""
    if accelerator.num_processes > 1:
        for part, device in (("mllm", "cpu" if is_sharded(accelerator) else None), ("segmenter", None)):
            if config[part] is not None and "device" in config[part]:
                config[part].device = device or str(accelerator.device)


def load_model(config: DictConfig) -> MLLM:
    """The model of `config.mllm`. Raises `ValueError` when there is none, or its weights are not here."""
    if config.mllm is None:
        raise ValueError("mllm: no model given; say mllm=FOLDER or mllm=NAME (--help lists the names)")
    mllm = build(config.mllm)
    if not hasattr(mllm, "network"):
        raise ValueError(f"mllm={type(mllm).__name__}: has no weights here; train one that is loaded from a folder")
    return mllm


def make_trainer(config: DictConfig, tracker: Tracker) -> SftTrainer:
    """config: has mllm, data (with trajectories), segmenter, train, generated, validation, device, out, seed, and what
    `make_examples` reads. Raises `ValueError` for whatever cannot be trained so."""
    settings = build(config.train)
    with out_of_memory_told(settings, "loading the model"):
        return _trainer(config, settings, tracker)


def _trainer(config: DictConfig, settings: SftSettings, tracker: Tracker) -> SftTrainer:
    check_examples(config)
    accelerator = start_processes(config.device, settings)
    config = copy.deepcopy(config)  # the entry keeps what the user said
    place(config, accelerator)
    mllm = load_model(config)
    dialogue = dialogue_of(mllm)
    auxiliary, cells = auxiliary_losses(mllm, dialogue, settings)
    learnt = held_out = None
    seen, count = without_weights(mllm).seen_size, config.validation.limit
    if config.data.trajectories is not None or config.generated.share < 1:
        learnt, held_out = make_examples(config, dialogue, held_out=count, seen=seen, **cells)
    return SftTrainer(
        mllm=mllm,
        examples=with_generated(config, dialogue, learnt, held_out, seen=seen, **cells),
        folder=SftFolder(config.out, keep=settings.keep),
        settings=settings,
        validation=None if held_out is None else make_validation(config, held_out),
        accelerator=accelerator,
        tracker=tracker,
        seed=config.seed,
        auxiliary=auxiliary,
    )


def check_training(config: DictConfig, accelerator: Accelerator) -> Dialogue:
    """The dialogue that would be learnt. Raises `ValueError` for what a training with these settings would refuse; for
    who does something else first. The model is loaded, and dropped again."""
    settings = build(config.train)
    check_sharing(settings, accelerator)
    with out_of_memory_told(settings, "loading the model"):
        return _checked(config, settings, accelerator)


def _checked(config: DictConfig, settings: SftSettings, accelerator: Accelerator) -> Dialogue:
    config = copy.deepcopy(config)
    place(config, accelerator)
    mllm = load_model(config)
    dialogue = dialogue_of(mllm)
    TaskMix(**config.tasks).check(dialogue)
    _, cells = auxiliary_losses(mllm, dialogue, settings)
    if "words" in cells or "mentions" in cells:
        CellWords(build_pictures(config), mllm.network.config.grid)
    Collator(mllm, settings.digit_decay)
    prepare_network(mllm, settings, accelerator.device)
    return dialogue


def auxiliary_losses(
    mllm: MLLM, dialogue: Dialogue, settings: SftSettings
) -> tuple[list[tuple[float, Auxiliary]], dict[str, int]]:
    """(losses with their weights, what `make_examples` must know for them: cells a side)."""
    losses: dict[str, tuple[float, Auxiliary]] = {}
    if settings.auxiliary:
        losses["words"] = settings.auxiliary, VisualWords(mllm)
    if settings.mentions:
        losses["mentions"] = settings.mentions, CellMentions(mllm)
    if settings.needs:
        losses["needs"] = settings.needs, CellNeeds(mllm, dialogue)
    if settings.gaze:
        losses["gaze"] = settings.gaze, ClickGaze(mllm, dialogue)
    told = {"words": "words", "mentions": "mentions", "needs": "needs", "gaze": "needs"}
    return list(losses.values()), {told[name]: mllm.network.config.grid for name in losses}


def make_validation(config: DictConfig, examples: Examples) -> SftValidation:
    checked = config.validation
    return SftValidation(
        examples=examples,
        segmenter=build(config.segmenter) if checked.with_segmenter else None,
        states=checked.states,
        batch_size=checked.batch_size,
        max_new_tokens=checked.max_new_tokens,
    )
