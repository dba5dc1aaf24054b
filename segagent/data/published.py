"""What the publishers of the public datasets say their splits hold, and where a user gets the files.

Sources of the counts: docs/datasets.md. A count that no source was found for is None: it is printed, not checked.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Split:
    """Settings that name a split (`{"split": ..., "split_by": ...}`) and what it holds; None where no source says."""

    settings: dict[str, str]
    images: int | None = None
    objects: int | None = None
    samples: int | None = None


@dataclass(frozen=True)
class Origin:
    """Where a dataset comes from, in words, and its splits."""

    source: str
    splits: tuple[Split, ...]


def _unc(split: str, images: int, objects: int, samples: int | None = None) -> Split:
    return Split({"split_by": "unc", "split": split}, images, objects, samples)


_REFER = (
    "refs and instances: refcoco.zip, refcoco+.zip, refcocog.zip, refclef.zip, linked from "
    "github.com/lichengunc/refer (README); pictures: COCO 2014 train, images.cocodataset.org/zips/train2014.zip, "
    "unpacked to images/mscoco/images/train2014"
)

ORIGINS: dict[str, Origin] = {
    "refcoco": Origin(
        _REFER,
        (
            _unc("train", 16994, 42404, 120624),
            _unc("val", 1500, 3811, 10834),
            _unc("testA", 750, 1975, 5657),
            _unc("testB", 750, 1810, 5095),
            Split({"split_by": "google", "split": "train"}, 19213, 40000),
            Split({"split_by": "google", "split": "val"}, 4559, 5000),
            Split({"split_by": "google", "split": "test"}, 4527, 5000),
        ),
    ),
    "refcoco+": Origin(
        _REFER,
        (
            _unc("train", 16992, 42278, 120191),
            _unc("val", 1500, 3805, 10758),
            _unc("testA", 750, 1975, 5726),
            _unc("testB", 750, 1798, 4889),
        ),
    ),
    "refcocog": Origin(
        _REFER,
        (
            Split({"split_by": "umd", "split": "train"}, 21899, 42226, 80512),
            Split({"split_by": "umd", "split": "val"}, 1300, 2573, 4896),
            Split({"split_by": "umd", "split": "test"}, 2600, 5023, 9602),
            Split({"split_by": "google", "split": "train"}, 24698, 44822),
            Split({"split_by": "google", "split": "val"}, 4650, 5000),
        ),
    ),
    "refclef": Origin(
        "refclef.zip and images/saiapr_tc-12.zip (19,997 pictures), linked from github.com/lichengunc/refer (README)",
        (
            Split({"split_by": "unc", "split": "train"}, 17978),
            *(Split({"split_by": "unc", "split": split}) for split in ("val", "testA", "testB", "testC")),
        ),
    ),
    "grefcoco": Origin(
        "grefs(unc).json and instances.json: github.com/henghuiding/gRefCOCO (README); pictures: COCO 2014 train",
        tuple(Split({"split_by": "unc", "split": split}) for split in ("train", "val", "testA", "testB")),
    ),
    "reasonseg": Origin(
        "ReasonSeg (train, val, test): linked from github.com/dvlab-research/LISA (README)",
        (
            Split({"split": "train"}, 239, 239),
            Split({"split": "val"}, 200, 200),
            Split({"split": "test"}, 779, 779),
        ),
    ),
    "dis5k": Origin(
        "DIS5K: xuebinqin.github.io/dis, or with HQSeg-44K: huggingface.co/sam-hq-team/sam-hq-training",
        (
            Split({"split": "DIS-TR"}, 3000, 3000),
            Split({"split": "DIS-VD"}, 470, 470),
            *(Split({"split": f"DIS-TE{number}"}, 500, 500) for number in (1, 2, 3, 4)),
        ),
    ),
    "thinobject5k": Origin(
        "ThinObject5K (thin_object_detection): with HQSeg-44K, huggingface.co/sam-hq-team/sam-hq-training",
        (Split({"split": "train"}, 4748, 4748), Split({"split": "test"}, 500, 500)),
    ),
    "segagent_json": Origin(
        "SegAgent-Data: linked from github.com/aim-uofa/SegAgent (README); pictures: COCO 2014 train, below "
        "mscoco/images/train2014",
        (Split({}),),
    ),
    "hub_parquet": Origin(
        "huggingface.co/datasets/lmms-lab/RefCOCO (pictures inside) or jxu124/refcoco (pictures: COCO 2014 train)",
        (Split({}),),
    ),
    "coco": Origin(
        "cocodataset.org/#download (annotations_trainval2017.zip and train2017.zip or val2017.zip)", (Split({}),)
    ),
    "mask_folders": Origin("your own: pictures in images/, masks of the same names in masks/", (Split({}),)),
}
