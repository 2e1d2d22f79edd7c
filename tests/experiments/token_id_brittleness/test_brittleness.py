"""Perturbed chat prompts: only what is named is touched; rates and radii are right."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from experiments import hf_reference
from experiments.prompts import Item
from experiments.token_id_brittleness import dose_response, noise_radius, perturbations
from harness import claims, judge, wording
from helpers.batching import next_logits
from helpers.decode import generate_concepts
from helpers.mixture import MixtureConfig
from helpers.models import LM
from tests.tiny import unchecked

TEMPLATE = "{% for m in messages %}<s> w90 {{ m.content }} </s> {% endfor %}<s> w91"


@pytest.fixture(scope="module")
def chat(tiny):
    tokenizer = copy.deepcopy(tiny.tokenizer)
    tokenizer.chat_template = TEMPLATE
    return LM(tiny.model, tokenizer, "tiny chat")


def item(prompt, answer="w5"):
    return Item(prompt, "s", prompt, answer, accepted=(answer,))


@pytest.fixture(scope="module")
def part(chat):
    return perturbations.locate_markers(chat, [item("w10 w11 w12 w13")])[0]


def test_a_prompt_is_taken_apart(part):
    assert part.ids == [1, 93, 13, 14, 15, 16, 2, 1, 94]
    assert part.positions["markers"] == [0, 6, 7]
    assert len(part.positions["instruction words"]) == 3
    assert set(part.positions["instruction words"]) <= {2, 3, 4, 5}
    assert part.positions["template words"] == [1, 8]


def test_an_instruction_that_the_template_also_holds_is_found_once(chat):
    part = perturbations.locate_markers(chat, [item("w90")])[0]
    assert part.positions["instruction words"] == [2]


def test_a_template_without_markers_is_refused(tiny, chat):
    plain = LM(tiny.model, copy.deepcopy(chat.tokenizer), "plain")
    plain.tokenizer.chat_template = "w1 {{ messages[0].content }}"
    with pytest.raises(ValueError, match="no special tokens"):
        perturbations.locate_markers(plain, [item("w10")])


@pytest.mark.parametrize("kind", perturbations.KINDS)
def test_noise_touches_one_kind_and_has_the_size_it_says(chat, part, kind):
    clean = perturbations.unchanged(chat, part)
    moved = perturbations.with_noise(chat, part, kind, 2.0, [0, 1]) - clean
    untouched = [i for i in range(len(clean)) if i not in part.positions[kind]]
    assert (moved[untouched] == 0).all()
    rms = clean.pow(2).mean(-1).sqrt()[part.positions[kind]]
    size = moved[part.positions[kind]].pow(2).mean(-1).sqrt() / rms
    assert (size > 1).all() and (size < 3).all()
    assert torch.equal(perturbations.with_noise(chat, part, kind, 0.0, [0, 1]), clean)


def test_noise_keeps_its_direction_over_doses(chat, part):
    clean = perturbations.unchanged(chat, part)
    one, two = (
        perturbations.with_noise(chat, part, "markers", d, [3, 4]) - clean
        for d in (1.0, 2.0)
    )
    assert torch.allclose(2 * one, two, atol=1e-5)


def test_mixing_ends_on_another_ordinary_token(chat, part):
    mixed = perturbations.interpolated(chat, part, "markers", 1.0, [0, 0])
    for i in part.positions["markers"]:
        row = (chat.embed == mixed[i]).all(-1).nonzero()
        assert len(row) == 1 and row.item() not in perturbations.special_token_ids(chat)
    still = perturbations.interpolated(chat, part, "markers", 0.0, [0, 0])
    assert torch.equal(still, perturbations.unchanged(chat, part))


def test_exchanging_and_deleting(chat, part):
    e = chat.embed
    turned = perturbations.with_swapped_tokens(chat, part, "markers")
    assert torch.equal(turned, e[[2, 93, 13, 14, 15, 16, 1, 2, 94]])
    words = perturbations.with_swapped_tokens(chat, part, "instruction words")
    a, b = part.positions["instruction words"][:2]
    ids = list(part.ids)
    ids[a], ids[b] = ids[b], ids[a]
    assert torch.equal(words, e[ids])
    left = perturbations.with_tokens_removed(chat, part, "markers")
    assert torch.equal(left, e[[93, 13, 14, 15, 16, 94]])


def test_markers_as_text_are_no_markers(chat, part):
    plain = perturbations.with_markers_as_text(
        chat, part, perturbations.plain_words_for(chat)
    )
    rows = [(chat.embed == row).all(-1).nonzero()[0].item() for row in plain]
    assert not {1, 2} & set(rows) and 93 in rows and len(rows) > len(part.ids)


def frame(curves, doses=(0.0, 1.0, 2.0, 4.0)):
    """A dose-response table: kind -> one 0/1 row an item, over four doses."""
    rows = [
        {"kind": kind, "item": i, "dose": d, "followed": bool(f)}
        for kind, items in curves.items()
        for i, item in enumerate(items)
        for d, f in zip(doses, item)
    ]
    return pd.DataFrame(rows)


STEP = [[1, 1, 0, 0]] * 20
LATE = [[1, 1, 1, 0]] * 20
NEVER = [[1, 1, 1, 1]] * 20
SLOPE = [[1, 1, 0, 0]] * 10 + [[1, 1, 1, 0]] * 10


def test_a_radius_is_where_half_is_lost():
    table = frame({"markers": STEP, "template words": LATE, "other": NEVER})
    assert noise_radius.noise_radius(table, "markers").value == 1.5
    assert noise_radius.noise_radius(table, "template words").value == 3.0
    assert noise_radius.noise_radius(table, "other").value == 4.0
    assert noise_radius.noise_radius_ratio(table).value == 0.5
    mixed = noise_radius.noise_radius(frame({"markers": SLOPE}), "markers")
    assert mixed.value == 2.0 and mixed.low < 2.0 < mixed.high


def test_a_radius_that_no_dose_reached_says_so():
    table = frame({"markers": NEVER, "template words": LATE})
    censored = {k: noise_radius.radius_censored(table, k) for k in table.kind.unique()}
    assert censored == {"markers": True, "template words": False}
    told = noise_radius.radius_table(table, 0).iloc[:, 1].tolist()
    assert told == [">= 4.00", "3.00"]
    assert noise_radius.noise_radius_ratio(table).value == pytest.approx(4 / 3)


def test_parts_of_the_claim_are_all_there():
    doses = (0.0, 0.25, 2.0, 4.0)
    table = frame({"markers": SLOPE, "template words": LATE}, doses)
    names = dict(zip(doses, ("as it is", "in plain words", "exchanged", "mixed 50%")))
    edited = table.rename(columns={"dose": "edit"}).replace({"edit": names})
    found = noise_radius.noise_estimates(table, edited)
    assert {n for n in claims.rule_parts("I4") if n != "format"} <= found.keys()
    assert found["format_paraphrased"].value == 1 and found["format@2"].value == 0.5
    assert found["markers_mixed_50"].value == 0
    never = frame({"markers": NEVER, "template words": LATE}, doses)
    assert "step_share" not in noise_radius.noise_estimates(never, edited)
    nothing = noise_radius.noise_estimates(
        frame({"markers": [[0] * 4] * 20}, doses), edited
    )
    assert nothing.keys() == {f"format@{dose:g}" for dose in doses}


def test_a_step_is_told_from_a_slope():
    assert noise_radius.step_share(frame({"markers": STEP})).value == 1.0
    assert noise_radius.step_share(frame({"markers": SLOPE})).value == 0.5
    with pytest.raises(ValueError, match="noise on markers does not lower the rate"):
        noise_radius.step_share(frame({"markers": NEVER}))


def test_a_rate_is_compared_with_the_clean_one_item_by_item():
    table = frame({"markers": SLOPE})
    half = noise_radius.share_of_clean(table, "dose", 0.0, 2.0)
    assert half.value == 0.5 and half.low < 0.5 < half.high and half.n == 20


def test_small_noise_is_told_from_large_and_kinds_from_each_other():
    doses = (0.0, 0.25, 1.0, 2.0)
    few = frame({"markers": [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0],
                             [0, 0, 0, 0]],
                 "template words": [[1, 1, 1, 0]] * 5}, doses)  # fmt: skip
    names = dict(zip(doses, ("as it is", "in plain words", "exchanged", "mixed 25%")))
    edited = few.rename(columns={"dose": "edit"}).replace({"edit": names})
    found = {
        name: part.value
        for name, part in noise_radius.noise_estimates(few, edited).items()
    }
    # the markers' rates are 0.8, 0.4, 0.2, 0: half is gone at 0.25, at 1.5 for words
    assert found == pytest.approx({
        "format@0": 0.8, "format@0.25": 0.4, "format@1": 0.2, "format@2": 0,
        "format_small": 0.5, "step_share": 0.5, "radius_ratio": 0.25 / 1.5,
        "radius_markers": 0.25, "radius_template_words": 1.5,
        "radius_censored_markers": 0, "radius_censored_template_words": 0,
        "markers_mixed_25": 0, "template_words_in_plain_words": 1,
        "template_words_exchanged": 1, "template_words_mixed_25": 0,
        "format_paraphrased": 0.5, "format_exchanged": 0.25, "largest_dose": 2,
    })  # fmt: skip


def test_the_divergence_goes_from_the_clean_distribution(chat, part, monkeypatch):
    clean = perturbations.unchanged(chat, part)

    def answer(lm, rows, new_tokens):
        p = torch.zeros(len(rows), 100)
        for row, x in zip(p, rows):  # ids 2, the end token, and 5
            still = torch.equal(x, clean)
            row[[2, 5]] = torch.tensor([0.5, 0.5] if still else [0.25, 0.75])
        return p.log(), [[8, 2]] * len(rows)

    monkeypatch.setattr(dose_response, "answer", answer)
    undisturbed = dose_response.answer_undisturbed(chat, [part])
    rows = dose_response.respond_to_noise(undisturbed, (0.0, 1.0), ["markers"])
    # 1/2 ln 2 + 1/2 ln 2/3; the other way round it is 1/4 ln 1/2 + 3/4 ln 3/2
    assert rows.kl.tolist() == pytest.approx([0, np.log(4 / 3) / 2], abs=1e-6)
    assert rows.p_end.tolist() == pytest.approx([0.5, 0.25])


def test_what_is_not_disturbed_is_what_the_rule_would_not_judge():
    rule = claims.claim_row("I4")["rule"]
    assert f"value_between(format@0, {dose_response.LEAST_FOLLOWED}, 1)" in rule


def test_the_whole_sweep_on_a_tiny_model(chat, monkeypatch):
    parts = perturbations.locate_markers(
        chat, [item(f"w{i} w{i + 1} w{i + 2}") for i in range(4)]
    )
    monkeypatch.setattr(dose_response, "LEAST_FOLLOWED", 0)
    undisturbed = dose_response.answer_undisturbed(chat, parts)
    doses = dose_response.respond_to_noise(undisturbed, doses=(0.0, 1.0))
    assert len(doses) == 4 * 2 * 3
    clean = doses[doses["dose"] == 0.0]
    assert np.allclose(clean["kl"], 0, atol=1e-5)
    assert (doses[doses["dose"] == 1.0]["kl"] > 1e-4).all()
    edits = dose_response.respond_to_edits(undisturbed, shares=(0.5,))
    always = {"as it is", "mixed 50%", "exchanged", "deleted"}
    text = {"in plain words", "spelled out"}
    assert set(edits[edits["kind"] == "markers"]["edit"]) == always | text
    assert set(edits[edits["kind"] != "markers"]["edit"]) == always
    rates = noise_radius.rate_table(edits, ["kind", "edit"], "p_end")
    assert rates["n"].eq(4).all() and rates["value"].between(0, 1).all()


class Heeds(nn.Module):
    """Answers in format while the rows it heeds are near enough; else never ends.

    heeded: how many positions must hold which ids, and how far off each may be, in
    norms of its row. graded: each prompt has a share of that of its own.
    """

    def __init__(self, lm, heeded, graded):
        super().__init__()
        self.model, self.embed, self.heeded, self.graded = (
            lm.model,
            lm.embed,
            heeded,
            graded,
        )
        self.config, self.generation_config = (
            lm.model.config,
            lm.model.generation_config,
        )
        self.get_input_embeddings = lm.model.get_input_embeddings

    def forward(self, inputs_embeds=None, position_ids=None, **inputs):
        out = self.model(
            inputs_embeds=inputs_embeds, position_ids=position_ids, **inputs
        )
        says = 8  # the gold answer, "w5", then the end; 50 where it does not follow
        if inputs_embeds.shape[1] == 1:
            says = 2
            if len(inputs_embeds) < len(self.follows):  # those that ended were dropped
                self.follows = self.follows.new_zeros(len(inputs_embeds))
        else:
            self.follows = torch.ones(len(inputs_embeds), dtype=torch.bool)
            share = (inputs_embeds[:, 3].sum(-1).abs() * 1e3) % 1 if self.graded else 1
            for ids, count, within in self.heeded:
                rows = self.embed[ids]
                away = (inputs_embeds[:, :, None] - rows).norm(dim=-1) / rows.norm(
                    dim=-1
                )
                near = (
                    away.amin(-1) <= torch.as_tensor(within * share + 1e-6).view(-1, 1)
                ).sum(1)
                self.follows &= near >= count
        out.logits[:, -1, :] -= 1e4
        out.logits[self.follows, -1, says] += 2e4
        out.logits[~self.follows, -1, 50] += 2e4
        return out


MARKERS, TEMPLATE_WORDS = ([1, 2], 3), ([93, 94], 2)  # ids, how many of them


@pytest.mark.parametrize(
    "heeded,graded,verdict",
    [
        ([(*MARKERS, 0.1)], False, "reproduced"),  # met exactly, or not at all
        ([(*MARKERS, 5), (*TEMPLATE_WORDS, 3)], True, "not reproduced"),
        ([(*TEMPLATE_WORDS, 3)], True, "not tested"),  # deaf to markers
    ],
    ids=["exact markers", "all alike", "deaf to markers"],
)
def test_planted_readers_of_markers_get_their_verdicts(chat, heeded, graded, verdict):
    lm = LM(unchecked(Heeds(chat, heeded, graded)), chat.tokenizer, "planted")
    words = [f"w{i} w{i + 1} w{2 * i % 80} w7" for i in range(8, 68)]
    marked = perturbations.locate_markers(lm, [item(w) for w in words])
    kinds = ("markers", "template words")
    undisturbed = dose_response.answer_undisturbed(lm, marked)
    doses = dose_response.respond_to_noise(undisturbed, kinds=kinds)
    edited = dose_response.respond_to_edits(undisturbed, (1.0,), ("markers",))
    found = noise_radius.noise_estimates(doses, edited)
    rows = [claims.measured("I4", n, part, cell="m") for n, part in found.items()]
    if graded:  # as on mini models
        rows = [row for row in rows if row["part"] != "format_paraphrased"]
        reason = noise_radius.UNSEEN_PARAPHRASE
        rows.append(claims.not_tested("I4", reason, "format_paraphrased", "m"))
    assert judge.judge("I4", rows, "mini").verdict == verdict


WITH_SYSTEM = (
    "{% if messages[0].role != 'system' %}<s> w90 w70 w71 w72 </s> {% endif %}"
    "{% for m in messages %}<s> {{ 'w90' if m.role == 'system' else 'w91' }} "
    "{{ m.content }} </s> {% endfor %}<s> w92"
)


@pytest.mark.parametrize("takes_system_turns", [True, False])
def test_a_system_prompt_of_the_templates_own_holds_no_role_names(
    tiny, chat, takes_system_turns
):
    """As in SmolLM2's and Qwen's templates: w70 to w72 would say nothing of markers."""
    template = WITH_SYSTEM
    if not takes_system_turns:
        refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}"
        template = refuse + "{% endif %}" + template
    lm = LM(tiny.model, copy.deepcopy(chat.tokenizer), "with a system prompt")
    lm.tokenizer.chat_template = template
    words = item("w10 w11 w12 w13 w14 w15 w16")
    drawn, template_words = set(), set()
    for seed in range(20):
        part = perturbations.locate_markers(lm, [words], seed)[0]
        drawn |= {part.ids[i] for i in part.positions[perturbations.WITH_ROLES[3]]}
        template_words |= {part.ids[i] for i in part.positions["template words"]}
        markers = [part.ids[i] for i in part.positions["markers"]]
        assert markers == [1, 2, 1, 2, 1]
        assert {part.ids[i] for i in part.positions["instruction words"]} <= {
            *range(13, 20)
        }
    system = set() if takes_system_turns else {73, 74, 75}
    assert drawn == {93, 94, 95} | system
    assert template_words == {93, 94, 95, 73, 74, 75}


def test_a_sentence_follows_the_format_if_it_says_the_right_thing_and_ends(tiny):
    asks = Item("a", "s", "w1", accepted=("w5", "w6 w7"), required=("w8",))

    def follows(text, *ends):
        ids = tiny.tokenizer(text, add_special_tokens=False)["input_ids"]
        return dose_response.follows_format(tiny, [*ids, *ends], asks)

    assert follows("w9 w5 w8", 2) == follows("w8 w6 w7", 2) == (True, True)
    assert follows("w9 w5 w8") == (False, False)  # never ends
    for wrong in ("w8", "w5", "w6 w8 w7", "w55 w8"):
        assert follows(wrong, 2) == (True, False)
    assert follows("w5 w8", 2, 2) == (True, True)


def test_answers_are_those_of_the_loop_though_batches_shrink(chat, monkeypatch):
    """Rows of other lengths and with other ends, so that some leave the batch."""
    generator = torch.Generator().manual_seed(3)
    lengths = [3, 9, 5, 7, 4, 8, 6, 5]
    rows = [
        chat.embed[torch.randint(3, 99, (n,), generator=generator)] for n in lengths
    ]
    config = MixtureConfig(top_k=1, mode="discrete", norm="none")
    trace = generate_concepts(chat, steps=12, config=config, inputs_embeds=rows)
    ends = {trace.tokens[row][step] for row, step in ((1, 0), (7, 4), (0, 8))}
    monkeypatch.setattr(type(chat), "eos_ids", property(lambda _: tuple(ends)))
    sizes = []
    watched = dose_response._keep

    def keep(forward, kept):
        sizes.append(len(kept))
        watched(forward, kept)

    monkeypatch.setattr(dose_response, "_keep", keep)
    logits, found = dose_response.answer(chat, rows, 12)
    cut = [hf_reference.truncate_at_eos(row, tuple(ends)) for row in trace.tokens]
    assert found == cut and sorted({len(row) for row in cut})[-1] == 12
    assert len(sizes) > 1 and sizes == sorted(sizes, reverse=True)
    assert torch.allclose(logits, next_logits(chat, rows), atol=1e-4)


def test_where_few_follow_undisturbed_nothing_is_disturbed_or_judged(chat):
    parts = perturbations.locate_markers(
        chat, [item(f"w{i} w{i + 1}") for i in range(60)]
    )
    undisturbed = dose_response.answer_undisturbed(chat, parts)
    assert undisturbed.rows["followed"].mean() < 0.8 and not undisturbed.judged
    doses = dose_response.respond_to_noise(undisturbed)
    edited = dose_response.respond_to_edits(undisturbed)
    assert set(doses["dose"]) == {0.0} and set(edited["edit"]) == {"as it is"}
    assert noise_radius.radius_table(doses).empty
    found = noise_radius.noise_estimates(doses, edited)
    assert found.keys() == {"format@0"} and found["format@0"].n == 60
    rows = [claims.measured("I4", n, part, cell="m") for n, part in found.items()]
    verdict = judge.judge("I4", rows, "smollm2")
    assert verdict.verdict == "not tested"
    reason = wording.reason_text(verdict)
    assert "the format is not followed even with clean markers" in reason
