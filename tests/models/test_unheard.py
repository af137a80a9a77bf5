"""What of a prompt is told to have no effect, and that it has none."""

from __future__ import annotations

import pytest
import torch

from engine.models.unheard import PromptWarning, cut_off, taken_literally, unheard
from tests.kit import tiny

ROOM = 75  # CLIP's 77 without the two marks


@pytest.fixture(scope="module")
def tokenizer(engine):
    return engine.pipe.tokenizer


def test_what_fits_is_not_cut(tokenizer):
    assert cut_off(tokenizer, "") == ""
    assert cut_off(tokenizer, " ".join("a" * ROOM)) == ""


def test_the_words_beyond_the_room_are_told_whole(tokenizer):
    """A tiny vocabulary: a token for each letter."""
    assert cut_off(tokenizer, " ".join("a" * ROOM) + " bc d") == "bc d"
    text = " ".join("a" * (ROOM - 1)) + " bc d"  # b is read, c is not
    assert cut_off(tokenizer, text) == "bc d"


def test_what_one_tokenizer_reads_is_heard(tokenizer):
    class Longer:
        is_fast = True
        model_max_length = 1000

        def __call__(self, *given, **more):
            return tokenizer(*given, **more)

        def num_special_tokens_to_add(self):
            return 2

    text = " ".join("a" * 90)
    assert unheard({"prompt": text}, [tokenizer])["prompt"]["cut_off"]
    assert unheard({"prompt": text}, [tokenizer, Longer(), None]) == {}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a (red:1.9) tent", ["(red:1.9)"]),
        ("<lora:x:1> a tent BREAK a boat", ["<lora:x:1>", "BREAK"]),
        ("[red:blue:0.5] tent", ["[red:blue:0.5]"]),
        ("a {red|blue} [day|night] __place__", ["{red|blue}", "[day|night]", "__place__"]),
        ("a tent AND a boat, embedding:mine", ["AND", "embedding:mine"]),
        ("a tent (by day), BREAKFAST; at 7:30 <now>", []),
        ("A TENT AND A BOAT {here} [there] _x_ embedding: none", []),
    ],
)
def test_marks_of_other_programs(text, found):
    assert taken_literally(text) == found


def test_an_edit_warns_and_records_and_the_end_has_no_effect(engine):
    long = " ".join("a" * ROOM)
    plain = {"prompt_syntax": "plain", "num_inference_steps": 1}
    whole = tiny.edited(engine, prompt=long, **plain)
    assert whole.settings["unheard"] == {}
    with pytest.warns(PromptWarning, match="left out: 'b c'"):
        cut = tiny.edited(engine, prompt=f"{long} b c", **plain)
    assert cut.settings["unheard"] == {"prompt": {"cut_off": ["b c"]}}
    assert torch.equal(whole.latents, cut.latents)
