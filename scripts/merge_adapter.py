"""A LoRA adapter, as train=lora_24gb leaves it, and its base -> one whole model, which can get another adapter.

python scripts/merge_adapter.py mllm=runs/sft/best mllm.dtype=bfloat16 out=runs/sft/whole
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hydra.utils import get_class
from omegaconf import DictConfig

from segagent.configuration import build
from segagent.entry import run_entry
from segagent.mllm.transformers_vlm import TransformersVLM
from segagent.training.sft_network import save_model


def main(config: DictConfig) -> int:
    out = Path(config.out)
    if out.exists():
        raise ValueError(f"{out}: is there already; choose another out=")
    path = None if config.mllm is None else config.mllm.get("path")
    if path is None or not (Path(path) / "adapter_config.json").is_file():
        raise ValueError(f"mllm={path}: is no folder of an adapter (with adapter_config.json); nothing is to be merged")
    if get_class(config.mllm._target_.removesuffix(".from_checkpoint")) is not TransformersVLM:
        raise ValueError(f"mllm: {config.mllm._target_} has no adapters; say mllm=FOLDER, or mllm=transformers_vlm")
    for name, needed in (("merge_adapter", True), ("quantization", "none")):
        if config.mllm[name] != needed:
            raise ValueError(f"mllm.{name}={config.mllm[name]}: the sum would be another one; leave it out")
    mllm = build(config.mllm)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_model(mllm, partial, mllm.network.state_dict())
    os.replace(partial, out)
    print(f"model {out}")
    return 0


if __name__ == "__main__":
    run_entry(main, "merge_adapter", __doc__)
