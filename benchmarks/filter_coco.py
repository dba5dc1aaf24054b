"""How many of the corrupted masks of a COCO file does `scripts/annotate.py mode=filter` find, and how precisely?

    python benchmarks/filter_coco.py --samples 1000 --out benchmarks/results/filter_coco.json
    python benchmarks/filter_coco.py --samples 1000 reward=second_opinion reward.calibration=segagent_nano \
        --out benchmarks/results/filter_coco_second_opinion.json
    python benchmarks/filter_coco.py --samples 300 --calibration 600 mllm=FOLDER data.subset=refshapes+

Writes pictures of refshapes, a COCO file of their objects, its texts as captions, and the same file with `--share` of
the masks replaced, evenly by the mask of another thing in the picture and by one that is wrong at random (IoU at most
`--worst`; training.mask_noise). Then it runs `annotate.py mode=filter` on it, against the right file. The calibration
is fitted to so many corrupted masks of the training split, made in the same way, on pictures that nano was not trained
on (another seed), since it knows those that it has seen too well; reward.calibration=FILE takes one that is there, as
that of segagent_nano. 95% intervals: 1000 bootstrap resamples over pictures.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from rollout_batches import machine

from segagent.configuration import build, compose_config
from segagent.data.base import Dataset
from segagent.entry import expand_checkpoints
from segagent.environment import stable_generator
from segagent.masks import encode_rle, iou
from segagent.metrics.statistics import hits
from segagent.policies.calibration import Calibration
from segagent.tables.cells import entry_module
from segagent.training.mask_noise import perturbed

_TRIES = 200


def corrupted(dataset: Dataset, index: int, worst: float, random: np.random.Generator) -> np.ndarray:
    """A mask of IoU at most `worst` for a sample of refshapes."""
    target, scene = dataset[index].target, dataset.scene(index)
    others = [scene.mask(number) for number in range(len(scene.things))]
    others = [mask for mask in others if mask.any() and iou(mask, target) == 0]
    if others and random.random() < 0.5:
        return others[int(random.integers(len(others)))]
    for _ in range(_TRIES):
        mask = perturbed(target, None, random)
        if mask.any() and iou(mask, target) <= worst:
            return mask
    raise ValueError(f"--worst {worst}: no such mask of {dataset.sample_id(index)} in {_TRIES} tries; raise it")


def given_mask(dataset: Dataset, index: int, given: argparse.Namespace) -> np.ndarray:
    """The sample's mask, or with probability `given.share` a corrupted one."""
    sample = dataset[index]
    random = stable_generator("filter_coco", given.seed, sample.sample_id)
    return corrupted(dataset, index, given.worst, random) if random.random() < given.share else sample.target


def write_coco(dataset: Dataset, folder: Path, given: argparse.Namespace) -> dict[str, str]:
    """Pictures, `true.json` and `given.json`, in a new folder. Returns picture of each annotation id."""
    (folder / "images").mkdir(parents=True)
    images, files = {}, {"true": [], "given": []}
    for index in range(len(dataset)):
        sample = dataset[index]
        if sample.image_name not in images:
            name = f"{len(images) + 1:05d}.png"
            images[sample.image_name] = {"id": len(images) + 1, "file_name": name}
            images[sample.image_name] |= {"height": sample.height, "width": sample.width}
            Image.fromarray(sample.image).save(folder / "images" / name)
        masks = {"true": sample.target, "given": given_mask(dataset, index, given)}
        for name, mask in masks.items():
            entry = {"id": index + 1, "image_id": images[sample.image_name]["id"], "category_id": 1, "iscrowd": 0}
            files[name].append(entry | {"caption": sample.text, "segmentation": encode_rle(mask)})
    for name, entries in files.items():
        content = {"images": list(images.values()), "annotations": entries, "categories": [{"id": 1, "name": "it"}]}
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    pictures = {entry["id"]: entry["file_name"] for entry in images.values()}
    return {str(entry["id"]): pictures[entry["image_id"]] for entry in files["true"]}


def composed(words: Sequence[str]) -> DictConfig:
    """Settings of `scripts/annotate.py`."""
    config = compose_config("annotate", expand_checkpoints(words))
    OmegaConf.resolve(config)
    return config


