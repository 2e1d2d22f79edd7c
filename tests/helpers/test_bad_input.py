"""A user's mistakes: one line that names the value, before work starts.

What single modules refuse is tested with them (test_mixture, test_models, test_decode).
Here: arguments of the wrong kind, and anything at all by fuzzing.
"""

import re
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import (
    MixtureConfig,
    chat_prompt,
    concept_decoding,
    continue_from,
    generate_concepts,
    left_pad,
    load,
    mix,
    mixture_weights,
    next_logits,
    prompt_embeds,
)
from helpers.models import LM
from tests.tiny import named

TINY = named("qwen2")
BARE = LM(TINY.model)
FLOATS, WHOLE = torch.ones(1, 2, 32), torch.ones(1, 2, 32, dtype=torch.long)
HOLE = torch.tensor([[1, 0, 1]])


def one_line(error: BaseException) -> str:
    """The message, if it is a refusal as this project makes them."""
    said = str(error)
    assert isinstance(error, (ValueError, OSError, MemoryError)), repr(error)
    assert said and "\n" not in said and len(said) < 400, said
    return said


# Arguments of the wrong kind: what was given and what was expected

# fmt: off
MISTAKES = [
    ("prompts must be .*, not 5", generate_concepts, (TINY, 5), {}),
    ("not a BatchEncoding", generate_concepts, (TINY, TINY.tokenizer("w1")), {}),
    ("prompt 1 must be", generate_concepts, (TINY, [None]), {}),
    ("prompt 2 must be", generate_concepts, (TINY, ["w1", [[1], [1, 2]]]), {}),
    ("prompt 1 must be", generate_concepts, (TINY, [[2**70]]), {}),
    ("prompt 1 holds .*ud800", generate_concepts, (TINY, "w1 \ud800"), {}),
    ("lm must be .*'mini-gpt2'", generate_concepts, ("mini-gpt2", "w1"), {}),
    ("config .* not a dict", generate_concepts, (TINY, "w1"), {"config": {"top_k": 1}}),
    ("weight_rule .* 3", generate_concepts, (TINY, "w1"), {"weight_rule": 3}),
    ("attention_mask goes with", generate_concepts, (TINY, "w1"),
     {"attention_mask": torch.ones(1, 1)}),
    ("attention_mask must", generate_concepts, (TINY,),
     {"inputs_embeds": FLOATS, "attention_mask": [[1, 1]]}),
    ("not a list", generate_concepts, (TINY,),
     {"inputs_embeds": [FLOATS[0]], "attention_mask": torch.ones(1, 2)}),
    ("left-padded", generate_concepts, (TINY,),
     {"inputs_embeds": FLOATS, "attention_mask": torch.tensor([[-1, 1]])}),
    ("left-padded", generate_concepts, (TINY,),
     {"inputs_embeds": FLOATS[:, [0, 1, 0]], "attention_mask": HOLE}),
    ("prompt 1 must be", generate_concepts, (TINY, [torch.ones(100).bool()]), {}),
    ("torch.int64", generate_concepts, (TINY,), {"inputs_embeds": WHOLE}),
    ("float tensors", generate_concepts, (TINY,), {"inputs_embeds": [[1.0]]}),
    ("step 1 of prompt 1", generate_concepts, (TINY,), {"inputs_embeds": FLOATS / 0}),
    ("inputs_embeds .*'w1'", continue_from, (TINY, "w1"), {}),
    ("needs inputs_embeds", continue_from, (TINY, None), {}),
    ("LM with a tokenizer", continue_from, (BARE, FLOATS), {}),
    ("of one width", continue_from, (TINY, [FLOATS[0], FLOATS[0, :, :31]]), {}),
    ("logits must be floats .* list", mixture_weights, ([1.0],), {}),
    ("logits must be floats .*int64", mixture_weights, (WHOLE[0],), {}),
    ("config", mixture_weights, (FLOATS[0], "sharp"), {}),
    ("0 to 3, .* not 1 to 9", mix,
     (torch.ones(2), torch.tensor([1, 9]), torch.ones(4, 3)), {}),
    ("0 to 3, .* not -1 to 2", mix,
     (torch.ones(2), torch.tensor([-1, 2]), torch.ones(4, 3)), {}),
    ("mix needs", mix, (torch.ones(2), torch.ones(2), torch.ones(4, 3)), {}),
    ("mix needs", mix, (torch.ones(2), torch.ones(2).bool(), torch.ones(2, 3)), {}),
    ("temperature .*True", MixtureConfig, (), {"temperature": True}),
    ("config must be", concept_decoding, ("sharp",), {}),
    ("no model '~nobody9/x'", load, ("~nobody9/x",), {}),
    ("no model 'aaa", load, ("a" * 5000,), {}),
    ("device must be .*'cpu:x'", load, ("mini-gpt2",), {"device": "cpu:x"}),
]
# fmt: on


