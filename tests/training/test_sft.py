"""The supervised loop: it learns, stops and goes on, keeps what loads again, and counts processes and passes right."""

import math
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.state import AcceleratorState
from torch.distributed.checkpoint.api import CheckpointException

from segagent.configuration import CONFIG_DIR
from segagent.mllm.osprey import Osprey
from segagent.mllm.parts import part_of
from segagent.training.parallel import check_same_step
from segagent.training.sft import answer_losses, out_of_memory_told
from segagent.training.sft_checkpoint import _load_engine
from segagent.training.sft_processes import start_processes
from segagent.training.sft_settings import SftSettings
from segagent.training.sft_validation import SftValidation, click_is_right, figures_of, score_of
from segagent.training.training_log import CsvTable
from segagent.types import Click

HERE = Path(__file__).parent
pytestmark = pytest.mark.usefixtures("blank_plots")  # but those of `whole`
# Two processes, one after the other: DDP, FSDP2, and FSDP2 stopped and resumed.
RUN = """
import os, sys, torch
sys.path[:0] = [{here!r}]
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from sft_run import SftParts
torch.set_num_threads(1)
def trainer(name):
    settings = dict(batch_size=1, steps=3, validate_every=3, checkpoint_every=2)
    return SftParts({data!r}).trainer({out!r} + "/" + name, **settings)
trainer("ddp").run()
AcceleratorState._reset_state()
# accelerate shares weights out over GPUs only, so it is told that these are some.
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
os.environ.update({fsdp!r})
whole = trainer("fsdp2")
assert type(whole.prepared).__name__.startswith("FSDP") and whole.accelerator.is_fsdp2
whole.run()
trainer("resumed").run(stop_at=2)
trainer("resumed").run(resume=True)
"""


def fsdp_environment():
    """What `accelerate launch` tells its processes of configs/accelerate/fsdp2.yaml."""
    told = yaml.safe_load((CONFIG_DIR / "accelerate" / "fsdp2.yaml").read_text())["fsdp_config"]
    told = {name.upper(): str(value).lower() if isinstance(value, bool) else str(value) for name, value in told.items()}
    return {"ACCELERATE_USE_FSDP": "true", **told}


def rows(folder, name="train.csv", columns=5):
    return [tuple(map(float, row.split(",")[:columns])) for row in (folder / name).read_text().splitlines()[1:]]


