"""Training steps of scripts/train.py's trainer beside those of TRL's SFTTrainer: samples per second, and their ratio.

    python benchmarks/sft_throughput.py --out benchmarks/results/sft_throughput.json
    python benchmarks/sft_throughput.py --device cuda --precision bfloat16 --shape 7b --layers 28 --tower-layers 32 \
        --lora-rank 16 --batch-size 8 --picture 448 --gradient-checkpointing --without-trl --peak-tflops 989

A model in the shape of Qwen2.5-VL with random weights: both trainers begin with the same ones, see the same rows in the
same order, and train the same parameters with the same AdamW. Each reads its own files (trajectories; those of
scripts/export.py) and decodes pictures itself. Runs alternate, and the ratio is taken within a repeat. A step is timed
from the end of the one before, reading included; the first of a run, which warms up, is left out. On a CPU the seconds
are also told that the process really had it: on a machine that others use, that ratio is the one to trust. TRL also
learns the line break that the chat template puts behind a reply, so that its loss is of one token more.

Model FLOPs are those of the matrix products and attentions of one step without recomputed activations, counted as they
are called: backward through what is trained only, logits where they are made. MFU is their rate over `--peak-tflops`.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rollout import machine
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText

from segagent.data.refshapes.dataset import RefShapes
from segagent.data.trajectories import TrajectoryWriter
from segagent.dialogue import load_dialogue
from segagent.environment import Environment
from segagent.mllm.testing_vlm import write_tiny_checkpoint
from segagent.mllm.transformers_vlm import TransformersVLM
from segagent.policies.simulated import Oracle
from segagent.rollout import rollout
from segagent.segmenters import GraphCut
from segagent.training.collate import Collator
from segagent.training.examples import Examples, TaskMix
from segagent.training.export import FILE_NAME, export
from segagent.training.sft import SftTrainer, answer_losses, placed
from segagent.training.sft_checkpoint import SftFolder
from segagent.training.sft_network import prepare_network
from segagent.training.sft_processes import start_processes
from segagent.training.sft_settings import SftSettings
from segagent.training.trajectory_index import read_states

# hidden, inner, heads, heads of keys and values, sections of the rotary frequencies, output layer tied
SHAPES = {
    "0.5b": (896, 4864, 14, 2, (8, 12, 12), True),
    "3b": (2048, 11008, 16, 2, (16, 24, 24), True),
    "7b": (3584, 18944, 28, 4, (16, 24, 24), False),
}
VOCABULARY = 151936
_COUNTED = 2  # examples whose FLOPs are counted: all are nearly of one length
TOWER = {"hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "window_size": 112}


class Clock:
    """When each step of a trainer ended, and its loss. `log` is the part of `Tracker` that `SftTrainer` calls."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []
        self.losses: list[float] = []

    def step(self) -> None:
        self.ends.append((time.perf_counter(), time.process_time()))

    def log(self, step: int, figures: dict[str, float]) -> None:
        if "train/loss" in figures:
            self.step()
            self.losses.append(figures["train/loss"])

    def seconds(self) -> tuple[float, float]:
        """Of all steps after the first: by the clock on the wall, and those that the process had a CPU."""
        (wall, cpu), (wall_end, cpu_end) = self.ends[0], self.ends[-1]
        return wall_end - wall, cpu_end - cpu


class NoCheckpoints(SftFolder):
    """What is measured is training, not writing."""

    def save(self, *parts: object) -> None:
        pass


def shaped(tiny: nn.Module, arguments: argparse.Namespace) -> nn.Module:
    """A network with the tokens of a tiny one and the widths of `SHAPES`, random weights."""
    hidden, inner, heads, shared, sections, tied = SHAPES[arguments.shape]
    config = copy.deepcopy(tiny.config)
    text, vision = config.text_config, config.vision_config
    text.update({"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": arguments.layers})
    text.update({"num_attention_heads": heads, "num_key_value_heads": shared, "vocab_size": VOCABULARY})
    text.update({"layer_types": ["full_attention"] * arguments.layers, "max_window_layers": arguments.layers})
    text.update({"rope_parameters": {"rope_type": "default", "mrope_section": list(sections), "rope_theta": 1e6}})
    whole = [block for block in range(arguments.tower_layers) if block % 8 == 7 or block == arguments.tower_layers - 1]
    vision.update({**TOWER, "depth": arguments.tower_layers, "out_hidden_size": hidden, "fullatt_block_indexes": whole})
    config.tie_word_embeddings = text.tie_word_embeddings = tied
    torch.manual_seed(0)
    dtype = getattr(torch, arguments.precision)
    with torch.device(arguments.device):
        network = AutoModelForImageTextToText.from_config(config, dtype=dtype)
    network.generation_config = tiny.generation_config
    return network


