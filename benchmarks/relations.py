"""First clicks on descriptions that take a relation, an order or a place to understand: on whom do wrong ones fall?

    python benchmarks/relations.py mllm=nano --out benchmarks/results/relations.json

Of the samples of a refshapes subset those are taken whose noun, color and pattern fit several things, so that the rest
of the description has to tell them apart. A click is right on the target; a wrong one is on what the description leans
on (the anchor), on another thing that its words fit (a rival), or elsewhere. By the kind of what tells them apart;
intervals are 95% percentile bootstraps over the samples.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf
from rollout_batches import machine

from segagent.configuration import build, compose_config
from segagent.data.refshapes import RefShapes
from segagent.data.refshapes.grammar import Phrase, parse
from segagent.data.refshapes.meaning import denotes, fits
from segagent.dialogue import load_dialogue
from segagent.entry import expand_checkpoints
from segagent.mllm.base import MLLM
from segagent.types import Click

WHERE = ("target", "anchor", "rival", "elsewhere")


def kind_of(phrase: Phrase) -> str:
    if len(phrase.relations) > 1:
        return "two relations"
    if phrase.relations:
        return phrase.relations[0].kind
    return "order" if phrase.rank else "place" if phrase.place else "size or being hidden"


def ambiguous(dataset: RefShapes) -> Iterator[tuple[int, Phrase]]:
    """Samples whose looks alone, as they are said, fit several things."""
    for index in range(len(dataset)):
        phrase = parse(dataset[index].text)
        if sum(fits(phrase, thing) for thing in dataset.scene(index).things) > 1:
            yield index, phrase


def place_of(click: Click | None, dataset: RefShapes, index: int, phrase: Phrase) -> str:
    """Which of `WHERE` a click is on; none at all is elsewhere."""
    if click is None:
        return "elsewhere"
    scene = dataset.scene(index)
    if dataset[index].target[click.y, click.x]:
        return "target"
    thing = int(scene.labels[click.y, click.x])
    anchors = [denotes(other, scene) for relation in phrase.relations for other in relation.others]
    if thing in anchors:
        return "anchor"
    return "rival" if thing >= 0 and fits(phrase, scene.things[thing]) else "elsewhere"


def first_clicks(mllm: MLLM, dataset: RefShapes, indices: list[int], batch: int) -> Iterator[Click | None]:
    dialogue = load_dialogue(mllm.dialogue)
    for start in range(0, len(indices), batch):
        samples = [dataset[index] for index in indices[start : start + batch]]
        empty = [np.zeros(sample.target.shape, bool) for sample in samples]
        shown = [dialogue.observe(one.image, mask, one.text) for one, mask in zip(samples, empty, strict=True)]
        for sample, (reply, *_) in zip(samples, mllm.generate(shown, max_new_tokens=32), strict=True):
            yield dialogue.parse(reply.text, width=sample.width, height=sample.height).click


def figures(places: list[str], resamples: int = 1000) -> dict[str, float | int]:
    hits = np.array([place == "target" for place in places], float)
    drawn = hits[np.random.default_rng(0).integers(len(hits), size=(resamples, len(hits)))].mean(1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {"n": len(places), **{name: places.count(name) / len(places) for name in WHERE}, "low": low, "high": high}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="mllm=NAME or FOLDER, and settings of it")
    parser.add_argument("--subset", default="refshapesg")
    parser.add_argument("--samples", type=int, default=1000, help="of the validation split, before the choice")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--out", type=Path)
    given = parser.parse_intermixed_args(arguments)
    config = compose_config("evaluate", [*expand_checkpoints(given.settings), "out=none"])
    OmegaConf.resolve(config)
    dataset = RefShapes(subset=given.subset, split="val", limit=given.samples)
    chosen = list(ambiguous(dataset))
    indices = [index for index, _ in chosen]
    clicks = first_clicks(build(config.mllm), dataset, indices, given.batch)
    by_kind: dict[str, list[str]] = {}
    for click, (index, phrase) in zip(clicks, chosen, strict=True):
        by_kind.setdefault(kind_of(phrase), []).append(place_of(click, dataset, index, phrase))
    result = {"all": figures([place for places in by_kind.values() for place in places])}
    result |= {kind: figures(places) for kind, places in sorted(by_kind.items())}
    print(f"{given.subset}: {len(chosen)} of {len(dataset)} samples; shares of first clicks in percent")
    print(f"{'':22}{'n':>5}" + "".join(f"{name:>11}" for name in WHERE))
    for kind, one in result.items():
        shares = "".join(f"{100 * one[name]:11.1f}" for name in WHERE)
        print(f"{kind:22}{one['n']:5}{shares}   right: {100 * one['low']:.1f} .. {100 * one['high']:.1f}")
    if given.out:
        content = {"machine": machine(), "settings": given.settings, "subset": given.subset, "figures": result}
        given.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
