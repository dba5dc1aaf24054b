"""Folders as users have them: adapters, other precisions, broken and foreign ones; refusals name file and remedy."""

import json
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from segagent.dialogue import Observation
from segagent.mllm import TransformersVLM
from segagent.mllm.testing_vlm import FAMILIES, write_tiny_checkpoint


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    return write_tiny_checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture
def folder(pristine, tmp_path):
    """A checkpoint that a test may break."""
    return shutil.copytree(pristine, tmp_path / "broken")


def load(path, **options):
    return TransformersVLM.from_checkpoint(path, **{"device": "cpu", **options})


def observations(count=3):
    random = np.random.default_rng(1)
    return [
        Observation(random.integers(0, 256, (60, 80, 3), dtype=np.uint8), "", f"thing {index}")
        for index in range(count)
    ]


def replies(model, **options):
    return [row[0].text for row in model.generate(observations(), max_new_tokens=6, **options)]


# --- adapters -------------------------------------------------------------------------------------------------------


def write_adapter(base, path, targets=("q_proj", "v_proj")):
    """A LoRA adapter with random weights, as peft saves one."""
    torch.manual_seed(3)
    network = AutoModelForImageTextToText.from_pretrained(base)
    adapted = get_peft_model(network, LoraConfig(r=4, target_modules=list(targets)))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    adapted.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def adapter(pristine, tmp_path_factory):
    return write_adapter(pristine, tmp_path_factory.mktemp("adapter") / "lora")


def test_an_adapter_folder_loads_as_a_checkpoint_merged_or_not(pristine, adapter):
    plain, merged, beside = load(pristine), load(adapter), load(adapter, merge_adapter=False)
    assert replies(merged) == replies(beside) != replies(plain)
    assert not any("lora" in name for name, _ in merged.network.named_parameters())
    assert any("lora" in name for name, _ in beside.network.named_parameters())
    with torch.inference_mode():
        logits = [model.network(**model.encode(observations())).logits for model in (merged, beside)]
    torch.testing.assert_close(*logits, atol=1e-3, rtol=1e-3)
    sampled = [
        model.generate(observations(), num_samples=2, temperature=1.0, seeds=[1, 2, 3]) for model in (merged, beside)
    ]
    assert [[c.text for c in row] for row in sampled[0]] == [[c.text for c in row] for row in sampled[1]]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_adapters_of_every_family_load(family, tmp_path):
    base = write_tiny_checkpoint(family, tmp_path / "base")
    adapted = write_adapter(base, tmp_path / "lora")
    assert replies(load(adapted)) == replies(load(adapted, merge_adapter=False)) != replies(load(base))


def test_an_adapters_base_can_be_given(pristine, adapter, tmp_path):
    moved = shutil.copytree(adapter, tmp_path / "moved")
    notes = json.loads((moved / "adapter_config.json").read_text())
    for gone in (None, "", "/nowhere/base", "a/b/c"):
        notes["base_model_name_or_path"] = gone
        (moved / "adapter_config.json").write_text(json.dumps(notes))
        with pytest.raises(ValueError, match=r"set mllm.base"):
            load(moved)
        assert replies(load(moved, base=str(pristine))) == replies(load(adapter))


def test_an_adapters_own_tokenizer_is_preferred(pristine, adapter, tmp_path):
    moved = shutil.copytree(adapter, tmp_path / "moved")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(pristine / name, moved / name)
    template = (moved / "chat_template.jinja").read_text().replace("You are a helpful assistant.", "You click.")
    (moved / "chat_template.jinja").write_text(template)
    model = load(moved)
    assert "You click." in model.processor.tokenizer.decode(model.encode(observations(1))["input_ids"][0])


def test_broken_adapters_are_refused(pristine, adapter, tmp_path):
    empty = shutil.copytree(adapter, tmp_path / "empty")
    (empty / "adapter_model.safetensors").unlink()
    with pytest.raises(ValueError, match="has no weights"):
        load(empty)
    garbled = shutil.copytree(adapter, tmp_path / "garbled")
    (garbled / "adapter_config.json").write_text("[1]")
    with pytest.raises(ValueError, match="not the JSON of an adapter"):
        load(garbled)
    for family in ("smolvlm", "llava"):
        foreign = write_tiny_checkpoint(family, tmp_path / family)
        with pytest.raises(ValueError, match="does not fit its base"):
            load(adapter, base=str(foreign))
    with pytest.raises(ValueError, match=r"mllm.base=.*is for adapters"):
        load(pristine, base=str(pristine))


# --- precision and placement ----------------------------------------------------------------------------------------


def test_bfloat16_and_device_maps_load_and_reply(pristine, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    with pytest.warns(UserWarning, match=r"mllm.dtype: this CPU has no instructions for bfloat16"):
        model = load(pristine, dtype="bfloat16")
    assert {parameter.dtype for parameter in model.network.parameters()} == {torch.bfloat16}
    assert all(len(reply) > 0 for reply in replies(model))
    assert replies(load(pristine, device_map="cpu")) == replies(load(pristine))


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_quantization_asks_for_its_package(pristine, quantization, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=f"quantization={quantization} needs the package bitsandbytes: pip install"):
        load(pristine, quantization=quantization)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"dtype": "int3"}, "dtype='int3': choose auto, float32"),
        ({"quantization": "2bit"}, "quantization='2bit': choose none, 8bit or 4bit"),
        ({"max_batch": 0}, "max_batch=0"),
        ({"device": "abacus"}, "device='abacus' cannot be used here"),
    ],
)
def test_wrong_settings_are_named(pristine, options, words):
    with pytest.raises(ValueError, match=words):
        load(pristine, **options)


