"""Dense pre-training of nano's tower: each cell of a generated picture is asked what it shows, what of it is painted,
and where in it a click would go if the thing it shows were the one that is asked for.

The stand-in for a tower that saw captions of the web. What it is shown are pictures as the policy will see them, with a
mask painted over half of them, so that the paint and what lies under it are told apart. Picture k of a run depends on
the seed and k alone, a step on the weights and its number: a resumed run is bitwise the one that was not stopped.
"""

from __future__ import annotations

import pickle
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from segagent.data.base import Dataset
from segagent.devices import autocast
from segagent.dialogue import Dialogue
from segagent.environment import stable_generator
from segagent.mllm.conv_tower import inner_convolutions
from segagent.mllm.osprey import Osprey
from segagent.training.cell_points import BINS, bin_losses, deepest_points, region_depths
from segagent.training.cell_shares import cell_shares
from segagent.training.collate import without_weights
from segagent.training.mask_noise import perturbed
from segagent.training.muon import MuonAndAdamW
from segagent.training.optimization import OptimizerSettings, learning_rate, set_learning_rate
from segagent.training.run_folder import Progress, TrainingFolder
from segagent.training.training_log import CsvTable
from segagent.training.visual_words import ATTRIBUTES, NOTHING, CellWords
from segagent.training.workers import quiet_worker, told_plainly
from segagent.types import Sample

_ACCURACIES = tuple(f"{name}_accuracy" for name in ATTRIBUTES)
COLUMNS = ("step", "loss", *_ACCURACIES, "mask_error", "place_error", "lr", "samples_per_second")


@dataclass(frozen=True, kw_only=True)
class PretrainSettings:
    """steps: updates. batch_size: pictures per update. workers: processes that draw them (0: the training process).
    precision: see `devices.autocast`. checkpoint_every: steps. keep: newest checkpoints. masked: share of pictures that
    have a mask painted on. lr, warmup (steps), min_lr (share of lr), weight_decay: of Muon for the convolutions of a
    `ConvTower` (see `muon.py`), of AdamW for all else. clip_norm: of gradients."""

    steps: int = 8000
    batch_size: int = 32
    workers: int = 1
    precision: str = "auto"
    checkpoint_every: int = 300
    keep: int = 1
    masked: float = 0.5
    lr: float = 3e-3
    warmup: int = 200
    min_lr: float = 0.05
    weight_decay: float = 0.02
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        for name, least in {"steps": 0, "batch_size": 1, "workers": 0, "checkpoint_every": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"train.{name}={getattr(self, name)}: at least {least}")
        if not 0 <= self.masked <= 1:
            raise ValueError(f"train.masked={self.masked}: a share in [0, 1]")


