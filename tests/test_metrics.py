"""The scorer: recorded cases of the released one, sums by hand, the protocols on one record, RLE arithmetic."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from segagent.masks import boundary_iou, encode_rle, iou
from segagent.metrics import score, statistics
from segagent.metrics.official import chosen_index, keep_scored, read_announced
from segagent.metrics.protocols import choose
from segagent.metrics.rle import intersections, measure, repair
from segagent.metrics.table import format_metrics

FIXTURES = sorted((Path(__file__).parent / "fixtures" / "eval_result_iou").glob("*.json"))
H, W = 10, 20


def bar(length, start=0):
    """The first `length` columns from `start`; 10 pixels each."""
    mask = np.zeros((H, W), bool)
    mask[:, start : start + length] = True
    return mask


def record(target, masks, outputs=None, image="a.jpg", **extra):
    outputs = outputs or ["Positive point: (1, 2)"] * len(masks)
    items = [
        {"click_id": k, "clicks": None, "used_box": None, "mask": encode_rle(mask), "outputs": text}
        for k, (mask, text) in enumerate(zip(masks, outputs, strict=True))
    ]
    facts = {"img_path": image, "masks": None, "height": H, "width": W, "caption": ["thing"], "click_id": 0}
    return {**facts, "gt_mask": None if target is None else encode_rle(target), "pred_list": items, **extra}


def official_or_error(records):
    try:
        result = score(records, "official").official()
    except (KeyError, IndexError, TypeError) as error:
        return type(error)
    return result.class_iou, result.global_iou, result.rows


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_the_masks_that_official_does_not_score_may_be_left_out(path):
    records = json.loads(path.read_text())["predictions"]
    kept = list(keep_scored(records))
    assert all(len(record["pred_list"]) <= 1 for record in kept if "masks" in record)
    assert official_or_error(kept) == official_or_error(records)


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_official_equals_what_the_released_scorer_was_recorded_to_give(path):
    case = json.loads(path.read_text())
    scores = score(case["predictions"])
    chosen = [None if index < 0 else index for index in scores.counted.facts.chosen]
    assert chosen == case["chosen_index_click_id_none"]
    for expected in case["results"]:
        if "error" in expected:
            kind = {"KeyError": KeyError, "IndexError": IndexError, "TypeError": TypeError}[expected["error"]]
            with pytest.raises(kind) as caught:
                scores.official(expected["click_id"])
            assert len(str(caught.value)) > 30, "a sentence, not Python's two words"
            continue
        result = scores.official(expected["click_id"])
        assert result.rows == expected["csv_rows"][1:] and result.text == expected["txt"]
        assert (result.class_iou, result.global_iou) == (expected["class_iou"], expected["global_iou"])


def test_there_are_recorded_cases():
    assert len(FIXTURES) == 14


def test_official_text_rules():
    assert read_announced(["Current IOU: 1, x Current IOU: 7, y", None, " 3 "]) == [7.0, 0.0, 3.0]
    assert read_announced(["Current IOU: 4Positive", "Current IOU: 5Negative"]) == [4.0, 5.0]
    assert read_announced(["Current IOU: 4", "no"]) is None
    assert [chosen_index(values) for values in ([], [9.0, 1.0], [1.0, 2.0, 9.0, 9.0], None)] == [-1, 0, 1, 0]
    assert chosen_index([5.0, 6.0, float("nan"), 9.0]) == 1


def test_official_sums_run_in_float32_one_after_the_other():
    """4096^2 - 1 pixels and then 3 times one: float32 keeps none of the ones; a sum in float64 or in pairs would."""
    big, one = np.ones((4096, 4096), bool), np.zeros((4096, 4096), bool)
    one[0, 0] = True
    rows = []
    for mask in (big, one, one, one):
        row = record(bar(1), [bar(1)])
        rows.append({**row, "height": 4096, "width": 4096, "gt_mask": encode_rle(mask)})
        rows[-1]["pred_list"][0]["mask"] = encode_rle(mask)
    rows[1]["pred_list"][0]["mask"] = encode_rle(np.zeros_like(one))
    result = score(rows).official()
    assert result.class_iou == 1.0
    assert score(rows).metrics()["ciou"] == (4096**2 + 2) / (4096**2 + 3)


def test_official_refuses_two_sizes_in_one_image_and_drops_nothing_else():
    small = record(bar(4), [bar(4)])
    large = {**record(bar(4), [bar(4)]), "height": H + 1}
    taller = np.pad(bar(4), ((0, 1), (0, 0)))
    large["gt_mask"] = large["pred_list"][0]["mask"] = encode_rle(taller)
    with pytest.raises(ValueError, match="consecutive records 0 to 1 have sizes"):
        score([small, large]).official()
    assert score([small, large]).metrics()["n"] == 2


def test_sums_by_hand():
    records = [
        record(bar(4), [bar(2)], image="a.jpg"),  # I 20, U 40
        record(bar(4), [bar(8)], image="b.jpg"),  # I 40, U 80
        record(bar(0), [bar(0)], image="c.jpg"),  # nothing to find, nothing found: 1
        record(None, [bar(1)], image="c.jpg"),  # null target: empty; U 10
        record(bar(10), [bar(10)], image="d.jpg"),  # I 100, U 100
        record(bar(5), [], image="d.jpg"),  # first reply unreadable: the empty initial mask, U 50
    ]
    metrics = score(records).metrics()
    assert metrics["ciou"] == pytest.approx(160 / 280)
    assert metrics["giou"] == pytest.approx((0.5 + 0.5 + 1 + 0 + 1 + 0) / 6)
    assert metrics["miou"] == pytest.approx((0.5 + 0.5 + 1 + 0) / 4)
    assert (metrics["p50"], metrics["p90"]) == (pytest.approx(2 / 6), pytest.approx(2 / 6)), "strictly above"
    assert [metrics[key] for key in ("n", "n_unparsable", "n_empty_target", "n_null_target")] == [6, 1, 2, 1]
    assert metrics["ciou_by_step"] == pytest.approx([0, 160 / 280]) and metrics["miou_by_step"][1] == metrics["miou"]
    json.dumps(metrics, allow_nan=False)
    assert score(records).metrics("official")["n_dropped"] == 1


def test_void_pixels_are_not_counted_but_the_official_protocol_counts_them():
    void = encode_rle(bar(2, 3))  # columns 3 and 4
    row = record(bar(4), [bar(6)], void=void, init_mask=encode_rle(bar(5)))
    scores = score([row, record(bar(4), [bar(6)])])
    assert scores.ious().tolist() == pytest.approx([30 / 40, 40 / 60])
    assert scores.ious("step:0").tolist() == pytest.approx([1, 0])
    assert scores.official().class_iou == np.float32(80) / (np.float32(120) + np.float32(1e-5))
    assert scores.metrics()["n_empty_target"] == 0
    assert score([record(bar(4), [bar(6)], void=encode_rle(bar(9)))]).metrics()["giou"] == 1


# Masks 0 (initial) to 4 with IoUs 0.1, 0.5, 0.9, 0.6, 0.7 of a target of ten columns.
LENGTHS = (1, 5, 9, 6, 7)


def five_masks(texts=None, **extra):
    masks = [bar(length) for length in LENGTHS]
    return record(bar(10), masks[1:], texts, init_mask=encode_rle(masks[0]), **extra)


def announce(*percents):
    return [f"Current IOU: {percent}, Positive point: (0, 0)" for percent in percents]


@pytest.mark.parametrize(
    ("protocol", "number"), [("final", 4), ("oracle", 2), ("step:0", 0), ("step:3", 3), ("step:99", 4)]
)
def test_protocols_choose_the_mask_they_name(protocol, number):
    scores = score([five_masks()], protocol)
    assert scores.chosen().tolist() == [number]
    assert scores.ious()[0] == pytest.approx(LENGTHS[number] / 10)
    assert scores.metrics()["ciou"] == pytest.approx(LENGTHS[number] / 10)


@pytest.mark.parametrize(
    ("texts", "extra", "number"),
    [
        (announce(10, 50, 80, 30), {}, 2),  # reply 3 announces mask 2
        (announce(90, 50, 80, 30), {}, 0),  # the initial mask is a candidate
        (announce(10, 50, 80, 30), {"pred_iou": 0.85}, 4),  # the last mask has its own announcement
        (announce(10, 50, 80, 30), {"pred_iou": 0.8}, 4),  # a tie: the later mask
        (announce(10, 80, 80, 30), {}, 2),
        (announce(10, 50, 80, 30), {"end_text": "Current IOU: 95, Finish"}, 4),
        (["Positive point: (1, 2)"] * 4, {}, 4),  # nothing announced: final
        ([*announce(10), "no", *announce(30, 20)], {}, 2),  # one bad text zeroes nothing
        (announce("nan", "inf", 40, "120"), {}, 2),  # no percentages
        (["Current mIoU: 70", *announce(10, 20, 30)], {}, 0),  # the paper's wording
        ([*announce(10, 20, 30), " 99 "], {}, 2),  # a number that nobody calls an IoU
        (announce(10, 50, 80, 30), {"extras": {"seed": 1}}, 2),  # of no search: texts count
    ],
)
def test_best_predicted(texts, extra, number):
    assert score([five_masks(texts, **extra)]).chosen("best_predicted").tolist() == [number]


def test_our_key_goes_before_the_text_and_belongs_to_its_own_mask():
    row = five_masks(announce(10, 50, 80, 30), init={"kind": "mask", "pred_iou": 0.2})
    row["pred_list"][0]["pred_iou"] = 0.99
    scores = score([row])
    assert scores.chosen("best_predicted").tolist() == [1]
    assert scores.counted.table.announced[:4].tolist() == pytest.approx([0.2, 0.99, 0.8, 0.3])
    row["pred_list"][0]["pred_iou"] = 99.0
    with pytest.raises(ValueError, match=r"record 0, key 'pred_iou': 99.0 is no IoU; .* not in percent"):
        score([row])


def test_where_a_search_chose_the_mask_texts_count_for_nothing():
    row = five_masks(announce(10, 50, 80, 30), end_text="Current IOU: 95, Finish", extras={"returned": 1})
    row["pred_list"][0]["pred_iou"], row["pred_list"][1]["pred_iou"] = 0.6, 0.4
    scores = score([row])
    assert scores.chosen("best_predicted").tolist() == [1]
    assert np.isfinite(scores.counted.table.announced).tolist() == [False, True, True, False, False]


def test_announced_iou_against_true_in_percent_points():
    metrics = score([five_masks(announce(20, 50, 80, 40))]).metrics()
    # true 10, 50, 90, 60; the last mask has no announcement
    assert metrics["prm_mae"] == pytest.approx((10 + 0 + 10 + 20) / 4)
    assert metrics["prm_mse"] == pytest.approx((100 + 0 + 100 + 400) / 4)
    assert metrics["prm_pearson"] == pytest.approx(np.corrcoef([20, 50, 80, 40], [10, 50, 90, 60])[0, 1])
    assert metrics["prm_spearman"] == pytest.approx(0.8)
    assert not any(key.startswith("prm") for key in score([five_masks()]).metrics())
    assert statistics.ranks(np.array([3.0, 1.0, 3.0, 7.0])).tolist() == [2.5, 1, 2.5, 4]


def test_the_best_predicted_mask_until_each_step():
    metrics = score([five_masks(announce(10, 60, 30, 60))], bootstrap=0, click_limit=5).metrics()
    by_step = metrics["ciou_by_step"]  # the last mask is announced by nobody, and a tie is the later mask's
    assert metrics["best_ciou_by_step"] == [by_step[number] for number in (0, 1, 1, 3, 3, 3)]
    assert "best_ciou_by_step" not in score([five_masks()], bootstrap=0).metrics()


def test_clicks_needed_and_the_limit():
    rows = [five_masks(), record(bar(10), [bar(10)]), record(bar(10), [bar(3), bar(3)])]
    metrics = score(rows).metrics()
    assert metrics["noc85"] == pytest.approx((2 + 1 + 4) / 3) and metrics["click_limit"] == 4
    assert score(rows, click_limit=7).metrics()["noc85"] == pytest.approx((2 + 1 + 7) / 3)
    assert score(rows, click_limit=1).metrics()["noc85"] == pytest.approx((1 + 1 + 1) / 3)
    assert len(score(rows, click_limit=7).metrics()["miou_by_step"]) == 8
    good_start = record(bar(10), [bar(1)], init_mask=encode_rle(bar(10)))
    assert score([good_start]).metrics()["noc90"] == 0


@pytest.mark.parametrize(
    ("x", "is_positive", "right"),
    [(2, True, 1), (9, True, 0), (6, False, 1), (6, True, 0), (4, True, 0), (4, False, 0), (19, False, 0)],
)
def test_a_first_click_is_right_where_its_sign_is(x, is_positive, right):
    masks = {"target": bar(6), "masks": [bar(6)], "init_mask": encode_rle(bar(5, 3))}  # columns 0..5 and 3..7
    clicked, boxed = record(**masks), record(**masks)
    clicked["pred_list"][0]["clicks"] = {"is_positive": is_positive, "coords": [9, x]}
    assert score([boxed, clicked, boxed], bootstrap=0).metrics()["first_click"] == right, "of those that clicked"
    assert score([boxed], bootstrap=0).metrics()["first_click"] is None


def test_masks_are_told_apart_by_the_first_click():
    """Two right ones, a wrong one, and a box, which is none; of the second the last mask is another than the first."""
    right, mended, wrong = record(bar(10), [bar(8)]), record(bar(10), [bar(2), bar(6)]), record(bar(10), [bar(5, 10)])
    for row, x in ((right, 2), (mended, 9), (wrong, 12)):
        row["pred_list"][0]["clicks"] = {"is_positive": True, "coords": [5, x]}
    rows = [right, record(bar(10), [bar(10)]), mended, wrong]
    metrics = score(rows, bootstrap=0).metrics()
    assert metrics["first_click"] == pytest.approx(2 / 3)
    assert metrics["giou_first_right"] == pytest.approx((0.8 + 0.6) / 2) and metrics["giou_first_wrong"] == 0
    assert score(rows, bootstrap=0).metrics("step:1")["giou_first_right"] == pytest.approx((0.8 + 0.2) / 2)
    assert "66.67 right   (for its sign); mean IoU 70.00 where it is right, 0.00 where" in format_metrics(metrics)
    sole = score([right], bootstrap=0).metrics()
    assert sole["giou_first_wrong"] is None and "wrong" not in format_metrics(sole)


def test_unparsable_replies_are_counted_with_the_last_mask():
    rows = [five_masks(end_reason="unparsable"), record(bar(4), [], end_reason="unparsable")]
    rows += [record(bar(4), [], end_reason="finished", init_mask=encode_rle(bar(4))), record(bar(4), [])]
    scores = score(rows)
    assert scores.metrics()["n_unparsable"] == 3
    assert scores.ious().tolist() == pytest.approx([0.7, 0, 1, 0])


def test_boundary_iou_is_that_of_the_scored_mask():
    rows = [five_masks(), record(bar(4), [], image="b.jpg"), record(bar(4), [bar(6)], void=encode_rle(bar(2, 3)))]
    expected = [
        boundary_iou(bar(9), bar(10)),
        boundary_iou(bar(0), bar(4)),
        boundary_iou(bar(6), bar(4), bar(2, 3)),
    ]
    metrics = score(rows, "oracle", boundary=True).metrics()
    assert metrics["boundary_iou"] == pytest.approx(np.mean(expected))
    assert "boundary_iou" not in score(rows).metrics()
    with pytest.raises(ValueError, match="no boundary IoU"):
        score(rows, "official", boundary=True)


def test_the_interval_covers_the_truth_about_95_times_of_100_and_holds_images_together():
    random = np.random.default_rng(3)
    hits = 0
    for trial in range(200):
        shared = random.integers(20, 80, 60)
        terms = statistics.sums(shared, np.full(60, 100), np.full(60, 50))
        low, high = statistics.bootstrap(terms, np.arange(60), 400, trial)[:, 0]
        hits += low <= 0.495 <= high
    assert 180 <= hits <= 199
    terms = statistics.sums(np.array([0, 100] * 30), np.full(60, 100), np.full(60, 50))
    apart = statistics.bootstrap(terms, np.arange(60), 500, 0)
    paired = statistics.bootstrap(terms, np.repeat(np.arange(30), 2), 500, 0)
    assert apart[1, 0] - apart[0, 0] > 0.2 and np.allclose(paired, 0.5), "both halves of an image are drawn together"


def test_the_interval_is_the_same_in_blocks_and_for_equal_seeds(monkeypatch):
    records = [record(bar(10), [bar(1 + k % 9)], image=f"{k}.jpg") for k in range(30)]
    first, again, other = (score(records, seed=seed).metrics() for seed in (1, 1, 2))
    monkeypatch.setattr(statistics, "COUNTS", 30 * 7)
    assert score(records, seed=1).metrics() == first
    assert first == again and first["ciou_low"] != other["ciou_low"]
    assert first["ciou_low"] < first["ciou"] < first["ciou_high"]
    assert "ciou_low" not in score(records, bootstrap=0).metrics()


masks = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@settings(max_examples=100, deadline=None)
@given(st.lists(masks, min_size=1, max_size=6))
def test_areas_of_a_batch_equal_decoded_areas(batch):
    rles = [encode_rle(mask) for mask in batch]
    areas, sound = measure([rle["counts"] for rle in rles], np.array([mask.size for mask in batch]))
    assert sound.all() and areas.tolist() == [int(mask.sum()) for mask in batch]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_counts_of_a_batch_equal_decoded_counts(data):
    """Samples of several sizes and numbers of masks, with and without void, in one batch."""
    rows, expected = [], []
    for _ in range(data.draw(st.integers(1, 4))):
        shape = data.draw(st.sampled_from([(3, 5), (5, 3), (7, 2), (3, 9)]))
        target, void, *drawn = (data.draw(arrays(bool, shape)) for _ in range(2 + data.draw(st.integers(0, 3))))
        with_void = data.draw(st.booleans())
        row = record(target, drawn, **({"void": encode_rle(void)} if with_void else {}))
        rows.append({**row, "height": shape[0], "width": shape[1]})
        expected += [iou(mask, target, void if with_void else None) for mask in [np.zeros(shape, bool), *drawn]]
    assert score(rows).counted.table.iou.tolist() == pytest.approx(expected, abs=1e-15)


def test_large_areas_are_exact():
    random = np.random.default_rng(0)
    drawn = [random.random((2000, 3000)) < share for share in (0.5, 0.9)]
    first, second = (encode_rle(mask)["counts"] for mask in drawn)
    areas, sound = measure([first, second], np.array([6_000_000] * 2))
    shared = intersections([first], areas[:1], np.zeros(1, int), [second], areas[1:], [2000])
    assert sound.all() and shared.tolist() == [int((drawn[0] & drawn[1]).sum())]


GOOD = encode_rle(bar(4))["counts"]


def compressed(*runs):
    """Runs, negative ones too, in the alphabet of COCO's compressed RLE."""
    text = ""
    for place, run in enumerate(runs):
        number = run - (runs[place - 2] if place > 2 else 0)
        while True:
            digit, number = number & 31, number >> 5
            ends = number == (-1 if digit & 16 else 0)
            text += chr(48 + digit + (0 if ends else 32))
            if ends:
                break
    return text


