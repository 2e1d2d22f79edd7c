"""Notebook 07's instruments on planted models, which lose the second token on cue."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from experiments.frames import fill_frame
from experiments.metrics import js_bits
from experiments.middle_layers import (
    controls,
    dictionary,
    lenses,
    patching,
    patchscopes,
    reading,
)
from experiments.middle_layers.cases import OWN, RELATED, UNRELATED, make_cases
from experiments.middle_layers.states import (
    check_head,
    depth,
    middle,
    read_after,
    read_texts,
    spread,
    stages,
)
from experiments.prompts import Item, sample_open, suites
from experiments.stats import Estimate
from harness import claims, judge
from helpers.batching import next_logits
from helpers.models import LM
from tests.tiny import OneToken, named, unchecked

SIZE, OPENINGS, BLOCKS = 60, 24, 4
NEVER = 99


class FramedOneToken(OneToken):
    """One that takes the pieces of a frame; its "?" is id 0."""

    def __call__(self, text, add_special_tokens=True):
        return super().__call__(text.replace("?", "0"))


class Snap(torch.nn.Module):
    """A block that takes a state to the token's row nearest to it."""

    def __init__(self, table):
        super().__init__()
        self.table = table

    def forward(self, hidden_states):
        return self.table[(hidden_states @ self.table.T).argmax(-1)]


class Follow(torch.nn.Module):
    """A final norm: the log of the mixture of what follows the tokens in a state."""

    def __init__(self, table, follows):
        super().__init__()
        self.table, self.follows = table, follows

    def forward(self, x):
        held = (x @ self.table.T).clamp_min(0)
        held = held / held.sum(-1, keepdim=True).clamp_min(1e-9)
        return (held @ self.follows).clamp_min(1e-9).log()


class Planted(torch.nn.Module):
    """After an opening (ids 1 to 24) two nouns are likely; each has its own end.

    lost_in: the block, from 0, in which all but the heaviest token is forgotten.
    """

    def __init__(self, lost_in: int):
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        rows = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=draw)).Q.contiguous()
        follows = torch.full((SIZE, SIZE), 1e-6)
        for i in range(1, OPENINGS + 1):
            follows[i, 25 + i % 12], follows[i, 25 + (i + 5) % 12] = 0.55, 0.45
        for noun in range(25, 37):
            follows[noun, noun + 15] = 1
        follows[37:, 0] = 1
        self.table = torch.nn.Embedding.from_pretrained(rows)
        self.layers = torch.nn.ModuleList(
            Snap(rows) if i == lost_in else torch.nn.Identity() for i in range(BLOCKS)
        )
        self.norm = Follow(rows, follows / follows.sum(-1, keepdim=True))
        self.head = torch.nn.Linear(SIZE, SIZE, bias=False)
        self.head.weight.data = torch.eye(SIZE)
        self.config = SimpleNamespace(
            num_hidden_layers=BLOCKS,
            _attn_implementation="sdpa",
            max_position_embeddings=99,
        )
        self.config.get_text_config = lambda: self.config
        self.generation_config = SimpleNamespace(eos_token_id=0)
        self.base_model = self

    def get_input_embeddings(self):
        return self.table

    def get_output_embeddings(self):
        return self.head

    def forward(self, inputs_embeds=None, input_ids=None, **_):
        x = self.table(input_ids) if inputs_embeds is None else inputs_embeds
        for block in self.layers:
            x = block(x)
        logits = self.head(self.norm(x))
        return SimpleNamespace(logits=logits, past_key_values=object())


ITEMS = [Item("", "", str(i), template=f"{i % 8}") for i in range(1, OPENINGS + 1)]
LAYERS = range(BLOCKS + 1)
TUNED = {"tuned": lenses.logit_lens()}  # these models need no tuning
KEPT = {"keeps": NEVER, "forgets early": 1, "forgets late": 3}


@pytest.fixture(scope="module", params=list(KEPT))
def planted(request):
    model = Planted(KEPT[request.param]).requires_grad_(False)
    lm = LM(unchecked(model), OneToken(SIZE), request.param)
    cases = make_cases(lm, ITEMS)
    return lm, cases, reading.effect_rows(lm, cases, TUNED, LAYERS)


def verdict(claim, parts):
    """The verdict of a cell in which these parts were measured, 60 times each."""
    rows = [
        claims.measured(
            claim, name, Estimate(e.value, e.low, e.high, max(e.n, 60)), cell="planted"
        )
        for name, e in parts.items()
    ]
    return judge.judge(claim, rows, "mini").verdict


