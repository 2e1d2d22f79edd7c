"""Three planted readers are told apart; slots, controls and slices are right.

The readers are one-layer modules with a causal LM's interface and a real cache. Their
embeddings are orthonormal, so what a vector mixes can be read off it exactly:

    ignores   skips every position that is not one token's own embedding
    top       takes the likeliest token of each position
    whole     takes each position's whole mixture
"""

from types import SimpleNamespace

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

from experiments import hf_reference, scoring
from experiments.prompts import FRAMES, Item
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
        self.follows[at(NOUNS), at(ENDS)] = 1
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
        if self.reads == "top":
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
        p = torch.where(copied, what, what @ self.follows)
        p = torch.where((last_content < 0)[..., None], torch.ones_like(p), p)
        logits = (p / p.sum(-1, keepdim=True)).clamp_min(1e-9).log()
        logits = logits[:, -logits_to_keep:]
        return SimpleNamespace(logits=logits, past_key_values=cache)


@pytest.fixture(scope="module")
def planted():
    tokenizer = _tokenizer()
    kinds = ("ignores", "top", "whole")
    return {kind: LM(Planted(kind, tokenizer), tokenizer, kind) for kind in kinds}


def _measure(lm):
    """Rows for R1 and R2, and the rank correlation, of one reader."""
    _, score = in_loop.score_bins(in_loop.loop_divergences(lm, SUBJECTS, 1, RAW))
    rows = [
        claims.measured("R1", part, score[part], cell=lm.name)
        for part in ("score", "gain")
    ]
    concepts = stimuli.write_concepts(lm, SUBJECTS, [1] * len(SUBJECTS), RAW)
    items = [Item(prompt, "planted", prompt) for prompt in SUBJECTS]
    wanted = stimuli.reference_answers(lm, items, concepts)
    given = stimuli.conditions(lm, concepts)
    read = scores.read_back(lm, ["instruction", "completion"], given, wanted, 4)
    cells = {way: scores.recall(read, way) for way in ("instruction", "completion")}
    for way, cell in cells.items():
        parts = ("recall", "recall_sliced", "floor", "ceiling")
        where = f"{lm.name}, {way}"
        rows += [claims.measured("R2", part, cell[part], cell=where) for part in parts]
    ranks = scores.member_ranks(lm, "completion", concepts)
    return score, cells, ranks, rows


def test_three_planted_readers_are_told_apart(planted):
    got = {name: _measure(lm) for name, lm in planted.items()}
    verdicts = {
        name: [judge.judge(c, rows, "mini").verdict for c in ("R1", "R2")]
        for name, (*_, rows) in got.items()
    }
    assert verdicts == {
        "ignores": ["reproduced", "reproduced"],
        "top": ["partly", "artefact"],
        "whole": ["not reproduced", "artefact"],
    }
    score = {name: s for name, (s, *_) in got.items()}
    assert score["ignores"]["score"].high < 0.1
    assert score["whole"]["score"].low > 0.99
    assert score["top"]["score"] == score["top"]["score_top"]
    assert 0.1 < score["top"]["score"].value < 0.9
    cell = got["ignores"][1]["completion"]
    assert cell["ceiling"].value == cell["one_hot"].value == 1  # it does read text
    assert cell["recall"].value == 0
    ranks = {
        name: sum(r["mixture"] for r in rows) / len(rows)
        for name, (_, _, rows, _) in got.items()
    }
    assert ranks["whole"] == pytest.approx(1) and ranks["top"] < 0.9


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
    (row,) = readers.fill_frame(worded, way, worded.embed[[token]])
    typed = FRAMES[way].text.replace("{x}", "river")
    expected = worded.embed[[token]] if way == "direct" else _embedded(worded, typed)
    assert torch.equal(row, expected)


def test_a_chat_frame_holds_the_slot_as_often_as_its_text(planted):
    lm = planted["whole"]
    vector = torch.full((1, lm.embed.shape[1]), 7.0)
    (row,) = readers.fill_frame(lm, "selfie", vector)
    assert int((row == 7.0).all(-1).sum()) == FRAMES["selfie"].text.count("{x}") == 5
    (left_out,) = readers.fill_frame(lm, "selfie", vector[:, None][:, :0])
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
        readers.fill_frame(worded, "shouting", worded.embed[:1])
    assert "chat template" in readers.unavailable_reason(worded, "instruction")
    assert readers.unavailable_reason(worded, "completion") == ""
    with pytest.raises(ValueError, match="no chat template"):
        readers.read_in_frame(worded, "instruction", worded.embed[:1])


def test_refed_is_the_loop_that_repeats_its_vector(worded):
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(1))
    (got,) = hf_reference.refeed_each_step(worded, x[:1], 5)
    slow = [
        readers.read_in_frame(worded, "direct", [x[0].expand(n, -1)], 1).ids
        for n in range(1, 6)
    ]
    assert [[[i]] for i in got] == slow


