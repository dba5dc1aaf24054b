"""Weight files: what is read, what is refused, what is written."""

import json
import os

import pytest
import torch
from torch import nn

from segagent.mllm.weights import fill, read_shapes, read_tensors, summary, weight_files, write_folder


def test_large_models_are_written_in_shards_and_come_back(tmp_path):
    tensors = {f"layer.{number}.weight": torch.full((10, 10), float(number)) for number in range(5)}
    write_folder(tmp_path, {"model_type": "x"}, tensors, shard_bytes=900)
    names = [path.name for path in weight_files(tmp_path)]
    assert names == [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    assert all(torch.equal(tensor, tensors[key]) for key, tensor in read_tensors(tmp_path))
    assert read_shapes(tmp_path) == {key: (10, 10) for key in tensors}
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 2000 and index["weight_map"].keys() == tensors.keys()


class Evil:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize("read", [read_shapes, lambda folder: dict(read_tensors(folder))])
def test_files_that_would_run_code_are_refused(tmp_path, read):
    torch.save({"a": torch.zeros(1), "b": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin: cannot be read"):
        read(tmp_path)


def test_an_index_that_is_none_is_refused(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ValueError, match="not an index of shards"):
        weight_files(tmp_path)


def test_filling_keeps_ties_and_what_is_trained(tmp_path):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.out = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False)
            self.out.weight = self.words.weight
            self.fixed = nn.Parameter(torch.zeros(2), requires_grad=False)

    with torch.device("meta"):
        net = Net()
    tensors = {"words.weight": torch.ones(4, 3), "fixed": torch.ones(2), "extra.0.weight": torch.ones(1)}
    unused = fill(net, tensors.items(), where="here", device=torch.device("cpu"), dtype=torch.bfloat16)
    assert unused == ["extra.0.weight"] and net.out.weight is net.words.weight
    assert net.words.weight.dtype == torch.bfloat16 and not net.fixed.requires_grad and net.words.weight.requires_grad
    with pytest.raises(ValueError, match=r"here: fixed is \[3\], the architecture in config.json needs \[2\]"):
        fill(net, [("fixed", torch.ones(3))], where="here", device=torch.device("cpu"))


def test_many_keys_are_told_in_few_words():
    keys = [f"mask_extractor.layers.{number}.weight" for number in range(3)] + [
        "a.weight",
        "b.bias",
        "c",
        "d",
        "e",
        "f",
    ]
    assert summary(keys) == "a (1), b (1), c (1), d (1), e (1), f (1) and 1 more"