def test_a_negative_run_is_found_though_the_sum_is_right():
    """pycocotools reads it as 2^32 less and would walk for ever."""
    assert compressed(0, 40, 160) == GOOD
    texts = [GOOD, compressed(-1, 201), compressed(5, -1, 196), compressed(0, 40, 170, -10), GOOD]
    assert measure(texts, np.array([H * W] * 5))[1].tolist() == [True, False, False, False, True]


@pytest.mark.parametrize(
    "counts", ["", GOOD[:-1], GOOD + "1", "4", "zz", "ü1", GOOD[:-1] + "~", "P", "PPPPPPPP0", "0T6T6T6"]
)
def test_broken_counts_are_found_among_sound_ones(counts):
    areas, sound = measure([GOOD, counts, GOOD, "X6"], np.array([H * W] * 4))
    assert sound.tolist() == [True, False, True, True] and areas[[0, 2, 3]].tolist() == [40, 40, 0]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(min_codepoint=44, max_codepoint=115), max_size=12), min_size=1, max_size=4))
def test_what_is_called_sound_is_safe_and_what_is_safe_is_called_sound(texts):
    """Against a plain reader of the format."""
    areas, sound = measure(texts, np.array([H * W] * len(texts)))
    for text, area, fine in zip(texts, areas, sound, strict=True):
        runs = plain_runs(text)
        good = runs is not None and sum(runs) == H * W and min(runs) >= 0 and 0 not in runs[1:]
        assert fine == good
        assert not good or area == sum(runs[1::2])


