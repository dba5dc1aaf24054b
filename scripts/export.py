"""Trajectories -> conversations for LLaMA-Factory, ms-swift or TRL, one epoch of examples with their pictures.

python scripts/export.py format=trl data=refshapes data.trajectories=traj.jsonl out=exports/trl
"""

from __future__ import annotations

import sys
from pathlib import Path

from omegaconf import DictConfig
from tqdm import tqdm

from segagent.dialogue import load_dialogue
from segagent.entry import claim_output, run_entry
from segagent.training.export import FILE_NAME, FORMATS, PARTIAL_NAME, begun, export
from segagent.training.recorded_data import data_of_trajectories
from segagent.training.sft_data import make_examples


def main(config: DictConfig) -> int:
    out = Path(config.out)
    if config.format not in FORMATS:
        raise ValueError(f"format={config.format!r}: choose {', '.join(FORMATS)}")
    dialogue = load_dialogue(config.dialogue_name)
    if dialogue.absolute:
        raise ValueError(
            f"dialogue_name={config.dialogue_name}: counts pixels of the picture as a model sees it; choose another"
        )
    examples, _ = make_examples(config, dialogue)
    claim_output(out / FILE_NAME, config, out / PARTIAL_NAME)
    done = begun(out) if config.resume else (0, 0)
    todo = range(done[0], len(examples))
    numbers = tqdm(todo, desc="export", total=len(examples), initial=done[0], unit="example", file=sys.stderr)
    written, left_out = export((examples[number] for number in numbers), out, form=config.format, done=done)
    print(f"{written} examples in {out / FILE_NAME}" + (f"; {left_out} of a bare IoU left out" if left_out else ""))
    return 0


if __name__ == "__main__":
    run_entry(main, "export", __doc__, complete=data_of_trajectories)
