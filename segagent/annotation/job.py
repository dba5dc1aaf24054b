"""A run of the command from its settings to its files: pictures and texts, or given masks -> a folder of results.

The trajectory file grows while the run goes on and is all that a resumed one needs; everything else in the folder is
made from it at the end, so that an interrupted run leaves the same files as one that was not.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from segagent.annotation.choice import light, returned, returned_iou, returned_score
from segagent.annotation.outputs import (
    changed_coco,
    mark_suspicious,
    new_coco,
    ranking,
    write_json,
    write_masks,
    write_sheet,
)
from segagent.annotation.sources import calibration_of, check_settings, with_own_calibration, work_of
from segagent.annotation.suspicion import Suspicion, find_suspicious
from segagent.data.base import Dataset
from segagent.data.mask_folders import is_hidden
from segagent.data.trajectories import read_trajectories
from segagent.engines.work import roll_out
from segagent.entry import claim_output, drop_aside, write_text
from segagent.metrics.statistics import hits
from segagent.policies.calibration import Calibration
from segagent.results import image_loader
from segagent.run import RunSummary, who
from segagent.types import Trajectory


def annotate_config(config: DictConfig) -> tuple[dict[str, Any], RunSummary]:
    """Does what `configs/annotate.yaml` describes and fills the folder `config.out`; returns what summary.json says.

    annotations.json, masks/, trajectories.jsonl, summary.json, annotations.config.yaml; of mode=filter no masks but
    ranking.csv and suspicious.html. Raises `ValueError` for unsound settings and input, `OSError` when the folder
    cannot be written.
    """
    check_settings(config)
    config = with_own_calibration(config)
    out = Path(config.out)
    lines = out / "trajectories.jsonl"
    work, calibration = work_of(config), calibration_of(config)  # what is wrong with them shows before the run
    source = work.dataset
    _check_folder(out, config)
    claim_output(out / "annotations.json", config, lines, grows=True)
    done = roll_out(config, work, lines)
    shutil.rmtree(out / "masks", ignore_errors=True)  # of an earlier run; like all but the lines, made anew
    for name in ("ranking.csv", "suspicious.html"):  # of mode=filter only
        (out / name).unlink(missing_ok=True)
    trajectories = [light(trajectory) for trajectory in read_trajectories(lines)]
    figures: dict[str, Any] = {"mode": config.mode, "who": who(config), "n": len(trajectories)}
    figures |= {"n_skipped": len(done.skipped), "skipped": done.skipped}
    figures |= {"n_unnamed_pictures": getattr(source, "unnamed", 0)}
    polygons = config.segmentation == "polygons"
    content = (
        changed_coco(Path(config.coco), trajectories, polygons=polygons, mode=config.mode)
        if config.coco
        else new_coco(trajectories, polygons)
    )
    if config.mode == "filter":
        figures |= _filter(config, out, trajectories, content, calibration, source)
    else:
        figures |= _masks_told(trajectories)
        if config.png:
            write_masks(out / "masks", trajectories)
    write_json(out / "annotations.json", content)
    drop_aside(out / "annotations.json", lines)
    write_text(out / "summary.json", json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    return figures, done


def _check_folder(out: Path, config: DictConfig) -> None:
    """Raises `ValueError` for a folder that is not one of ours: its masks/ might be somebody's work."""
    names = [path.name for path in out.iterdir() if not is_hidden(path, out)] if out.is_dir() else []
    joined = config.resume and names == ["trajectories.jsonl"]  # of shards
    if names and "annotations.config.yaml" not in names and not joined:
        raise ValueError(f"{out}: holds other files; choose a new folder, or an empty one (out)")
    written = [(out / name).resolve() for name in ("masks", "annotations.json")]
    for name in ("masks", "truth", "coco", "images"):
        if config[name] and any(Path(config[name]).resolve().is_relative_to(path) for path in written):
            raise ValueError(f"{config[name]}: {name} is what this run would write; choose another out")


def _mean(values: Sequence[float | None]) -> float | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _masks_told(trajectories: Sequence[Trajectory]) -> dict[str, Any]:
    """Figures of masks that were made or improved. changed: given masks that another one took the place of."""
    return {
        "n_changed": sum(returned(one) > 0 for one in trajectories),
        "n_judged": sum(returned_score(one) is not None for one in trajectories),
        "mean_predicted_iou": _mean([returned_score(one) for one in trajectories]),
        "mean_true_iou_before": _mean([one.init_iou for one in trajectories]),
        "mean_true_iou": _mean([returned_iou(one) for one in trajectories]),
    }


def _filter(
    config: DictConfig,
    out: Path,
    trajectories: Sequence[Trajectory],
    content: dict[str, Any],
    calibration: Calibration | None,
    source: Dataset,
) -> dict[str, Any]:
    """Writes what a filter writes, marks the annotations, and returns the figures."""
    said = [one.extras.get("pred_iou") for one in trajectories]
    predicted = np.array([np.nan if value is None else value for value in said], float)
    suspicion = find_suspicious(
        predicted,
        calibration=calibration,
        bad_iou=config.filter.bad_iou,
        precision=config.filter.precision,
        threshold=config.filter.threshold,
    )
    figures = {
        "n_unjudged": int(np.isnan(predicted).sum()),
        "n_suspicious": int(suspicion.flagged.sum()),
        "threshold": suspicion.threshold,
        "expected_precision": suspicion.expected_precision,
        "bad_iou": config.filter.bad_iou,
        **_measured(trajectories, suspicion, config.filter.bad_iou),
    }
    mark_suspicious(content, trajectories, suspicion, numbered=not config.coco)
    write_text(out / "ranking.csv", ranking(trajectories, suspicion))
    write_sheet(
        out / "suspicious.html",
        trajectories,
        suspicion,
        shown=config.filter.shown,
        summary={"masks": len(trajectories), **figures},
        load_image=image_loader(source),
    )
    return figures


def _measured(trajectories: Sequence[Trajectory], suspicion: Suspicion, bad_iou: float) -> dict[str, Any]:
    """Against the true masks, where all of them are known: how many are bad, and how well the flagged ones hit them."""
    if not trajectories or any(one.init_iou is None for one in trajectories):
        return {}
    bad = np.array([one.init_iou < bad_iou for one in trajectories])
    return {"n_bad": int(bad.sum()), **hits(bad, suspicion.flagged)}