def make_examples(folder: Path, arguments: argparse.Namespace) -> Examples:
    """Of the simulated annotator on refshapes; enough for all steps of a run."""
    dataset = RefShapes(subset="refshapes", split="train", size=arguments.picture)
    dialogue = load_dialogue("released_qwen")
    environment = Environment(segmenter=GraphCut(), max_clicks=2)
    wanted, file = (arguments.steps + 1) * arguments.batch_size, folder / "trajectories.jsonl"
    samples = (dataset[index] for index in range(wanted))
    with TrajectoryWriter(file) as writer:
        for made in rollout(samples, policy=Oracle(), environment=environment, batch_size=8):
            writer.write(made)
    tasks = TaskMix(iou=0.0, perturbed=0.0)
    states = read_states([file], dataset, dialogue, tasks=tasks.names)
    return Examples(states=states, paths=[file], dataset=dataset, dialogue=dialogue, tasks=tasks)


def settings_of(arguments: argparse.Namespace) -> SftSettings:
    return SftSettings(
        steps=arguments.steps + 1,
        global_batch=arguments.batch_size,
        batch_size=arguments.batch_size,
        workers=0,
        length_group=1,
        precision=arguments.precision,
        gradient_checkpointing=arguments.gradient_checkpointing,
        frozen=["vision"],
        lora_rank=arguments.lora_rank,
        validate_every=10**9,
        checkpoint_every=10**9,
    )


def ours(vlm: TransformersVLM, examples: Examples, folder: Path, arguments: argparse.Namespace) -> Clock:
    clock, settings = Clock(), settings_of(arguments)
    SftTrainer(
        mllm=vlm,
        examples=examples,
        folder=NoCheckpoints(folder / "ours"),
        settings=settings,
        accelerator=start_processes(arguments.device, settings),
        tracker=clock,
    ).run()
    return clock