def test_m1_and_m2_find_the_layer_in_which_the_second_token_is_forgotten(planted):
    lm, _, rows = planted
    assert {*rows.kind} == {RELATED, UNRELATED, OWN}
    parts = reading.reading_parts(rows, middle(lm.model))
    m1 = {
        "keeps": "reproduced",
        "forgets early": "not reproduced",
        "forgets late": "partly",
    }
    m2 = {
        "keeps": "not tested",  # the output has lost nothing
        "forgets early": "not reproduced",
        "forgets late": "reproduced",
    }
    assert verdict("M1", parts["M1"][RELATED]) == m1[lm.name]
    assert verdict("M2", parts["M2"][RELATED]) == m2[lm.name]
    lost = reading.lost_table(rows).set_index("kind")
    expected = min(KEPT[lm.name], BLOCKS) + 1
    judged = lost[lost.w.isin(["0.6", "0.7", "0.8", "0.9"])]
    assert {*judged.loc[RELATED, "lost from layer"]} == {expected}
    assert (judged.low == judged.high).all()


def test_a_reader_that_keeps_the_second_token_reads_more_than_the_model_itself():
    made = [Planted(1), Planted(NEVER)]
    lms = [LM(unchecked(model), OneToken(SIZE), "planted") for model in made]
    compared = [("before", lms[0], ITEMS), ("reader", lms[1], ITEMS)]
    table = controls.reader_table(compared, lenses.logit_lens(), 2)
    assert table.value["before", "left, output"] == pytest.approx(0, abs=0.01)
    assert table.value["reader", "left, output"] == pytest.approx(1, abs=0.01)
    assert table.low["reader", "more, output"] > 0.99


def test_what_is_left_is_all_or_nothing(planted):
    lm, _, rows = planted
    whole = reading.left_table(rows[rows.w.isin([0.6, 0.7]) | (rows.kind == OWN)])
    table = whole[(whole.kind == RELATED) & (whole.w == "0.7")].set_index("layer")
    for layer in LAYERS:
        held = float(layer <= KEPT[lm.name])
        assert table.left[layer] == pytest.approx(held, abs=0.01)
        assert table.kept[layer] == pytest.approx(held, abs=0.01)
        assert table.readable[layer] == pytest.approx(1, abs=0.01)
    squares = reading.left_squares({lm.name: whole})
    assert set(squares.panel) == {f"{lm.name}, related", f"{lm.name}, unrelated"}
    assert squares.weight.iloc[-1] == ".7" and "own" in set(squares.weight)


def test_m4_mixing_late_helps_only_where_the_second_token_is_forgotten_before(planted):
    lm, cases, _ = planted
    rows = patching.state_rows(lm, cases, LAYERS[:-1])
    parts = patching.state_parts(rows, middle(lm.model))[RELATED]
    helps = lm.name == "forgets early"
    assert verdict("M4", parts) == ("reproduced" if helps else "not reproduced")
    assert parts["more"].value == pytest.approx(float(helps), abs=0.01)
    left = patching.state_table(rows).query("kind == 'related'").set_index("layer").left
    for layer in LAYERS[:-1]:
        kept = KEPT[lm.name] == NEVER or layer > KEPT[lm.name]
        assert left[layer] == pytest.approx(float(kept), abs=0.01)


class Repeats(Planted):
    """A planted model that answers a state in a frame's slot with the token it is."""

    def __init__(self, lost_in: int):
        super().__init__(lost_in)
        self.norm.follows = torch.eye(SIZE)


@pytest.mark.parametrize("lost_in", [NEVER, 1])
def test_m5_tells_a_state_with_both_tokens_from_one_with_the_top(monkeypatch, lost_in):
    frame = SimpleNamespace(text="1 2 {x}")
    monkeypatch.setitem(patchscopes.FRAMES, "patchscopes", frame)
    source = LM(unchecked(Planted(lost_in)), FramedOneToken(SIZE), "source")
    cases = make_cases(source, ITEMS)
    lm = LM(unchecked(Repeats(lost_in)), FramedOneToken(SIZE), "planted")
    rows = patchscopes.patchscope_rows(lm, cases, LAYERS)
    parts = patchscopes.patchscope_parts(rows, middle(lm.model))
    held = float(lost_in == NEVER)
    assert parts["left_middle"].value == pytest.approx(held, abs=0.01)
    assert parts["alone_middle"].value == parts["alone_embedding"].value == 1
    said = patchscopes.said_table(rows).set_index(["put in at", "answer"])
    assert said.loc[(patchscopes.SAME, "mixture: either"), "share"].min() == 1
    assert said.loc[(patchscopes.SAME, "mixture: second token"), "share"].max() == 0
    assert BLOCKS not in set(said.loc[patchscopes.SAME].layer)


