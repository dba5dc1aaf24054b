import json
import shutil

import pytest
from PIL import Image

from segagent.data.predictions import prediction_record
from segagent.data.referring import Referring, in_split
from segagent.environment import Environment
from segagent.metrics import score
from segagent.metrics.side_by_side import side_by_side
from segagent.policies.simulated import Oracle
from segagent.rollout import rollout
from segagent.types import Box


def test_every_expression_is_a_sample_and_every_object_once_by_instance(refer_tree):
    data = Referring(root=str(refer_tree()))
    assert [data.sample_id(k) for k in range(len(data))] == ["1", "1#1", "2"]
    assert [data[k].text for k in range(3)] == ["left cup", "the cup on the left", "right cup"]
    first, second = data[0], data[2]
    assert first.target[2:9, 1:6].all() and first.target.sum() == 35 and second.target[3:8, 9:14].all()
    assert (first.box, first.object_id, first.category) == (Box(1, 2, 6, 9), 11, "cup")
    assert first.image_name == "COCO_train2014_000000000001.jpg", "the picture's name, not the ref's"
    assert first.image is data[1].image and first.image_key == second.image_key
    instances = Referring(root=str(refer_tree()), level="instance")
    assert [instances.sample_id(k) for k in range(len(instances))] == ["1", "2"]
    assert len(Referring(root=str(refer_tree()), split="all", limit=4)) == 4


@pytest.mark.parametrize("inside", ["", "refer_seg", "data"])
@pytest.mark.parametrize("dataset, split_by", [("refcoco+", "unc"), ("refcocog", "umd"), ("refcocoG", "google")])
def test_the_trees_in_use_are_found(refer_tree, inside, dataset, split_by):
    root = refer_tree(dataset, split_by, inside=inside)
    data = Referring(root=str(root), dataset=dataset.lower(), split_by=split_by)
    assert len(data) == 3 and data[0].target.any()


def test_a_folder_of_pictures_may_be_named(refer_tree, tmp_path):
    root = refer_tree()
    shutil.move(root / "images" / "mscoco" / "images" / "train2014", tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"images/mscoco/images/train2014: no such folder: the pictures of refcoco"):
        Referring(root=str(root))
    assert Referring(root=str(root), images=str(tmp_path / "elsewhere"))[0].target.any()


def test_refclef_has_run_lengths_and_pictures_by_thousands(clef_tree):
    options = {"root": str(clef_tree), "dataset": "refclef", "split_by": "berkeley"}
    data = Referring(**options, split="testA")
    assert [data[k].text for k in range(len(data))] == ["sky"] and data[0].target.sum() == 35
    assert [s.text for s in map(Referring(**options, split="testB").__getitem__, range(2))] == ["sky", "sea"]
    assert len(Referring(**options, split="test")) == 2


def test_splits_as_their_publisher_reads_them():
    assert in_split("testAB", "testA") and in_split("testAB", "testB") and not in_split("testAB", "testC")
    assert in_split("testA", "test") and in_split("train", "all") and not in_split("train", "test")
    assert not in_split("val", "train") and not in_split("trainA", "testA")


def test_an_expression_may_mean_none_one_or_many(refer_tree):
    refs = [
        refer_tree.ref(1, [11, 12], "val", "both cups"),
        refer_tree.ref(2, [-1], "val", "the dog"),
        refer_tree.ref(3, [12], "val", "right cup"),
    ]
    data = Referring(root=str(refer_tree("grefcoco", refs=refs)), dataset="grefcoco")
    both, none, one = (data[k] for k in range(3))
    assert both.target.sum() == 35 + 25 and both.object_id == [11, 12] and both.box is None
    assert not none.target.any() and none.box is None and none.category is None
    assert one.target.sum() == 25 and one.box == Box(9, 3, 14, 8)


def test_what_is_missing_is_named_by_path(refer_tree, tmp_path):
    root = refer_tree()
    for options, message in (
        ({"root": str(tmp_path / "none")}, "none: no such folder"),
        ({"dataset": "refcoco+"}, r"tree/refcoco\+: no such folder: the files of refcoco\+; looked for"),
        ({"split_by": "google"}, r"refs\(google\)\.p: no such file .*there: refs\(unc\)\.p"),
        ({"split": "testB"}, r"no ref of split 'testB' \(data\.split\); it has testA, train, val"),
        ({"level": "word"}, "choose expression or instance"),
        ({"images": str(tmp_path / "nowhere")}, "nowhere: no such folder: data.images"),
    ):
        with pytest.raises(ValueError, match=message):
            Referring(**{"root": str(root), **options})
    (root / "refcoco" / "instances.json").unlink()
    with pytest.raises(ValueError, match=r"refcoco/instances\.json: no such file"):
        Referring(root=str(root))


