"""Four planted readers are told apart; slots, controls and slices are right.

The readers are one-layer modules with a causal LM's interface and a real cache. Their
embeddings are orthonormal, so what a vector mixes can be read off it exactly:

    ignores   skips every position that is not one token's own embedding
    top       takes the likeliest token of each position
    flat      the same, and is the less sure of what follows the more is mixed
    whole     takes each position's whole mixture
"""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    DynamicCache,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
)

from experiments import scoring
from experiments.frames import fill_frame
from experiments.prompts import FRAMES, SUITES, Item
from experiments.stats import Estimate
from experiments.translation import (
    continuations,
    in_loop,
    one_scale,
    readers,
    scores,
    stimuli,
)
from harness import claims, judge
from harness.files import ROOT
from helpers.mixture import MixtureConfig
from helpers.models import LM

SUBJECTS = [f"s{i}" for i in range(60)]  # prompts: what follows is a mixture of nouns
NOUNS = [f"n{i}" for i in range(12)]  # what concept tokens mix
ENDS = [f"e{i}" for i in range(12)]  # what follows a noun, each its own
QWEN = ROOT.parent / "shared" / "tokenizers" / "qwen2.5-1.5b-instruct"
RAW = MixtureConfig.raw()


def _tokenizer():
    split = pre_tokenizers.Whitespace()
    text = " ".join(f.text.replace("{x}", " ") for f in FRAMES.values())
    marks = dict.fromkeys(word for word, _ in split.pre_tokenize_str(text))
    vocab = ["<end>", "<unk>", "user", "answer", *marks, *SUBJECTS, *NOUNS, *ENDS]
    tok = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocab)}, "<unk>"))
    tok.pre_tokenizer = split
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="<end>")
    fast.chat_template = "user {{ messages[0]['content'] }} answer"
    return fast


class Planted(torch.nn.Module):
    """P(next) = the table row of what the last content position holds."""

    def __init__(self, reads: str, tokenizer):
        super().__init__()
        size = len(tokenizer)
        vocab = tokenizer.get_vocab()
        at = lambda names: torch.tensor([vocab[n] for n in names])  # noqa: E731
        draw = torch.Generator().manual_seed(0)
        self.reads = reads
        self.config = GPT2Config(
            n_layer=1,
            n_head=1,
            vocab_size=size,
            n_embd=size,
            bos_token_id=0,
            eos_token_id=0,
        )
        self.config._attn_implementation = "sdpa"
        self.generation_config = SimpleNamespace(eos_token_id=0)
        basis = torch.linalg.qr(torch.randn(size, size, generator=draw)).Q
        self.table = torch.nn.Embedding.from_pretrained(basis.contiguous())
        self.content = torch.zeros(size).index_fill(0, at(SUBJECTS + NOUNS + ENDS), 1)
        # what a frame's last word is answered with, and what follows each content word
        self.follows = torch.full((size, size), 1e-4 / size)
        for noun, end in zip(at(NOUNS), at(ENDS)):  # its own end, or any
            self.follows[noun, at(ENDS)] = 0.3 / len(ENDS)
            self.follows[noun, end] += 0.7
        self.follows[at(ENDS), 0] = 1
        for n, subject in enumerate(at(SUBJECTS).tolist()):
            nouns = at(NOUNS)[torch.randperm(12, generator=draw)[:3]]
            top = 0.4 + 0.25 * n / len(SUBJECTS)
            self.follows[subject, nouns] = torch.tensor([top, 0.9 - top, 0.1])
        self.follows /= self.follows.sum(-1, keepdim=True)

    def get_input_embeddings(self):
        return self.table

    def forward(
        self,
        inputs_embeds,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        use_cache=None,
        logits_to_keep=0,
    ):
        new = inputs_embeds.shape[1]
        x = inputs_embeds[:, None]
        cache = DynamicCache() if past_key_values is None else past_key_values
        x, _ = cache.update(x, x, 0)
        held = (x[:, 0] @ self.table.weight.T).clamp_min(0)
        held = held / held.sum(-1, keepdim=True).clamp_min(1e-9)
        sure = held.max(-1).values
        if self.reads in ("top", "flat"):
            held = torch.nn.functional.one_hot(held.argmax(-1), held.shape[-1]).float()
        total = held.shape[1]
        seen = torch.ones(len(held), new, total, dtype=torch.bool).tril(total - new)
        if attention_mask is not None:
            seen = seen & attention_mask[:, 0].bool()
        is_content = (held @ self.content) > 0.5
        if self.reads == "ignores":
            seen = seen & (held.max(-1).values > 0.99)[:, None]
        place = torch.arange(total).expand_as(seen)
        last = place.where(seen, -1).max(-1).values
        last_content = place.where(seen & is_content[:, None], -1).max(-1).values
        rows = torch.arange(len(held))[:, None]
        what = held[rows, last_content.clamp_min(0)]
        copied = (last != last_content)[..., None]  # a frame: answer with the slot
        after = what @ self.follows
        if self.reads == "flat":
            after = after ** sure[rows, last_content.clamp_min(0)][..., None]
        p = torch.where(copied, what, after)
        p = torch.where((last_content < 0)[..., None], torch.ones_like(p), p)
        logits = (p / p.sum(-1, keepdim=True)).clamp_min(1e-9).log()
        logits = logits[:, -logits_to_keep:]
        return SimpleNamespace(logits=logits, past_key_values=cache)