def test_at_the_embeddings_a_patchscope_is_the_frame_of_notebook_02():
    for name in ("mini-gpt2", "mini-qwen2"):
        lm = named(name)
        x = lm.embed[100:104]
        rows = fill_frame(lm, "patchscopes", x)
        own = patchscopes.answers(lm, x, 0)
        assert torch.allclose(own, next_logits(lm, rows), atol=1e-3)
        blank = patchscopes.answers(lm, torch.zeros_like(x), 2)
        assert torch.allclose(blank[0], blank[1], atol=1e-4)


def test_m3_tells_a_union_of_features_from_those_of_one_member(planted):
    lm, cases, _ = planted
    rows = lm.embed
    own = dictionary.Dictionary(
        rows.T, torch.zeros(SIZE), rows, torch.zeros(SIZE), *torch.tensor([1.0, 0.6])
    )
    found = dictionary.feature_rows(lm, cases, {0: own, middle(lm.model): own})
    first = dictionary.feature_parts(found[found.layer == 0], Estimate.exact(0.9, 60))
    assert first[RELATED]["union"].value == 1  # nothing is forgotten yet
    found = found[found.layer > 0]
    parts = dictionary.feature_parts(found, Estimate.exact(0.9, 60))[RELATED]
    early = lm.name == "forgets early"
    assert verdict("M3", parts) == ("partly" if early else "reproduced")
    assert parts["union"].value == (0 if early else 1) and parts["new"].value == 0
    assert parts["union_sum"].value == 1 and parts["union_random"].value < 0.1
    assert (parts["match_sum"].value > 0.99) != early


def test_without_memory_no_state_is_carried_to_later_tokens(planted):
    lm, cases, _ = planted
    assert reading.continuation(lm, cases[0]) is None
    assert patching.carry_rows(lm, cases[:6], LAYERS).empty
    assert reading.effect_rows(lm, cases[:6], TUNED, LAYERS, following=True).empty


def test_at_the_embeddings_a_state_carries_all_and_both_ways():
    lm = named("mini-gpt2")
    cases = make_cases(lm, sample_open(suites("mini"), 10, 0))
    rows = patching.carry_rows(lm, cases, [0, 3])
    rows = rows[rows.kind == RELATED]
    assert len(rows) and (rows.apart > 0).all()
    table = patching.carry_table(rows).pivot(index="layer", columns="way")
    assert table.share.loc[0].tolist() == pytest.approx([1, 1], abs=1e-4)
    assert (table.share.loc[3] < 0.9).all()


def test_the_quick_divergence_is_the_checked_one():
    p, q = torch.rand(2, 5, 300, generator=torch.Generator().manual_seed(0)) ** 8
    p, q = p / p.sum(-1, keepdim=True), q / q.sum(-1, keepdim=True)
    gap = reading.quick_js_bits(p, q).double() - js_bits(p, q)
    assert gap.abs().max() < 1e-5


def test_a_flatter_prediction_is_no_second_token():
    """Only the second token's own continuation counts, not that the top's is less."""
    p_top, p_second, flat = torch.zeros(3, 100)
    p_top[0] = p_second[1] = 1
    flat[:] = 0.01
    f = reading.second_mass(p_top, p_second)
    assert f @ p_second == pytest.approx(1, abs=0.02)
    assert f @ p_top == 0 and f @ flat < 0.02


@pytest.fixture(scope="module", params=["gpt2", "llama", "opt"])
def tiny(request):
    return named(request.param)


def test_the_states_are_the_models_own_and_the_head_reads_the_last(tiny):
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        out = tiny.model(input_ids=ids, output_hidden_states=True, use_cache=False)
    layers = range(depth(tiny.model) + 1)
    states = read_texts(tiny, ids.tolist(), layers)
    for layer in layers[:-1]:  # transformers gives the last one after the final norm
        assert torch.allclose(states[layer], out.hidden_states[layer][0, 1:], atol=1e-5)
    last = stages(tiny.model)[-1](states[-1])
    assert torch.allclose(last, out.hidden_states[-1][0, 1:], atol=1e-5)
    check_head(tiny, ids.tolist())
    fed = tiny.embed[ids[0, 6:9]][None]
    after, logits = read_after(tiny, ids[0, :6].tolist(), fed)
    assert torch.allclose(logits[0], out.logits[0, -1], atol=1e-4)
    assert torch.allclose(after[:, 0], states[:, -1], atol=1e-4)


