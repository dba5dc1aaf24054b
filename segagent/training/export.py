"""Examples -> the conversation files of trainers that people already use, with their pictures rendered once.

One epoch of examples, in the order of the run. The formats have no word for a reply whose end is not to be learnt: such
examples are left out, and counted.

llamafactory: `train.jsonl` in sharegpt form and `dataset_info.json` that declares it (LLaMA-Factory, data/README.md).
ms_swift: `train.jsonl` with messages and images (ms-swift, Custom dataset). trl: `train.jsonl` with prompt, completion
and images, so that `SFTTrainer` learns the answer only (TRL, Dataset formats).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from segagent.training.examples import Example

FORMATS = ("llamafactory", "ms_swift", "trl")
FILE_NAME = "train.jsonl"
PARTIAL_NAME = f"{FILE_NAME}.partial"  # while it grows
_IMAGE = "<image>"  # place of the picture in the text, in LLaMA-Factory and ms-swift


def _flat(example: Example, picture: str) -> dict[str, Any]:
    """Messages with plain texts, the picture's place marked in the user's."""
    seen = example.observation
    system = [{"role": "system", "content": seen.system}] if seen.system else []
    asked, said = {"role": "user", "content": _IMAGE + seen.prompt}, {"role": "assistant", "content": example.answer}
    return {"messages": [*system, asked, said], "images": [picture]}


def _parts(role: str, text: str, *, image: bool = False) -> dict[str, Any]:
    # Every part has both keys: the columns of a table are alike in all rows.
    content = [{"type": "image", "text": None}] if image else []
    return {"role": role, "content": [*content, {"type": "text", "text": text}]}


def _prompt_completion(example: Example, picture: str) -> dict[str, Any]:
    seen = example.observation
    system = [_parts("system", seen.system)] if seen.system else []
    return {
        "prompt": [*system, _parts("user", seen.prompt, image=True)],
        "completion": [_parts("assistant", example.answer)],
        "images": [picture],
    }


def _declaration(name: str) -> dict[str, Any]:
    """LLaMA-Factory's `dataset_info.json`."""
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user"}
    tags |= {"assistant_tag": "assistant", "system_tag": "system"}
    columns = {"messages": "messages", "images": "images"}
    return {name: {"file_name": FILE_NAME, "formatting": "sharegpt", "columns": columns, "tags": tags}}


def begun(folder: str | Path) -> tuple[int, int]:
    """(examples gone through, written) of an export that was killed; what it was writing then is taken back."""
    partial = Path(folder) / PARTIAL_NAME
    if not partial.is_file():
        return 0, 0
    lines = partial.read_bytes().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith(b"\n")]
    partial.write_bytes(b"".join(whole))
    return int(Path(json.loads(whole[-1])["images"][0]).stem) + 1 if whole else 0, len(whole)


def export(
    examples: Iterable[Example], folder: str | Path, *, form: str, done: tuple[int, int] = (0, 0)
) -> tuple[int, int]:
    """Writes a folder that a trainer reads; returns (examples written, left out because their end is open).

    form: one of `FORMATS`. done: what `begun` told, and `examples` go on from there. Pictures are PNG files in
    `images/`; LLaMA-Factory finds them relative to the folder (`media_dir`), the others by their absolute paths. Raises
    `ValueError` for another form, for a description that holds the mark of a picture, and when nothing was written.
    """
    if form not in FORMATS:
        raise ValueError(f"format={form!r}: choose {', '.join(FORMATS)}")
    folder = Path(folder).resolve()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    written, left_out = done[1], done[0] - done[1]
    partial = folder / PARTIAL_NAME
    with partial.open("a" if done[1] else "w", encoding="utf-8") as file:
        for example in examples:
            if example.open:
                left_out += 1
                continue
            if _IMAGE in example.observation.prompt:
                raise ValueError(
                    f"sample {example.sample.sample_id!r}: the prompt holds {_IMAGE!r}, which stands for a picture"
                )
            name = f"images/{example.number:07d}.png"
            Image.fromarray(example.observation.image).save(folder / name)
            make = _prompt_completion if form == "trl" else _flat
            record = make(example, name if form == "llamafactory" else str(folder / name))
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
            written += 1
    if not written:
        raise ValueError("nothing to export: set tasks.click or tasks.iou_click above 0")
    partial.replace(folder / FILE_NAME)
    if form == "llamafactory":
        text = json.dumps(_declaration("segagent"), indent=2) + "\n"
        (folder / "dataset_info.json").write_text(text, encoding="utf-8")
    return written, left_out
