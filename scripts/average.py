"""Models that began alike -> one model whose weights are the mean of theirs, which can be better than each of them.

python scripts/average.py "models=[runs/a,runs/b]" "shares=[0.6,0.4]" out=runs/mean
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from segagent.entry import run_entry
from segagent.mllm.averaging import average
from segagent.mllm.families import model_folder


def main(config: DictConfig) -> int:
    names = [config.models] if isinstance(config.models, str) else list(config.models)
    average([model_folder(str(name)) for name in names], Path(config.out), config.shares)
    print(f"model {config.out}")
    return 0


if __name__ == "__main__":
    run_entry(main, "average", __doc__)
