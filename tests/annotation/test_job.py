"""The command in one process: files of every mode, ids kept, broken pictures, wrong settings."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from pycocotools.coco import COCO

from segagent.annotation.job import annotate_config
from segagent.annotation.outputs import changed_coco, segmentation_of
from segagent.annotation.sources import calibration_of, check_settings, policy_of, work_of
from segagent.configuration import build, compose_config, load_named
from segagent.data.given_masks import OwnMasks
from segagent.data.refshapes import RefShapes
from segagent.data.trajectories import read_trajectories
from segagent.entry import expand_checkpoints
from segagent.masks import encode_rle, iou
from segagent.policies.calibration import FILE_NAME, Calibration
from segagent.policies.reward_model import PredictedIou
from segagent.policies.second_opinion import SecondOpinion
from segagent.types import InitKind, Trajectory

SIZE = (36, 48)


def boxes(index):
    """Where the object of a picture is: top, left, bottom, right."""
    return 6 + index % 4, 8 + 2 * (index % 5), 22 + index % 4, 30 + 2 * (index % 5)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Six pictures of a bright rectangle; their masks as PNG and as COCO; a COCO file in which each third is bad."""
    root = tmp_path_factory.mktemp("world")
    for name in ("images", "masks"):
        (root / name).mkdir()
    random = np.random.default_rng(0)
    files = {"truth": [], "given": []}
    pictures = []
    for index in range(6):
        top, left, bottom, right = boxes(index)
        mask = np.zeros(SIZE, bool)
        mask[top:bottom, left:right] = True
        image = random.integers(0, 90, (*SIZE, 3), dtype=np.uint8)
        image[mask] += 140
        Image.fromarray(image).save(root / "images" / f"p{index}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(root / "masks" / f"p{index}.png")
        pictures.append({"id": 10 + index, "file_name": f"p{index}.png", "height": SIZE[0], "width": SIZE[1]})
        spoilt = mask.copy()
        if index % 3 == 0:
            spoilt[:, : (left + right) // 2] = False
            spoilt[: SIZE[0] // 3] = True
        for name, one in (("truth", mask), ("given", spoilt)):
            files[name].append(
                {"id": 100 + index, "image_id": 10 + index, "category_id": 7, "segmentation": encode_rle(one),
                 "bbox": [left, top, right - left, bottom - top], "area": int(one.sum()), "iscrowd": 0, "note": index}
            )  # fmt: skip
    for name, annotations in files.items():
        content = {"info": {"by": "us"}, "images": pictures, "annotations": annotations}
        (root / f"{name}.json").write_text(json.dumps(content | {"categories": [{"id": 7, "name": "cup"}]}))
    return root


def composed(out, *settings):
    fast = ("segmenter=graphcut", "segmenter.max_pixels=2000", "rollout.max_clicks=3", "device=cpu", "batch_size=4")
    config = compose_config("annotate", expand_checkpoints([f"out={out}", *fast, *settings]))
    OmegaConf.resolve(config)
    return config


def do(out, *settings):
    return annotate_config(composed(out, *settings))


NOISY = ("proposer=noisy_oracle", "reward=true_iou", "search.k=2")


def test_pictures_and_texts_become_masks_in_every_form(world, tmp_path):
    out = tmp_path / "out"
    settings = (f"images={world}/images", f"truth={world}/masks", "text=cup", "segmentation=polygons")
    figures, done = do(out, *settings, *NOISY)
    assert {path.name for path in out.iterdir()} == {
        "annotations.json", "annotations.config.yaml", "masks", "summary.json", "trajectories.jsonl"
    }  # fmt: skip
    assert figures["n"] == 6 and figures["mean_true_iou"] > 0.9 and done.written == 6
    assert json.loads((out / "summary.json").read_text()) == figures
    coco = COCO(str(out / "annotations.json"))
    assert len(coco.anns) == 6
    for annotation, trajectory in zip(coco.anns.values(), read_trajectories(out / "trajectories.jsonl"), strict=True):
        png = np.asarray(Image.open(out / "masks" / f"{annotation['sample_id']}.png")) > 0
        assert (coco.annToMask(annotation).astype(bool) == png).all() and annotation["caption"] == "cup"
        assert annotation["area"] == png.sum() and trajectory.sample_id == annotation["sample_id"]
        assert annotation["predicted_iou"] == pytest.approx(
            iou(png, np.asarray(Image.open(world / "masks" / f"{annotation['sample_id']}.png")) > 0)
        )
    with pytest.raises(ValueError, match="is there already; say resume=true"):
        do(out, *settings, *NOISY)


def test_refining_changes_bad_masks_only_and_keeps_the_rest_of_the_file(world, tmp_path):
    given = json.loads((world / "given.json").read_text())
    settings = (f"images={world}/images", f"coco={world}/given.json", f"truth={world}/truth.json", "limit=5")
    figures, _ = do(tmp_path / "out", "mode=refine", *settings, *NOISY)
    made = json.loads((tmp_path / "out" / "annotations.json").read_text())
    assert made["info"] == {"by": "us"} and made["categories"] == given["categories"]
    assert [entry["id"] for entry in made["annotations"]] == [entry["id"] for entry in given["annotations"]]
    assert made["annotations"][5] == given["annotations"][5], "nobody worked on it"
    assert figures["n_changed"] >= 2 and figures["mean_true_iou"] > figures["mean_true_iou_before"] + 0.1
    for before, after in zip(given["annotations"][:5], made["annotations"], strict=False):
        assert after["note"] == before["note"] and after["sample_id"] == str(before["id"])
    for trajectory in read_trajectories(tmp_path / "out" / "trajectories.jsonl"):
        entry = next(one for one in made["annotations"] if one.get("sample_id") == trajectory.sample_id)
        assert entry["predicted_iou"] >= trajectory.init_iou
    with pytest.raises(ValueError, match=r"Oracle judges no mask.*choose policy=greedy"):
        do(tmp_path / "x", "mode=refine", *settings, "policy=oracle")


def test_filtering_finds_the_bad_ones_and_shows_them(world, tmp_path):
    settings = (f"images={world}/images", f"coco={world}/given.json", f"truth={world}/truth.json")
    out = tmp_path / "out"
    figures, _ = do(out, "mode=filter", *settings, *NOISY, "filter.threshold=0.75")
    assert figures["n_bad"] == figures["n_suspicious"] == 2 and figures["precision"] == figures["recall"] == 1
    with open(out / "ranking.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["sample_id"] for row in rows[:2]} == {"100", "103"} and len(rows) == 6
    assert [row["suspicious"] for row in rows] == ["1", "1", "0", "0", "0", "0"]
    assert all(float(row["predicted_iou"]) == float(row["true_iou"]) for row in rows)
    page = (out / "suspicious.html").read_text()
    assert page.count("<article>") == 2 and "prefers-color-scheme: dark" in page and "http" not in page
    made = json.loads((out / "annotations.json").read_text())["annotations"]
    given = json.loads((world / "given.json").read_text())["annotations"]
    assert [entry["suspicious"] for entry in made] == [True, False, False, True, False, False]
    assert [entry["segmentation"] for entry in made] == [entry["segmentation"] for entry in given]
    assert not (out / "masks").exists() and all(not t.steps for t in read_trajectories(out / "trajectories.jsonl"))


def test_the_model_that_ships_brings_calibrations():
    for name, masks in (("predicted_iou", 1_200), ("second_opinion", 600)):
        reward = build(load_named("reward", name))
        calibration = Calibration.load("segagent_nano", reward.calibration_file)
        assert calibration.number == reward.named and len(calibration.pairs) == masks


def test_a_model_filters_by_its_calibrated_expected_iou(world, tmp_path, capsys):
    """Random weights know nothing, so that it is the way of the numbers that is tested, not their worth."""
    from segagent.mllm import testing  # brings torch, which the others need not wait for

    testing.write_nano(tmp_path / "nano")
    settings = (f"images={world}/images", f"masks={world}/masks", "text=red star", f"mllm={tmp_path / 'nano'}")
    expected = ("mode=filter", "reward.number=expected", "proposer.max_new_tokens=4")
    figures, _ = do(tmp_path / "raw", *settings, *expected)
    raw = [one.extras["pred_iou"] for one in read_trajectories(tmp_path / "raw" / "trajectories.jsonl")]
    assert figures["n_unjudged"] == 0 and len(set(raw)) == 6 and all(0 < one < 1 for one in raw)
    assert figures["n_suspicious"] == 0, "neither a threshold nor a calibration"
    Calibration.fit(sorted(raw), [0.1, 0.2, 0.3, 0.8, 0.9, 1.0], "expected").save(tmp_path / "nano" / FILE_NAME)
    calibrated = f"reward.calibration={tmp_path / 'nano'}"
    figures, _ = do(tmp_path / "cal", *settings, *expected, calibrated)
    assert figures["n_suspicious"] == 3 and figures["expected_precision"] == 1
    capsys.readouterr()
    assert do(tmp_path / "own", *settings, *expected)[0] == figures, "that of the checkpoint, where none is named"
    assert "filter: calibrated by " in capsys.readouterr().err
    assert do(tmp_path / "bound", *settings, *expected, "filter.threshold=0.999")[0]["expected_precision"] is None
    assert do(tmp_path / "own", *settings, *expected, "resume=true")[0] == figures, "as it began"
    for more in ((), ("resume=true",)):  # a reward that takes no calibration
        do(tmp_path / "true", *settings[:3], f"truth={world}/masks", "mode=filter", "reward=true_iou", *more)
        assert "masks are ranked and none is flagged" in capsys.readouterr().err
    figures, _ = do(tmp_path / "greedy", *settings, "mode=filter", "proposer.max_new_tokens=4")
    assert figures["n_suspicious"] == 0, "it is of another number"
    assert "masks are ranked and none is flagged" in capsys.readouterr().err
    with pytest.raises(ValueError, match="fitted on the expected number"):
        do(tmp_path / "x", *settings, "mode=filter", calibrated)


def test_a_filter_with_a_second_opinion_has_a_calibration_of_its_own(world, tmp_path, capsys):
    from segagent.mllm import testing

    testing.write_nano(tmp_path / "nano")
    settings = (f"images={world}/images", f"masks={world}/masks", "text=red star", f"mllm={tmp_path / 'nano'}")
    second = ("mode=filter", "reward=second_opinion", "reward.clicks=1", "proposer.max_new_tokens=4")
    Calibration([0.0, 1.0], [0.1, 0.9], number="expected").save(tmp_path / "nano" / FILE_NAME)
    figures, done = do(tmp_path / "raw", *settings, *second)
    assert figures["n_unjudged"] == 0 and figures["n_suspicious"] == 0 and done.statistics["opinion_states_seen"] == 6
    assert "masks are ranked and none is flagged" in capsys.readouterr().err, "that of another number is not taken"
    told = [one.extras["pred_iou"] for one in read_trajectories(tmp_path / "raw" / "trajectories.jsonl")]
    number = build(load_named("reward", "second_opinion"), clicks=1).named
    own = Calibration.fit(sorted(told), [0.1, 0.2, 0.3, 0.8, 0.9, 1.0], number)
    own.save(tmp_path / "nano" / SecondOpinion.calibration_file)
    figures, _ = do(tmp_path / "own", *settings, *second)
    assert f"calibrated by {tmp_path / 'nano' / SecondOpinion.calibration_file}" in capsys.readouterr().err
    named = f"reward.calibration={tmp_path / 'nano'}"
    assert do(tmp_path / "named", *settings, *second, named)[0] == figures and figures["n_suspicious"] == 3


SHAPES = ("data=refshapes", "data.size=128", "data.limit=3")


def test_a_data_source_is_annotated_from_its_texts_and_measured(tmp_path):
    figures, done = do(tmp_path / "o", *SHAPES, "policy=oracle", "rollout.max_clicks=2", "init=box")
    assert figures["n"] == 3 and not done.skipped and figures["mean_true_iou"] > figures["mean_true_iou_before"] > 0
    content = COCO(tmp_path / "o" / "annotations.json")
    samples = list(RefShapes(split="val", size=128, limit=3))
    assert [one["caption"] for one in content.anns.values()] == [sample.text for sample in samples]
    assert {one["file_name"] for one in content.imgs.values()} == {sample.image_name for sample in samples}
    for sample in samples:
        mask = np.asarray(Image.open(tmp_path / "o" / "masks" / f"{sample.sample_id}.png")) > 0
        assert iou(mask, sample.target) > 0.3


def test_the_masks_of_a_data_source_are_judged_as_given_ones(tmp_path, monkeypatch):
    """None is known to be true; each annotation gets its own verdict, whatever its object is called."""
    monkeypatch.setattr(PredictedIou, "score", lambda self, states, replies: [state.mask.mean() for state in states])
    monkeypatch.setattr("segagent.policies.simulated.Random.announces_iou", True)
    samples = list(RefShapes(split="val", size=128, limit=3))
    shares = {sample.sample_id: float(sample.target.mean()) for sample in samples}
    bound = sorted(shares.values())[0] + 1e-6
    figures, _ = do(tmp_path / "f", *SHAPES, "mode=filter", f"filter.threshold={bound}", "proposer=random")
    assert figures["n_suspicious"] == 1 and "n_bad" not in figures
    entries = json.loads((tmp_path / "f" / "annotations.json").read_text())["annotations"]
    assert {one["sample_id"]: one["suspicious"] for one in entries} == {
        name: share < bound for name, share in shares.items()
    }
    for one, sample in zip(entries, samples, strict=True):
        assert one["segmentation"] == encode_rle(sample.target)
    assert all(one.init_iou is None for one in read_trajectories(tmp_path / "f" / "trajectories.jsonl"))


@pytest.mark.parametrize(
    "more", ["images=DIR", "text=it", "coco=f.json", "masks=DIR", "truth=DIR", "include=x", "limit=3"]
)
def test_data_takes_the_place_of_files(tmp_path, more):
    config = composed(tmp_path / "o", *SHAPES, more)
    with pytest.raises(ValueError, match=rf"data: brings its own .* leave out {more.partition('=')[0]} \(data.limit=N"):
        check_settings(config)


def test_a_sample_without_a_mask_cannot_be_judged():
    class Unlabelled(RefShapes):
        def __getitem__(self, index):
            return replace(super().__getitem__(index), target=None)

    with pytest.raises(ValueError, match="refshapes/val/0/000000: has no mask; what is to be refined or filtered"):
        OwnMasks(dataset=Unlabelled(size=128, limit=1))[0]


def test_broken_pictures_are_skipped_and_told(world, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for index in range(3):
        data = (world / "images" / f"p{index}.png").read_bytes()
        (images / f"p{index}.png").write_bytes(data[: len(data) // 2] if index == 1 else data)
    settings = (f"images={images}", f"truth={world}/masks", "text=cup", *NOISY)
    figures, done = do(tmp_path / "out", *settings)
    assert figures["n"] == 2 and figures["n_skipped"] == 1 and "p1.png: broken image" in figures["skipped"][0]
    assert done.skipped == figures["skipped"]
    again, _ = do(tmp_path / "out", *settings, "resume=true")
    assert again == figures


@pytest.mark.parametrize(
    "settings, message",
    [
        (["mode=guess"], "choose annotate, refine, filter"),
        (["images=null"], "say images=DIR"),
        (["images=none"], "none: no such folder"),
        (["mode=filter"], "say coco=FILE, masks=DIR, or data=NAME"),
        (["coco=x.json"], "leave out text, texts and masks"),
        (["coco=x.json", "text=null", "texts=t.json"], "leave out text, texts and masks"),
        (["coco=x.json", "text=null", "masks=m"], "leave out text, texts and masks"),
        (["init=mask"], "init='mask': choose empty or box"),
        (["segmentation=points"], "choose rle or polygons"),
        (["coco=x.json", "text=null", "coco_text=captoin"], "coco_text='captoin': choose category or caption"),
        (["filter.precision=90"], r"filter\.precision=90: in \(0, 1\]"),
        (["out={world}/images/out"], "lies in the folder of the pictures"),
        (["out={world}"], "holds other files; choose a new folder"),
        (["filter.threshold=75"], r"filter\.threshold=75: an IoU in \(0, 1\]"),
        (["filter.shown=-1"], r"filter\.shown=-1: 0 or more"),
        (["text="], "text: is empty; say what to segment"),
        (["init=box"], "init=box: boxes are those of a COCO file"),
        (["reward=second_opinion"], "mode=annotate: reward=second_opinion judges masks that are given"),
        (
            ["mode=refine", "text=null", "coco={world}/given.json", "reward=second_opinion"],
            "mode=refine: reward=second_opinion judges masks that are given",
        ),
        (
            ["text=null", "mode=filter", "coco={world}/given.json", "reward=segmenter_score"],
            "speaks only of masks that",
        ),
        (
            ["text=null", "mode=filter", "coco={world}/given.json", "reward=true_iou"],
            "mode=filter: reward=true_iou needs truth=",
        ),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_done(world, tmp_path, settings, message):
    settings = [one.replace("{world}", str(world)) for one in settings]
    with pytest.raises(ValueError, match=message):
        do(tmp_path / "out", f"images={world}/images", "text=cup", *NOISY, *settings)
    assert not (tmp_path / "out").exists()


def test_a_mask_told_to_be_worth_nothing_counts_before_one_that_was_not_judged(tmp_path):
    size = {"height": 4, "width": 4}
    content = {"images": [{"id": 1, "file_name": "a.png", **size}], "categories": [{"id": 1, "name": "c"}]}
    rle = encode_rle(np.eye(4, dtype=bool))
    content["annotations"] = [{"id": 5, "image_id": 1, "category_id": 1, "segmentation": rle}]
    (tmp_path / "c.json").write_text(json.dumps(content))
    facts = {"image_name": "a.png", "text": "c", "target": None, "void": None, "object_id": 5}
    made = [
        Trajectory(
            sample_id=f"5#{number}", init=InitKind.MASK, init_mask=rle, extras={"pred_iou": said}, **size, **facts
        )
        for number, said in enumerate((None, 0.0))
    ]
    for order in (made, made[::-1]):
        (entry,) = changed_coco(tmp_path / "c.json", order, polygons=False, mode="filter")["annotations"]
        assert (entry["sample_id"], entry["predicted_iou"]) == ("5#1", 0.0)


def test_holes_stay_in_polygon_files():
    mask = np.zeros((9, 9), bool)
    mask[2:7, 2:7] = True
    assert isinstance(segmentation_of(encode_rle(mask), True), list)
    mask[4, 4] = False
    assert segmentation_of(encode_rle(mask), True) == encode_rle(mask)
    assert segmentation_of(encode_rle(mask & False), True) == encode_rle(mask & False)


def test_parts_joined_by_cat_become_the_whole(world, tmp_path):
    """As docs/annotation.md says: a new folder with their lines, and resume=true."""
    given = (f"images={world / 'images'}", f"truth={world / 'masks'}", "text=cup")
    do(tmp_path / "whole", *given)
    (tmp_path / "joined").mkdir()
    with (tmp_path / "joined" / "trajectories.jsonl").open("wb") as joined:
        for index in range(2):
            do(tmp_path / f"part{index}", *given, f"shard={index}/2")
            joined.write((tmp_path / f"part{index}" / "trajectories.jsonl").read_bytes())
    do(tmp_path / "joined", *given, "resume=true")
    for name in ("trajectories.jsonl", "annotations.json"):
        assert (tmp_path / "joined" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "trajectories.jsonl").touch()
    (tmp_path / "others" / "masks").mkdir()
    with pytest.raises(ValueError, match="holds other files"):
        do(tmp_path / "others", *given, "overwrite=true")


def test_a_run_does_not_read_what_it_would_write(world, tmp_path):
    out, given = tmp_path / "out", ("mode=refine", f"images={world}/images", *NOISY)
    do(out, *given, f"coco={world}/given.json")
    before = (out / "annotations.json").read_bytes()
    for name in ("coco", "truth"):
        wanted = {"coco": f"{world}/given.json", name: f"{out}/annotations.json"}
        with pytest.raises(ValueError, match=f"annotations.json: {name} is what this run would write"):
            do(out, *given, "overwrite=true", *(f"{key}={value}" for key, value in wanted.items()))
    assert (out / "annotations.json").read_bytes() == before


def test_what_an_earlier_filter_said_is_not_taken_for_this_ones(world, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    given = ("mode=filter", f"images={world}/images", *NOISY, "filter.threshold=0.75")
    do(first, *given, f"coco={world}/given.json", f"truth={world}/truth.json")
    content = json.loads((first / "annotations.json").read_text())
    content["annotations"][5] |= {"sample_id": "100", "suspicious": True}  # of another file, where this was its name
    (tmp_path / "c.json").write_text(json.dumps(content))
    figures, _ = do(second, *given, f"coco={tmp_path}/c.json", f"truth={world}/truth.json", "limit=1")
    assert figures["n"] == 1
    made = json.loads((second / "annotations.json").read_text())["annotations"]
    assert made[0]["suspicious"] and made[1:] == content["annotations"][1:], "nobody worked on the others"
    again = (f"images={world}/images", f"coco={tmp_path}/c.json", f"truth={world}/truth.json", "overwrite=true")
    do(second, *again, *NOISY, "mode=refine")
    assert not (second / "ranking.csv").exists() and not (second / "suspicious.html").exists()
    made = json.loads((second / "annotations.json").read_text())["annotations"]
    assert not any("suspicious" in entry or "bad_probability" in entry for entry in made), "of other masks"


def resolved(*settings):
    config = compose_config("annotate", ["out=x", "images=x", *settings])
    OmegaConf.resolve(config)
    return config


def test_a_mean_of_replies_is_of_as_many_as_are_asked_for():
    def replies(*settings):
        return policy_of(resolved("mode=filter", "search.k=5", *settings)).k

    assert (replies("reward.statistic=mean"), replies()) == (5, 1)


def test_boxes_are_of_the_given_masks_not_of_the_truth(world, tmp_path):
    """The truth is to measure by; without it nothing else may come out."""
    content = json.loads((world / "given.json").read_text())
    for entry in content["annotations"]:
        entry.pop("bbox")
    (tmp_path / "given.json").write_text(json.dumps(content))
    settings = ("text=null", f"images={world}/images", f"coco={tmp_path}/given.json", "init=box", "policy=random")
    made = []
    for name, more in (("with", (f"truth={world}/truth.json",)), ("without", ())):
        do(tmp_path / name, *settings, *more, "segmenter=graphcut", "rollout.max_clicks=1", "png=false")
        made.append([one.init_box for one in read_trajectories(tmp_path / name / "trajectories.jsonl")])
    assert made[0] == made[1] and made[0][0].y1 > boxes(0)[2] - 1 and made[0][0].x0 != boxes(0)[1]


def test_brush_masks_that_a_tool_calls_crowds_are_objects_where_asked_for(world, tmp_path, caplog):
    content = json.loads((world / "given.json").read_text())
    for entry in content["annotations"][:4]:
        entry["iscrowd"] = 1
    (tmp_path / "given.json").write_text(json.dumps(content))
    settings = (
        "text=null",
        f"images={world}/images",
        f"coco={tmp_path}/given.json",
        "mode=filter",
        "filter.threshold=0.5",
    )
    settings += ("reward=true_iou", f"truth={world}/truth.json", "segmenter=graphcut", "proposer=oracle")
    assert do(tmp_path / "out", *settings)[0]["n"] == 2 and "4 crowd regions are left out" in caplog.text
    assert do(tmp_path / "all", *settings, f"truth={world}/given.json", "crowd=sample")[0]["n"] == 6


def test_settings_reach_the_samples_and_the_run():
    run = {"batch_size": 7, "seed": 5, "on_error": "stop"}
    of_coco = {"truth": "t", "include": "p", "limit": 3, "crowd": "sample"}
    words = [f"{key}={value}" for key, value in (run | of_coco).items()]
    work = work_of(resolved(*words, "coco=c", "coco_text=caption", "mode=refine"))
    assert {key: getattr(work, key) for key in run} == run and work.init is InitKind.MASK
    assert of_coco | {"images": "x", "annotations": "c", "text": "caption"} == {
        key: value for key, value in work.data.items() if key != "_target_"
    }
    work = work_of(resolved("texts=a.json", "masks=m", "init=box"))
    assert (work.data.texts, work.data.masks, work.data.truth, work.init) == ("a.json", "m", None, InitKind.BOX)


def test_bounds_of_a_filter_may_be_the_highest_there_are(tmp_path):
    whole = ("filter.precision=1", "filter.bad_iou=1", "filter.threshold=1", "filter.shown=0")
    check_settings(resolved("mode=filter", f"images={tmp_path}", "masks=m", "init=mask", *whole))


def test_a_calibration_is_of_a_filter_only_and_must_tell_what_is_bad(tmp_path):
    Calibration([0.0, 1.0], [0.0, 1.0]).save(tmp_path / "c.json")
    given = f"reward.calibration={tmp_path / 'c.json'}"
    assert calibration_of(resolved(given)) is None
    with pytest.raises(ValueError):
        calibration_of(resolved(given, "mode=filter"))