def weights(folder):
    return Osprey.from_checkpoint(folder, device="cpu").network.state_dict()


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(sft, tmp_path_factory):
    """A run of six steps, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = sft.trainer(folder)
    before = {name: value.clone() for name, value in trainer.mllm.network.state_dict().items()}
    progress = trainer.run()
    return trainer, folder, before, progress


def test_projector_and_language_are_trained_and_the_tower_is_not(whole):
    trainer, _, before, _ = whole
    after = trainer.mllm.network.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert {part_of(name) for name in moved} == {"projector", "language"}
    still = {name for name in before if name not in moved}
    assert {part_of(name) for name in still} == {"vision"}


def test_a_run_leaves_models_that_load_tables_and_a_curve(whole):
    trainer, folder, _, progress = whole
    names = {path.name for path in folder.iterdir()}
    assert names == {"best", "checkpoints", "train.csv", "validation.csv", "curve.png"}
    assert [path.name for path in trainer.folder.checkpoints()] == ["step_0000003", "step_0000006"]
    assert same(weights(folder / "checkpoints" / "step_0000006"), trainer.mllm.network.state_dict())
    assert Osprey.from_checkpoint(folder / "best", device="cpu").dialogue == "nano"
    assert progress.best_step in (3, 6) and (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    figures = rows(folder, "validation.csv", 8)
    assert [row[0] for row in figures] == [3, 6] and all(0 <= row[2] <= 1 for row in figures)


def test_killed_and_resumed_is_bitwise_the_same(whole, sft, tmp_path):
    trainer, folder, _, _ = whole
    sft.trainer(tmp_path).run(stop_at=4)
    (tmp_path / "train.csv").open("a").write("5,0.1")  # a row cut off
    resumed = sft.trainer(tmp_path, mllm=sft.mllm(seed=9))
    for name, value in trainer.mllm.network.state_dict().items():
        if part_of(name) == "vision":  # frozen, so it is what the run began with
            resumed.mllm.network.state_dict()[name].copy_(value)
    resumed.run(resume=True)
    assert same(resumed.mllm.network.state_dict(), trainer.mllm.network.state_dict())
    assert rows(tmp_path) == rows(folder)
    assert (tmp_path / "validation.csv").read_text() == (folder / "validation.csv").read_text()


def test_what_workers_are_handed_makes_the_same_batches(whole):
    trainer, *_ = whole
    examples = [trainer.examples[number] for number in range(3)]
    there, here = pickle.loads(pickle.dumps(trainer.collator))(examples), trainer.collator(examples)
    assert torch.equal(there.labels, here.labels) and len(pickle.dumps(trainer.collator)) < 1e6
    assert same(there.tensors, here.tensors)


def test_passes_add_up_to_one_large_batch(sft, tmp_path):
    sft.trainer(tmp_path, batch_size=4, length_group=1, validation=False, steps=2).run()
    sft.trainer(tmp_path / "b", batch_size=1, length_group=1, validation=False, steps=2).run()
    for one, other in zip(rows(tmp_path), rows(tmp_path / "b"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_passes_are_ours_whatever_the_launcher_says(sft, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "auto")  # as `accelerate launch` of zero2.yaml does
    assert sft.trainer(tmp_path, batch_size=1).accelerator.gradient_accumulation_steps == 4


@pytest.fixture(scope="module")
def shared(sft, tmp_path_factory):
    """A folder with what `RUN` left, and in `one` the same run by one process; that one's trainer."""
    folder = tmp_path_factory.mktemp("shared")
    script = folder / "run.py"
    script.write_text(RUN.format(here=str(HERE), data=str(sft.file.parent), out=str(folder), fsdp=fsdp_environment()))
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    done = subprocess.run([*launch, "--nproc_per_node", "2", str(script)], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    alone = sft.trainer(folder / "one", batch_size=1, steps=3, validate_every=3, checkpoint_every=2)
    alone.run()
    return folder, alone


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ddp", "fsdp2"])
def test_two_processes_give_the_losses_of_one(engine, shared):
    folder, alone = shared
    for many, single in zip(rows(folder / engine), rows(folder / "one"), strict=True):
        assert many == pytest.approx(single, rel=1e-4)
    many, single = (rows(folder / name, "validation.csv", 8)[0] for name in (engine, "one"))
    # With sharded weights no process can reply by itself.
    told = 8 if engine == "ddp" else 3
    assert many[:told] == pytest.approx(single[:told], rel=1e-3, nan_ok=True)
    assert all(math.isnan(value) for value in many[told:])
    again = weights(folder / engine / "checkpoints" / "step_0000003")
    for name, value in alone.mllm.network.state_dict().items():
        assert torch.allclose(again[name], value, atol=2e-4), name


@pytest.mark.slow
def test_sharded_weights_resume_bitwise_too(shared):
    folder, _ = shared
    assert rows(folder / "resumed") == rows(folder / "fsdp2")
    last = Path("checkpoints") / "step_0000003"
    assert same(weights(folder / "resumed" / last), weights(folder / "fsdp2" / last))


@pytest.mark.slow
def test_it_learns_by_heart(sft, tmp_path):
    trainer = sft.trainer(tmp_path, steps=60, lr=1e-2, validation=False, batch_size=4)
    trainer.run()
    made = rows(tmp_path)
    assert np.mean([row[1] for row in made[-5:]]) < 0.5 * np.mean([row[1] for row in made[:5]])
    assert made[-1][2] > made[0][2] + 0.2, "token accuracy"


def test_lora_of_a_native_model_trains_little_and_is_written_merged(sft, tmp_path):
    trainer = sft.trainer(tmp_path, lora_rank=2, steps=4, checkpoint_every=2, frozen=["vision", "projector"])
    network = trainer.mllm.network
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    trainer.run()
    observation = trainer.examples[0].observation
    batch = trainer.mllm.encode([observation], ["Finish"])
    with torch.no_grad():
        adapted = trainer.mllm.network.eval()(**batch).logits
        merged = Osprey.from_checkpoint(tmp_path / "checkpoints" / "step_0000004", device="cpu").network(**batch).logits
    assert torch.allclose(adapted, merged, atol=1e-4)
    sft.trainer(tmp_path / "b", lora_rank=2, steps=4, checkpoint_every=2, frozen=["vision", "projector"]).run(stop_at=2)
    again = sft.trainer(tmp_path / "b", lora_rank=2, steps=4, checkpoint_every=2, frozen=["vision", "projector"])
    again.run(resume=True)
    assert same(again.mllm.network.state_dict(), network.state_dict())


def test_bfloat16_and_checkpointing_train_close_to_plain(whole, sft, tmp_path):
    _, folder, _, _ = whole
    exact = rows(folder)[0][1]
    sft.trainer(tmp_path / "c", steps=1, gradient_checkpointing=True, validation=False).run()
    assert rows(tmp_path / "c")[0][1] == pytest.approx(exact, rel=1e-5)
    AcceleratorState._reset_state()  # accelerate keeps its precision for the life of a process
    try:
        sft.trainer(tmp_path / "b", steps=1, precision="bfloat16", validation=False).run()
    finally:
        AcceleratorState._reset_state()
    rounded = rows(tmp_path / "b")[0][1]
    assert rounded != exact and rounded == pytest.approx(exact, rel=0.03)


def test_what_cannot_go_on_says_why(sft, tmp_path, monkeypatch):
    trainer = sft.trainer(tmp_path / "m", validation=False)

    def full(*args, **kwargs):
        return torch.empty(2**62, dtype=torch.uint8)  # the CPU's own words; a GPU's are an OutOfMemoryError

    monkeypatch.setattr("segagent.training.sft.answer_losses", full)
    with pytest.raises(ValueError, match=r"step 1: out of memory .* lower train.batch_size=2 .*gradient_checkpointing"):
        trainer.run()
    monkeypatch.undo()
    told, other = out_of_memory_told(trainer.settings, "loading the model"), out_of_memory_told(trainer.settings, "s")
    with pytest.raises(ValueError, match=r"loading the model: out of memory \(CUDA out of memory.\); .*bfloat16"), told:
        raise torch.OutOfMemoryError("CUDA out of memory.")
    with pytest.raises(RuntimeError, match="shapes"), other:
        raise RuntimeError("shapes")
    monkeypatch.setattr("segagent.training.sft_processes.is_sharded", lambda accelerator: True)
    with pytest.raises(
        ValueError, match=r"train.auxiliary, train.mentions, train.needs, train.gaze: ask for weights that no process"
    ):
        sft.trainer(tmp_path / "needs", validation=False, needs=1.0)
    with pytest.raises(ValueError, match=r"train.optimizer=muon: needs whole matrices"):
        sft.trainer(tmp_path / "muon", validation=False, optimizer="muon")
    monkeypatch.undo()
    wild = sft.trainer(tmp_path / "w", validation=False)
    with torch.no_grad():
        wild.mllm.network.language.lm_head.weight.fill_(math.nan)
    with pytest.raises(ValueError, match=r"step 1: loss nan has no finite gradient; lower train.lr"):
        wild.run()
    sft.trainer(tmp_path / "r", steps=2, validation=False).run()
    with pytest.raises(ValueError, match=r"step_0000002: cannot be resumed \(is of another model or training"):
        sft.trainer(tmp_path / "r", validation=False, lora_rank=2).run(resume=True)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"epochs": 1, "steps": 1}, "give one of them"),
        ({"steps": 1, "frozen": ["vision", "projector", "language"]}, "not all"),
        ({"steps": 1, "frozen": ["eyes"]}, "some of vision, projector, language"),
        ({"steps": 1, "precision": "float16"}, "choose auto, float32, bfloat16"),
        ({"steps": 1, "batch_size": 0}, "train.batch_size=0: at least 1"),
        ({"steps": 1, "warmup": 2}, "a share in"),
        ({"steps": 1, "vision_lr": 0.0}, "train.vision_lr=0.0: a number above 0"),
        ({"steps": 1, "lora_rank": 2, "frozen": ["vision", "language"]}, "take language out of train.frozen"),
        ({"steps": 1, "optimizer": "sgd"}, "train.optimizer='sgd': choose adamw or muon"),
    ],
)
def test_settings_without_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SftSettings(**settings)


