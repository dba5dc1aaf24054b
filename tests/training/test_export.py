"""scripts/export.py: conversations as each trainer documents them, with the pictures that the model would see."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from segagent.configuration import compose_config
from segagent.dialogue import load_dialogue
from segagent.engines.work import run_config
from segagent.training.collate import Collator
from segagent.training.examples import Examples, TaskMix
from segagent.training.export import FORMATS, PARTIAL_NAME, begun, export
from segagent.training.trajectory_index import read_states


def examples_of(sft, **tasks):
    mix = TaskMix(**{"iou": 0.0, "perturbed": 0.0} | tasks)
    dialogue = load_dialogue("released_qwen")
    states = read_states([sft.file], sft.dataset, dialogue, tasks=mix.names)
    return Examples(states=states, paths=[sft.file], dataset=sft.dataset, dialogue=dialogue, tasks=mix)


def exported(sft, folder, form):
    examples = examples_of(sft)
    assert export((examples[n] for n in range(len(examples))), folder, form=form) == (len(examples), 0)
    return examples, [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def shown(path):
    return np.asarray(Image.open(path))


def test_llamafactory_sharegpt(sft, tmp_path):
    examples, records = exported(sft, tmp_path, "llamafactory")
    told = json.loads((tmp_path / "dataset_info.json").read_text())["segagent"]
    assert told["file_name"] == "train.jsonl" and told["formatting"] == "sharegpt"
    assert told["columns"] == {"messages": "messages", "images": "images"}
    tags = told["tags"]
    for number, record in enumerate(records):
        roles = [message[tags["role_tag"]] for message in record["messages"]]
        assert roles == [tags["system_tag"], tags["user_tag"], tags["assistant_tag"]]
        system, asked, said = (message[tags["content_tag"]] for message in record["messages"])
        assert system == "You are a helpful assistant." and said == examples[number].answer
        assert asked == "<image>" + examples[number].observation.prompt
        assert sum(message["content"].count("<image>") for message in record["messages"]) == len(record["images"]) == 1
        assert np.array_equal(shown(tmp_path / record["images"][0]), examples[number].observation.image)


def test_ms_swift_messages(sft, tmp_path):
    examples, records = exported(sft, tmp_path, "ms_swift")
    for number, record in enumerate(records):
        assert set(record) == {"messages", "images"}
        assert [set(message) for message in record["messages"]] == [{"role", "content"}] * 3
        assert record["messages"][1]["content"].startswith("<image>")
        assert record["messages"][-1] == {"role": "assistant", "content": examples[number].answer}
        assert Path(record["images"][0]).is_absolute() and Path(record["images"][0]).is_file()


def test_trl_prompt_and_completion(sft, tmp_path):
    examples, records = exported(sft, tmp_path, "trl")
    for number, record in enumerate(records):
        assert set(record) == {"prompt", "completion", "images"}
        assert [message["role"] for message in record["prompt"]] == ["system", "user"]
        assert [part["type"] for part in record["prompt"][1]["content"]] == ["image", "text"]
        assert record["completion"][0]["content"] == [{"type": "text", "text": examples[number].answer}]
        assert record["completion"][0]["role"] == "assistant" and len(record["images"]) == 1


def test_what_the_formats_cannot_say_is_left_out_and_told(sft, tmp_path):
    examples = examples_of(sft, iou=1.0)
    made = [examples[number] for number in range(len(examples))]
    written, left_out = export(made, tmp_path, form="trl")
    assert left_out == sum(example.task == "iou" for example in made) > 0 and written + left_out == len(made)
    with pytest.raises(ValueError, match="nothing to export"):
        export([example for example in made if example.open], tmp_path / "b", form="trl")
    with pytest.raises(ValueError, match="format='alpaca': choose llamafactory, ms_swift, trl"):
        export(made, tmp_path, form="alpaca")


def test_trl_reads_the_same_examples_and_trains_on_them(sft, tmp_path):
    from datasets import Image as ImageColumn
    from datasets import Sequence, load_dataset
    from transformers import AutoModelForImageTextToText
    from trl import SFTConfig, SFTTrainer

    from segagent.mllm.testing_vlm import write_tiny_checkpoint
    from segagent.mllm.transformers_vlm import TransformersVLM

    examples, _ = exported(sft, tmp_path / "export", "trl")
    vlm = TransformersVLM(path=write_tiny_checkpoint("qwen2_5_vl", tmp_path / "model"), device="cpu")
    files = str(tmp_path / "export" / "train.jsonl")
    table = load_dataset("json", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    table = table.cast_column("images", Sequence(ImageColumn()))
    settings = SFTConfig(
        output_dir=str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=2, max_length=None, report_to=[],
        use_cpu=True, bf16=False, save_strategy="no", learning_rate=1e-2, disable_tqdm=True,
    )  # fmt: skip
    network = AutoModelForImageTextToText.from_pretrained(vlm.path)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    trainer = SFTTrainer(model=network, args=settings, train_dataset=table, processing_class=vlm.processor)

    ours = Collator(vlm)([examples[number] for number in range(2)])
    theirs = trainer.data_collator([trainer.train_dataset[number] for number in range(2)])
    assert torch.equal(theirs["pixel_values"], ours.tensors["pixel_values"])
    # The template ends a reply with a line break, which TRL learns as well.
    line_break = vlm.processor.tokenizer.encode("\n")
    for row, length in enumerate(ours.tensors["attention_mask"].sum(1).tolist()):
        for name, own in (("input_ids", ours.tensors["input_ids"]), ("labels", ours.labels)):
            assert theirs[name][row, : length + 1].tolist() == own[row, :length].tolist() + line_break, name

    trainer.train()
    assert trainer.state.global_step == 2
    assert any(not torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("form", FORMATS)
def test_a_killed_export_goes_on_where_it_was(form, sft, tmp_path):
    examples, whole = exported(sft, tmp_path, form)
    assert len(whole) > 3 and begun(tmp_path) == (0, 0)
    lines = (tmp_path / "train.jsonl").read_text()
    cut = "".join(line + "\n" for line in lines.splitlines()[:2]) + lines.splitlines()[2][:20]
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / PARTIAL_NAME).write_text(cut)
    (tmp_path / "images" / "0000002.png").write_bytes(b"half of it")
    done = begun(tmp_path)
    assert done == (2, 2)
    rest = (examples[number] for number in range(done[0], len(examples)))
    assert export(rest, tmp_path, form=form, done=done) == (len(examples), 0)
    assert (tmp_path / "train.jsonl").read_text() == lines
    assert np.array_equal(shown(tmp_path / "images" / "0000002.png"), examples[2].observation.image)


@pytest.mark.parametrize("form", FORMATS)
def test_the_command_writes_each_format_and_refuses_what_it_cannot(form, tmp_path):
    script = load_script("export")
    size = ["data=refshapes", "data.size=128", "data.limit=2"]
    made = compose_config(
        "simulate", [*size, "data.split=train", "simulate.max_clicks=2", f"out={tmp_path / 't.jsonl'}"]
    )
    OmegaConf.resolve(made)
    run_config(made, made.simulate, tmp_path / "t.jsonl", "simulate")

    def run(*given):
        own = [*size, f"format={form}", f"data.trajectories={tmp_path / 't.jsonl'}", f"out={tmp_path / 'out'}"]
        config = compose_config("export", [*own, *given])
        OmegaConf.resolve(config)
        return script.main(config)

    assert run() == 0
    lines = (tmp_path / "out" / "train.jsonl").read_text().splitlines()
    assert lines and len(list((tmp_path / "out" / "images").iterdir())) > 0
    for given, message in {
        "resume=true": "cannot be gone on with",
        "dialogue_name=absolute": "counts pixels of the picture as a model sees it",
        "format=alpaca": "choose llamafactory, ms_swift, trl",
        "seed=1": "is there already",
    }.items():
        with pytest.raises(ValueError, match=message):
            run(given)


def load_script(name):
    path = Path(__file__).resolve().parents[2] / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
