import base64
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from segagent import masks
from segagent.report import plots, trajectory_panels, write_report
from segagent.report.gather import gather
from segagent.report.page import page, write_page
from segagent.types import Action, Box, Click, EndReason, InitKind, Step, Trajectory

SIZE = (24, 32)
EMPTY = masks.encode_rle(np.zeros(SIZE, bool))
FULL = masks.encode_rle(np.ones(SIZE, bool))


def make(number, ious=(0.4, 0.7), **changes):
    before = [0.0, *ious]
    steps = [
        Step(Action(click=Click(3, 4, index % 2 == 0), text=f"reply {index}"), FULL, before[index], iou)
        for index, iou in enumerate(ious)
    ]
    facts = dict(
        sample_id=f"s{number}", image_name=f"{number}.png", height=SIZE[0], width=SIZE[1], text=f"thing {number}"
    )
    facts |= dict(target=FULL, void=None, init=InitKind.EMPTY, init_mask=EMPTY, init_iou=0.0, steps=tuple(steps))
    return Trajectory(**{**facts, "end_reason": EndReason.FINISHED, "end_text": "Finish", **changes})


def image_of(trajectory):
    return np.full((*SIZE, 3), 90, np.uint8)


class Page(HTMLParser):
    """Collects what the tests ask for and checks that tags close in order."""

    VOID = frozenset({"meta", "img", "br", "link", "path", "use", "rect"})

    def __init__(self, text):
        super().__init__()
        self.text, self.open, self.tags, self.images, self.links, self.sections = [], [], [], [], [], {}
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        self.links += [value for key, value in attrs.items() if key in {"src", "href", "xlink:href", "srcset", "data"}]
        if tag == "img":
            self.images.append(attrs["src"])
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = attrs.get("id", "")
            self.sections[self.section] = []

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
        if self.open and self.open[-1] == "h3":
            self.sections[self.section].append(data)


@pytest.fixture
def report(tmp_path):
    def write(trajectories, **changes):
        options = {"title": "run", "summary": {}, "curves": {}, "load_image": image_of, **changes}
        write_report(tmp_path / "r.html", trajectories=trajectories, **options)
        text = (tmp_path / "r.html").read_text(encoding="utf-8")
        return text, Page(text)

    return write