def test_a_state_carries_the_prediction_at_its_own_place(tiny):
    prefix, fed = list(range(3, 9)), tiny.embed[[20, 30]][:, None]
    states, logits = read_after(tiny, prefix, fed)
    for layer in range(depth(tiny.model)):
        moved = read_after(tiny, prefix, fed, (layer, states[layer].flip(0)))[1]
        assert torch.allclose(moved, logits.flip(0), atol=1e-3)
    later = torch.cat([fed, tiny.embed[[40, 41]].expand(2, -1, -1)], 1)
    plain = read_after(tiny, prefix, later)[1]
    moved = read_after(tiny, prefix, later, (1, states[1].flip(0)))[1]
    assert not torch.allclose(moved, plain.flip(0), atol=1e-3)  # layer 0 stays behind
    moved = read_after(tiny, prefix, later, (0, states[0].flip(0)))[1]
    assert torch.allclose(moved, plain.flip(0), atol=1e-3)


def test_a_tuned_lens_predicts_better_than_none_and_than_one_of_shuffled_states():
    lm = named("mini-gpt2")
    rows = [
        lm.tokenizer(f"The {x} feeds the cat. The cat sees the")["input_ids"]
        for x in ("baker", "farmer", "doctor", "painter", "sailor", "nurse")
    ]
    texts = [r for r in rows if len(r) == len(rows[0])]
    seen = dict(zip([1, 2, 4], read_texts(lm, texts, [1, 2, 4])))
    own = lenses.lens_kinds(lm, seen, 2, steps=20, batch=32)
    tuned = own["tuned"]
    table = lenses.lens_table(lm, own, texts, [1, 2, 4])
    kl = table.pivot(index="layer", columns="lens", values="kl_bits")
    assert (kl.tuned < 0.5 * kl[["logit", "shuffled"]].min(axis=1)).all(), kl
    assert tuned.read(lm, 2, torch.zeros(1, 128)).sum() == pytest.approx(1)


def test_a_dictionary_finds_planted_features_and_says_how_well():
    lm = named("mini-gpt2")
    draw = torch.Generator().manual_seed(0)
    texts = torch.randint(len(lm.embed), (64, 16), generator=draw).tolist()
    how = {"size": 256, "k": 8, "steps": 60, "batch": 256}
    own = dictionary.fit_dictionary(read_texts(lm, texts, [2])[0], **how)
    found = dictionary.quality(lm, own, texts, 2)
    assert found["explained"].value > 0.3 and found["ce_recovered"].value > 0.3
    assert 4 < found["active"].value < 16
    assert torch.allclose(own.decoder.norm(dim=-1), torch.ones(256), atol=1e-5)


def test_layers_are_spread_evenly_with_the_middle_one():
    model = SimpleNamespace(config=SimpleNamespace(num_hidden_layers=30))
    assert spread(model) == [0, 4, 8, 11, 15, 19, 22, 26, 30]
    model.config.num_hidden_layers = 4
    assert spread(model) == [0, 1, 2, 3, 4]


def test_a_model_built_otherwise_is_refused():
    model = torch.nn.Linear(2, 2)
    model.config, model.base_model = SimpleNamespace(num_hidden_layers=2), model
    with pytest.raises(ValueError, match="expected a list of 2 blocks"):
        stages(model)


def test_nothing_is_lost_where_the_lens_cannot_tell():
    index = pd.MultiIndex.from_tuples(
        [(0, "a"), (1, "b")], names=["prompt", "template"]
    )
    wide = {("alone", 0): 0.0, ("alone", 1): 1.0, ("mixed", 0): 0.0, ("mixed", 1): 1.0}
    wide |= {("summed", 0): 1, ("summed", 1): 1, ("whole", 0): 1, ("whole", 1): 1}
    pairs = pd.DataFrame(wide, index=index)
    pairs.columns = pairs.columns.set_names([None, "layer"])
    assert reading.lost_from(pairs).value == 2  # one more than the last layer: never
    assert reading.lost_from(pairs * 0) is None
