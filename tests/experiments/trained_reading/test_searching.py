"""Graphs, the models that search them in thoughts, and planted ones in their place."""

import copy
import functools

import numpy as np
import pytest
import torch
from torch.nn.functional import one_hot

from experiments.trained_reading import frontier, graphs, learned, searching
from experiments.trained_reading.graphs import EDGES, HALF, NEVER, NODES
from harness import claims, judge

KNOWN = graphs.make_graphs(600, seed=5)
HELD_OUT = graphs.make_graphs(300, seed=6, held_out=True)


def asked(of, seed=0):
    return graphs.ask(of, torch.Generator().manual_seed(seed))


ASKED = asked(HELD_OUT)


def steps_from(start, edges):
    found, at = {start: 0}, [start]
    for node in at:
        for a, b in edges:
            if a == node and b not in found:
                found[b] = found[a] + 1
                at.append(b)
    return [found.get(node, NEVER) for node in range(NODES)]


def test_one_candidate_is_reached_and_the_other_is_not():
    for i in range(len(ASKED)):
        edges = ASKED.edges[i].tolist()
        *candidates, start = ASKED.named[i].tolist()
        distance, depth = steps_from(start, edges), int(ASKED.depth[i])
        assert len({*map(tuple, edges)}) == EDGES
        assert ASKED.distance[i].tolist() == distance
        assert sorted(distance[c] for c in candidates) == [depth, NEVER]
        answer = int(ASKED.answer[i])
        assert answer in candidates and distance[answer] == depth
        walk = [start, *ASKED.path[i, :depth].tolist()]
        assert all([a, b] in edges for a, b in zip(walk, walk[1:]))
        assert walk[-1] == answer
        other = [c for c in candidates if c != answer]
        assert ASKED.other[i, other].tolist() == [depth]
    assert ASKED.depth.bincount().tolist() == [0, 0, 100, 100, 100]


def test_no_held_out_graph_is_a_renaming_of_a_trained_one():
    assert not torch.isin(HELD_OUT.kind, KNOWN.kind).any()
    assert len(KNOWN.kind.unique()) > 0.8 * len(KNOWN)
    edge = torch.zeros(len(KNOWN), NODES, NODES, dtype=torch.bool)
    edge[torch.arange(len(KNOWN))[:, None], *KNOWN.edges.unbind(-1)] = True
    assert torch.equal(graphs._kind(edge), KNOWN.kind)
    others = [1 + int(i) for i in torch.randperm(HALF - 1)]
    names = torch.tensor([HALF, *(HALF + i for i in others), 0, *others])  # halves too
    renamed = torch.empty_like(edge)
    renamed[:, names[:, None], names] = edge
    assert torch.equal(graphs._kind(renamed), KNOWN.kind)


def degrees(questions):
    """Degrees of both candidates, alone and beside those of the start, as features."""
    counts = [
        one_hot(questions.edges[..., end], NODES).sum(1).gather(1, questions.named)
        for end in (0, 1)
    ]
    out, into = (one_hot(c.clamp(max=5), 6).float() for c in counts)
    both = torch.cat([out[:, :2], into[:, :2]], -1)
    apart = both[:, 0] - both[:, 1]
    beside = (apart[..., None] * out[:, 2, None]).flatten(1)
    right = (questions.named[:, 0] == questions.answer).float() * 2 - 1
    return torch.cat([apart, beside], 1), right


def test_degrees_do_not_tell_the_answer():
    x, right = degrees(asked(graphs.make_graphs(2400, seed=7), 1))
    weights = torch.linalg.solve(x.T @ x + torch.eye(x.shape[1]), x.T @ right)
    x, right = degrees(searching.held_out())
    assert len(right) == searching.ASKED >= 1000
    told = ((x @ weights > 0) == (right > 0)).float().mean()
    assert float(told) == pytest.approx(0.5, abs=0.04)
    assert float(right.mean()) == pytest.approx(0, abs=0.08)  # nor their order


MODEL = searching.new_model(3).eval()


def all_at_once(arm, thoughts):
    """The hidden states of a question and its thoughts, recomputed without a cache."""
    fed = searching._question(MODEL, ASKED)
    for _ in range(thoughts):
        out = MODEL.transformer(inputs_embeds=fed, use_cache=False)
        more = out.last_hidden_state[:, -1:]
        if arm == "pause":
            more = MODEL.transformer.wte.weight[graphs.PAUSE].expand_as(more)
        fed = torch.cat([fed, more], 1)
    out = MODEL.transformer(inputs_embeds=fed, use_cache=False).last_hidden_state
    return out[:, graphs.PROMPT - 1 :]


@pytest.mark.parametrize("arm,thoughts", [("coconut", 0), ("coconut", 4), ("pause", 4)])
def test_thoughts_are_those_of_a_full_recompute(arm, thoughts):
    with torch.no_grad():
        question = searching._question(MODEL, ASKED)
        states, _ = searching._think(MODEL, question, arm, thoughts)
        assert states.shape[1] == thoughts + 1  # none: the plain forward pass
        assert torch.allclose(states, all_at_once(arm, thoughts), atol=1e-4)


