"""How much does each evidence of a second opinion say of annotations? Fits `reward.weights` of reward=second_opinion.

    python benchmarks/second_opinion.py mllm=nano --out benchmarks/results/second_opinion.json

Pictures of refshapes that the model was not trained on, a share of their masks corrupted as in filter_coco.py; the
model looks and draws (reward.attempts, reward.clicks), and a logistic regression of what comes of it tells masks of a
true IoU of at least `--bad-iou` from others. Prints the weights as settings, and how well masks are ranked by the
announced IoU alone, by the highest evidence, and by all of it weighed (tenfold cross-validation over pictures).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from filter_coco import given_mask, precision_at_recall
from omegaconf import OmegaConf
from rollout_batches import machine
from scipy.optimize import minimize

from segagent.configuration import build, compose_config
from segagent.data.base import Dataset
from segagent.entry import expand_checkpoints
from segagent.environment import Environment
from segagent.masks import iou
from segagent.policies.search import TreeSearch
from segagent.policies.second_opinion import WEIGHED, Evidence

# Standard deviation that a weight of standardized evidence is thought to have: the ridge is 1 / its square.
_SPREAD = 3.0
_FOLDS = 10


def gathered(
    dataset: Dataset, search: TreeSearch, environment: Environment, given: argparse.Namespace
) -> tuple[list[Evidence], np.ndarray]:
    """Evidence and true IoU of a mask of every sample."""
    search.enter(environment)
    evidence, true = [], []
    for start in range(0, len(dataset), given.batch_size):
        batch = range(start, min(start + given.batch_size, len(dataset)))
        samples, masks = [dataset[index] for index in batch], [given_mask(dataset, index, given) for index in batch]
        states = [environment.start(*one) for one in zip(samples, masks, strict=True)]
        replies = search.proposer.propose(states, expected_iou=search.reward.expected_iou)
        evidence += search.reward.evidence(states, replies)
        true += [iou(mask, sample.target) for mask, sample in zip(masks, samples, strict=True)]
        print(f"\r{len(true)} / {len(dataset)}", end="", file=sys.stderr)
    print(file=sys.stderr)
    return evidence, np.array(true)


def fit(values: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Logistic regression with a ridge on the standardized weights. values: [n, d]; right: [n]. Returns `[1 + d]`, the
    constant first, for values as they are."""
    mean, spread = values.mean(0), values.std(0) + 1e-6
    scaled = np.column_stack([np.ones(len(values)), (values - mean) / spread])
    signs = np.where(right, 1.0, -1.0)

    def loss(weights: np.ndarray) -> float:
        ridge = (weights[1:] ** 2).sum() / (2 * _SPREAD**2)
        return float(np.logaddexp(0, -signs * (scaled @ weights)).sum() + ridge)

    found = minimize(loss, np.zeros(scaled.shape[1]), method="BFGS").x
    weights = found[1:] / spread
    return np.array([found[0] - weights @ mean, *weights])


def cross_validated(values: np.ndarray, right: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Odds of each mask by weights that were fitted to other pictures."""
    fold = np.random.default_rng(0).permutation(image.max() + 1)[image] % _FOLDS
    odds = np.zeros(len(values))
    for one in range(_FOLDS):
        weights = fit(values[fold != one], right[fold != one])
        odds[fold == one] = weights[0] + values[fold == one] @ weights[1:]
    return odds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=600, help="of the training split")
    parser.add_argument("--data-seed", type=int, default=6, help="of their pictures")
    parser.add_argument("--share", type=float, default=0.2, help="of masks that are corrupted")
    parser.add_argument("--worst", type=float, default=0.7, help="IoU that a corrupted mask has at most")
    parser.add_argument("--bad-iou", type=float, default=0.75, help="masks under it are the ones to be found")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None, help="JSON")
    parser.add_argument("settings", nargs="*", help="mllm=NAME and others of scripts/evaluate.py")
    given = parser.parse_args()
    words = ["out=unused", "policy=greedy", "reward=second_opinion", "segmenter=simpleclick_nano", "data=refshapes"]
    words += ["data.split=train", f"data.seed={given.data_seed}", f"data.limit={given.samples}"]
    config = compose_config("evaluate", expand_checkpoints([*words, *given.settings]))
    OmegaConf.resolve(config)
    dataset, search, segmenter = build(config.data), build(config.policy), build(config.segmenter)
    evidence, true = gathered(dataset, search, Environment(segmenter=segmenter, max_clicks=1), given)
    values = np.array([[one._asdict()[name] or 0.0 for name in WEIGHED] for one in evidence])
    right = true >= given.bad_iou
    image = np.unique([dataset[index].image_name for index in range(len(dataset))], return_inverse=True)[1]
    weights = fit(values, right)
    ranked = {
        "announced": np.array([one.announced or 0.0 for one in evidence]),
        "highest": values[:, WEIGHED.index("highest")],
        "weighed, cross-validated": cross_validated(values, right, image),
    }
    figures = {
        "n": len(true),
        "n_bad": int((~right).sum()),
        "weights": dict(zip(("constant", *WEIGHED), weights.round(2).tolist(), strict=True)),
        "precision_at_recall_90": {name: precision_at_recall(~right, number) for name, number in ranked.items()},
    }
    print(json.dumps(figures, indent=1))
    print(" ".join(f"reward.weights.{name}={value:g}" for name, value in figures["weights"].items()))
    if given.out is not None:
        asked = {name: value for name, value in vars(given).items() if name != "out"}
        given.out.write_text(json.dumps({"machine": machine(), "asked": asked, **figures}, indent=1) + "\n")


if __name__ == "__main__":
    main()
