"""Notebook 05's measures on planted readers, whose answers are known beforehand."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from experiments.prefixes import logits_after
from experiments.prompts import Item
from experiments.stats import Estimate
from experiments.weight_rules import paths, reading, rules
from harness import claims, judge
from helpers.batching import prompt_embeds
from helpers.mixture import sharpened
from helpers.models import LM
from tests.tiny import OneToken, named, unchecked

SIZE, OPENINGS = 60, 24


class Cache:
    """Nothing is remembered: what follows depends on the last vector alone."""


class Reader(torch.nn.Module):
    """After an opening (ids 1 to 24) two nouns are likely; each has its own end.

    reads: "whole" predicts the mixture of its members' ends, "top" its top token's.
    """

    def __init__(self, reads: str):
        super().__init__()
        self.reads = reads
        draw = torch.Generator().manual_seed(0)
        basis = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=draw)).Q
        self.table = torch.nn.Embedding.from_pretrained(basis.contiguous())
        self.follows = torch.full((SIZE, SIZE), 1e-6)
        for i in range(1, OPENINGS + 1):
            first, second = 25 + i % 12, 25 + (i + 5) % 12
            self.follows[i, first], self.follows[i, second] = 0.55, 0.45
        for noun in range(25, 37):
            self.follows[noun, noun + 15] = 1
        self.follows[37:, 0] = 1
        self.follows /= self.follows.sum(-1, keepdim=True)
        self.config = SimpleNamespace(
            _attn_implementation="sdpa", max_position_embeddings=99
        )
        self.config.get_text_config = lambda: self.config
        self.generation_config = SimpleNamespace(eos_token_id=0)

    def get_input_embeddings(self):
        return self.table

    def forward(
        self,
        inputs_embeds,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        use_cache=None,
        output_hidden_states=False,
    ):
        held = (inputs_embeds @ self.table.weight.T).clamp_min(0)
        held = held / held.sum(-1, keepdim=True)
        if self.reads == "top":
            held = torch.nn.functional.one_hot(held.argmax(-1), SIZE).float()
        logits = (held @ self.follows).clamp_min(1e-9).log()
        hidden = (logits.softmax(-1) @ self.table.weight,)
        return SimpleNamespace(
            logits=logits, past_key_values=Cache(), hidden_states=hidden
        )


ITEMS = [Item("", "", str(i), template=f"{i % 8}") for i in range(1, OPENINGS + 1)]


@pytest.fixture(scope="module", params=["whole", "top"])
def reader(request):
    return LM(unchecked(Reader(request.param)), OneToken(SIZE), request.param)


def verdict(claim, parts):
    """The verdict of a cell in which these parts were measured, 60 times each."""
    rows = []
    for name, e in parts.items():
        many = Estimate(e.value, e.low, e.high, max(e.n, 120))
        rows.append(claims.measured(claim, name, many, cell="planted"))
    return judge.judge(claim, rows, "mini").verdict


def test_w3_tells_a_reader_of_the_whole_mixture_from_one_of_its_top_token(reader):
    parts = reading.reading_parts(reading.reading_rows(reader, ITEMS))["W3"]
    for rule in (rules.OWN, rules.SOFT, "CIPHER"):
        whole = reader.name == "whole"
        assert verdict("W3", parts[rule]) == ("not reproduced", "reproduced")[not whole]
        found = parts[rule]["from_top"].value
        expected = parts[rule]["from_top_whole"].value if whole else 0
        assert found == pytest.approx(expected, abs=0.01)


def test_w2_compares_gains_and_a_whole_reader_gains_by_every_rule(reader):
    frame = reading.reading_rows(reader, ITEMS)
    parts = reading.reading_parts(frame)["W2"]
    assert set(parts) == set(rules.weight_rules())
    assert "more" not in parts[rules.OWN]
    for rule in (rules.RESTORED, rules.DIVIDED):
        # the same weights, and readers that do not hear a norm
        assert parts[rule]["more"].value == pytest.approx(0, abs=1e-6)
        assert verdict("W2", parts[rule]) == "reproduced"
    cells = reading.judged({"W2": parts})
    assert [rule for _, rule, _ in cells] == list(rules.weight_rules())[1:]
    gain = parts[rules.OWN]["gain"]
    assert (gain.low > 0.05) == (reader.name == "whole")
    if reader.name == "whole":
        assert parts[rules.OWN]["score"].value == pytest.approx(1, abs=0.01)


def test_w2_says_no_where_a_rule_is_read_better():
    """The write-up's is read as its top token, another rule's as the whole mixture."""
    base = {"draw": 0, "p_max": 0.5, "other": 0.8, "top": 0.2, "dropped": 0.0}
    base |= {"from_top": 0.0, "second": 0.9, "whole": 0.2}
    rows = [
        base | {"rule": rule, "prompt": b, "template": f"{b % 8}", "mixture": left}
        for b in range(60)
        for rule, left in ((rules.OWN, 0.2), ("CIPHER", 0.0))
    ]
    parts = reading.reading_parts(pd.DataFrame(rows))["W2"]["CIPHER"]
    assert parts["more"].value == pytest.approx(0.25) and parts["more"].n == 60
    assert verdict("W2", parts) == "not reproduced"


def test_prompts_that_cannot_tell_leave_nothing_to_judge():
    base = {"draw": 0, "p_max": 1.0, "other": 0.8, "top": 0.0, "mixture": 0.0}
    base |= {"from_top": 0.0, "second": 0.0, "whole": 0.0, "dropped": 0.0}
    rows = [base | {"rule": rules.OWN, "prompt": b, "template": "t"} for b in range(9)]
    parts = reading.reading_parts(pd.DataFrame(rows))
    assert parts == {"W2": {rules.OWN: {}}, "W3": {rules.OWN: {}}}
    assert reading.judged(parts) == [("W3", rules.OWN, {})]


def test_a_figure_shows_no_point_of_a_few_prompts():
    few, some = Estimate(0.5, 0.4, 0.6, 4), Estimate(0.2, 0.1, 0.3, 40)
    parts = {"m": {rules.OWN: {"gain": some}, "CIPHER": {"gain": few}, "Gumbel": {}}}
    (row,) = reading.part_rows(parts, {"gain": "x"}).to_dict("records")
    own = {"rule": rules.OWN, "line": "m: x", "value": 0.2, "low": 0.1, "high": 0.3}
    assert row == own | {"n": 40}


def test_predictions_from_a_shared_prompt_are_those_of_whole_sequences():
    """One prompt read once, its cache repeated, against every sequence on its own."""
    lm, ids = named("qwen2"), "w1 w2 w3"
    fed = lm.embed[[5, 9, 40]] * 1.5
    embeds, _ = prompt_embeds(lm, ids)
    found = logits_after(lm, [embeds[0]], [0] * len(fed), fed).softmax(-1)
    for row, vector in zip(found, fed):
        sequence = torch.cat([embeds, vector[None, None]], dim=1)
        logits = lm.model(inputs_embeds=sequence).logits[0, -1]
        assert torch.allclose(row.float(), logits.softmax(-1), atol=1e-5)


def test_every_rule_is_greedy_at_temperature_zero_and_a_wrong_one_is_counted(
    monkeypatch,
):
    lm, prompts = named("llama"), [f"w{i} w{i + 1}" for i in range(8)]
    found = rules.mismatches(lm, prompts, 6)
    assert set(found) == {*rules.weight_rules(), rules.SAMPLED}
    assert {parts["mismatch"].value for parts in found.values()} == {0}

    def last(logits, config):
        probs, indices = sharpened(logits, config)
        return probs, indices.flip(-1)

    wrong = rules.weight_rules()[rules.OWN][0], last
    monkeypatch.setattr(rules, "weight_rules", lambda seed=0: {"wrong": wrong})
    monkeypatch.setattr(rules, "sampling", lambda seed=0: wrong)
    assert rules.mismatches(lm, prompts, 6)["wrong"]["mismatch"].value == 8


def test_paths_of_a_reader_of_top_tokens_are_greedy_without_noise():
    """Its chain under any mixture is greedy's; noise names the other noun half of the
    time, whose end follows."""
    lm = LM(unchecked(Reader("top")), OneToken(SIZE), "top")
    rows = paths.path_rows(lm, ITEMS, 2, draws=3)
    means = rows.groupby("kind").agreement.mean()
    assert means[[rules.OWN, rules.SOFT, "CIPHER", rules.RESTORED]].tolist() == [1] * 4
    assert 0.3 < means["Gumbel"] < 0.9 and 0.3 < means[rules.SAMPLED] < 0.9
    parts = paths.path_parts(rows)
    assert set(parts) == set(rules.DRAWN)
    assert verdict("W4", parts["Gumbel"]) == "reproduced"
    steps = paths.path_steps({"top": rows}, (rules.OWN, "Gumbel"))
    assert set(steps.step) == {2} and set(steps.kind) == {rules.OWN, "Gumbel"}


def test_a_path_ends_where_greedy_decoding_ends():
    """A noun, its end, the end token: steps 2 and 3 of six are compared."""
    lm = LM(unchecked(Reader("top")), OneToken(SIZE), "top")
    rows = paths.path_rows(lm, ITEMS, 6, draws=1)
    assert set(rows[rows.kind == rules.OWN].equal) == {(True, True)}