def test_the_file_is_self_contained(report):
    text, page = report([make(n) for n in range(3)], curves={"ciou_by_step": [0.0, 0.4, None]}, config_text="a: 1")
    # Names of XML name spaces look like addresses but are never fetched.
    bare = text.replace('xmlns="http://www.w3.org/2000/svg"', "").replace(
        'xmlns:xlink="http://www.w3.org/1999/xlink"', ""
    )
    assert "http:" not in bare and "https:" not in bare and "//" not in "".join(bare.split("base64,")[0])
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "@import" not in text and "prefers-color-scheme: dark" in text
    assert text.count("<svg") == 2 and len(page.images) == 3 * 4
    assert plots.INK not in text and "currentColor" in text, "plots are as light or dark as the page"
    for source in page.images:
        kind, data = source.split(",", 1)
        assert kind == "data:image/webp;base64"
        picture = cv2.imdecode(np.frombuffer(base64.b64decode(data, validate=True), np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (180, 240, 3)


def test_equal_inputs_give_equal_bytes(report):
    first, _ = report([make(n) for n in range(40)], seed=3, curves={"x": [0.1, 0.2]})
    second, _ = report([make(n) for n in range(40)], seed=3, curves={"x": [0.1, 0.2]})
    other, _ = report([make(n) for n in range(40)], seed=4, curves={"x": [0.1, 0.2]})
    assert first == second != other


def test_every_text_is_escaped(report):
    evil = "</title><script>alert('1')</script>&\"'"
    trajectory = make(0, text=evil, end_text=evil, image_name=evil, sample_id=evil)
    step = Step(Action(click=Click(1, 1), text=evil), FULL, 0.0, 0.5)

    def fail(_):
        raise OSError(evil)

    text, page = report(
        [trajectory, make(1, steps=(step,))],
        title=evil,
        summary={evil: evil},
        curves={"a<b&c": [0.1, 0.2]},
        config_text=evil,
        load_image=fail,
    )
    assert "script" not in page.tags and "<script" not in text
    assert "".join(page.text).count(evil) >= 10


def test_best_worst_and_random_are_the_right_ones(report):
    order = np.random.default_rng(0).permutation(60)
    _, page = report((make(n, [n / 100]) for n in order), extremes=4, sampled=5)
    assert page.sections["best"] == [f"thing {n}" for n in (59, 58, 57, 56)]
    assert page.sections["worst"] == [f"thing {n}" for n in (0, 1, 2, 3)]
    shown = page.sections["random"]
    assert len(set(shown)) == 5 and not set(shown) & {*page.sections["best"], *page.sections["worst"]}


def test_none_of_a_few_trajectories_is_shown_twice(report):
    for count in range(1, 6):
        _, page = report([make(n, [n / 10]) for n in range(count)])
        shown = [name for titles in page.sections.values() for name in titles]
        assert sorted(shown) == [f"thing {n}" for n in range(count)]


def test_ties_are_settled_by_place():
    gathered = gather([make(n, [0.5]) for n in range(9)], extremes=2, sampled=3, seed=0)
    assert [place for place, _ in gathered.best] == [0, 1]
    assert [place for place, _ in gathered.worst] == []  # the two worst are the same two
    places = [place for place, _ in gathered.sampled]
    assert len(places) == 3 and places == sorted(places)


def test_of_few_trajectories_the_better_half_is_shown_as_best():
    gathered = gather([make(n, [n / 10]) for n in range(3)], extremes=6, sampled=1, seed=0)
    assert [[place for place, _ in kept] for kept in (gathered.best, gathered.worst)] == [[2, 1], [0]]


def test_sampling_is_even():
    light = [make(n, []) for n in range(30)]
    seen = np.zeros(30)
    for seed in range(300):
        for place, _ in gather(light, extremes=0, sampled=6, seed=seed).sampled:
            seen[place] += 1
    assert seen.sum() == 1800 and 30 < seen.min() and seen.max() < 95  # 60 expected, deviation 7


def test_a_long_source_is_read_once_and_not_kept():
    alive, most = set(), 0

    class Tracked(Trajectory):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            alive.add(id(self))

        def __del__(self):
            alive.discard(id(self))

    def source():
        nonlocal most
        for n in range(5000):
            yield Tracked(
                **{name: getattr(template, name) for name in Trajectory.__dataclass_fields__} | {"sample_id": n}
            )
            most = max(most, len(alive))

    template = make(0)
    gathered = gather(source(), extremes=6, sampled=12, seed=0)
    assert gathered.count == 5000 and most < 60 and len(gathered.by_step()[0]) == 5000


def test_iou_by_step_carries_the_last_value_on():
    gathered = gather(
        [make(0, [0.5]), make(1, [0.2, 0.9]), make(2, target=None, init_iou=None, steps=())],
        extremes=1,
        sampled=1,
        seed=0,
    )
    ious, steps = gathered.by_step()
    assert np.allclose(ious, [[0, 0.5, 0.5], [0, 0.2, 0.9]]) and steps.tolist() == [1, 2]
    official = gather([make(0, [0.5], init_iou=None)], extremes=1, sampled=1, seed=0)
    assert official.by_step()[0].tolist() == [[0, 0.5]], "which does not say how it began"


def test_trajectories_without_a_target_are_shown_without_iou(report):
    step = Step(Action(click=Click(1, 1)), FULL)
    text, page = report([make(0, target=None, init_iou=None, steps=(step,))])
    assert page.sections["random"] == ["thing 0"] and "IoU unknown after 1 step, finished" in text
    assert "best" not in page.sections and text.count("<svg") == 1


def test_an_empty_run_is_a_report(report):
    text, page = report([], summary={"n": 0})
    assert "0 trajectories" in text and not page.images


def test_intervals_stand_beside_their_metric(report):
    summary = {"ciou": 0.81234, "ciou_low": 0.7, "ciou_high": 0.9, "n": 12345, "note": "x<y", "list": [1], "none": None}
    text, page = report([], summary=summary)
    assert "0.8123" in text and "0.7000 \N{EN DASH} 0.9000" in text and "12,345" in text and "x&lt;y" in text
    words = [word.strip() for word in page.text]
    assert "ciou_low" not in words and "list" not in words and "none" in words


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (lambda t: (_ for _ in ()).throw(FileNotFoundError("no 7.png")), "FileNotFoundError: no 7.png"),
        (lambda t: {}["gone"], "KeyError"),
        (lambda t: np.zeros((5, 6, 3), np.uint8), "the image is 6x5, the trajectory 32x24"),
        (lambda t: np.zeros(SIZE, np.uint8), "pictures are uint8"),
    ],
)
def test_an_unreadable_image_is_grey_and_says_why(report, load, reason):
    _, page = report([make(7)], load_image=load)
    assert reason in "".join(page.text) and len(page.images) == 4
    start = trajectory_panels(make(7), load)[1].picture
    assert (start == start[0, 0]).all() and 100 < start[0, 0, 0] < 200