class TowerPictures:
    """Map from number to (pixels `[3, S, S]` float32, words `[3, T]` int64, shares `[2, T]` float32, points `[2, T, 3]`
    float32).

    shares: how much of a cell is painted, how much shows a thing. points: see `deepest_points`, of what the mask lacks
    of the thing that the cell shows, and of what it has beside the thing it was made for. Each picture comes twice in a
    row, with a mask of its own and, every other time, as in a mirror, so that fewer have to be drawn.
    """

    def __init__(self, *, dataset: Dataset, mllm: Osprey, dialogue: Dialogue, masked: float, seed: int) -> None:
        self.dataset, self.encoder, self.dialogue = dataset, without_weights(mllm), dialogue
        self.masked, self.seed = masked, seed
        self.grid = mllm.network.config.grid
        self.words = CellWords(dataset, self.grid)
        # A tower that learns on with another seed meets pictures that it has not seen.
        self.first = int(stable_generator("first view", seed).integers(len(dataset)))
        self._drawn: tuple[int, Sample] | None = None

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        random = stable_generator("tower", self.seed, number)
        place, mirrored = divmod(number, 2)
        index = (self.first + place) % len(self.dataset)
        sample = self._sample(index)
        mask = np.zeros(sample.target.shape, bool)
        if random.random() < self.masked:
            mask = perturbed(sample.target, None, random)
        pixels = self.encoder.pixels(self.dialogue.observe(sample.image, mask, sample.text).image)
        words, things, labels = self.words(index), self.words.things(index), self.dataset.scene(index).labels
        depths = np.stack([self._lacking(things, labels, mask), region_depths(mask & ~sample.target)])
        maps = np.stack([mask, labels >= 0])
        if mirrored:
            pixels, maps, depths = pixels.flip(-1), maps[..., ::-1], depths[..., ::-1]
            words = np.ascontiguousarray(words.reshape(-1, self.grid, self.grid)[..., ::-1]).reshape(words.shape)
        shares = cell_shares(maps, self.grid).reshape(2, -1)
        return pixels, *(torch.from_numpy(array) for array in (words, shares, deepest_points(depths, self.grid)))

    def _lacking(self, things: np.ndarray, labels: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Depths of what the mask lacks, in each cell of the thing that it shows."""
        depths = np.zeros(labels.shape, np.float32)
        for thing in np.unique(labels[labels >= 0]):
            depths += region_depths((labels == thing) & ~mask)
        rows, columns = (np.arange(size) * self.grid // size for size in labels.shape)
        shown = things.reshape(self.grid, self.grid)[np.ix_(rows, columns)]
        return np.where(labels == shown, depths, 0)

    def _sample(self, index: int) -> Sample:
        if self._drawn is None or self._drawn[0] != index:
            self._drawn = index, self.dataset[index]
        return self._drawn[1]


class _Heads(nn.Module):
    """One linear layer for all questions: `[B, T, C]` -> logits of each attribute's words, of both shares `[B, T, 2]`,
    depths of both points `[B, T, 2]`, logits of their bins `[B, T, 2, 2 * BINS]`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sizes = [len(words) for words in ATTRIBUTES.values()] + [2, 2, 4 * BINS]
        self.norm, self.layer = nn.LayerNorm(channels), nn.Linear(channels, sum(self.sizes))

    def forward(self, features: Tensor) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
        *words, shares, depths, bins = self.layer(self.norm(features)).split(self.sizes, -1)
        return words, shares, depths, bins.unflatten(-1, (2, -1))


class TowerTrainer:
    """mllm: its tower is trained in place. dataset: generated pictures. dialogue: paints the masks. folder: `best/` and
    the checkpoints are whole models, of which all but the tower is as it was. seed: of everything drawn."""

    def __init__(
        self,
        *,
        mllm: Osprey,
        dataset: Dataset,
        dialogue: Dialogue,
        folder: TrainingFolder,
        settings: PretrainSettings,
        seed: int = 0,
    ) -> None:
        self.mllm, self.folder, self.settings, self.seed = mllm, folder, settings, seed
        self.pictures = TowerPictures(dataset=dataset, mllm=mllm, dialogue=dialogue, masked=settings.masked, seed=seed)
        self.device = mllm.network.device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            heads = _Heads(mllm.network.config.tower_dims[-1])
        # In float32, whatever a checkpoint was loaded as: late updates are smaller than bfloat16 tells apart.
        self.trained = nn.ModuleDict({"tower": mllm.network.tower, "heads": heads}).to(self.device, torch.float32)
        inner = inner_convolutions(self.trained)
        known = {id(weight) for weight in inner}
        others = [weight for weight in self.trained.parameters() if id(weight) not in known]
        vectors, matrices = ([weight for weight in others if (weight.ndim > 1) == is_matrix] for is_matrix in (0, 1))
        decaying = {"scale": 1, "weight_decay": settings.weight_decay}
        self.optimizer = MuonAndAdamW(
            [{"params": inner, **decaying}] if inner else [],
            [{"params": matrices, **decaying}, {"params": vectors, "scale": 1, "weight_decay": 0.0}],
            lr=settings.lr,
            betas=(0.9, 0.98),
        )
        self.rates = OptimizerSettings(lr=settings.lr, warmup=settings.warmup, min_lr=settings.min_lr)
        self.log = CsvTable(folder.path / "train.csv", COLUMNS)

    def run(self, *, resume: bool = False, stop_at: int | None = None) -> Progress:
        """Trains to the end, or until `stop_at` updates as if killed there (after a checkpoint)."""
        self.folder.path.mkdir(parents=True, exist_ok=True)
        if not resume:
            self.folder.clear()
        progress = self._load()
        self.log.cut(progress.step)
        steps = self.settings.steps
        end = min(steps, stop_at or steps)
        stream = self._stream(progress.step, end)
        with tqdm(total=steps, initial=progress.step, desc="pretrain", unit="step", file=sys.stderr) as bar:
            while progress.step < end:
                figures = self._step(progress, next(stream))
                bar.update()
                bar.set_postfix({name: f"{figures[name]:.3f}" for name in COLUMNS[1:5]}, refresh=False)
                if progress.step == end or progress.step % self.settings.checkpoint_every == 0:
                    self._save(progress)
        if progress.step == steps:
            self.folder.replace_best(self.mllm.save)
        return progress

    def _stream(self, step: int, end: int) -> Iterator[list[Tensor]]:
        size, workers = self.settings.batch_size, self.settings.workers
        loader = DataLoader(
            self.pictures,
            batch_sampler=[range(number * size, (number + 1) * size) for number in range(step, end)],
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=quiet_worker,
            multiprocessing_context="spawn" if workers else None,
        )
        return told_plainly(loader)

    def _step(self, progress: Progress, batch: list[Tensor]) -> dict[str, float]:
        began = time.perf_counter()
        pixels, words, shares, points = (tensor.to(self.device) for tensor in batch)
        rate = learning_rate(progress.step, self.settings.steps, self.rates)
        set_learning_rate(self.optimizer, rate)
        self.trained.train()
        with autocast(self.device, self.settings.precision):
            said, painted, depths, bins = self.trained["heads"](self.trained["tower"](pixels))
        # Most cells show nothing: that is told by the shares, and would drown what the others have to say.
        shown = words[:, 0] != NOTHING
        named = [made.float()[shown] for made in said] if shown.any() else []
        losses = [F.cross_entropy(made, words[:, which][shown]) for which, made in enumerate(named)]
        loss = sum(losses) + F.binary_cross_entropy_with_logits(painted.float(), shares.transpose(1, 2)) * 2
        points = points.transpose(1, 2)
        held = points[..., 2] > 0
        loss = loss + F.smooth_l1_loss(depths.float(), points[..., 2]) * 2
        if held.any():
            loss = loss + bin_losses(bins[held], points[held]).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.trained.parameters(), self.settings.clip_norm)
        if not (torch.isfinite(loss) and torch.isfinite(norm)):
            raise ValueError(
                f"step {progress.step + 1}: loss {float(loss)}, norm of its gradient {float(norm)}; lower train.lr"
            )
        self.optimizer.step()
        progress.step += 1
        figures = {"loss": float(loss.detach()), **{f"{name}_accuracy": 0.0 for name in ATTRIBUTES}}
        for which, (name, made) in enumerate(zip(ATTRIBUTES, named, strict=False)):
            figures[f"{name}_accuracy"] = float((made.argmax(-1) == words[:, which][shown]).float().mean())
        figures["mask_error"] = float((painted[..., 0].float().sigmoid() - shares[:, 0]).abs().mean().detach())
        nearest = bins.unflatten(-1, (2, BINS)).argmax(-1)
        figures["place_error"] = float((nearest - points[..., :2])[held].abs().mean()) / BINS
        seconds = time.perf_counter() - began
        self.log.add(step=progress.step, **figures, lr=rate, samples_per_second=len(pixels) / seconds)
        return figures

    def _save(self, progress: Progress) -> None:
        partial = self.folder.partial(progress.step)
        self.mllm.save(partial)
        content = {
            "step": progress.step,
            "trained": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(content, partial / "training.pt")
        self.folder.finish(progress.step)

    def _load(self) -> Progress:
        found = self.folder.checkpoints()
        if not found:
            return Progress()
        try:
            content = torch.load(found[-1] / "training.pt", map_location="cpu", weights_only=True)
            self.trained.load_state_dict(content["trained"])
            self.optimizer.load_state_dict(content["optimizer"])
            return Progress(step=content["step"])
        except (OSError, RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"{found[-1]}: cannot be resumed ({reason}); is it of another mllm_network=?") from None