def plain_runs(text):
    runs, number, digits = [], 0, 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            return None
        number |= (code & 31) << (5 * digits)
        digits += 1
        if code < 32:
            number -= (1 << (5 * digits)) if code & 16 else 0
            runs.append(number + (runs[-2] if len(runs) > 2 else 0))
            number, digits = 0, 0
    return runs if runs and not digits else None


def test_uncompressed_and_unusual_masks_are_scored():
    plain = {"size": [H, W], "counts": [0, 20, 0, 20, 160]}  # a run of zero length in the middle
    row = record(bar(4), [bar(4)])
    row["gt_mask"] = row["pred_list"][0]["mask"] = plain
    assert score([row, record(bar(4), [bar(2)])]).ious().tolist() == [1, 0.5]
    assert repair(plain, H, W, "here")["counts"] == GOOD
    assert coco_mask.area({"size": [H, W], "counts": GOOD}) == 40


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r["pred_list"][1]["mask"].update(counts=GOOD[:-1]), r"key 'pred_list\[1\].mask': broken RLE"),
        (lambda r: r["gt_mask"].update(counts="zz"), "key 'gt_mask': broken RLE"),
        (lambda r: r.update(init_mask={"size": [H, W], "counts": "1"}), "key 'init_mask': broken RLE"),
        (
            lambda r: r.update(void={"size": [W, H], "counts": GOOD}),
            r"key 'void': mask size \[20, 10\] but .* \[10, 20",
        ),
        (lambda r: r["pred_list"][0].update(mask=None), r"key 'pred_list\[0\].mask': not an RLE"),
        (lambda r: r.update(height="10"), "height and width"),
        (lambda r: r.update(gt_mask=[[1, 2]]), "key 'gt_mask': a polygon with 2 numbers"),
        (lambda r: r.update(pred_list=3), "not a prediction record"),
    ],
)
def test_a_broken_record_names_file_record_sample_and_key(change, words):
    row = five_masks(sample_id="val/3")
    change(row)
    with pytest.raises(ValueError, match=words) as caught:
        score([five_masks(), row], where="results/x.json")
    assert str(caught.value).startswith("results/x.json, record 1 (sample 'val/3')")