def test_the_loss_held_out_does_not_depend_on_how_it_is_cut(sft, tmp_path):
    """Digits that count less give batches of unequal weight."""
    losses = []
    for size in (1, 4):
        trainer = sft.trainer(tmp_path / str(size), digit_decay=0.25)
        trainer.validation.batch_size = size
        trainer.prepared.eval()
        losses.append(figures_of(trainer._taught())["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_gpu_that_is_named_is_the_one_that_is_used(monkeypatch):
    used = []
    monkeypatch.setattr("segagent.training.sft_processes.torch_device", torch.device)
    monkeypatch.setattr(torch.cuda, "set_device", used.append)
    try:
        for device in ("cuda:1", "cuda", "cpu"):
            AcceleratorState._reset_state(reset_partial_state=True)
            start_processes(device, SftSettings(steps=1, precision="float32"))
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
    assert used == [torch.device("cuda:1")]


def test_processes_that_see_different_checkpoints_do_not_begin():
    check_same_step([4, 4], Path("runs/a"))
    with pytest.raises(ValueError, match=r"runs/a: the processes would go on from the steps \[0, 4\]; out= must"):
        check_same_step([4, 0], Path("runs/a"))


def test_batches_must_come_out_even():
    settings = SftSettings(epochs=2, global_batch=12, batch_size=2)
    assert settings.passes(3) == 2 and settings.updates(120) == 20
    with pytest.raises(ValueError, match=r"global_batch=12 is no multiple of train.batch_size=2 times 4 processes"):
        settings.passes(4)


def test_a_click_is_right_in_the_error_region_of_its_sign_only():
    target, mask = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    target[:2], mask[1:3] = True, True
    judged = {
        (y, sign): click_is_right(Click(0, y, sign), target, mask, None) for y in range(4) for sign in (True, False)
    }
    assert {key for key, right in judged.items() if right} == {(0, True), (2, False)}


def test_figures_are_per_token_or_per_state():
    figures = figures_of(
        [
            {"loss": 1.0, "weight": 6.0, "token_accuracy": 0.5, "tokens": 3.0},
            {"loss": 2.0, "weight": 2.0, "token_accuracy": 0.0, "tokens": 1.0},
            {"token_accuracy": 0.375, "tokens": 8.0},  # none of its tokens counts in the loss
            {"parsed": 1.0, "click_accuracy": 1.0, "iou_before": 0.2, "iou_after_click": 0.6},
            {"parsed": 0.0, "click_accuracy": 0.0, "iou_before": 0.4, "iou_after_click": 0.4},
        ]
    )
    assert figures["loss"] == 1.25 and figures["token_accuracy"] == 0.375
    assert figures["click_accuracy"] == figures["parsed"] == 0.5 and figures["iou_after_click"] == 0.5
    assert math.isnan(figures["iou_error"]) and score_of(figures) == 0.5
    assert score_of({**figures, "iou_after_click": math.nan}) == 1.25


def test_a_kill_between_checkpoints_loses_no_row_and_repeats_none(sft, tmp_path, run_until_killed):
    given = {"checkpoint_every": 4, "validate_every": 1}
    sft.trainer(tmp_path / "whole", **given).run()
    killed = sft.trainer(tmp_path / "killed", **given)
    run_until_killed(killed, steps=5)
    sft.trainer(tmp_path / "killed", **given).run(resume=True)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert (tmp_path / "killed/validation.csv").read_text() == (tmp_path / "whole/validation.csv").read_text()


def test_a_row_that_ends_with_a_comma_was_cut_off(tmp_path):
    table = CsvTable(tmp_path / "t.csv", ("step", "loss", "lr"))
    table.add(step=1, loss=0.5, lr=0.1)
    with (tmp_path / "t.csv").open("a") as file:
        file.write("2,0.4,")
    table.cut(2)
    assert [row["step"] for row in table.rows()] == [1]


@pytest.mark.parametrize("name", ["states", "batch_size", "max_new_tokens"])
def test_a_validation_that_cannot_be_is_refused_at_once(sft, tmp_path, name):
    validation = sft.trainer(tmp_path, steps=1).validation
    with pytest.raises(ValueError, match=rf"validation.{name}=0: at least 1"):
        SftValidation(examples=validation.examples, segmenter=None, **{name: 0})
    with pytest.raises(ValueError, match=r"validation.limit=-1: a number of trajectories"):
        validation.examples.states.split(-1)


def test_the_segmenter_keeps_its_own_precision(sft, tmp_path, monkeypatch):
    """Those of transformers mix types where they run in autocast."""
    trainer = sft.trainer(tmp_path, steps=1)
    segmenter, seen = trainer.validation.environment.segmenter, []
    run = type(segmenter).embed

    def embed(self, images):
        seen.append(torch.is_autocast_enabled("cpu"))
        return run(self, images)

    monkeypatch.setattr(type(segmenter), "embed", embed)
    generate, within = trainer.mllm.generate, []
    monkeypatch.setattr(
        trainer.mllm,
        "generate",
        lambda *args, **more: within.append(torch.is_autocast_enabled("cpu")) or generate(*args, **more),
    )
    trainer.validation.replies(trainer.mllm, within=lambda: torch.autocast("cpu", torch.bfloat16))
    assert seen and not any(seen) and all(within)


class Engine:
    """Of an accelerator, what loading a sharded checkpoint uses."""

    def __init__(self, error=None):
        self.error, self.step = error, 150

    def load_state(self, folder):
        if self.error is not None:
            raise self.error


def test_what_an_engine_says_of_its_checkpoint_is_told(tmp_path):
    class OtherKind(Exception):
        pass

    for error in (OtherKind("world size 2 then, 1 now"), CheckpointException("broken", {})):
        with pytest.raises(ValueError, match=r"go on with as many as before"):
            _load_engine(Engine(error), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        _load_engine(Engine(KeyboardInterrupt()), tmp_path)
    engine = Engine()
    _load_engine(engine, tmp_path)
    assert engine.step == 0, "an update begins"


def test_the_best_weights_are_those_of_the_lowest_score(sft, tmp_path, monkeypatch):
    scores = iter([0.5, 0.25, 0.75, 0.5, 0.3, 0.9])
    monkeypatch.setattr("segagent.training.sft.score_of", lambda figures: next(scores))
    progress = sft.trainer(tmp_path, validate_every=1).run()
    assert (progress.best_step, progress.best_score) == (2, 0.25)


def test_the_loss_of_a_step_is_weighted_by_its_tokens(sft, tmp_path):
    given = {"steps": 1, "batch_size": 4, "length_group": 1, "validation": False, "digit_decay": 0.25}
    trainer = sft.trainer(tmp_path, **given)
    batch = trainer.collator([trainer.examples[number] for number in range(4)])
    with torch.no_grad():
        losses, weights, _ = answer_losses(trainer.mllm.network.train(), batch)
    trainer.run()
    assert weights.min() < weights.max()
    assert rows(tmp_path)[0][1] == pytest.approx(float((losses * weights).sum() / weights.sum()), rel=1e-4)
