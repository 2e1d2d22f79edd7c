"""What `generate` returns, cut at its end and nowhere else."""

import copy

from experiments import hf_reference
from helpers.models import LM

LONG = [[5, 6, 7, 8, 9, 10, 11, 12], [13, 14, 15, 16, 17, 18, 19, 20]]


def test_embeddings_return_the_new_tokens_only(tiny):
    by_ids = hf_reference.generate_tokens(tiny, LONG, "ids", 6)
    by_embeds = hf_reference.generate_tokens(tiny, LONG, "embeds", 6)
    assert [row[:8] for row in by_ids] == LONG
    assert [row[8:] for row in by_ids] == by_embeds


def test_ends_are_kept_and_padding_is_not(tiny):
    assert hf_reference.truncate_at_eos([4, 2, 0, 0], (2,)) == [4, 2]
    assert hf_reference.truncate_at_eos([4, 5], (2,)) == [4, 5]


def test_chat_ids_are_the_templates_own(tiny):
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}<s> {{ m.content }} </s> {% endfor %}w1"
    )
    lm = LM(tiny.model, tokenizer, "tiny chat")
    turn = [{"role": "user", "content": "w5 w6"}]
    wanted = tokenizer.apply_chat_template(turn, add_generation_prompt=True)
    assert (
        hf_reference.chat_ids(lm, ["w5 w6"])
        == [wanted["input_ids"]]
        == [[1, 8, 9, 2, 4]]
    )


def test_prompts_of_unequal_length_come_back_in_order(tiny):
    prompts = [[5, 6], LONG[0], [7], LONG[1], [8]]
    together = hf_reference.generate_tokens(tiny, prompts, "ids", 4)
    assert [row[: len(p)] for row, p in zip(together, prompts)] == prompts
    alone = [hf_reference.generate_tokens(tiny, [p], "ids", 4)[0] for p in prompts]
    assert together == alone


def test_a_vector_fed_again_is_a_prompt_that_repeats_it(tiny):
    steps = 5
    found = hf_reference.refeed_each_step(tiny, tiny.embed[[5, 23]], steps)
    for token, ids in zip((5, 23), found):
        repeated = [
            hf_reference.generate_tokens(tiny, [[token] * n], "embeds", 1)[0][0]
            for n in range(1, steps + 1)
        ]
        assert ids == repeated


def test_padding_is_no_end_token_and_in_no_prompt(tiny):
    pad = hf_reference._unused_id(tiny, [[0, 1, 3], [4]])
    assert pad not in {0, 1, 3, 4, *tiny.eos_ids}