@pytest.mark.parametrize("key", ["height", "gt_mask", "pred_list", "img_path"])
def test_a_missing_key_is_named(key):
    row = five_masks()
    del row[key]
    with pytest.raises(KeyError) as caught:
        score([row])
    assert f"record 0: key '{key}' is missing" in str(caught.value)


@pytest.mark.parametrize("name", ["last", "step", "step:", "step:-1", "step:x", "step:٣"])
def test_an_unknown_protocol_is_refused_before_anything_is_read(name):
    with pytest.raises(ValueError, match="is none; choose final, best_predicted"):
        score(iter(lambda: pytest.fail("read"), None), name)


def test_choose_has_no_official_and_no_records_is_an_error():
    with pytest.raises(ValueError, match="own arithmetic"):
        choose(score([five_masks()]).counted.table, "official")
    with pytest.raises(ValueError, match="no record to score"):
        score([]).metrics()


def test_scoring_needs_no_torch():
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'transformers', 'hydra'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import json\n"
        "from segagent.metrics import score\n"
        "import segagent.data.predictions\n"
        "print(score(json.load(open(sys.argv[1]))['predictions'], boundary=True).metrics()['n'])\n"
    )
    path = next(path for path in FIXTURES if path.stem == "basic_multi_image")
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr


def test_a_first_click_on_a_void_pixel_hits_nothing():
    void = encode_rle(bar(2, 2))
    rows = []
    for x in (1, 3):
        rows.append(record(bar(6), [bar(6)], void=void))
        rows[-1]["pred_list"][0]["clicks"] = {"is_positive": True, "coords": [9, x]}
    plain = record(bar(6), [bar(6)])
    plain["pred_list"][0]["clicks"] = {"is_positive": True, "coords": [9, 3]}
    found = [score([row], bootstrap=0).metrics()["first_click"] for row in (*rows, plain)]
    assert found == [1, 0, 1]
    assert score([*rows, plain], bootstrap=0).metrics()["first_click"] == pytest.approx(2 / 3)