def test_with_nothing_replaced_coconut_learns_what_text_does():
    losses = [searching._loss(MODEL, arm, ASKED, 0) for arm in ("text", "coconut")]
    assert torch.equal(*losses)
    text = searching._text(ASKED, 2)
    two, four = text[ASKED.depth == 2], text[ASKED.depth == 4]
    mark, answer = graphs.ANSWER, ASKED.answer[ASKED.depth == 2]
    assert (two[:, 0] == mark).all() and torch.equal(two[:, 1], answer)
    assert (two[:, 2:] == searching.IGNORED).all()
    assert torch.equal(four[:, :2], ASKED.path[ASKED.depth == 4][:, 2:])
    assert (four[:, 2] == mark).all()


@pytest.mark.parametrize("arm", ["coconut", "pause"])
def test_what_is_learned_with_all_replaced_is_what_is_asked(arm):
    """The loss's last prediction is reply's answer, thoughts in place of the path."""
    with torch.no_grad():
        said, states = searching.reply(MODEL, arm, ASKED)
        mark = torch.full_like(ASKED.answer, graphs.ANSWER)
        fed = torch.cat([states[:, :4], MODEL.transformer.wte(mark)[:, None]], 1)
        if arm == "pause":
            fed[:, :4] = MODEL.transformer.wte.weight[graphs.PAUSE]
        fed = torch.cat([searching._question(MODEL, ASKED), fed], 1)
        logits = MODEL(inputs_embeds=fed, use_cache=False).logits[:, -2:]
        assert torch.equal(logits[:, -1].argmax(-1), said)
        labels = torch.stack([mark, ASKED.answer], 1).flatten()
        expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels)
        found = searching._loss(MODEL, arm, ASKED, replaced=4)
    assert float(found) == pytest.approx(float(expected), rel=1e-4)


def test_gradients_run_through_the_thoughts():
    searching._loss(MODEL, "coconut", ASKED, replaced=4).backward()
    one_by_one = MODEL.transformer.wpe.weight.grad.clone()
    MODEL.zero_grad()
    mark = torch.full_like(ASKED.answer, graphs.ANSWER)
    fed, embed = searching._question(MODEL, ASKED), MODEL.transformer.wte
    for _ in range(4):
        out = MODEL.transformer(inputs_embeds=fed, use_cache=False)
        fed = torch.cat([fed, out.last_hidden_state[:, -1:]], 1)
    fed = torch.cat([fed, embed(mark)[:, None]], 1)
    logits = MODEL(inputs_embeds=fed, use_cache=False).logits[:, -2:]
    labels = torch.stack([mark, ASKED.answer], 1).flatten()
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels).backward()
    assert torch.allclose(one_by_one, MODEL.transformer.wpe.weight.grad, atol=1e-4)
    MODEL.zero_grad()


def test_text_writes_a_path_and_then_answers():
    """Some paths end at the mark and some are cut: as one by one, without a cache."""
    model, mark = copy.deepcopy(MODEL), graphs.ANSWER
    table = model.transformer.wte.weight.detach()
    table[mark] = 2 * table[:6].sum(0)  # untrained, it says again what it was fed
    said, _ = searching.reply(model, "text", ASKED)
    fed, lengths = searching._question(model, ASKED).detach()[:30], set()
    with torch.no_grad():
        for i, row in enumerate(fed):
            row, token = row[None], -1
            for left in range(4, -1, -1):
                hidden = model.transformer(inputs_embeds=row).last_hidden_state
                token = int(model.lm_head(hidden[:, -1]).argmax()) if left else mark
                more = model.transformer.wte(torch.tensor([[token]]))
                row = torch.cat([row, more], 1)
                if token == mark:
                    lengths.add(left)
                    break
            hidden = model.transformer(inputs_embeds=row).last_hidden_state
            assert int(model.lm_head(hidden[:, -1]).argmax()) == int(said[i])
    assert {0, 4} <= lengths


@pytest.mark.parametrize("arm", searching.ARMS)
def test_training_is_seeded_and_learns(arm):
    model = searching.train(arm, KNOWN, seed=3, steps=8)
    again = searching.train(arm, KNOWN, seed=3, steps=8)
    pairs = zip(model.parameters(), again.parameters())
    assert all(torch.equal(a, b) for a, b in pairs)
    with torch.no_grad():
        before, after = (searching._loss(m, arm, ASKED, 4) for m in (MODEL, model))
    assert after < before
    with pytest.raises(ValueError, match="expected one of none"):
        searching.train("thought", KNOWN)


def test_committed_searchers_give_the_committed_answers():
    questions, rows = searching.held_out(), learned.searches()
    assert set(zip(rows.arm, rows.seed)) == {
        (arm, seed) for arm in searching.ARMS for seed in learned.SEEDS
    }
    assert all(len(digits) == len(questions) for digits in rows.right)
    for arm, model in learned.searchers(0).items():
        said, _ = searching.reply(model, arm, questions)
        (digits,) = rows.right[(rows.arm == arm) & (rows.seed == 0)]
        same = (said == questions.answer).int() == torch.tensor(list(map(int, digits)))
        assert same.double().mean() > 0.995