@pytest.mark.parametrize("says, call, args, more", MISTAKES, ids=range(len(MISTAKES)))
def test_arguments_of_the_wrong_kind_are_named(says, call, args, more):
    with pytest.raises(ValueError if call is not load else (ValueError, OSError)) as e:
        call(*args, **more)
    assert re.search(says, one_line(e.value)), e.value


# Anything at all: a result or a refusal, never an error from inside a dependency


def tensors():
    shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
    shapes |= st.sampled_from([(1, 2, 32), (3, 32), (2, 100), (100,)])
    kinds = st.sampled_from([torch.float32, torch.float16, torch.int64, torch.bool])
    fills = st.sampled_from([0, 1, -1, float("nan"), float("inf"), -float("inf")])

    def build(shape, kind, fill):
        finite = fill if kind.is_floating_point or abs(fill) < 2 else 0
        return torch.full(shape, finite, dtype=kind)

    return st.builds(build, shapes, kinds, fills)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["\ud800", "\x00", "w1 w2", b"w1", 2**80, np.float32(1), object()]),
)
ANYTHING = st.one_of(
    SCALARS,
    tensors(),
    st.lists(SCALARS | tensors(), max_size=3),
    st.lists(st.lists(st.integers(-2, 101), max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=2), SCALARS, max_size=2),
)
LMS = st.sampled_from([TINY, TINY, TINY, BARE]) | SCALARS
CONFIGS = st.none() | st.just(MixtureConfig(top_k=3)) | SCALARS
TEXT_OR = st.just("w1 w2") | ANYTHING
MOST = st.integers(1, 9) | SCALARS

FUZZED = {
    "MixtureConfig": (
        MixtureConfig,
        [],
        st.fixed_dictionaries(
            {}, optional={name: SCALARS for name in MixtureConfig.__dataclass_fields__}
        ),
    ),
    "mixture_weights": (mixture_weights, [ANYTHING, CONFIGS], None),
    "mix": (mix, [ANYTHING, ANYTHING, tensors() | SCALARS], None),
    "generate_concepts": (generate_concepts, [LMS, TEXT_OR, MOST, CONFIGS], None),
    "from embeddings": (
        generate_concepts,
        [LMS],
        st.fixed_dictionaries(
            {"inputs_embeds": ANYTHING, "steps": MOST},
            optional={"attention_mask": ANYTHING, "batch_size": MOST},
        ),
    ),
    "continue_from": (continue_from, [LMS, ANYTHING, ANYTHING, MOST], None),
    "next_logits": (next_logits, [LMS, ANYTHING, ANYTHING], None),
    "prompt_embeds": (prompt_embeds, [LMS, TEXT_OR], None),
    "left_pad": (left_pad, [ANYTHING], None),
    "chat_prompt": (chat_prompt, [LMS, ANYTHING], None),
    "load": (
        load,
        [SCALARS],
        st.fixed_dictionaries({}, optional={"device": SCALARS, "dtype": SCALARS}),
    ),
}


@pytest.mark.parametrize("name", FUZZED)
def test_anything_is_answered_or_refused(name):
    call, arguments, more = FUZZED[name]

    @settings(max_examples=60, deadline=5000, derandomize=True, database=None)
    @given(st.tuples(*arguments), st.just({}) if more is None else more)
    def tried(args, keywords):
        try:
            call(*args, **keywords)
        except Exception as error:
            one_line(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tried()


# Text from a model is data


def test_markup_from_a_model_is_escaped_in_a_trace_s_table():
    markup = '<script>alert(1)</script><img src=x onerror="x()">|</td></table>&amp;'
    lm = LM(TINY.model, TINY.tokenizer)
    trace = generate_concepts(lm, "w1", steps=1)
    lm.tokenizer.decode, kept = lambda _: markup, lm.tokenizer.decode
    try:
        html = trace.to_frame(top=1).to_html()
    finally:
        lm.tokenizer.decode = kept
    assert "<script" not in html and "&lt;script&gt;" in html