def filtered(folder: Path, settings: Sequence[str]) -> list[dict[str, str]]:
    """Rows of ranking.csv of a run on a folder of `write_coco`."""
    words = [f"images={folder}/images", f"coco={folder}/given.json", f"truth={folder}/true.json", "coco_text=caption"]
    words += ["mode=filter", "png=false", f"out={folder}/run", "batch_size=16", *settings]
    if entry_module("annotate").main(composed(words)):
        raise ValueError(f"{folder}/run: the filter skipped pictures")
    with (folder / "run" / "ranking.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def measured(rows: Sequence[dict[str, str]], pictures: dict[str, str], bad_iou: float) -> dict[str, object]:
    """Precision and recall of what was flagged, and the precision at which 90% are found, going down the ranking."""
    bad = np.array([float(row["true_iou"]) < bad_iou for row in rows])
    flagged = np.array([row["suspicious"] == "1" for row in rows])
    image = np.unique([pictures[row["sample_id"].partition("#")[0]] for row in rows], return_inverse=True)[1]
    groups = [np.flatnonzero(image == one) for one in range(image.max() + 1)]
    random, drawn = np.random.default_rng(0), []
    for _ in range(1000):
        chosen = np.concatenate([groups[k] for k in random.integers(len(groups), size=len(groups))])
        drawn.append(hits(bad[chosen], flagged[chosen]))
    figures: dict[str, object] = {"n": len(rows), "n_bad": int(bad.sum()), "n_flagged": int(flagged.sum())}
    for name, value in hits(bad, flagged).items():
        values = [one[name] for one in drawn if one[name] is not None]
        figures[name] = value
        figures[f"{name}_interval"] = np.percentile(values, [2.5, 97.5]).tolist() if values else None
    if bad.any():
        figures["precision_at_recall_90"] = precision_at_recall(bad, np.arange(len(bad)))  # rows come ranked
    return figures


def precision_at_recall(bad: np.ndarray, number: np.ndarray, recall: float = 0.9) -> float:
    """Share of bad masks among those of the lowest numbers, down to where so many of the bad ones are found."""
    ranked = bad[np.argsort(number, kind="stable")]
    needed = int(np.searchsorted(ranked.cumsum(), np.ceil(recall * bad.sum()))) + 1
    return float(ranked[:needed].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--calibration", type=int, default=600, help="samples of the training split")
    parser.add_argument("--calibration-seed", type=int, default=5, help="of their pictures")
    parser.add_argument("--share", type=float, default=0.2, help="of masks that are corrupted")
    parser.add_argument("--worst", type=float, default=0.7, help="IoU that a corrupted mask has at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="JSON")
    parser.add_argument("--calibration-out", type=Path, default=None, help="file for the calibration, to be kept")
    parser.add_argument("settings", nargs="*", help="of scripts/annotate.py; data.KEY=VALUE: of refshapes")
    given = parser.parse_args()
    shapes = [word for word in given.settings if word.startswith("data.")]
    settings = ["reward.number=expected", *(word for word in given.settings if word not in shapes)]
    config = composed(["out=unused", *settings])
    calibration = config.reward.get("calibration")
    if calibration is not None and given.calibration_out is not None:
        parser.error("--calibration-out: nothing is fitted where reward.calibration is given; leave one of them out")
    unused = () if calibration is None else ("calibration", "calibration_seed")
    asked = {k: v for k, v in vars(given).items() if k not in ("out", "calibration_out", *unused)}
    with tempfile.TemporaryDirectory() as temporary:

        def judged(split: str, limit: int, *words: str) -> tuple[list[dict[str, str]], dict[str, str]]:
            """Rows of ranking.csv, worst first, and the picture of each annotation."""
            told = ["out=unused", "data=refshapes", *shapes, f"data.split={split}", f"data.limit={limit}"]
            told += [f"data.seed={given.calibration_seed}"] if split == "train" else []
            folder = Path(temporary) / split
            pictures = write_coco(build(compose_config("evaluate", told).data), folder, given)
            return filtered(folder, [*settings, *words]), pictures

        if calibration is None:
            rows, _ = judged("train", given.calibration)
            told = np.array([[row["predicted_iou"], row["true_iou"]] for row in rows if row["predicted_iou"]], float)
            calibration = given.calibration_out or Path(temporary) / "calibration.json"
            Calibration.fit(*told.T, entry_module("filtering").fitted_number(config.reward)).save(calibration)
        rows, pictures = judged("val", given.samples, f"reward.calibration={calibration}")
    figures = measured(rows, pictures, config.filter.bad_iou)
    print(json.dumps(figures, indent=1))
    if given.out is not None:
        given.out.write_text(json.dumps({"machine": machine(), "asked": asked, **figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
