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
from segagent.training.examples import Examples, TaskMix
from segagent.training.sft import SftTrainer
from segagent.training.sft_checkpoint import SftFolder
from segagent.training.sft_processes import start_processes
from segagent.training.sft_settings import SftSettings
from segagent.training.sft_validation import SftValidation
from segagent.training.tracking import Tracker
from segagent.training.trajectory_index import read_states


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

    def examples(self, states, tasks, seed=3):
        return Examples(
            states=states,
            paths=[self.file],
            dataset=self.dataset,
            dialogue=load_dialogue("nano"),
            tasks=tasks,
            seed=seed,
        )

    def trainer(self, folder, *, mllm=None, validation=True, **settings):
        """Of 6 steps of 4 examples; validated on 2 trajectories."""
        settings = SftSettings(
            **{
                "steps": 6,
                "global_batch": 4,
                "batch_size": 2,
                "workers": 0,
                "length_group": 4,
                "precision": "float32",
                "lr": 3e-3,
                "validate_every": 3,
                "checkpoint_every": 3,
            }
            | settings
        )
        tasks = TaskMix()
        learnt, held_out = read_states([self.file], self.dataset, load_dialogue("nano"), tasks=tasks.names).split(2)
        checked = SftValidation(
            examples=self.examples(held_out, tasks), segmenter=self.discs, states=3, batch_size=4, max_new_tokens=16
        )
        return SftTrainer(
            mllm=self.mllm() if mllm is None else mllm,
            examples=self.examples(learnt, tasks),
            folder=SftFolder(folder, keep=settings.keep),
            settings=settings,
            validation=checked if validation else None,
            accelerator=start_processes("cpu", settings),
            tracker=Tracker(mode="disabled", project="tests", folder=folder, settings={}),
            seed=3,
        )
