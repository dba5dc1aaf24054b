"""Table 3: how well the IoU of a mask of any quality is told, as announced and after calibration."""

from __future__ import annotations

from typing import Any

import numpy as np

from segagent.policies.calibration import Calibration
from segagent.tables.cells import Cell, Done, entry_module, named
from segagent.tables.section import Section, Table, made_by
from segagent.tables.settings import words_of
from segagent.tables.setup import Setup, limited

_AIMS = {"pearson": 0.90, "spearman": 0.87}


def table3(setup: Setup) -> Section:
    """Masks of random points, judged; a calibration fitted to a slice of the training data."""
    settings, rows, findings, dones = setup.config.filtering, [], [], []
    rewards = {"reward": ("", setup.reward)}  # cell -> what its rows are called, and the reward
    if "number" in setup.config.reward:
        # A calibration, or a mean of replies, is of one number only; the table calibrates by itself.
        plain = [word for word in setup.reward if not word.startswith(("reward.calibration=", "reward.statistic="))]
        rewards = {n: (f"{n} number, ", [*plain, f"reward.number={n}"]) for n in settings.numbers}
        if settings.attempts:
            own = [f"reward.attempts={settings.attempts}", f"reward.number={settings.numbers[-1]}"]
            rewards["second_opinion"] = ("second opinion, ", ["reward=second_opinion", "reward.masks=any", *own])
    for cell, (told_by, reward) in rewards.items():
        place = f"filtering/{cell}"
        fitted = _judged(setup, f"{place}_train", settings.train, settings.train_limit, reward)
        held_out = _judged(setup, place, settings.data, settings.limit, reward)
        dones += [fitted, held_out]
        predicted, true, image, unjudged = entry_module("filtering").announced_masks(_lines(held_out))
        calibration = Calibration.fit(*entry_module("filtering").announced_masks(_lines(fitted))[:2])
        calibrated = np.array([calibration(value) for value in predicted])
        told = {"as announced": predicted, "calibrated": calibrated}
        for how, values in told.items():
            found = entry_module("filtering").quality(values, true, image, setup.config.resamples)
            runs = named([held_out] if how == "as announced" else [held_out, fitted])
            shown = [_cell(found, key) for key in ("mae", "mse", "pearson", "spearman")]
            rows.append([told_by + how, str(len(true)), *shown, runs])
            if how == "as announced":
                findings.append(f"{cell.replace('_', ' ')}: {_against_aims(found)}; {unjudged} masks without a number.")
    head = ["predicted IoU", "n", "MAE", "MSE", "Pearson", "Spearman", "run"]
    caption = "MAE in percent points, MSE in their squares; 95% intervals over pictures"
    return Section(
        name="table3",
        title="Table 3: filtering annotations by predicted IoU",
        claim="Predicted and true IoU of masks of any quality correlate: Pearson at least 0.90, Spearman 0.87.",
        findings=findings,
        tables=[Table(head, rows, caption)],
        notes=[
            "Masks are made of 1 to 6 random points inside the target's box (the paper's supplement, E.1). Calibrated: "
            "through the isotonic map fitted to the run on training data. expected: the mean over the probabilities of "
            "all numbers; greedy: the number that is written; second opinion (ours): the mean of the last of them "
            "and of the IoU with what the model draws itself, in several attempts. Published on RefCOCO val: "
            "SegAgent-Qwen 6.88 / 193.98 / 0.90 / 0.87, SegAgent-LLaVA 5.58 / 175.35 / 0.91 / 0.90."
        ],
        **made_by(dones),
    )


def _judged(setup: Setup, name: str, data: str, limit: int, reward: list[str]) -> Done:
    words = [*words_of(data, "filtering"), *limited(limit), *setup.segmenter, *setup.mllm, *reward, *setup.common]
    return setup.cells.run(Cell("filtering", name, tuple(words)))


def _lines(done: Done) -> Any:
    return done.path.with_name(f"{done.path.stem}.trajectories.jsonl")


def _cell(found: dict[str, float], key: str) -> str:
    none = "\N{EN DASH}"
    if key not in found:
        return none
    digits = 3 if key in _AIMS else 2
    bounds = [f"{found[f'{key}_{end}']:.{digits}f}" for end in ("low", "high") if f"{key}_{end}" in found]
    return f"{found[key]:.{digits}f} [{', '.join(bounds) or none}]"  # none of a single picture


def _against_aims(found: dict[str, float]) -> str:
    parts = []
    for key, aim in _AIMS.items():
        value = found.get(key)
        reached = "not defined" if value is None else f"{value:.3f}, {'reached' if value >= aim else 'not reached'}"
        parts.append(f"{key} at least {aim:.2f}: {reached}")
    return "; ".join(parts)