def test_what_does_not_vary_has_no_correlation():
    """Means of equal floats may miss them by their last digit."""
    for constant in (0.1, 0.7, 0.852, 1 / 3):
        for n in (3, 7, 11):
            assert np.isnan(statistics.correlation(np.full(n, constant), np.linspace(0, 1, n)))
            assert np.isnan(statistics.correlation(np.full(n, constant), np.full(n, 0.7)))
    assert statistics.correlation(np.arange(5.0), -np.arange(5.0)) == pytest.approx(-1)


def test_an_iou_that_is_reached_exactly_counts():
    assert score([record(bar(10), [bar(9)])], click_limit=5).metrics()["noc90"] == 1


def test_the_last_step_of_a_curve_is_the_figure_itself():
    rows = [record(bar(10), [bar(5)]), record(bar(0), [bar(0)], image="b.jpg")]
    metrics = score(rows, bootstrap=0).metrics()
    assert metrics["miou_by_step"][-1] == metrics["miou"] == 0.5


def test_what_is_announced_of_one_sample_says_nothing_of_another():
    rows = [five_masks(announce(10, 60, 30, 60)), five_masks(image="b.jpg")]
    assert score(rows, bootstrap=0).metrics()["best_ciou_by_step"][0] == pytest.approx((10 + 10) / 200)


