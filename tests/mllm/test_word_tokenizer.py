"""The tokenizer of nano: every reply comes back as it was, any text is taken."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segagent.data.refshapes import description_words
from segagent.data.refshapes.dataset import RefShapes
from segagent.dialogue import load_dialogue
from segagent.mllm.testing import WORDS
from segagent.mllm.word_tokenizer import WordTokenizer
from segagent.types import Box, Click

DIALOGUE = load_dialogue("nano")
TOKENIZER = WordTokenizer.of(DIALOGUE, WORDS)


@settings(max_examples=200, deadline=None)
@given(x=st.integers(0, 999), y=st.integers(0, 999), sign=st.booleans(), percent=st.integers(0, 100), box=st.booleans())
def test_replies_come_back_as_they_were_and_are_short(x, y, sign, percent, box):
    text = DIALOGUE.format(
        width=1000,
        height=1000,
        click=Click(x, y, sign),
        box=Box(1, 20, 300, 1000) if box else None,
        predicted_iou=percent / 100,
    )
    tokens = TOKENIZER.encode(text)
    assert TOKENIZER.decode(tokens) == text and TOKENIZER.unknown not in tokens
    assert len(tokens) == 14 + box * 17


def test_a_number_takes_three_tokens_whatever_its_size():
    for text in ("5", "81", "381", "0", "1"):
        assert len(TOKENIZER.encode(text)) == 3 and TOKENIZER.decode(TOKENIZER.encode(text)) == text
    assert TOKENIZER.decode(TOKENIZER.encode("12345 007")) == "12345007"


@pytest.mark.parametrize("cut", ["Current IOU: ", "Current IOU: 85,", "Current IOU: 85, Positive point: ("])
def test_a_reply_cut_after_a_wording_gives_the_same_tokens(cut):
    whole = "Current IOU: 85, Positive point: (5, 337)"
    assert TOKENIZER.encode(cut) + TOKENIZER.encode(whole.removeprefix(cut)) == TOKENIZER.encode(whole)


def test_the_end_of_a_reply_is_a_word():
    for text in ("Finish", "Current IOU: 97, Finish"):
        assert TOKENIZER.decode(TOKENIZER.encode(text)) == text and TOKENIZER.unknown not in TOKENIZER.encode(text)


def test_unknown_words_fall_back_and_case_does_not_matter():
    known, shouted, odd = (TOKENIZER.encode(text) for text in ("the red star", "The  RED\nstar", "the crimson star"))
    assert known == shouted and len(known) == 3
    assert odd == [known[0], TOKENIZER.unknown, known[2]]
    assert TOKENIZER.encode("stars")[0] == TOKENIZER.unknown, "a piece must not cut a word in two"
    assert TOKENIZER.decode(odd) == " the� star"


@settings(max_examples=300, deadline=None)
@given(st.text())
def test_any_text_is_taken(text):
    tokens = TOKENIZER.encode(text)
    assert all(0 <= token < TOKENIZER.size for token in tokens)
    TOKENIZER.decode(tokens)


def test_saved_and_loaded_it_is_the_same(tmp_path):
    TOKENIZER.save(tmp_path)
    again = WordTokenizer.load(tmp_path)
    assert again.texts == TOKENIZER.texts and again.encode("the 7 stars") == TOKENIZER.encode("the 7 stars")
    (tmp_path / "words.json").write_text("[]")
    with pytest.raises(ValueError, match=r"words.json: not a word tokenizer"):
        WordTokenizer.load(tmp_path)
    (tmp_path / "words.json").unlink()
    with pytest.raises(ValueError, match=r"has no words.json"):
        WordTokenizer.load(tmp_path)


@pytest.mark.parametrize("subset", ["refshapes", "refshapes+", "refshapesg", "refshapes-thin"])
def test_no_description_of_refshapes_has_an_unknown_word(subset):
    tokenizer = WordTokenizer.of(DIALOGUE, description_words())
    dataset = RefShapes(subset=subset, split="train", limit=30)
    for sample in dataset:
        tokens = tokenizer.encode(sample.text)
        assert tokenizer.unknown not in tokens and len(tokens) == len(sample.text.split()), sample.text


def test_ids_that_no_word_has_are_written_as_nothing():
    assert TOKENIZER.decode([*TOKENIZER.encode("Finish"), TOKENIZER.size, TOKENIZER.size + 500]) == "Finish"