@pytest.fixture(scope="module")
def planted():
    tokenizer = _tokenizer()
    kinds = ("ignores", "top", "flat", "whole")
    return {kind: LM(Planted(kind, tokenizer), tokenizer, kind) for kind in kinds}


TEMPLATES = [f"template {i % 6}" for i in range(len(SUBJECTS))]


def _record(claim, parts, cell, names):
    """Rows of the parts named, as a notebook records them."""
    return [claims.measured(claim, part, parts[part], cell=cell) for part in names]


def _loop(lm):
    """Divergences after each subject: one step of the loop."""
    return in_loop.loop_divergences(lm, SUBJECTS, 1, RAW, templates=TEMPLATES)


def _measure(lm):
    """Rows for R1 and R2, and the rank correlation, of one reader."""
    (score,) = in_loop.score_cells({lm.name: _loop(lm)}).values()
    rows = _record("R1", score, lm.name, ("score", "gain", "gain_flat"))
    concepts = stimuli.write_concepts(lm, SUBJECTS, [1] * len(SUBJECTS), RAW)
    items = [Item(prompt, "planted", prompt) for prompt in SUBJECTS]
    wanted = stimuli.reference_answers(lm, SUITES, items, concepts)
    given = stimuli.conditions(lm, concepts)
    ways = ["instruction", "completion"]
    read = scores.read_back(lm, ways, given, wanted, 4)
    blank = {"untrained model": given["mixture"]}
    read += scores.read_back(stimuli.untrained_model(lm), ways, blank, wanted, 4)
    cells = {way: scores.recall(read, way) for way in ways}
    for way, cell in cells.items():
        parts = ("recall", "recall_sliced", "floor", "ceiling")
        rows += _record("R2", cell, f"{lm.name}, {way}", parts)
    ranks = scores.member_ranks(lm, "completion", concepts)
    return score, cells, ranks, rows


def test_four_planted_readers_are_told_apart(planted):
    got = {name: _measure(lm) for name, lm in planted.items()}
    verdicts = {
        name: [judge.judge(c, rows, "mini").verdict for c in ("R1", "R2")]
        for name, (*_, rows) in got.items()
    }
    assert verdicts == {
        "ignores": ["reproduced", "reproduced"],
        "top": ["partly", "artefact"],
        "flat": ["partly", "artefact"],
        "whole": ["not reproduced", "artefact"],
    }
    score = {name: s for name, (s, *_) in got.items()}
    assert score["ignores"]["score"].high < 0.1
    assert score["whole"]["score"].low > 0.99
    assert score["whole"]["gain_flat"].low > 0.05
    assert score["top"]["score"] == score["top"]["score_top"]
    assert 0.1 < score["top"]["score"].value < 0.9
    assert score["top"]["gain"].high == pytest.approx(0, abs=1e-6)
    # a flatter prediction is nearer to q, and no nearer than its control
    assert score["flat"]["gain"].low > 0
    assert score["flat"]["gain_flat"].value == pytest.approx(0, abs=1e-6)
    assert score["flat"]["gain_replaced"].high < 0.02
    assert score["flat"]["score"].n == len(SUBJECTS)
    cell = got["ignores"][1]["completion"]
    assert cell["ceiling"].value == cell["recall_top"].value == 1  # it does read text
    assert cell["recall"].value == 0
    ranks = {
        name: sum(r["mixture"] for r in rows) / len(rows)
        for name, (_, _, rows, _) in got.items()
    }
    assert ranks["whole"] == pytest.approx(1) and ranks["top"] < 0.9