def test_of_several_ious_in_a_text_the_last_one_counts():
    row = record(bar(10), [bar(5), bar(9)], ["x", "I said Current mIOU: 20, now Current mIOU: 70"])
    assert score([row], bootstrap=0).counted.table.announced[1] == 0.7


def test_a_negative_click_id_counts_from_the_end():
    assert score([five_masks()]).official(-2).chosen.tolist() == [2]


def test_both_halves_of_a_picture_are_drawn_together():
    rows = [record(bar(10), [bar(10 * (k % 2))], image=f"{k // 2}.jpg") for k in range(20)]
    metrics = score(rows).metrics()
    assert metrics["ciou_low"] == metrics["ciou_high"] == 0.5, "so that nothing varies"
    few, many = (
        score([record(bar(10), [bar(1 + k)], image=f"{k}.jpg") for k in range(9)], bootstrap=n).metrics()["ciou_low"]
        for n in (5, 1000)
    )
    assert few != many, "as often as was said"


def test_samples_that_the_released_scorer_drops_are_not_counted():
    metrics = score([record(bar(10), [bar(5)]), record(bar(10), [], image="b.jpg")], "official").metrics()
    assert (metrics["n"], metrics["n_dropped"]) == (1, 1)


def test_the_official_protocol_stops_at_the_first_record_that_lacks_something():
    good, lacking = record(bar(4), [bar(4)]), record(bar(4), [bar(4)])
    del lacking["caption"]
    with pytest.raises(KeyError, match="record 1: key 'caption' is missing"):
        score([good, lacking, good, {**lacking, "img_path": "b.jpg"}, good]).official()


