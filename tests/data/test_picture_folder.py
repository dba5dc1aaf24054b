"""A folder of pictures with texts: from a file, one for all, or beside each picture; and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from segagent.data.picture_folder import PictureFolder


@pytest.fixture
def folder(tmp_path):
    """Pictures a.png and sub/b.jpg."""
    root = tmp_path / "pictures"
    (root / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "sub/b.jpg")):
        Image.fromarray(np.full((6, 8, 3), 50 * number, np.uint8)).save(root / name)
    return root


def listed(**settings):
    dataset = PictureFolder(**settings)
    return {dataset.sample_id(index): dataset[index].text for index in range(len(dataset))}


def test_one_text_for_all_pictures(folder):
    assert listed(images=str(folder), text="cup") == {"a": "cup", "sub/b": "cup"}
    assert listed(images=str(folder), text="cup", include="^sub/") == {"sub/b": "cup"}
    sample = PictureFolder(images=str(folder), text="cup")[1]
    assert sample.image_name == "sub/b.jpg" and sample.target is None and sample.mask is None


def test_texts_from_a_table_or_json_by_name_with_or_without_suffix(folder, tmp_path):
    table, texts = tmp_path / "t.csv", tmp_path / "t.json"
    table.write_text('image,text\nsub/b.jpg,"a cup, red"\na,one\na.png,two\n', encoding="utf-8-sig")
    assert listed(images=str(folder), texts=str(table)) == {"a": "one", "a#1": "two", "sub/b": "a cup, red"}
    texts.write_text(json.dumps({"a": ["one", "two"]}))
    assert listed(images=str(folder), texts=str(texts)) == {"a": "one", "a#1": "two"}
    assert PictureFolder(images=str(folder), texts=str(texts)).unnamed == 1


def test_texts_beside_the_pictures(folder):
    (folder / "a.txt").write_text("one\n\n two \n")
    with pytest.raises(ValueError, match=r"b\.txt: no such file, and neither text nor texts is given"):
        listed(images=str(folder))
    (folder / "sub" / "b.txt").write_text("three")
    assert listed(images=str(folder)) == {"a": "one", "a#1": "two", "sub/b": "three"}


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.csv", "picture,text\na,b\n", "column 'image' is missing"),
        ("t.csv", "image,text\nz.png,b\n", "line 2: 'z.png' is none of the 2 pictures"),
        ("t.csv", "image,text\na.png, \n", "line 2: no text for 'a.png'"),
        ("t.csv", 'image,text\na.png,"the red cup\nsub/b.png,a star\n', "after line 1: not CSV"),
        ("t.json", "[]", "expected a JSON object"),
        ("t.json", "{", "not JSON"),
        ("t.json", '{"a": 3}', "key 'a': no text for 'a'"),
        ("t.json", "{}", "names none of the 2 pictures"),
    ],
)
def test_unsound_texts_are_refused_by_name(folder, tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name}: .*{message}"):
        PictureFolder(images=str(folder), texts=str(tmp_path / name))


def test_masks_and_truth_are_found_by_sample(folder, tmp_path):
    for name, value in (("masks", 1), ("truth", 255)):
        (tmp_path / name / "sub").mkdir(parents=True)
        for stem in ("a", "a#1", "sub/b"):
            labels = np.zeros((6, 8), np.uint8)
            labels[: 2 + len(stem)] = value
            Image.fromarray(labels).save(tmp_path / name / f"{stem}.png")
    (folder / "a.txt").write_text("one\ntwo")
    (folder / "sub" / "b.txt").write_text("three")
    dataset = PictureFolder(images=str(folder), masks=str(tmp_path / "masks"), truth=str(tmp_path / "truth"))
    assert [int(sample.mask[:, 0].sum()) for sample in (dataset[0], dataset[1], dataset[2])] == [3, 5, 6]
    assert all((dataset[index].mask == dataset[index].target).all() for index in range(3))
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: mask is \[3, 3\] but the picture is \[6, 8\]"):
        dataset[0]


def test_names_that_would_mean_two_samples_are_refused(folder):
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(folder / "a#1.png")
    (folder / "a.txt").write_text("one\ntwo")
    (folder / "a#1.txt").write_text("three")
    (folder / "sub" / "b.txt").write_text("four")
    with pytest.raises(ValueError, match="two samples would be called 'a#1'"):
        PictureFolder(images=str(folder))
    with pytest.raises(ValueError, match="exclude each other"):
        PictureFolder(images=str(folder), text="a", texts="b")


def test_texts_of_other_editors(folder, tmp_path):
    (tmp_path / "t.csv").write_text("image,text\n,cup\n")
    with pytest.raises(ValueError, match=r"t.csv: line 2: no picture is named"):
        PictureFolder(images=str(folder), texts=str(tmp_path / "t.csv"))
    (tmp_path / "l.csv").write_bytes("image,text\na,caf\u00e9\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"l.csv: not UTF-8"):
        PictureFolder(images=str(folder), texts=str(tmp_path / "l.csv"))


def test_a_text_with_a_comma_needs_quotes(folder, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("image,text\na.png,left, brown gear\n")
    with pytest.raises(ValueError, match=r"t.csv: line 2: more fields than columns; .* goes in quotes"):
        listed(images=str(folder), texts=str(table))
    table.write_text('image,text\na.png,"left, brown gear"\n')
    assert listed(images=str(folder), texts=str(table)) == {"a": "left, brown gear"}
    table.write_text("image;text\na.png;gear\n")
    with pytest.raises(ValueError, match="the first line is image,text, with a comma between"):
        listed(images=str(folder), texts=str(table))


def test_texts_of_pictures_that_are_left_out_are_no_mistake(folder, tmp_path):
    (tmp_path / "t.json").write_text(json.dumps({"a": "cup", "sub/b": "gear"}))
    assert listed(images=str(folder), texts=str(tmp_path / "t.json"), include="^sub/") == {"sub/b": "gear"}


def test_an_accent_is_one_letter_or_two(folder, tmp_path):
    (folder / "a.png").rename(folder / "Tu\u0308r.png")
    (tmp_path / "t.json").write_text(json.dumps({"T\u00fcr.png": "door"}))
    assert listed(images=str(folder), texts=str(tmp_path / "t.json")) == {"Tu\u0308r": "door"}


def test_pictures_that_nothing_here_reads_are_told(folder, caplog):
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(folder / "c.jfif", "JPEG")
    Image.fromarray(np.zeros((6, 8), np.uint8)).save(folder / "d.gif")
    for name in ("e.HEIC", "sub/f.heic", "g.nef", ".hidden.heic", "notes.txt"):
        (folder / name).write_bytes(b"?")
    assert set(listed(images=str(folder), text="cup")) == {"a", "sub/b", "c", "d"}
    assert "left out (2 of .heic, 1 of .nef); save them as JPEG or PNG" in caplog.text


def test_a_preview_beside_a_picture_is_left_out(folder, caplog):
    for name in ("a.gif", "sub/b.jfif"):
        (folder / name).write_bytes(b"?")
    assert set(listed(images=str(folder), text="cup")) == {"a", "sub/b"}
    assert "a.gif is left out beside a.png" in caplog.text and "b.jfif is left out beside b.jpg" in caplog.text