def test_write_only_is_judged_beyond_the_top_token(planted):
    loops = {name: _loop(lm) for name, lm in planted.items()}
    wrote = dict.fromkeys(loops, Estimate(0.9, 0.85, 0.95, 60))
    cells = one_scale.write_read_parts(wrote, loops)
    one_hot = dict.fromkeys(loops, Estimate.exact(0, 60))
    names = ("write_excess", "read_excess", "asymmetry")

    def verdict(parts, name):
        rows = _record("R6", parts[name], name, names)
        return judge.judge("R6", rows, "mini").verdict

    assert {name: verdict(cells, name) for name in cells} == {
        "ignores": "reproduced",
        "top": "reproduced",  # it writes mixtures and reads tokens
        "flat": "partly",  # its flatness passes for reading: gain_flat of R1 tells
        "whole": "not reproduced",
    }
    assert cells["whole"]["read_excess"].low > 0.99
    assert cells["top"]["read_excess"].value == pytest.approx(0, abs=1e-6)
    flat = cells["flat"]
    assert flat["read_excess"].value == pytest.approx(flat["read_excess_flat"].value)
    blank = one_scale.write_read_parts(one_hot, loops)  # nothing was written
    assert {verdict(blank, name) for name in blank} == {"not tested"}
    scale = one_scale.scale_frame(cells, loops)
    one_hot_rows = scale[scale["what"] == "writes: one-hot writer"]
    assert len(one_hot_rows) == 4 and not one_hot_rows["value"].any()