def test_of_several_captions_the_first_one_counts():
    scores = score([record(bar(4), [bar(4)], caption=["thing", "a red thing"])], bootstrap=0)
    assert scores.counted.facts.caption == ["thing"] and scores.counted.words.tolist() == [1]


def test_an_empty_caption_stops_the_official_protocol_only():
    scores = score([record(bar(4), [bar(4)], caption=[])], bootstrap=0)
    assert scores.metrics()["n"] == 1
    with pytest.raises(IndexError, match="record 0: caption is empty"):
        scores.official()


def test_our_key_reaches_from_zero_to_one_and_the_last_entry_may_have_it():
    row = five_masks(init={"pred_iou": 0})
    row["pred_list"][-1]["pred_iou"] = 1
    assert score([row]).counted.table.announced[[0, -1]].tolist() == [0, 1]


def test_every_unusual_mask_is_put_right_in_its_own_place():
    usual, unusual = (five_masks(void=encode_rle(bar(1, 8))) for _ in range(2))
    for holder, key in (
        (unusual, "gt_mask"),
        (unusual, "init_mask"),
        (unusual, "void"),
        *((item, "mask") for item in unusual["pred_list"]),
    ):
        holder[key] = {"size": [H, W], "counts": plain_runs(holder[key]["counts"])}
    expected, found = (score([five_masks(), row]).counted.table for row in (usual, unusual))
    assert found.iou.tolist() == expected.iou.tolist()


