"""Annotates pictures, improves given masks, or finds the bad ones among them.

    python scripts/annotate.py images=DIR text="the left red cup" mllm=FOLDER out=runs/cups
    python scripts/annotate.py images=DIR texts=texts.csv mllm=FOLDER segmentation=polygons out=runs/many
    python scripts/annotate.py data=refcocog data.root=DIR data.limit=500 mllm=FOLDER out=runs/cocog
    python scripts/annotate.py mode=refine images=DIR coco=FILE mllm=FOLDER out=runs/better
    python scripts/annotate.py mode=filter images=DIR coco=FILE mllm=FOLDER reward.calibration=FOLDER out=runs/check

Fills the folder `out`: annotations.json (COCO), masks/ (PNG), trajectories.jsonl (grows while the run goes on;
resume=true goes on from it), summary.json; mode=filter: ranking.csv and suspicious.html. docs/annotation.md
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from segagent.annotation.job import annotate_config
from segagent.entry import run_entry


def main(config: DictConfig) -> int:
    figures, done = annotate_config(config)
    for name, value in figures.items():
        if name != "skipped" and value is not None:
            shown = f"{value:.4f}" if isinstance(value, float) else value
            print(f"{name.replace('_', ' '):22}{shown}")
    print(f"\n{done.seconds:.1f} s; results in {Path(config.out)}")
    return 1 if done.skipped else 0


if __name__ == "__main__":
    run_entry(main, "annotate", __doc__)