def test_the_dialogue_of_a_checkpoint_is_noted_beside_it(folder):
    assert load(folder).dialogue is None
    (folder / "segagent.json").write_text('{"dialogue": "absolute"}')
    assert load(folder).dialogue == "absolute" and load(folder, dialogue="paper").dialogue == "paper"
    (folder / "segagent.json").write_text('{"dialog": "absolute"}')
    with pytest.raises(ValueError, match=r"segagent.json: not of the form"):
        load(folder)


# --- broken and foreign folders -------------------------------------------------------------------------------------


def test_a_folder_that_is_not_there(tmp_path):
    for path in (tmp_path / "nothing", "nothing", "a/b/c", "/nothing", "../nothing"):
        with pytest.raises(ValueError, match="no such folder; give a checkpoint folder or a hub name"):
            load(path)


def test_a_hub_name_that_cannot_be_had_is_an_os_error(monkeypatch):
    def unreachable(*arguments, **options):
        raise OSError("We couldn't connect\nand so on")

    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", unreachable)
    with pytest.raises(OSError, match="nobody/nothing: no folder here, and not to be had from the hub: We couldn't"):
        load("nobody/nothing")


@pytest.mark.parametrize(
    "name, words",
    [
        ("config.json", "has no config.json"),
        ("model.safetensors", "has no weights"),
        ("chat_template.jinja", "has no chat template"),
    ],
)
def test_a_missing_file_is_named(folder, name, words):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=words):
        load(folder)


def test_weights_that_were_cut_off_are_refused(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="its weights cannot be read"):
        load(folder)


def test_weights_of_another_shape_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 48
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"cannot be read|do not fit"):
        load(folder)


def test_weights_that_leave_gaps_are_refused_instead_of_filled_at_random(folder):
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    config["text_config"]["layer_types"] = ["full_attention"] * 3
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"weights do not fit config.json \(missing_keys, such as .*layers.2"):
        load(folder)


def test_a_tokenizer_of_another_model_is_refused(folder, tmp_path):
    other = write_tiny_checkpoint("smolvlm", tmp_path / "other")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(other / name, folder / name)
    with pytest.raises(ValueError, match=r"tokenizer is of another model: '<\|image_pad\|>' is not there"):
        load(folder)


def test_a_tokenizer_whose_image_token_has_another_id_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    config["image_token_id"] -= 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"is of another model: '<\|image_pad\|>' is \d+, config.json says"):
        load(folder)


def test_a_tokenizer_with_more_tokens_than_the_network_is_refused(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<more_{index}>" for index in range(40)])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"it knows \d+ tokens, the network \d+"):
        load(folder)


def test_a_model_that_reads_no_pictures_is_refused(tmp_path):
    LlamaForCausalLM(
        LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    ).save_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match="model_type 'llama' is no model that reads a picture"):
        load(tmp_path / "text")


def test_code_in_a_checkpoint_is_never_run(folder, tmp_path):
    mark = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass Evil: ...\n")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Evil", "AutoModelForImageTextToText": "evil.Evil"}
    (folder / "config.json").write_text(json.dumps(config))
    load(folder)  # a known model: its code in transformers is used
    config["model_type"] = "evil"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="broken"):
        load(folder)
    assert not mark.exists()


def test_an_older_checkpoint_without_processor_settings_takes_them_from_the_models_config(tmp_path):
    path = write_tiny_checkpoint("internvl", tmp_path / "internvl")
    whole = replies(load(path))
    (path / "processor_config.json").write_text(json.dumps({"processor_class": "InternVLProcessor"}))
    assert replies(load(path)) == whole


def test_a_template_in_the_older_json_file_is_read(tmp_path):
    for family in ("llava", "smolvlm"):
        path = write_tiny_checkpoint(family, tmp_path / family)
        whole = replies(load(path))
        template = (path / "chat_template.jinja").read_text()
        (path / "chat_template.jinja").unlink()
        (path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
        assert replies(load(path)) == whole


def test_the_processors_template_goes_before_a_tokenizers_for_text_alone(tmp_path):
    """Exported models have the text-only one in tokenizer_config.json; transformers' processors never take that."""
    path = write_tiny_checkpoint("llava", tmp_path / "llava")
    whole = replies(load(path))
    template = (path / "chat_template.jinja").read_text()
    (path / "chat_template.jinja").unlink()
    settings = json.loads((path / "tokenizer_config.json").read_text())
    alone = "{% for message in messages %}{{ 'TEXT ' + message['content'] }}{% endfor %}"
    (path / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": alone}))
    with pytest.raises(ValueError, match=r"llava: its chat template takes no messages with pictures \("):
        load(path)
    (path / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert replies(load(path)) == whole