def theirs(vlm: TransformersVLM, folder: Path, arguments: argparse.Namespace) -> Clock:
    """vlm: its network as `SftTrainer` prepared it, so that the same parameters are trained."""
    from datasets import Image, Sequence, load_dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    clock, own = Clock(), settings_of(arguments)

    class Ends(TrainerCallback):
        def on_step_end(self, *_: object, **__: object) -> None:
            clock.step()

        def on_log(self, *_: object, logs: dict[str, float], **__: object) -> None:
            clock.losses += [float(logs["loss"])] if "loss" in logs else []

    files = str(folder / "export" / FILE_NAME)
    table = load_dataset("json", data_files=files, split="train", cache_dir=str(folder / "cache"))
    settings = SFTConfig(
        output_dir=str(folder / "theirs"),
        max_steps=own.steps,
        per_device_train_batch_size=own.batch_size,
        train_sampling_strategy="sequential",
        learning_rate=own.lr,
        lr_scheduler_type="cosine",
        max_grad_norm=own.clip_norm,
        gradient_checkpointing=own.gradient_checkpointing,
        bf16=own.precision == "bfloat16",
        use_cpu=arguments.device == "cpu",
        max_length=None,
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    SFTTrainer(
        model=vlm.network,
        args=settings,
        train_dataset=table.cast_column("images", Sequence(Image())),
        processing_class=vlm.processor,
        callbacks=[Ends()],
    ).train()
    return clock


def counted(vlm: TransformersVLM, examples: Examples, arguments: argparse.Namespace) -> tuple[float, float]:
    """(model FLOPs, tokens) of a step, the mean over a run. vlm: its network as `SftTrainer` prepared it.

    FLOPs are those of one example after the other, so that padding does not count as work.
    """
    collator, network, device = Collator(vlm), vlm.network.train(), torch.device(arguments.device)
    if arguments.gradient_checkpointing:
        network.gradient_checkpointing_disable()
    flops = tokens = 0.0
    half = torch.autocast(device.type, torch.bfloat16, enabled=arguments.precision == "bfloat16")
    for number in range(arguments.steps * arguments.batch_size):
        batch = placed(collator([examples[arguments.batch_size + number]]), device)
        tokens += float(batch.tensors["attention_mask"].sum())
        if number < _COUNTED:
            # The plain products: fused attention is not counted on every device.
            with FlopCounterMode(display=False) as counter, half, sdpa_kernel(SDPBackend.MATH):
                answer_losses(network, batch)[0].sum().backward()
            network.zero_grad()
            flops += counter.get_total_flops()
    return flops / _COUNTED * arguments.batch_size, tokens / arguments.steps


def with_network(tiny: TransformersVLM, arguments: argparse.Namespace) -> TransformersVLM:
    """The tokenizer and preprocessing of the tiny model, a network of true widths; equal weights each time."""
    vlm = copy.copy(tiny)
    vlm.network = shaped(tiny.network, arguments)
    return vlm


def measure(folder: Path, arguments: argparse.Namespace) -> dict:
    pixels = arguments.picture**2
    tiny = TransformersVLM(
        path=write_tiny_checkpoint("qwen2_5_vl", folder / "tiny"), device="cpu", min_pixels=pixels, max_pixels=pixels
    )
    examples, on_gpu = make_examples(folder, arguments), arguments.device != "cpu"
    rows = range((arguments.steps + 1) * arguments.batch_size)
    export((examples[number] for number in rows), folder / "export", form="trl")
    vlm = with_network(tiny, arguments)
    prepare_network(vlm, settings_of(arguments))
    flops, tokens = counted(vlm, examples, arguments)
    parameters = list(vlm.network.parameters())
    result = {
        "machine": machine(torch.device(arguments.device).type),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
        "settings": {key: value for key, value in vars(arguments).items() if key != "out"},
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trained": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        "tokens_per_step": tokens,
        "model_tflops_per_step": flops / 1e12,
    }
    del vlm, parameters
    print(f"{result['parameters']:,} parameters, {result['trained']:,} trained; {tokens:.0f} tokens and ", end="")
    print(f"{flops / 1e12:.3f} model TFLOPs a step; {result['device']}, {result['threads']} threads")
    runs: dict[str, list[dict]] = {"ours": []} if arguments.without_trl else {"ours": [], "trl": []}
    for repeat in range(arguments.repeats):
        for name in runs if repeat % 2 == 0 else reversed(runs):  # neither always comes first
            runs[name].append(one_run(name, tiny, examples, folder, arguments))
        told = (f"{name} {rows[-1]['samples_per_second']:.3f}" for name, rows in runs.items())
        print(f"repeat {repeat + 1}, samples/s: {'  '.join(told)}", flush=True)
    return result | {"runs": runs} | summary(runs, result, arguments)


def one_run(
    name: str, tiny: TransformersVLM, examples: Examples, folder: Path, arguments: argparse.Namespace
) -> dict[str, object]:
    vlm, on_gpu = with_network(tiny, arguments), arguments.device != "cpu"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    if name == "ours":
        clock = ours(vlm, examples, folder, arguments)
    else:
        prepare_network(vlm, settings_of(arguments))
        clock = theirs(vlm, folder, arguments)
    samples, (wall, cpu) = arguments.steps * arguments.batch_size, clock.seconds()
    row = {"samples_per_second": samples / wall, "losses": [round(loss, 4) for loss in clock.losses]}
    if on_gpu:
        return row | {"peak_gib": torch.cuda.max_memory_allocated() / 2**30}
    return row | {"samples_per_cpu_second": samples / cpu}


def summary(runs: dict[str, list[dict]], facts: dict, arguments: argparse.Namespace) -> dict:
    made: dict = {}
    for name, rows in runs.items():
        rates = [row["samples_per_second"] for row in rows]
        steps = statistics.median(rates) / arguments.batch_size
        made[name] = {"samples_per_second": spread(rates), "tokens_per_second": steps * facts["tokens_per_step"]}
        made[name]["model_tflops_per_second"] = steps * facts["model_tflops_per_step"]
        if arguments.peak_tflops:
            made[name]["mfu"] = made[name]["model_tflops_per_second"] / arguments.peak_tflops
        if "peak_gib" in rows[0]:
            made[name]["peak_gib"] = max(row["peak_gib"] for row in rows)
        print(f"{name}: " + json.dumps(made[name]))
    for key in ("samples_per_second", "samples_per_cpu_second"):
        if "trl" in runs and key in runs["trl"][0]:
            pairs = zip(*([row[key] for row in rows] for rows in runs.values()), strict=True)
            made[f"ratio_of_{key}"] = spread([own / other for own, other in pairs])
            print(f"ours to TRL, {key}: {json.dumps(made[f'ratio_of_{key}'])}")
    return made


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="0.5b", help="widths of the decoder")
    parser.add_argument("--layers", type=int, default=2, help="of the decoder")
    parser.add_argument("--tower-layers", type=int, default=2)
    parser.add_argument("--picture", type=int, default=224, help="pixels a side")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4, help="timed in a run, after one that warms up")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--lora-rank", type=int, default=0, help="0: projector and whole decoder are trained")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--without-trl", action="store_true")
    parser.add_argument("--peak-tflops", type=float, help="of the device in this precision, for MFU")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result = measure(Path(name), arguments)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