def test_a_broken_mask_is_grey_and_says_why(report):
    _, page = report([make(7, target={**FULL, "counts": "1"})])
    assert "target: broken RLE" in "".join(page.text) and len(page.images) == 1


def test_panels_tell_the_story():
    panels = trajectory_panels(make(0, [0.4, 0.7]), image_of, side=64)
    assert [panel.title for panel in panels] == [
        "image, target outlined", "start: empty mask", "1: + (3, 4)", "2: \N{MINUS SIGN} (3, 4)",
    ]  # fmt: skip
    assert panels[2].detail == "IoU 0.000 \N{RIGHTWARDS ARROW} 0.400" and panels[3].reply == "reply 1"
    assert panels[2].picture.shape == (48, 64, 3)
    assert (panels[1].picture[24, 32] == 90).all() and (panels[2].picture[40, 50] == (45, 172, 45)).all()


def test_of_many_steps_the_first_and_last_are_shown():
    panels = trajectory_panels(make(0, [0.1] * 20), image_of, side=32)
    numbers = [panel.title.split(":")[0] for panel in panels[2:]]
    assert numbers == ["1", "2", "3", "4", "5", "6", "7", "(10 more) 18", "19", "20"]


def test_a_lone_surrogate_is_shown_as_what_it_is(tmp_path):
    write_page(tmp_path / "r.html", page("title", "a \ud83d reply"))
    assert "a ? reply" in (tmp_path / "r.html").read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


def test_of_a_search_the_mask_that_is_returned_is_told_and_ranked(report):
    better = make(0, (0.9, 0.1), extras={"returned": 1})
    last = make(1, (0.2, 0.5), extras={"returned": 2})
    text, page = report([better, last], extremes=1, sampled=0)
    assert "median 0.700" in text, "of 0.9 and 0.5"
    assert page.sections["best"] == ["thing 0"] and page.sections["worst"] == ["thing 1"]
    assert "IoU 0.900 of mask 1, which is returned; IoU 0.100 after 2 steps" in text
    assert "IoU 0.500 after 2 steps, finished" in text and text.count(", returned</b>") == 1
    assert gather([better, last], extremes=0, sampled=0, seed=0).returned().tolist() == pytest.approx([0.9, 0.5])


def test_panels_tell_what_was_predicted_and_not_kept_and_where_a_box_was():
    steps = (
        Step(Action(box=Box(2, 3, 20, 18), predicted_iou=0.25), FULL, 0.0, 0.4),
        Step(Action(click=Click(3, 4)), FULL, 0.4, 0.4, kept=False),
    )
    panels = trajectory_panels(make(0, steps=steps, init=InitKind.BOX, extras={"returned": 1}), image_of)
    assert [panel.title for panel in panels[1:]] == ["start: from a box", "1: box, returned", "2: + (3, 4), not kept"]
    assert panels[2].detail == "IoU 0.000 \N{RIGHTWARDS ARROW} 0.400, said 0.250"


