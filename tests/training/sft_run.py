"""Parts of a supervised training that takes a second: rectangles, discs for a segmenter, a nano of random weights.

Imported by path: by `conftest.py`, and by the processes that a test starts.
"""

import importlib.util
from pathlib import Path

from segagent.data.trajectories import TrajectoryWriter
from segagent.dialogue import load_dialogue
from segagent.environment import Environment
from segagent.mllm.osprey import Osprey
from segagent.mllm.testing import TINY_NANO, WORDS
from segagent.mllm.word_tokenizer import WordTokenizer
from segagent.policies.simulated import Oracle
from segagent.rollout import rollout


def _load(path):
    spec = importlib.util.spec_from_file_location("shared_parts", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_SHARED = _load(Path(__file__).parents[1] / "conftest.py")


class SftParts:
    """file: trajectories of 8 samples; dataset: their pictures; discs: the segmenter that they were made with."""

    def __init__(self, folder, count=8):
        self.dataset = _SHARED.Samples(_SHARED.make_sample(index) for index in range(count))
        self.discs = _SHARED.Discs()
        self.file = Path(folder) / "t.jsonl"
        if not self.file.exists():
            environment = Environment(segmenter=self.discs, max_clicks=4, tau_stop=0.7)
            with TrajectoryWriter(self.file) as writer:
                for made in rollout(self.dataset, policy=Oracle(), environment=environment, batch_size=4):
                    writer.write(made)

    @staticmethod
    def mllm(seed=0):
        tokenizer = WordTokenizer.of(load_dialogue("nano"), WORDS)
        return Osprey.new(TINY_NANO, tokenizer, dialogue="nano", seed=seed, device="cpu")
