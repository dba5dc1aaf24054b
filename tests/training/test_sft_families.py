"""Families made ready for training: what their projectors and the types of their weights ask for."""

import numpy as np
import pytest
import torch

from segagent.dialogue import Observation
from segagent.mllm import TransformersVLM
from segagent.mllm.osprey import Osprey
from segagent.mllm.parts import part_of
from segagent.mllm.testing import write_nano
from segagent.mllm.testing_vlm import FAMILIES, write_tiny_checkpoint
from segagent.training.sft_network import prepare_network
from segagent.training.sft_settings import SftSettings


def load(family, path, **options):
    return TransformersVLM.from_checkpoint(write_tiny_checkpoint(family, path), device="cpu", **options)


def encoded(mllm):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    return mllm.encode([Observation(image, "", "the cup")])


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_beside_an_adapter_whole_projectors_are_trained(family, tmp_path, caplog):
    mllm = load(family, tmp_path)
    prepare_network(mllm, SftSettings(steps=1, lora_rank=2, precision="float32"))
    trained = [name for name, weight in mllm.network.named_parameters() if weight.requires_grad]
    projector = {name.split("modules_to_save.default.")[0] for name in trained if part_of(name) == "projector"}
    every = {name for name, _ in mllm.network.named_parameters() if part_of(name) == "projector"}
    left = {name for name in every if not any(name.startswith(whole) for whole in projector)}
    assert projector and any("lora_" in name for name in trained)
    assert all(name.rpartition(".")[2] in caplog.text for name in left), "what stays is told"
    assert {name.rpartition(".")[2] for name in left} <= {"image_newline"}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_model_that_is_stored_as_bfloat16_trains_in_autocast(family, tmp_path):
    mllm = load(family, tmp_path, dtype="bfloat16")
    prepare_network(mllm, SftSettings(steps=1, precision="bfloat16"))
    batch = {key: value for key, value in encoded(mllm).items() if key != "pictures"}
    with torch.autocast("cpu", torch.bfloat16):
        loss = mllm.network(**batch).logits.float().square().mean()
    loss.backward()
    moving = [weight for weight in mllm.network.parameters() if weight.requires_grad]
    assert all(weight.dtype == torch.float32 for weight in moving) and any(weight.grad is not None for weight in moving)


def test_an_engine_may_make_every_weight_bfloat16(tmp_path):
    """As DeepSpeed does, which leaves pixels as they are."""
    write_nano(tmp_path)
    mllm = Osprey.from_checkpoint(tmp_path, device="cpu")
    inputs = encoded(mllm)
    inputs = {key: value.float() if value.is_floating_point() else value for key, value in inputs.items()}
    logits = mllm.network.bfloat16()(**inputs).logits
    assert logits.dtype == torch.bfloat16 and torch.isfinite(logits.float()).all()


def test_what_waits_in_memory_is_made_ready_for_where_it_will_be_trained(tmp_path, monkeypatch):
    """Weights that are shared out over GPUs lie on the CPU until then."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    write_nano(tmp_path)
    for device, dtype, attention in (("cuda", torch.bfloat16, "sdpa"), ("cpu", torch.float32, "eager")):
        mllm = Osprey.from_checkpoint(tmp_path, device="cpu", dtype="bfloat16")
        prepare_network(mllm, SftSettings(steps=1), torch.device(device))
        frozen = {weight.dtype for weight in mllm.network.parameters() if not weight.requires_grad}
        assert frozen == {dtype} and mllm.network.language.config._attn_implementation == attention