@pytest.fixture(scope="module")
def worded():
    """A tiny random GPT-2 with the mini tokenizer: real text, real splits."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "mini-gpt2")
    torch.manual_seed(0)
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    size = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 256}
    config = GPT2Config(vocab_size=len(tokenizer), **size, **ends)
    return LM(GPT2LMHeadModel(config).eval(), tokenizer, "tiny")


def _embedded(lm, text):
    return lm.embed[torch.tensor(lm.tokenizer(text)["input_ids"])]


@pytest.mark.parametrize("way", ["completion", "direct", "patchscopes"])
def test_a_one_hot_slot_is_the_frame_in_text(worded, way):
    """A token " word" in the slot gives the embeddings of the sentence typed out."""
    (token,) = worded.tokenizer(" river")["input_ids"]
    (row,) = fill_frame(worded, way, worded.embed[[token]])
    typed = FRAMES[way].text.replace("{x}", "river")
    expected = worded.embed[[token]] if way == "direct" else _embedded(worded, typed)
    assert torch.equal(row, expected)


def test_a_chat_frame_holds_the_slot_as_often_as_its_text(planted):
    lm = planted["whole"]
    vector = torch.full((1, lm.embed.shape[1]), 7.0)
    (row,) = fill_frame(lm, "selfie", vector)
    assert int((row == 7.0).all(-1).sum()) == FRAMES["selfie"].text.count("{x}") == 5
    (left_out,) = fill_frame(lm, "selfie", vector[:, None][:, :0])
    assert len(left_out) == len(row) - 5


def test_readings_do_not_depend_on_the_batch(worded):
    slots = [_embedded(worded, text) for text in ("river", " cat", "The king", " 7")]
    together = readers.read_in_frame(worded, "completion", slots, 8)
    alone = [readers.read_in_frame(worded, "completion", [slot], 8) for slot in slots]
    assert together.ids == [one.ids[0] for one in alone]
    assert together.prompt_lengths == [one.prompt_lengths[0] for one in alone]


def test_slicing_drops_as_many_new_tokens_as_the_prompt_has(worded):
    got = readers.read_in_frame(
        worded, "direct", [_embedded(worded, "The cat sees")], 9
    )
    (ids,), (length,) = got.ids, got.prompt_lengths
    assert length == len(worded.tokenizer("The cat sees")["input_ids"])
    assert got.texts == [worded.tokenizer.decode(ids, skip_special_tokens=True)]
    kept = worded.tokenizer.decode(ids[length:], skip_special_tokens=True)
    assert got.sliced == [kept] and kept
    short = readers.Reading([[5, 6]], [40], worded.tokenizer)
    assert short.sliced == [""]  # an answer no longer than its prompt is lost whole


def test_unknown_ways_and_missing_templates_are_said_in_one_line(worded):
    with pytest.raises(ValueError, match="way must be one of .* not 'shouting'"):
        fill_frame(worded, "shouting", worded.embed[:1])
    assert "chat template" in readers.unavailable_reason(worded, "instruction")
    assert readers.unavailable_reason(worded, "completion") == ""
    with pytest.raises(ValueError, match="no chat template"):
        readers.read_in_frame(worded, "instruction", worded.embed[:1])


def test_loops_are_counted_after_each_thing_fed(worded):
    prompts = [f"The {who} feeds the" for who in ("baker", "farmer", "king", "queen")]
    after = continuations.follow_up(worded, prompts, 12)
    assert set(after["fed"]) == set(continuations.LOOPS.values()) | {
        "two concept tokens"
    }
    assert after.groupby("fed").size().eq(len(prompts)).all()
    parts = continuations.loop_parts(after)
    excess = parts["loops_excess_top"].value
    wanted = parts["loops_mixture"].value - parts["loops_top"].value
    assert excess == pytest.approx(wanted)


def test_a_penalty_of_one_is_greedy_decoding_and_a_high_one_never_repeats(worded):
    x = torch.randn(3, 1, 32, generator=torch.Generator().manual_seed(1))
    plain = readers.read_in_frame(worded, "direct", list(x), 12).ids
    assert continuations.generate_after(worded, x, 12, 1.0) == plain
    new = continuations.generate_after(worded, x, 12, 1e6)
    assert all(len(set(row)) == len(row) for row in new)


def test_an_untrained_model_is_the_same_class_seeded_and_not_the_model(worded):
    first, again = (stimuli.untrained_model(worded, 5) for _ in range(2))
    assert type(first.model) is type(worded.model)
    assert first.embed.shape == worded.embed.shape
    assert torch.equal(first.embed, again.embed)
    assert not torch.equal(first.embed, worded.embed)


def test_only_mixtures_are_read_back(worded):
    items, concepts = stimuli.choose_stimuli(worded, SUITES, 24)
    assert len(items) == len(concepts) == 24
    assert all((c.probs[:, 0] < stimuli.MIXED).all() for c in concepts)


def test_controls_keep_what_they_should_and_nothing_else(planted):
    lm = planted["whole"]
    concepts = stimuli.write_concepts(lm, SUBJECTS[:20], [1] * 20, RAW)
    given = stimuli.conditions(lm, concepts, seed=3)
    assert {len(rows) for rows in given.values()} == {20}
    for b, (mixed, c) in enumerate(zip(given["mixture"], concepts)):
        p, i = c.probs, c.indices
        assert torch.equal(given["top token"][b], lm.embed[i[:, 0]])
        assert given["left out"][b].shape == (0, lm.embed.shape[1])
        norms = given["random vector"][b].norm(dim=-1), mixed.norm(dim=-1)
        assert torch.allclose(*norms)
        held = given["runners-up replaced"][b] @ lm.embed.T  # orthonormal: the weights
        assert held[0, i[0, 0]] == pytest.approx(p[0, 0].item(), abs=1e-5)
        assert held[0, i[0, 1:3]].abs().max() < 1e-5
    texts = [c.text for c in concepts]
    partners = stimuli.mismatched_indices(texts, seed=3)
    assert all(texts[a] != texts[b] for a, b in enumerate(partners))
    with pytest.raises(ValueError, match="the floor needs two that differ"):
        stimuli.mismatched_indices(["Paris"] * 3)


def test_what_counts_as_read_back():
    assert scoring.contains_answer("It is Paris.", scoring.acceptable_answers(" Paris"))
    assert scoring.contains_answer(
        "the capital of France", scoring.acceptable_answers("Paris")
    )
    assert scoring.contains_answer("twenty-one", scoring.acceptable_answers("21"))
    assert scoring.contains_answer(
        "The cat sees the bread.", ("the cat sees the bread",)
    )
    assert not scoring.contains_answer("14", scoring.acceptable_answers("4"))
    assert not scoring.contains_answer("anything", scoring.acceptable_answers("."))
    assert scoring.count_scripts("Paris, Париж 4") == {"LATIN": 5, "CYRILLIC": 5}


def test_writing_is_scored_between_its_top_token_and_the_truth():
    truth = torch.eye(6)[:4] * 0.7 + 0.05
    truth = truth / truth.sum(-1, keepdim=True)
    probs, indices = truth.sort(-1, descending=True)
    templates = ["a", "a", "b", "b"]
    exact = one_scale.write_excess((probs, indices), truth, templates)
    assert exact.value == pytest.approx(1, abs=1e-6) and exact.n == 4
    alone = torch.eye(6)[:1].expand(4, -1)
    one_hot = one_scale.write_excess((alone, indices), truth, templates)
    assert one_hot.value == one_hot.low == one_hot.high == 0
    other = truth.roll(1, 0).sort(-1, descending=True)
    assert one_scale.write_excess(tuple(other), truth, templates).value > 0  # flatter


def test_the_difference_of_two_estimates_keeps_their_uncertainty():
    a, b = Estimate(0.8, 0.7, 0.9, 50), Estimate(0.5, 0.5, 0.5, 60)
    assert one_scale.difference(a, b) == Estimate(
        pytest.approx(0.3), pytest.approx(0.2), pytest.approx(0.4), 50
    )


def test_a_difference_takes_each_bound_from_the_other_side_of_what_is_taken_off():
    a, b = Estimate(0.8, 0.77, 0.85, 50), Estimate(0.5, 0.38, 0.54, 60)
    # below: 0.03 and 0.04 make 0.05; above: 0.05 and 0.12 make 0.13
    assert one_scale.difference(a, b) == Estimate(
        pytest.approx(0.3), pytest.approx(0.25), pytest.approx(0.43), 50
    )


def _read(way, tens):
    """Ten items a source: in how many of them the content was said."""
    other = {
        "gold": None,
        "second": None,
        "further": None,
        "content_sliced": 0,
        "text": "x",
        "sliced": "",
        "prompt_length": 7,
    }
    sources = {
        "top token": 10,
        "runners-up replaced": 0,
        "random vector": 0,
        "left out": 0,
        "untrained model": 0,
        **tens,
    }
    return [
        {"way": way, "source": source, "item": i, "content": int(i < n), **other}
        for source, n in sources.items()
        for i in range(10)
    ]


def test_recall_stands_beside_the_highest_floor():
    rows = _read("a", {"mixture": 4, "text": 10, "other prompt": 2})
    cell = scores.recall(rows, "a")
    assert cell["floor"].value == 0.2 and cell["recall"].value == 0.4
    assert cell["ceiling"].value == cell["recall_top"].value == 1
    assert cell["replaced"].value == cell["recall_sliced"].value == 0
    assert cell["empty"].value == 0 and cell["empty_sliced"].value == 1
    assert cell["prompt_length"].value == 7
    assert "gold" not in cell  # no item has one
    echo = {"mixture": 4, "text": 9, "other prompt": 0, "untrained model": 5}
    assert scores.recall(_read("b", echo), "b")["floor"].value == 0.5
    table = scores.recall_table({("m", "a"): cell})
    assert table["understood"].tolist() == ["yes"]


def _loop_rows(lines, **changes):
    """Rows of prompts 0, 1, ... with the divergences given by line."""
    controls = dict.fromkeys(("random", "restored", "left_out"), 0.5)
    row = {"step": 1, "p_max": 0.5} | controls | changes
    columns = {**{f"kl_{line}": x for line, x in lines.items()}, **lines}
    size = len(lines["top"])
    return pd.DataFrame(
        {"prompt": range(size), "template": [f"t{b % 2}" for b in range(size)]}
        | dict.fromkeys(row, 0)
        | columns
    ).assign(**row)


def test_loop_scores_by_hand():
    lines = {
        "mixture": [0.1, 0.1],
        "top": [0.2, 0.4],
        "flat": [0.2, 0.2],
        "replaced": [0.3, 0.3],
        "other": [0.6, 0.4],
    }
    told = _loop_rows(lines)
    same = _loop_rows(lines | {"top": [0.01, 0.01], "mixture": [9.0, 9.0]}, p_max=0.95)
    frame = pd.concat([told, same], ignore_index=True)
    (parts,) = in_loop.score_cells({"m": frame}).values()
    wanted = {
        "score": 0.8,
        "score_top": 0.4,
        "score_flat": 0.6,
        "score_replaced": 0.4,
        "score_random": 0.0,
        "score_left_out": 0.0,
        "score_restored": 0.0,
        "gain": 0.4,
        "gain_median": (0.1 / 0.6 + 0.3 / 0.4) / 2,
        "gain_flat": 0.2,
        "gain_flat_median": (0.1 / 0.6 + 0.1 / 0.4) / 2,
        "gain_replaced": 0.4,
        "gain_replaced_median": (0.2 / 0.6 + 0.2 / 0.4) / 2,
        "templates": 2,
    }
    assert {k: e.value for k, e in parts.items()} == pytest.approx(wanted)
    score = parts["score"]  # one template alone, and the other
    assert (score.low, score.high) == pytest.approx((1 - 0.1 / 0.4, 1 - 0.1 / 0.6))
    assert score.n == 2
    assert in_loop.excess(frame).value == pytest.approx(1 - 0.2 / 0.6)
    assert in_loop.excess(frame, "top", "kl").value == 0
    bins = in_loop.score_bins({"m": frame})
    assert list(bins["bin"].unique()) == ["0.3-0.5", "0.9-1"]  # all prompts
    assert len(bins) == 2 * len(in_loop.LINES)


def test_steps_are_cells_of_their_own():
    lines = {"top": [0.4, 0.4], "flat": [0.4, 0.4], "replaced": [0.4, 0.4]}
    lines |= {"other": [0.8, 0.8]}
    first = _loop_rows(lines | {"mixture": [0.0, 0.0]})
    second = _loop_rows(lines | {"mixture": [0.8, 0.8]}, step=2)
    rows = pd.concat([first, second], ignore_index=True)
    cells = in_loop.score_cells({"m": rows})
    assert {k: c["gain"].value for k, c in cells.items()} == pytest.approx(
        {"m, step 1": 0.5, "m, step 2": -0.5}
    )
    excess = in_loop.excess(rows)  # a prompt counts once, with both its steps
    assert excess.value == pytest.approx(0) and excess.n == 2


def test_where_top_and_mixture_agree_nothing_is_concluded():
    lines = dict.fromkeys(("mixture", "flat", "replaced"), [0.0] * 60)
    rows = _loop_rows(lines | {"top": [1e-3] * 60, "other": [0.9] * 60})
    assert in_loop.score_cells({"m": rows}) == {"m, step 1": {}}
    assert in_loop.excess(rows) is None
    assert len(in_loop.score_bins({"m": rows})) == len(in_loop.LINES)  # still drawn
    wrote = {"m": Estimate(0.9, 0.8, 1.0, 60)}
    cells = one_scale.write_read_parts(wrote, {"m": rows})
    assert list(cells["m"]) == ["write_excess"]


def test_the_cyrillic_answer_is_paris_without_its_first_token():
    """The tokenisation fact the notebook states, with the tokenizer it is about."""
    stated = continuations.PARIS
    assert "".join(piece for _, piece in stated[1:]) == "ариж"
    if not QWEN.exists():
        pytest.skip("the Qwen2.5 tokenizer is not at hand")
    tokenizer = AutoTokenizer.from_pretrained(QWEN)
    ids = tokenizer("Париж")["input_ids"]
    assert [(i, tokenizer.decode([i])) for i in ids] == list(stated)
    assert tokenizer.decode(ids[1:]) == "ариж"