# --- planted answers and thoughts, whose verdicts are known beforehand ---------------


@pytest.fixture
def few_draws(monkeypatch):
    for name in ("bootstrap", "paired_difference"):
        few = functools.partial(getattr(frontier, name), resamples=300)
        monkeypatch.setattr(frontier, name, few)


def verdict(claim, parts):
    rows = [claims.measured(claim, k, e, cell="planted") for k, e in parts.items()]
    return judge.judge(claim, rows, "mini").verdict


@pytest.mark.parametrize(
    "shares,expected",
    [
        ({"text": 0.9, "coconut": 0.95}, "reproduced"),
        ({"text": 0.95, "coconut": 0.7}, "partly"),
        ({"text": 0.9, "coconut": 0.95, "pause_long": 0.95}, "partly"),  # only slower
        ({"text": 0.9, "coconut": 0.5}, "not reproduced"),
        ({"text": 0.9, "coconut": 0.97, "pause": 0.97}, "not tested"),
        ({"text": 0.5, "coconut": 0.5}, "not tested"),
    ],
)
def test_t5_says_what_was_planted(few_draws, shares, expected):
    draw = np.random.default_rng(0)
    shares = dict.fromkeys(searching.ARMS, 0.5) | shares
    right = {arm: draw.random((1, 1000)) < p for arm, p in shares.items()}
    right = {arm: hits.astype(float) for arm, hits in right.items()}
    assert verdict("T5", frontier.answer_parts(right, 0)) == expected


def stands_of(*names):
    """Thoughts in which the nodes of some groups stand high, and all others alike."""
    of = frontier.groups(ASKED)
    step = torch.arange(1, 5)[:, None]
    near, far = ASKED.distance[:, None], ASKED.other[:, None]
    of["frontier of both"] = (near == step) | (far == step)
    of["within reach of both"] = (near <= step).double() + (far <= step).double()
    of["all that is ever reached"] = (near < NEVER).expand(-1, len(step), -1)
    high = torch.stack([of[name].double() for name in names]).amax(0)
    noise = torch.rand(3, *high.shape, generator=torch.Generator().manual_seed(0))
    return 2 * high + 0.1 * noise.double()


@pytest.mark.parametrize(
    "thought,pause,expected",
    [
        (("path", "frontier"), "unreached", "reproduced"),
        (("path",), "unreached", "not reproduced"),  # one path, chosen beforehand
        (("frontier of both",), "unreached", "partly"),  # whatever was asked
        (("within reach of both",), "unreached", "partly"),
        (("all that is ever reached",), "unreached", "partly"),  # at every step alike
        (("path", "frontier"), "frontier", "partly"),  # no feeding back is needed
    ],
)
def test_t6_says_what_was_planted(few_draws, thought, pause, expected):
    stands = {"coconut": stands_of(*thought), "pause": stands_of(pause)}
    stands["pause"] *= pause == "frontier"
    stands["untrained"] = 0 * stands["pause"]
    parts = frontier.frontier_parts(stands, ASKED, {"coconut": np.ones((3, 300))}, 2)
    few = {name: vars(e) | {"n": 10 * e.n} for name, e in parts.items()}
    parts = {name: type(parts[name])(**e) for name, e in few.items()}
    assert verdict("T6", parts) == expected


def test_groups_are_told_apart_and_leave_out_what_is_named():
    of = frontier.groups(ASKED)
    each = torch.stack([of[x] for x in ("path", "frontier", "earlier", "unreached")])
    assert (each.sum(0) <= 1).all() and each.any()
    for i in range(30):
        edges, answer = ASKED.edges[i].tolist(), int(ASKED.answer[i])
        leads = [steps_from(node, edges)[answer] < NEVER for node in range(NODES)]
        assert frontier.leading(ASKED)[i].tolist() == leads
        assert not of["dead_end"][i, :, leads].any()
    assert not (of["dead_end"] & ~of["frontier"]).any()
    named = one_hot(ASKED.named, NODES).sum(1).bool()
    assert not (each.any(0) & named[:, None]).any()
    assert (of["unreached"] | ~of["mirrored"]).all()
    table = frontier.frontier_table({"coconut": stands_of("path")}, ASKED)
    assert set(table.group) == set(frontier.GROUPS.values())
    assert set(table.group[table.value > 1]) == {frontier.GROUPS["path"]}


def test_answers_are_told_by_depth():
    hits = (ASKED.depth == 3).double().expand(3, -1).numpy()
    table = frontier.answer_table(dict.fromkeys(searching.ARMS, hits), ASKED)
    assert len(table) == len(searching.ARMS) * 3 * 3 and set(table.n) == {100}
    assert table.groupby("depth").value.mean().tolist() == [0, 1, 0]
