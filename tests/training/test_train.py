"""scripts/train.py: every family in, a folder out that mllm=FOLDER takes."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from segagent.configuration import CONFIG_DIR, build, compose_config
from segagent.engines.work import run_config
from segagent.entry import expand_checkpoints
from segagent.mllm import testing
from segagent.mllm.testing_vlm import write_tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("blank_plots")
SETTINGS = [
    "data=refshapes", "data.limit=6", "data.size=128", "device=cpu", "segmenter.max_pixels=1024", "validation.limit=2",
    "validation.states=2", "validation.max_new_tokens=4", "wandb.mode=disabled", "train.epochs=null", "train.steps=2",
    "train.global_batch=2", "train.batch_size=2", "train.workers=0", "train.precision=float32",
]  # fmt: skip


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train", ROOT / "scripts" / "train.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory):
    path = tmp_path_factory.mktemp("trajectories") / "t.jsonl"
    given = ["data=refshapes", "data.split=train", "data.limit=6", "data.size=128", "segmenter.max_pixels=1024"]
    config = compose_config("simulate", [*given, "simulate.max_clicks=2", f"out={path}", "device=cpu"])
    OmegaConf.resolve(config)
    run_config(config, config.simulate, path, "simulate")
    return path


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """family -> folder of a tiny checkpoint, written when it is first asked for."""
    root, made = tmp_path_factory.mktemp("models"), {}

    def folder(family):
        if family not in made:
            made[family] = root / family
            if family in ("nano", "osprey", "qwen_vl_chat"):
                getattr(testing, f"write_{family}")(made[family])
            else:
                write_tiny_checkpoint(family, made[family])
        return made[family]

    return folder


def settings(trajectories, *overrides):
    config = compose_config("train", expand_checkpoints([*SETTINGS, f"data.trajectories={trajectories}", *overrides]))
    OmegaConf.resolve(config)
    return config


def loaded(folder, *overrides):
    """The model of a folder, as an entry with mllm=FOLDER makes it."""
    config = compose_config("evaluate", [*expand_checkpoints([f"mllm={folder}"]), "out=x", "device=cpu", *overrides])
    OmegaConf.resolve(config)
    return build(config.mllm)


def weights(mllm):
    return mllm.network.state_dict()


@pytest.mark.parametrize("family", ["nano", "osprey", "qwen_vl_chat", "qwen2_5_vl", "llava"])
def test_every_family_trains_and_loads_again(family, models, trajectories, script, tmp_path):
    out = tmp_path / "run"
    named = ["mllm.dialogue=nano"] if family in ("qwen2_5_vl", "llava") else []
    assert script.main(settings(trajectories, f"mllm={models(family)}", f"out={out}", "train.lr=0.01", *named)) == 0
    after = loaded(out / "best")
    assert after.dialogue == {"osprey": "released_llava", "qwen_vl_chat": "released_qwen"}.get(family, "nano")
    before = weights(loaded(models(family)))
    assert before.keys() == weights(after).keys()
    moved = [name for name, value in weights(after).items() if not torch.equal(value.float(), before[name].float())]
    assert moved and not any(".tower." in f".{name}" or "vision_tower" in name for name in moved)
    assert any("projector" in name or "merger" in name or "attn_pool" in name for name in moved)
    assert (out / "curve.png").is_file() and OmegaConf.load(out / "train.config.yaml").train.steps == 2


def test_lora_is_kept_as_an_adapter_of_its_base(models, trajectories, script, tmp_path):
    out = tmp_path / "run"
    given = [f"mllm={models('qwen2_5_vl')}", "mllm.dialogue=nano", f"out={out}", "train.lora_rank=2", "train.lr=0.01"]
    assert script.main(settings(trajectories, *given)) == 0
    assert json.loads((out / "best" / "segagent.json").read_text()) == {"dialogue": "nano"}
    assert (out / "best" / "adapter_config.json").is_file() and not (out / "best" / "model.safetensors").exists()
    after, before = loaded(out / "best"), loaded(models("qwen2_5_vl"))
    moved = [name for name, value in weights(after).items() if not torch.equal(value, weights(before)[name])]
    assert any("q_proj" in name for name in moved) and any("merger" in name for name in moved)
    with pytest.raises(ValueError, match="is an adapter, and cannot get another one"):
        script.main(settings(trajectories, f"mllm={out / 'best'}", f"out={tmp_path / 'b'}", "train.lora_rank=2"))
    with pytest.raises(ValueError, match="is an adapter beside its base, and only the adapter would be kept"):
        script.main(settings(trajectories, f"mllm={out / 'best'}", "mllm.merge_adapter=false", f"out={tmp_path / 'b'}"))


def test_an_adapter_becomes_a_whole_model_that_takes_another_one(models, trajectories, script, tmp_path):
    first, whole = tmp_path / "first", tmp_path / "whole"
    given = ["mllm.dialogue=nano", "train.lora_rank=2", "train.lr=0.01", "mllm.dtype=float32"]
    script.main(settings(trajectories, f"mllm={models('qwen2_5_vl')}", f"out={first}", *given))

    def merge(model, out):
        command = [sys.executable, "scripts/merge_adapter.py", f"mllm={model}", "mllm.dtype=float32", f"out={out}"]
        return subprocess.run([*command, "device=cpu"], cwd=ROOT, capture_output=True, text=True)

    done = merge(first / "best", whole)
    assert done.returncode == 0 and done.stdout == f"model {whole}\n", done.stderr
    after, before = weights(loaded(whole)), weights(loaded(first / "best", "mllm.dtype=float32"))
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert loaded(whole).dialogue == "nano" and not whole.with_name("whole.partial").exists()
    assert script.main(settings(trajectories, f"mllm={whole}", f"out={tmp_path / 'second'}", *given)) == 0
    named = json.loads((tmp_path / "second" / "best" / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == str(whole)
    again, other = merge(first / "best", whole), merge(models("qwen2_5_vl"), tmp_path / "other")
    quantized = subprocess.run(
        [sys.executable, "scripts/merge_adapter.py", f"mllm={first / 'best'}", "mllm.quantization=4bit", "out=x"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert quantized.returncode == 2 and "mllm.quantization=4bit: the sum would be another one" in quantized.stderr
    named = subprocess.run(
        [sys.executable, "scripts/merge_adapter.py", "mllm=osprey", f"mllm.path={first / 'best'}", "out=x"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert named.returncode == 2 and "has no adapters; say mllm=FOLDER" in named.stderr
    assert again.returncode == 2 and f"{whole}: is there already; choose another out=" in again.stderr
    assert other.returncode == 2 and "is no folder of an adapter" in other.stderr and not (tmp_path / "other").exists()


def test_a_run_is_never_lost_and_resumed_with_its_own_settings_only(models, trajectories, script, tmp_path):
    given = [f"mllm={models('nano')}", f"out={tmp_path / 'run'}", "validation.limit=0"]
    script.main(settings(trajectories, *given))
    assert weights(loaded(tmp_path / "run" / "best")).keys(), "without validation the last weights are the best ones"
    with pytest.raises(ValueError, match=r"is there already; say resume=true"):
        script.main(settings(trajectories, *given))
    with pytest.raises(ValueError, match=r"other settings: train.lr \(1e-05 then, 0.1 now\)"):
        script.main(settings(trajectories, *given, "resume=true", "train.lr=0.1"))
    script.main(settings(trajectories, *given, "resume=true"))
    script.main(settings(trajectories, *given, "resume=true", "train.keep=1", "train.batch_size=1"))  # how, not what
    (last,) = (tmp_path / "run" / "checkpoints").glob("step_*2")
    own = [f"mllm={last}", f"out={tmp_path / 'run'}", "validation.limit=0", "overwrite=true"]
    with pytest.raises(ValueError, match=r"overwrite=true would delete .*, which this run begins from"):
        script.main(settings(trajectories, *own))
    assert last.is_dir()


def test_what_is_missing_is_told_before_training(models, trajectories, script, tmp_path):
    with pytest.raises(ValueError, match="no model given; say mllm=FOLDER"):
        script.main(settings(trajectories, f"out={tmp_path / 'x'}"))
    with pytest.raises(ValueError, match=r"names no dialogue; say mllm.dialogue=NAME"):
        script.main(settings(trajectories, f"mllm={models('qwen2_5_vl')}", f"out={tmp_path / 'x'}"))
    with pytest.raises(ValueError, match=r"data has no such picture"):
        script.main(settings(trajectories, f"mllm={models('nano')}", "data.split=val", f"out={tmp_path / 'x'}"))
    with pytest.raises(ValueError, match="has no weights here"):
        script.main(settings(trajectories, "mllm=endpoint", "mllm.path=x", f"out={tmp_path / 'x'}"))
    with pytest.raises(ValueError, match="none with a state to learn"):
        script.main(settings(trajectories, f"mllm={models('nano')}", "min_final_iou=1.5", f"out={tmp_path / 'x'}"))


@pytest.mark.parametrize(
    "family, other, message",
    [
        ("nano", "qwen2_5_vl", "this is no Osprey with a ConvNeXt tower"),
        ("qwen_vl_chat", "nano", "model_type='osprey': not the config of a Qwen-VL-Chat"),
        ("transformers_vlm", "nano", "has model type `osprey` but Transformers does not recognize this"),
    ],
)
def test_a_checkpoint_of_another_family_is_refused(family, other, message, models, trajectories, script, tmp_path):
    given = [f"mllm={family}", f"mllm.path={models(other)}", f"out={tmp_path / 'run'}"]
    with pytest.raises(ValueError, match=message):
        script.main(settings(trajectories, *given))
    assert not (tmp_path / "run").exists()


def test_the_loss_of_generated_pictures_is_for_nano_only(models, trajectories, script, tmp_path):
    given = [f"mllm={models('qwen2_5_vl')}", "mllm.dialogue=nano", "train.auxiliary=0.1", f"out={tmp_path / 'run'}"]
    with pytest.raises(ValueError, match=r"train.auxiliary: is for nano and its like, not for TransformersVLM"):
        script.main(settings(trajectories, *given))


@pytest.mark.slow
def test_workers_make_the_same_batches(models, trajectories, script, tmp_path):
    made = []
    for workers in (0, 1):
        out = tmp_path / str(workers)
        given = [f"mllm={models('qwen2_5_vl')}", "mllm.dialogue=nano", f"out={out}", f"train.workers={workers}"]
        script.main(settings(trajectories, *given, "validation.limit=0"))
        made.append([row.split(",")[:4] for row in (out / "train.csv").read_text().splitlines()])
    assert made[0] == made[1]


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "zero2", "zero3", "two_nodes"])
def test_accelerate_reads_the_files_that_ship(name):
    from accelerate.commands.config.config_args import load_config_from_file

    path = CONFIG_DIR / "accelerate" / f"{name}.yaml"
    read = load_config_from_file(str(path))
    assert read.num_processes == yaml.safe_load(path.read_text())["num_processes"] and read.mixed_precision == "bf16"


@pytest.mark.parametrize(
    "given, said",
    [
        (
            ["data.trajectories=[nope.jsonl,gone.jsonl]"],
            r"\(2 problems\):\nnope.jsonl: no such file\ngone.jsonl: no such",
        ),
        (["data.trajectories=a.jsonl", "tasks.click=-1"], "tasks.click=-1"),
        (["data.trajectories=a.jsonl", "generated.share=true"], "generated.share=True: a share in"),
    ],
)
def test_what_needs_no_model_is_refused_before_it_is_loaded(script, models, tmp_path, monkeypatch, given, said):
    """A large one takes minutes."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_bytes((models("nano") / "config.json").read_bytes())  # without weights
    monkeypatch.chdir(tmp_path)
    words = [*SETTINGS, f"mllm={tmp_path / 'broken'}", f"out={tmp_path / 'run'}", *given]
    config = compose_config("train", expand_checkpoints(words))
    OmegaConf.resolve(config)
    with pytest.raises(ValueError, match=said):
        script.main(config)


def test_generated_states_need_no_trajectories_and_their_lack_is_told(script, models, tmp_path):
    given = [f"mllm={models('nano')}", "data.trajectories=null", f"out={tmp_path / 'run'}"]
    config = compose_config(
        "train", expand_checkpoints([*SETTINGS, *given, "generated.share=1", "train.length_group=1"])
    )
    OmegaConf.resolve(config)
    assert script.main(config) == 0
    assert len((tmp_path / "run" / "train.csv").read_text().splitlines()) == 3
    for wrong, said in (
        (["generated.share=0.5", "train.length_group=1"], r"data.trajectories=null: name trajectory files"),
        (["generated.share=1", "train.length_group=4"], r"no length to be sorted by; set train.length_group=1"),
        (["generated.share=2"], r"generated.share=2: a share in \[0, 1\]"),
    ):
        config = compose_config("train", expand_checkpoints([*SETTINGS, *given, "overwrite=true", *wrong]))
        OmegaConf.resolve(config)
        with pytest.raises(ValueError, match=said):
            script.main(config)
