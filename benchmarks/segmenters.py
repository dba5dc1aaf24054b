"""SimpleClick, SAM, SAM-HQ and SAM 2.1 side by side: time to embed a picture, time of a click, memory, by batch size.

    python benchmarks/segmenters.py --batch-sizes 1 8 32 --repeats 3 --out benchmarks/results/segmenters.json

Random weights at the sizes of the papers' large models (ViT-L; Hiera-L for SAM 2.1): arithmetic does not care what the
weights are. Each member runs in a process of its own, on the CPU and, where there is one, on CUDA. A click is the
second one of its state, with the first mask as memory; all states of a batch show one picture. Embedding on a CPU takes
most of a minute a picture, so that larger batches are embedded there only on demand (--cpu-embed-images). `--scale
tiny` runs the same with tiny networks on small inputs, to see that it works; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import Sam2Config, Sam2Model, SamConfig, SamHQConfig, SamHQModel, SamModel

from segagent.segmenters import Sam, Sam2, SamHq, SimpleClick
from segagent.segmenters.simpleclick_vit import SimpleClickConfig, SimpleClickNet
from segagent.types import Click

MIB = 2**20
PICTURE = (480, 640)
VIT_L = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "global_attn_indexes": [5, 11, 17, 23],
}
VIT_TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "global_attn_indexes": [1],
    "image_size": 128,
}
HIERA_L = {
    "hidden_size": 144,
    "num_attention_heads": 2,
    "blocks_per_stage": [2, 6, 36, 4],
    "embed_dim_per_stage": [144, 288, 576, 1152],
    "num_attention_heads_per_stage": [2, 4, 8, 16],
    "window_size_per_stage": [8, 4, 16, 8],
    "global_attention_blocks": [23, 33, 43],
}
HIERA_TINY = {
    "hidden_size": 16,
    "blocks_per_stage": [1, 1, 2, 1],
    "embed_dim_per_stage": [16, 32, 64, 128],
    "num_attention_heads_per_stage": [1, 1, 2, 2],
    "global_attention_blocks": [3],
    "image_size": [128, 128],
}


def prompts(tiny: bool) -> dict:
    return {"image_size": 128 if tiny else 1024}


def simpleclick(tiny: bool, device: str) -> SimpleClick:
    large = SimpleClickConfig(embed_dim=1024, depth=24, num_heads=16, out_dims=(192, 384, 768, 1536))
    small = SimpleClickConfig(
        image_size=128, embed_dim=32, depth=4, num_heads=2, out_dims=(8, 8, 8, 8), head_channels=8
    )
    return SimpleClick(network=drawn(lambda: SimpleClickNet(small if tiny else large)), device=device)


def sam(tiny: bool, device: str) -> Sam:
    config = SamConfig(vision_config=VIT_TINY if tiny else VIT_L, prompt_encoder_config=prompts(tiny))
    return Sam(network=drawn(lambda: SamModel(config)), memory_bytes=0, device=device)


def sam_hq(tiny: bool, device: str) -> SamHq:
    vision = VIT_TINY if tiny else VIT_L
    config = SamHQConfig(
        vision_config=vision,
        prompt_encoder_config=prompts(tiny),
        mask_decoder_config={"vit_dim": vision["hidden_size"]},
    )
    return SamHq(network=drawn(lambda: SamHQModel(config)), memory_bytes=0, device=device)


def sam2(tiny: bool, device: str) -> Sam2:
    backbone = (HIERA_TINY if tiny else HIERA_L) | {"model_type": "sam2_hiera_det_model"}
    vision = {
        "backbone_config": backbone,
        "backbone_channel_list": backbone["embed_dim_per_stage"][::-1],
        "backbone_feature_sizes": [[side, side] for side in ((32, 16, 8) if tiny else (256, 128, 64))],
    }
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompts(tiny))
    return Sam2(network=drawn(lambda: Sam2Model(config)), memory_bytes=0, device=device)


MEMBERS = {"simpleclick": simpleclick, "sam": sam, "sam_hq": sam_hq, "sam2": sam2}


def drawn(build: Callable[[], nn.Module]) -> nn.Module:
    """A network with normal weights, without the initialisation that it would go through."""
    with torch.device("meta"):
        network = build()
    network = network.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                tensor.normal_(0, 0.02, generator=generator)
    return network


def machine(device: str) -> dict:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    facts = {"cpu": models[0] if models else platform.processor(), "threads": torch.get_num_threads()}
    gpu = {"gpu": torch.cuda.get_device_name()} if device == "cuda" else {}
    return facts | gpu | {"torch": torch.__version__, "python": platform.python_version()}


class Peak:
    """Highest memory since it was made, in MiB: of the process (Linux), or of what torch allocated on the GPU."""

    def __init__(self, device: str) -> None:
        self.device = device
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        elif Path("/proc/self/clear_refs").exists():
            Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> float | None:
        if self.device == "cuda":
            return torch.cuda.max_memory_allocated() / MIB
        status = Path("/proc/self/status")
        if not status.exists():
            return None
        return next(int(line.split()[1]) / 1024 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


def timed(work: Callable[[], object], count: int, device: str, repeats: int, warm_up: bool) -> dict:
    """Seconds for each of `count` pictures or states, and the peak memory."""
    peak, seconds = Peak(device), []
    for repeat in range(-1 if warm_up else 0, repeats):
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if repeat >= 0:
            seconds.append((time.perf_counter() - began) / count)
    return {
        "batch": count,
        "seconds_each": statistics.median(seconds),
        "spread": [min(seconds), max(seconds)],
        "peak_mib": peak.read(),
    }


def measure(name: str, device: str, arguments: argparse.Namespace) -> dict:
    """All figures of one member on one device."""
    segmenter = MEMBERS[name](arguments.scale == "tiny", device)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (*PICTURE, 3), dtype=np.uint8) for _ in range(max(arguments.batch_sizes))]
    embed, click = [], []
    for size in arguments.batch_sizes:
        if device == "cpu" and size > arguments.cpu_embed_images:
            continue
        part = images[:size]
        embed.append(timed(lambda part=part: segmenter.embed(part), size, device, arguments.repeats, device == "cuda"))
    (embedding,) = segmenter.embed(images[:1])
    for size in arguments.batch_sizes:
        states, first = [embedding] * size, [Click(20 + k, 30) for k in range(size)]
        _, memory = segmenter.predict(states, [[made] for made in first], [None] * size)
        clicks = [[made, Click(200, 300, False)] for made in first]

        def work(states: Sequence = states, clicks: Sequence = clicks, memory: Sequence = memory) -> None:
            segmenter.predict(states, clicks, memory)

        click.append(timed(work, size, device, arguments.repeats, device == "cuda"))
    parameters = sum(parameter.numel() for parameter in segmenter.network.parameters())
    return {
        "segmenter": name,
        "device": device,
        "machine": machine(device),
        "parameters": parameters,
        "weights_mib": parameters * 4 / MIB,
        "embed": embed,
        "click": click,
    }


def in_own_process(name: str, device: str, given: Sequence[str]) -> dict:
    """`measure` in a fresh process, so that peaks are this member's alone."""
    call = [sys.executable, __file__, *given, "--only", name, "--device", device]
    done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def show(result: dict) -> None:
    name = f"{result['segmenter']} on {result['device']}"
    print(f"{name}: {result['parameters'] / 1e6:.0f} million parameters, {result['weights_mib']:.0f} MiB")
    for kind in ("embed", "click"):
        for row in result[kind]:
            low, high = row["spread"]
            peak = "unknown" if row["peak_mib"] is None else f"{row['peak_mib']:.0f} MiB"
            print(
                f"  {kind} batch {row['batch']:3d}: {1000 * row['seconds_each']:10.1f} ms each "
                f"({1000 * low:.1f} to {1000 * high:.1f}), peak {peak}"
            )


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", nargs="+", default=list(MEMBERS), choices=list(MEMBERS))
    parser.add_argument("--scale", default="true", choices=["true", "tiny"])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cpu-embed-images", type=int, default=1, help="largest batch that is embedded on a CPU")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--only", choices=list(MEMBERS), help="measure this member here and print it as JSON")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="only this device")
    return parser.parse_args()


def main() -> None:
    arguments = read_arguments()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.device or "cpu", arguments)))
        return
    devices = [arguments.device] if arguments.device else ["cpu"] + ["cuda"] * torch.cuda.is_available()
    results = []
    for device in devices:
        for name in arguments.members:
            results.append(in_own_process(name, device, sys.argv[1:]))
            show(results[-1])
    print(f"pictures of {PICTURE[1]}x{PICTURE[0]}; {results[0]['machine']}")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