@pytest.mark.parametrize("coords", [(0, W), (H, 0), (-1, 0), (0, -1), None, ("x", 0), (float("inf"), 0), (1, 2, 3)])
def test_what_is_no_click_in_the_picture_is_no_first_click(coords):
    row, keyless = record(bar(6), [bar(6)]), record(bar(6), [bar(6)])
    row["pred_list"][0]["clicks"] = {"is_positive": True, "coords": coords}
    keyless["pred_list"][0]["clicks"] = {"is_positive": True}
    assert score([row, keyless], bootstrap=0).metrics()["first_click"] is None


def test_of_several_clicks_the_first_one_is_the_first():
    row = record(bar(6), [bar(6)] * 2)
    for item, x in zip(row["pred_list"], (2, 19), strict=True):
        item["clicks"] = {"is_positive": True, "coords": [0, x]}
    assert score([row], bootstrap=0).metrics()["first_click"] == 1


def test_a_first_click_is_told_in_masks_much_larger_than_the_target():
    begun = record(bar(2), [bar(2)], init_mask=encode_rle(bar(19)))
    begun["pred_list"][0]["clicks"] = {"is_positive": False, "coords": [0, 10]}
    voided = record(bar(2), [bar(2)], void=encode_rle(bar(19, 1)))
    voided["pred_list"][0]["clicks"] = {"is_positive": True, "coords": [0, 1]}
    assert score([begun, voided], bootstrap=0).counted.first_click.tolist() == [1, 0]


def test_records_of_a_later_batch_are_counted_on():
    rows = [record(bar(4), [bar(4)])] * 16 + [record(bar(4), [bar(1), bar(2)])]
    boundary = score(rows, boundary=True, bootstrap=0).counted.boundary
    assert boundary[[0, -1]].tolist() == [1, boundary_iou(bar(2), bar(4))]
    with pytest.raises(ValueError, match="record 17: not a prediction record"):
        score([*rows, {**rows[0], "pred_list": 3}])
