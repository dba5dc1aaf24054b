"""The interactive part of SAM 3 as a click segmenter: SAM 2's decoder on SAM 3's picture encoder."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel, Sam3TrackerModel

from segagent.segmenters.sam2 import Sam2
from segagent.segmenters.sam_checkpoint import load_folder
from segagent.segmenters.sam_frames import Frame, Stretched


class Sam3Tracker(Sam2):
    """SAM 3's tracker through transformers' `Sam3TrackerModel`; the arguments are those of `Sam`.

    Checkpoints are transformers folders, those of the whole SAM 3 (its `sam3_video` model) included.
    """

    @staticmethod
    def load(path: str | Path) -> PreTrainedModel:
        return load_folder(path, Sam3TrackerModel, ["sam3_tracker", "sam3_tracker_video", "sam3_video"])

    def make_frame(self) -> Frame:
        half = (0.5, 0.5, 0.5)
        return Stretched(self.network.config.prompt_encoder_config.image_size, half, half)
