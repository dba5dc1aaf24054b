"""Parts of every family by the names of their weights, and what quantization leaves alone."""

import pytest
from torch import nn
from transformers.quantizers.quantizers_utils import should_convert_module

from segagent.mllm import TransformersVLM
from segagent.mllm.parts import NOT_QUANTIZED, part_of
from segagent.mllm.testing_vlm import FAMILIES, write_tiny_checkpoint


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_language_model_alone_is_quantized(family, tmp_path):
    network = TransformersVLM.from_checkpoint(write_tiny_checkpoint(family, tmp_path), device="cpu").network
    linear = {name for name, module in network.named_modules() if isinstance(module, nn.Linear)}
    quantized = {name for name in linear if should_convert_module(name, [NOT_QUANTIZED])}
    assert quantized == {name for name in linear if part_of(name) == "language" and name != "lm_head"}
    assert {part_of(name) for name in linear - quantized - {"lm_head"}} == {"vision", "projector"}
