"""How fast `refshapes` is drawn on one core, and what its samples are like.

    python benchmarks/refshapes.py --samples 1000
    python benchmarks/refshapes.py --samples 8 --sheet docs/refshapes.png

Prints one line per subset: samples per second of processor time; percentiles (0, 10, 50, 90, 100) of the target's share
of the picture; words per text; things per scene; share of scenes with an overlap; the median target's largest half
width in pixels. With `--sheet`, also a picture of a few samples of each subset, their targets outlined.
"""

from __future__ import annotations

import argparse
import textwrap
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from segagent.data.refshapes import RefShapes
from segagent.data.refshapes.vocabulary import SPLITS, SUBSETS

PERCENTILES = (0, 10, 50, 90, 100)


def measure(subset: str, split: str, samples: int, size: int) -> dict[str, str]:
    """Column -> printed value for the first samples of one subset. The time is processor time of drawing alone."""
    dataset = RefShapes(subset=subset, split=split, limit=samples, size=size)
    started = time.process_time()
    drawn = [dataset[index] for index in range(len(dataset))]
    seconds = time.process_time() - started
    shares = np.array([sample.target.mean() for sample in drawn]) * 100
    words = np.array([len(sample.text.split()) for sample in drawn])
    widths = [cv2.distanceTransform(np.pad(s.target.astype(np.uint8), 1), cv2.DIST_L2, 5).max() for s in drawn]
    scenes = [dataset.scene(index) for index in range(0, min(len(dataset), 400), 2)]
    things = np.array([len(scene.things) for scene in scenes])
    return {
        "samples/s": f"{len(drawn) / seconds:.0f}",
        "target %": " ".join(f"{value:.2f}" for value in np.percentile(shares, PERCENTILES)),
        "words": f"{words.mean():.1f} ({words.min()}-{words.max()})",
        "things": f"{things.mean():.1f} ({things.min()}-{things.max()})",
        "overlaps %": f"{100 * np.mean([bool(scene.hides) for scene in scenes]):.0f}",
        "half width px": f"{np.median(widths):.1f}",
        "distinct texts": str(len({sample.text for sample in drawn})),
    }


def sheet(split: str, columns: int = 5, side: int = 150) -> Image.Image:
    """One row of samples per subset, each with its text below and its target outlined in cyan."""
    page = Image.new("RGB", (columns * (side + 6), len(SUBSETS) * (side + 34)), "white")
    for row, subset in enumerate(SUBSETS):
        dataset = RefShapes(subset=subset, split=split)
        for column in range(columns):
            sample = dataset[2 * column + 40]
            target = sample.target.astype(np.uint8)
            outline = cv2.dilate(target, np.ones((3, 3), np.uint8)) > target
            picture = np.where(outline[:, :, None], np.uint8([0, 255, 255]), sample.image)
            corner = (column * (side + 6) + 3, row * (side + 34))
            page.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.LANCZOS), corner)
            text = "\n".join(textwrap.wrap(sample.text, 28)[:3])
            ImageDraw.Draw(page).multiline_text((corner[0], corner[1] + side + 1), text, "black", spacing=0)
    # Few colors: the grain of the pictures would make a large file.
    return page.quantize(160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200, help="per subset")
    parser.add_argument("--split", choices=SPLITS, default="val")
    parser.add_argument("--size", type=int, default=256, help="side of the picture in pixels")
    parser.add_argument("--sheet", type=Path, help="PNG file to write the picture to")
    options = parser.parse_args()
    # One thread, as the workers of a training run have.
    cv2.setNumThreads(1)
    for subset in SUBSETS:
        row = measure(subset, options.split, options.samples, options.size)
        print(f"{subset:15}" + "  ".join(f"{name}: {value}" for name, value in row.items()), flush=True)
    if options.sheet is not None:
        sheet(options.split).save(options.sheet, optimize=True)


if __name__ == "__main__":
    main()
