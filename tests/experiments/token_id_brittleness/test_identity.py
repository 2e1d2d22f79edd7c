"""The identity checks find nothing in real architectures, and every planted fault.

And the parts of I1, I2, I3 and I5, by hand.
"""

import copy

import pandas as pd
import pytest
import torch

from experiments import scoring
from experiments.prompts import Item
from experiments.stats import Estimate
from experiments.token_id_brittleness import (
    equivalence_report,
    generate_settings,
    id_equivalence,
    prompt_slicing,
    releases,
)
from experiments.token_id_brittleness.id_equivalence import (
    check_id_embedding_equivalence,
)
from experiments.token_id_brittleness.planted_models import (
    VOCAB,
    looks_at_ids,
    random_model,
)
from helpers.models import LM

MARKER, OTHER = 7, 9
GEMMA = ("gemma", "gemma2", "gemma3")  # they scale embeddings inside the module


def prompts(n=40, seed=0):
    """Random id lists of 2 to 9 tokens, each holding the marker once at least."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (n,), generator=generator).tolist()
    return [
        [MARKER, *torch.randint(0, VOCAB, (k,), generator=generator).tolist()]
        for k in lengths
    ]


@pytest.fixture(scope="module", params=["gpt2", "qwen2", "llama", *GEMMA])
def lm(request):
    return random_model(request.param)


@pytest.fixture(scope="module")
def planted():
    return looks_at_ids(random_model("qwen2"), MARKER)


def test_ids_equal_their_embeddings(lm):
    frame = check_id_embedding_equivalence(lm, prompts(200))
    assert frame["prompt"].tolist() == list(range(200))
    assert frame["equal"].all() and (frame["max_difference"] == 0).all()


def test_relabelling_changes_names_only(lm):
    frame = id_equivalence.check_relabelling(lm, prompts())
    assert frame["argmax_equal"].all() and frame["max_difference"].max() < 1e-10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_relabelling_is_not_decided_by_rounding(dtype):
    """The head computes in float64 meanwhile, whatever the model's dtype is."""
    lm, seen = random_model("llama"), set()
    head = lm.model.to(dtype).get_output_embeddings()
    hooks = dict(head._forward_pre_hooks)
    watch = head.register_forward_hook(lambda _, given, out: seen.add(out.dtype))
    frame = id_equivalence.check_relabelling(lm, prompts())
    watch.remove()
    assert seen == {torch.float64}
    assert frame["argmax_equal"].all() and frame["max_difference"].max() < 1e-10
    assert head.weight.dtype == dtype and head._forward_pre_hooks == hooks


@pytest.mark.parametrize("architecture", GEMMA)
def test_rows_of_the_table_are_not_what_gemma_reads(architecture):
    """The check takes the module's output; the bare rows would be another prompt."""
    lm = random_model(architecture)
    table = lm.model.get_input_embeddings()
    ids = torch.tensor([[MARKER, 3, 4]])
    assert torch.equal(lm.embed[ids], table(ids))
    ours = lm.model(inputs_embeds=table(ids)).logits
    assert torch.equal(ours, lm.model(input_ids=ids).logits)
    assert not torch.allclose(ours, lm.model(inputs_embeds=table.weight[ids]).logits)


def test_a_gemma_that_looks_at_ids_is_reported():
    planted = looks_at_ids(random_model("gemma3"), MARKER)
    assert not check_id_embedding_equivalence(planted, prompts(20))["equal"].any()


def test_a_copied_row_behaves_as_the_row(lm):
    assert id_equivalence.check_copied_row(lm, prompts(), MARKER)["equal"].all()


def test_behaviour_follows_a_swapped_row(lm):
    frame = id_equivalence.check_swapped_row(lm, prompts(), MARKER, OTHER)
    assert frame["follows_row"].all() and not frame["as_id"].any()