def test_controls_keep_what_they_should_and_nothing_else(planted):
    lm = planted["whole"]
    concepts = stimuli.write_concepts(lm, SUBJECTS[:20], [1] * 20, RAW)
    given = stimuli.conditions(lm, concepts, seed=3)
    assert {len(rows) for rows in given.values()} == {20}
    for b, (mixed, c) in enumerate(zip(given["mixture"], concepts)):
        p, i = c.probs, c.indices
        assert torch.equal(given["one-hot"][b], lm.embed[i[:, 0]])
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


def test_writing_is_scored_between_its_floor_and_the_truth():
    truth = torch.eye(6)[:4] * 0.7 + 0.05
    truth = truth / truth.sum(-1, keepdim=True)
    probs, indices = truth.sort(-1, descending=True)
    exact = one_scale.write_score((probs, indices), truth)
    assert exact.value == pytest.approx(1, abs=1e-6)
    other = truth.roll(1, 0).sort(-1, descending=True)
    assert one_scale.write_score(tuple(other), truth).value < 0.3


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
        "one-hot": 10,
        "runners-up replaced": 0,
        "random vector": 0,
        "left out": 0,
        **tens,
    }
    return [
        {"way": way, "source": source, "item": i, "content": int(i < n), **other}
        for source, n in sources.items()
        for i in range(10)
    ]


def test_recall_is_scaled_by_the_highest_floor_and_only_where_text_is_clear_of_it():
    rows = _read("a", {"mixture": 4, "text": 10, "other prompt": 2})
    cell = scores.recall(rows, "a")
    assert cell["floor"].value == 0.2 and cell["recall"].value == 0.4
    assert cell["ceiling"].value == cell["one_hot"].value == cell["empty_sliced"].value
    assert cell["replaced"].value == cell["recall_sliced"].value == 0
    assert cell["empty"].value == 0 and cell["prompt_length"].value == 7
    assert cell["scaled"].value == pytest.approx(0.2 / 0.8)
    assert "gold" not in cell  # no item has one
    # the ceiling, 0.9, is above the floor's interval, but its own goes down to 0.7
    rows = _read("b", {"mixture": 4, "text": 9, "random vector": 5, "other prompt": 1})
    cell = scores.recall(rows, "b")
    assert (cell["ceiling"].low, cell["floor"].high) == (0.7, 0.8)
    assert cell["ceiling"].value == 0.9 and cell["floor"].value == 0.5
    assert "scaled" not in cell


def test_over_all_ways_each_has_its_own_floor_and_those_not_understood_are_left_out():
    rows = _read("a", {"mixture": 4, "text": 10, "other prompt": 2})
    rows += _read("b", {"mixture": 8, "text": 10, "other prompt": 0, "left out": 1})
    deaf = _read("c", {"mixture": 0, "text": 0, "other prompt": 0})
    found = scores.frame_score(rows + deaf)
    assert found.value == pytest.approx((0.2 + 0.7) / (0.8 + 0.9)) and found.n == 10
    assert scores.frame_score(deaf) is None


def test_loop_scores_by_hand():
    lines = {  # by prompt: mixture, top, runners-up, random, left out, other prompt
        0: (0.1, 0.2, 0.3, 0.5, 0.4, 0.6),
        1: (0.1, 0.4, 0.3, 0.3, 0.4, 0.4),
    }
    names = ("mixture", "top", "runners_up", "random", "left_out", "other")
    rows = [
        {"prompt": b, "p_max": 0.5, **dict(zip(names, x))} for b, x in lines.items()
    ]
    sure = [{**r, "p_max": 0.95, "top": 0.01, "mixture": 9.0} for r in rows]
    table, scores = in_loop.score_bins(rows + sure + [{**rows[0], "p_max": 0.6}])
    assert {k: e.value for k, e in scores.items()} == pytest.approx(
        {
            "score": 0.8,
            "score_top": 0.4,
            "score_runners_up": 0.4,
            "score_random": 0.2,
            "score_left_out": 0.2,
            "gain": 0.4,
        }
    )
    score = scores["score"]  # of the one prompt alone, and of the other
    assert (score.low, score.high) == pytest.approx((1 - 0.1 / 0.4, 1 - 0.1 / 0.6))
    found = {(r["bin"], r["line"]): r for r in table}
    assert {name for name, _ in found} == {
        "0.3-0.5",
        "0.9-1",
    }  # 0.6: of one prompt only
    apart = found["0.3-0.5", "separation"]
    assert apart["value"] == pytest.approx(0.3) and apart["conclusive"]
    assert not found["0.9-1", "score"]["conclusive"]


def test_a_bin_where_top_and_mixture_agree_concludes_nothing():
    rows = [
        {
            "prompt": b,
            "p_max": 0.95,
            "mixture": 0.0,
            "top": 1e-3,
            "other": 0.9,
            "random": 0.5,
            "left_out": 0.5,
            "runners_up": 0.1,
        }
        for b in range(60)
    ]
    table, scores = in_loop.score_bins(rows)
    assert scores == {} and not any(row["conclusive"] for row in table)


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