@pytest.mark.parametrize(
    "change, message",
    [
        (
            lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4, 5]]),
            "annotation 11: broken polygons .*5 num",
        ),
        (lambda c: c["annotations"][0].update(segmentation=[]), "annotation 11: an object without a pixel"),
        (lambda c: c["annotations"].pop(0), "annotation 11 of ref 1 is not there"),
        (lambda c: c["images"].pop(0), "image 1 of ref 1 is not there"),
        (lambda c: c["images"][0].update(file_name="../../x.jpg"), "leads out of its folder"),
        (lambda c: c["images"][0].update(file_name="gone.jpg"), r"gone\.jpg: no such image file"),
        (lambda c: c["images"][0].update(height=16, width=12), r"the picture is \[12, 16\] but .* says \[16, 12\]"),
    ],
)
def test_unsound_samples_are_refused_when_loaded(refer_tree, change, message):
    data = Referring(root=str(refer_tree(change=change)))
    with pytest.raises(ValueError, match=message):
        data[0]


def test_a_picture_of_swapped_sides_is_turned_only_when_exif_says_so(refer_tree):
    def swap(content):
        content["images"][0].update(height=16, width=12)
        content["annotations"][0]["segmentation"] = [[1, 1, 5, 1, 5, 14, 1, 14]]

    root = refer_tree(change=swap)
    with pytest.raises(ValueError, match=r"the picture is \[12, 16\]"):
        Referring(root=str(root))[0]
    path = next((root / "images").rglob("*_000000000001.jpg"))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    sample = Referring(root=str(root))[0]
    assert sample.image.shape[:2] == (16, 12) == sample.target.shape


def test_broken_pictures_and_refs_are_named(refer_tree):
    root = refer_tree()
    path = next((root / "images").rglob("*_000000000001.jpg"))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"000000000001\.jpg: (broken image|not an image)"):
        Referring(root=str(root))[0]
    for refs, message in (
        ({"a": 1}, "expected a list of refs"),
        ([{"ref_id": 1}], "ref 0: key 'ann_id' is missing"),
        ([refer_tree.ref(1, 11, "val", "cup") | {"split": None}], "ref 0: split must be a text"),
        ([refer_tree.ref(1, 11, "val", "cup") | {"sentences": "cup"}], "and sentences a list"),
        ([refer_tree.ref(1, 11, "val", "cup"), refer_tree.ref(1, 12, "val", "cap")], "ref_id 1 is there twice"),
    ):
        with pytest.raises(ValueError, match=message):
            Referring(root=str(refer_tree(refs=refs)))
    wordless = Referring(root=str(refer_tree(refs=[refer_tree.ref(1, 11, "val", " ")])))
    with pytest.raises(ValueError, match="ref 1: a sentence without text"):
        wordless[0]
    (root / "refcoco" / "instances.json").write_text(json.dumps({"images": []}))
    with pytest.raises(ValueError, match="key 'annotations' is missing"):
        Referring(root=str(root))


def test_refs_without_a_sentence_are_told(refer_tree, caplog):
    refs = [refer_tree.ref(1, 11, "val", "cup"), refer_tree.ref(2, 12, "val")]
    assert len(Referring(root=str(refer_tree(refs=refs)))) == 1 and "1 refs have no sentence" in caplog.text


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c["annotations"][0].pop("segmentation"), "annotation 11: key 'segmentation' is missing"),
        (lambda c: c["images"][0].pop("file_name"), "image 1 has neither 'file_name' nor"),
        (lambda c: c["annotations"][0].update(bbox=[1]), r"annotation 11: bbox \[1\]"),
    ],
)
def test_unsound_instances_are_refused_when_opened(refer_tree, change, message):
    with pytest.raises(ValueError, match=rf"refcoco/instances\.json: {message}"):
        Referring(root=str(refer_tree(change=change)))


def test_no_target_and_many_targets_go_through_rollout_predictions_and_scores(refer_tree, discs):
    refs = [refer_tree.ref(1, [11, 12], "val", "both cups"), refer_tree.ref(2, [-1], "val", "the dog", image=2)]
    data = Referring(root=str(refer_tree("grefcoco", refs=refs)), dataset="grefcoco")
    environment = Environment(segmenter=discs, max_clicks=2)
    made = [one for batch in rollout(list(data), policy=Oracle(), environment=environment) for one in batch]
    records = [json.loads(json.dumps(prediction_record(one))) for one in made]
    assert len(made[0].steps) == 2 and not made[1].steps, "there is nothing to click where nothing is meant"
    rows = side_by_side(score(records, bootstrap=0))
    assert rows["gres"]["n_acc"] == 1 == rows["gres"]["t_acc"] and rows["instance"]["n"] == 2