def test_panels_show_target_clicks_and_their_numbers():
    def pictures(**changes):
        click = Step(Action(click=Click(10, 12)), EMPTY, 0.0, 0.0)
        return [panel.picture for panel in trajectory_panels(make(0, steps=(click, click), **changes), image_of)]

    half = np.zeros(SIZE, bool)
    half[:, :16] = True
    shown, whole = pictures(), pictures(target=masks.encode_rle(half))
    differ = [(one != other).any() for one, other in zip(shown, whole, strict=True)]
    assert differ == [True, False, True, True], "the start is shown without the target"
    assert (whole[0][90, 60] == 90).all(), "as an outline"
    assert (shown[2] != shown[3]).any(), "clicks are numbered"
    begun = pictures(init=InitKind.RANDOM_POINTS, init_clicks=(Click(20, 12),))
    assert [(one != other).any() for one, other in zip(shown, begun, strict=True)] == [False, True, False, False]


def test_colours_of_a_picture_are_kept(report):
    red = np.full((*SIZE, 3), (200, 20, 20), np.uint8)
    _, page = report([make(0, steps=())], load_image=lambda _: red)
    data = np.frombuffer(base64.b64decode(page.images[1].split(",", 1)[1]), np.uint8)
    blue, _, red = cv2.imdecode(data, cv2.IMREAD_COLOR)[90, 120]
    assert red > 150 > 50 > blue


def test_how_trajectories_ended_is_told_the_most_frequent_first(report):
    text, _ = report([make(0, end_reason=None, end_text=None), make(1, [0.5]), make(2)])
    assert "<p>3 trajectories: 2 finished, 1 still running</p>" in text and "after 1 step, finished" in text
    assert text.count("last reply: <q>Finish</q>") == text.count("last reply") == 2


def test_numbers_are_shown_with_what_they_mean(report):
    _, page = report([], summary={"p50": 0.0, "p50_low": 0.0, "p50_high": 0.25, "policy": True, "seconds": 1234.56})
    cells = [word.strip() for word in page.text]
    shown = cells[cells.index("p50") : cells.index("Quality by step")]
    assert [word for word in shown if word] == [
        "p50", "0.0000", "0.0000 \N{EN DASH} 0.2500", "share of samples with IoU above 0.50", "policy", "true",
        "seconds", "1,234.6", "time of the loop, of all processes together",
    ]  # fmt: skip


def test_a_plot_shows_what_the_numbers_are(monkeypatch):
    """What is drawn, before it becomes text."""
    drawn = []
    monkeypatch.setattr(plots, "svg", lambda figure, *_: drawn.append(figure))
    ious = np.array([[0.0, 0.2], [0.1, 0.4], [0.2, 0.6], [0.3, 0.8], [0.9, 0.9]])
    plots.iou_by_step({"ciou": [0.1, None, 0.3]}, ious, np.array([0, 1, 1, 1, 1]))
    plots.histogram(np.array([0.12, 0.13, 0.98, 1.02]))
    (upper, lower), (axes,) = (figure.axes for figure in drawn)
    assert np.isnan(upper.lines[0].get_ydata()).tolist() == [False, True, False] and len(upper.lines) == 1
    band = upper.collections[0].get_paths()[0].vertices
    assert [band[band[:, 0] == step, 1].min() for step in (0, 1)] == pytest.approx([0.1, 0.4])
    assert [band[band[:, 0] == step, 1].max() for step in (0, 1)] == pytest.approx([0.3, 0.8])
    assert [bar.get_height() for bar in lower.patches] == pytest.approx([1, 0.8])
    counts = [int(bar.get_height()) for bar in axes.patches]
    assert counts == [0, 0, 2, *[0] * 16, 2] and axes.lines[0].get_xdata()[0] == pytest.approx(0.555)