def test_checks_leave_the_model_as_it_was(lm):
    before = {name: p.clone() for name, p in lm.model.named_parameters()}
    table, head = lm.model.get_input_embeddings(), lm.model.get_output_embeddings()
    tied = table.weight is head.weight
    id_equivalence.check_relabelling(lm, prompts(3))
    id_equivalence.check_copied_row(lm, prompts(3), MARKER)
    id_equivalence.check_swapped_row(lm, prompts(3), MARKER, OTHER)
    after = dict(lm.model.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (table.weight is head.weight) == tied


def test_a_failing_check_hands_the_model_back():
    lm = random_model("qwen2")
    weight = lm.model.get_input_embeddings().weight
    with pytest.raises(IndexError):
        id_equivalence.check_swapped_row(lm, [[MARKER, VOCAB + 5]], MARKER, OTHER)
    assert lm.model.get_input_embeddings().weight is weight


def test_a_model_that_looks_at_ids_is_reported(planted):
    """The change is 1e-4 of one logit at one position: argmax alone would miss it."""
    mixed = prompts(20) + [[11, 12, 13]]  # the last one holds no trigger
    frame = check_id_embedding_equivalence(planted, mixed)
    assert len(frame) == 21 and not frame["equal"][:20].any() and frame["equal"][20]
    assert (frame["max_difference"][:20] > 5e-5).all() and frame["argmax_equal"].all()


def test_every_other_check_reports_it_too(planted):
    assert not id_equivalence.check_relabelling(planted, prompts())["equal"].any()
    assert (
        id_equivalence.check_relabelling(planted, prompts())["max_difference"].min()
        > 5e-5
    )
    assert not id_equivalence.check_copied_row(planted, prompts(), MARKER)[
        "equal"
    ].any()
    without = [row for row in prompts() if OTHER not in row]  # else both sides have it
    frame = id_equivalence.check_swapped_row(planted, without, MARKER, OTHER)
    assert len(frame) > 30 and not frame["follows_row"].any()


def test_one_planted_prompt_in_a_thousand_is_found():
    planted = looks_at_ids(random_model("gpt2"), MARKER, by=1e-5)
    many = [[3, 4, 5]] * 999 + [[3, MARKER, 5]]
    frame = check_id_embedding_equivalence(planted, many)
    assert frame.index[~frame["equal"]].tolist() == [999]


def test_nan_is_a_mismatch():
    lm = random_model("llama")
    lm.model.get_output_embeddings().weight[5] = float("nan")
    frame = check_id_embedding_equivalence(lm, [[1, 2]])
    assert not frame["equal"][0] and frame["max_difference"].isna()[0]


def test_per_layer_inputs_are_a_second_track():
    """The honest exception: Gemma 3n looks up a further vector by id in every layer."""
    lm = random_model("gemma3n")
    assert not check_id_embedding_equivalence(lm, prompts(10))["equal"].any()
    frame = id_equivalence.check_swapped_row(lm, prompts(10), MARKER, OTHER)
    assert not frame["follows_row"].any()


def test_prompts_without_the_token_are_no_test(lm):
    frame = id_equivalence.check_copied_row(lm, [[MARKER, 3], [4, 5]], MARKER)
    assert len(frame) == 1
    with pytest.raises(ValueError, match="token 50 is in none of the prompts"):
        id_equivalence.check_copied_row(lm, [[4, 5]], 50)


def test_the_search_covers_special_ids_and_texts(lm):
    rows = equivalence_report.search_prompts(lm, [[4, 5], [4, 5], [6]], 300)
    assert rows[:2] == [[4, 5], [6]] and len(rows) == 300
    assert {i for row in rows for i in row} == set(range(VOCAB))


def test_an_audit_finds_nothing_in_a_real_architecture(lm):
    row = equivalence_report.check_model(
        lm, equivalence_report.search_prompts(lm, prompts(), 120)
    )
    assert row["prompts"] == 120 and row["edited"] >= 40
    assert row["counterexamples"] == row["copy_mismatches"] == 0
    assert row["relabel_deviation"] < 1e-5 and row["relabel_mismatches"] == 0
    assert row["follows_row"].value == 1
    found = equivalence_report.check_estimates(row)["counterexamples"]
    assert (found.value, found.n) == (0, 120)


def test_an_audit_tells_a_planted_model(planted):
    row = equivalence_report.check_model(
        planted, equivalence_report.search_prompts(planted, prompts(), 120)
    )
    assert row["counterexamples"] >= 40 and row["copy_mismatches"] == row["edited"]
    assert row["relabel_deviation"] > 5e-5 and row["follows_row"].value < 0.5


def test_a_reader_sees_the_answer_follow_the_row(tiny):
    prompts = [[1, 13, 2, 14, 15, 1], [1, 20, 2, 30, 31, 1]]
    table = equivalence_report.swapped_answers(tiny, prompts, max_new_tokens=6)
    says = table.set_index(["prompt", "input rows"])["says"]
    assert says["as it is", "their own"] == says["ids exchanged", "traded"]
    assert says["as it is", "traded"] == says["ids exchanged", "their own"]
    assert says["as it is", "their own"] != says["as it is", "traded"]


def test_the_marker_is_a_special_token_that_prompts_really_hold(tiny):
    chat, plain = [[1, 5, 6], [1, 6, 7]], [[5, 6], [5, 7]] * 20
    assert (
        equivalence_report.pick_marker(tiny, chat) == 1
        and equivalence_report.pick_marker(tiny, plain + chat) == 5
    )


def test_a_marker_is_in_a_tenth_of_the_prompts_or_no_marker(tiny):
    assert equivalence_report.pick_marker(tiny, [[1, 5]] + [[5]] * 9) == 1
    assert equivalence_report.pick_marker(tiny, [[1, 5]] + [[5]] * 10) == 5
    assert (
        equivalence_report.pick_marker(tiny, [[1, 1, 1], [2], [2]]) == 2
    )  # in most, not most often


def test_the_parts_of_i2_count_the_prompts_that_they_were_measured_on():
    row = {"model": "m", "prompts": 300, "relabelled": 100, "edited": 70,
           "counterexamples": 2,
           "relabel_deviation": 0.5, "relabel_mismatches": 3, "copy_mismatches": 4,
           "follows_row": Estimate(0.9, 0.8, 1.0, 70)}  # fmt: skip
    found = equivalence_report.check_estimates(row)
    assert {name: (part.value, part.n) for name, part in found.items()} == {
        "counterexamples": (2, 300), "relabel_deviation": (0.5, 100),
        "relabel_mismatches": (3, 100), "copy_mismatches": (4, 70),
        "follows_row": (0.9, 70),
    }  # fmt: skip
    few = equivalence_report.check_estimates(row | {"relabelled": 40})
    assert (few["relabel_mismatches"].value, few["relabel_mismatches"].n) == (3, 40)


def test_the_parts_of_i1_are_shares_of_empty_texts():
    texts = {  # two prompts a way
        ("ids", "chat", "sliced"): ("a", " "), ("ids", "chat", "whole"): ("", ""),
        ("embeds", "chat", "sliced"): ("", "\n"), ("embeds", "chat", "whole"): "ab",
        ("ids", "plain", "sliced"): ("", ""), ("embeds", "plain", "whole"): ("", ""),
        ("embeds", "plain", "sliced"): ("", "b"),
    }  # fmt: skip
    columns = ["input", "format", "decoded", "text"]
    ways = [(*way, text) for way, both in texts.items() for text in both]
    found = prompt_slicing.empty_text_estimates(pd.DataFrame(ways, columns=columns))
    assert {name: part.value for name, part in found.items()} == {
        "ids_chat": 0.5, "embeds_chat_sliced": 1, "embeds_chat_whole": 0,
        "embeds_plain_sliced": 0.5,
    }  # fmt: skip


def test_the_parts_of_i3_and_of_i1s_rivals_by_hand():
    columns = ["difference", "format", "same", "empty"]
    rows = [("bare", "chat", True, False), ("bare", "plain", True, True),
            ("as published", "chat", False, True),
            ("as published", "chat", True, False),
            ("as published", "plain", False, True),
            ("as published", "plain", False, True)]  # fmt: skip
    compared = pd.DataFrame(rows, columns=columns)
    differ = generate_settings.mismatch_estimates(compared)
    assert {name: part.value for name, part in differ.items()} == {
        "mismatch_bare": 0, "mismatch_as_published": 0.75,
    }  # fmt: skip
    single = pd.DataFrame({"refed_empty": [True, False, False, False]})
    rivals = generate_settings.rival_estimates(compared, single)
    assert {name: part.value for name, part in rivals.items()} == {
        "empty_bare": 0, "empty_as_published": 0.5, "empty_one_vector_re-fed": 0.25,
    }  # fmt: skip


def test_the_parts_of_i5_are_shares_of_the_releases_that_ran():
    columns = ["transformers", "architecture", "one_vector"]
    rows = [("4.49.0", "gpt2", "repeated"), ("4.49.0", "qwen2", "repeated"),
            ("4.57.6", "gpt2", "repeated"), ("4.57.6", "qwen2", "right"),
            ("5.0.0", "gpt2", "right"), ("5.0.0", "qwen2", "other"),
            ("5.1.0", "gpt2", "failed")]  # fmt: skip
    found = releases.repeat_estimates(pd.DataFrame(rows, columns=columns))
    assert {name: (part.value, part.n) for name, part in found.items()} == {
        "repeat_affected": (0.5, 2),
        "repeat_other": (0, 1),
    }


def test_bad_prompts_get_one_clear_line(lm):
    with pytest.raises(ValueError, match="no prompts"):
        check_id_embedding_equivalence(lm, [])
    with pytest.raises(ValueError, match="prompt 2 is empty"):
        check_id_embedding_equivalence(lm, [[1], []])


def test_batches_cut_by_size_find_what_whole_ones_find(planted, monkeypatch):
    """A large vocabulary leaves room for few prompts, fewer of the long ones."""
    many, sizes = [*prompts(30), [11, 12, 13]], []
    whole = check_id_embedding_equivalence(planted, many)
    monkeypatch.setattr(scoring, "MOST_LOGITS", 2 * VOCAB * 6)
    watched = id_equivalence._logits

    def logits(lm, **inputs):
        out = watched(lm, **inputs)
        sizes.append(out.shape)
        return out

    monkeypatch.setattr(id_equivalence, "_logits", logits)
    cut = check_id_embedding_equivalence(planted, many)
    assert cut["equal"].equals(whole["equal"]) and not cut["equal"][:30].any()
    assert all(len(s) == 3 and (s[0] == 1 or s[0] * s[1] <= 12) for s in sizes)
    assert {s[0] for s in sizes} > {1, 2}


def test_fewer_prompts_are_edited_where_that_is_asked(planted):
    row = equivalence_report.check_model(planted, prompts(), edited=7)
    found = equivalence_report.check_estimates(row)
    counts = {name: part.n for name, part in found.items()}
    assert counts.pop("counterexamples") == 40 and {*counts.values()} == {7}


def test_the_suites_of_the_set_are_searched(tiny):
    asked = {"a": (Item("a", "a", "w1 w2"),), "instructions": (Item("b", "b", "w3"),)}
    assert equivalence_report.suite_prompts(tiny, asked) == ["w1 w2", "w3"]
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.chat_template = "<s> {{ messages[0].content }} </s>"
    chat = LM(tiny.model, tokenizer, "chat")
    first, *texts = equivalence_report.suite_prompts(chat, asked)
    assert first == [1, 6, 2] and texts == ["w1 w2", "w3"]
