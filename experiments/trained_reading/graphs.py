"""Which of two nodes can be reached? Graphs, questions and truths (T5, T6).

    Graphs       graphs with two starts and, of each, a target that only it reaches
    make_graphs  random ones, for training or held out
    Questions    a graph as tokens, asked from one of its starts
    ask          graphs as questions: nodes renamed, edges shuffled, one start chosen

In the manner of ProsQA (Hao et al. 2024, 2412.06769), its concepts as single tokens as
in Zhu et al. 2025 (2505.12514). A graph is two halves that are drawn alike, so that a
question has a mirrored one, from the other start, whose answer is the other target. The
degrees of a start and of both targets say next to nothing of which is whose (a test).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

HALF = 6  # nodes of a half; the first is its start
NODES = 2 * HALF
EXTRA = 4  # edges besides those of the halves' trees
EDGES = NODES - 2 + EXTRA
DEPTHS = (2, 3, 4)  # steps from a start to its target
LONGEST = DEPTHS[-1]
NEVER = 99  # the distance of what cannot be reached
HELD_OUT = 5  # one kind of graph in this many
ANSWER = NODES  # id of the mark behind which the answer stands
PAUSE = NODES + 1
FROM = NODES + 2  # id of a node where an edge begins, less its own
VOCABULARY = 2 * NODES + 2
PROMPT = EDGES + 3  # positions: edges, two candidates, the start


@dataclass(frozen=True)
class Graphs:
    """N graphs; nodes by number, halves at 0 and HALF.

    edges (N,EDGES,2): from, to. distance (N,2,NODES): steps from either start, or
    NEVER. target (N,2): of either start. path (N,2,LONGEST): the nodes of a shortest
    way there, start left out, the target repeated. depth (N,): its length. kind (N,):
    alike where two graphs, with their starts, are the same but for their nodes'
    numbers; their targets may differ.
    """

    edges: Tensor
    distance: Tensor
    target: Tensor
    path: Tensor
    depth: Tensor
    kind: Tensor

    def __len__(self) -> int:
        return len(self.edges)

    def take(self, rows: Tensor) -> Graphs:
        """Pick rows, by numbers or by a mask."""
        return Graphs(*(column[rows] for column in vars(self).values()))


@dataclass(frozen=True)
class Questions:
    """N questions, as token ids.

    edges (N,EDGES,2): from, to. named (N,3): the candidates in random order, the start.
    path, other_path (N,LONGEST): as in Graphs, from the start and from the other one.
    depth, answer (N,). distance, other (N,NODES): steps from either.
    """

    edges: Tensor
    named: Tensor
    path: Tensor
    other_path: Tensor
    depth: Tensor
    answer: Tensor
    distance: Tensor
    other: Tensor

    def __len__(self) -> int:
        return len(self.edges)


def make_graphs(count: int, seed: int, held_out: bool = False) -> Graphs:
    """Draw graphs, as many of each of DEPTHS; none held out is of a kind trained on."""
    draw, found = torch.Generator().manual_seed(seed), []
    for i, depth in enumerate(DEPTHS):
        share = (count + i) // len(DEPTHS)
        kept: list[Graphs] = []
        while sum(map(len, kept)) < share:
            graphs = _draw_graphs(4096, depth, draw)
            kept.append(graphs.take((graphs.kind % HELD_OUT == 0) == held_out))
        found.append(_join(kept).take(torch.arange(share)))
    return _join(found)


def _join(parts: list[Graphs]) -> Graphs:
    """Put graphs one behind another."""
    return Graphs(*map(torch.cat, zip(*(vars(part).values() for part in parts))))


def _draw_graphs(count: int, depth: int, draw: Generator) -> Graphs:
    """Draw graphs and keep those in which both starts have a target at a depth.

    A half is a tree: as many nodes as the depth hang from one another, the others from
    the last one or from any before, alike likely. Edges are added from lower to higher
    numbers, within a half or across.
    """
    number = torch.arange(NODES) % HALF
    later = number[:, None] < number[None]
    edge = torch.zeros(count, NODES, NODES, dtype=torch.bool)
    for node in (n for n in range(NODES) if n % HALF):
        last = torch.rand(count, generator=draw) < 0.5
        above = torch.randint(node % HALF, (count,), generator=draw)
        last |= torch.tensor(node % HALF <= depth)
        above = torch.where(last, node % HALF - 1, above) + node // HALF * HALF
        edge[torch.arange(count), above, node] = True
    free = torch.rand(edge.shape, generator=draw) * (later & ~edge)
    more = free.flatten(1).topk(EXTRA).indices
    edge = edge.flatten(1).scatter(1, more, True).view_as(edge)

    distance = distances(edge)
    only = (distance == depth) & (distance.flip(1) == NEVER)
    has = only.any(-1).all(-1)
    edge, distance, only = edge[has], distance[has], only[has]
    target = (torch.rand(only.shape, generator=draw) * only).argmax(-1)
    path, at = [target], target
    for left in range(depth - 1, 0, -1):
        back = edge.transpose(1, 2)[torch.arange(len(edge))[:, None], at]
        back = back & (distance == left)
        at = (torch.rand(back.shape, generator=draw) * back).argmax(-1)
        path.insert(0, at)
    path += [target] * (LONGEST - depth)
    edges = edge.nonzero()[:, 1:].view(-1, EDGES, 2)
    depths = torch.full((len(edge),), depth)
    path = torch.stack(path, -1)
    return Graphs(edges, distance, target, path, depths, _kind(edge))


def distances(edge: Tensor) -> Tensor:
    """Count the steps (N,2,NODES) from both starts; edge (N,NODES,NODES): from, to."""
    at = torch.zeros(len(edge), 2, NODES, dtype=torch.bool)
    at[:, 0, 0] = at[:, 1, HALF] = True
    found = torch.full(at.shape, NEVER).masked_fill(at, 0)
    for step in range(1, HALF):  # an edge leads to a higher number within a half
        at = (at[..., None] & edge[:, None]).any(2) & (found == NEVER)
        found = found.masked_fill(at, step)
    return found


def _kind(edge: Tensor) -> Tensor:
    """Hash graphs with their starts (N,) so that renaming nodes changes nothing.

    By colours that are refined with those of the neighbours (Weisfeiler and Lehman
    1968); graphs that it cannot tell apart count as one kind, too.
    """

    def mix(x: Tensor) -> Tensor:  # as splitmix64 does; int64 wraps around
        x = (x ^ (x >> 30)) * -0x40A7B892E31B1A47
        return (x ^ (x >> 27)) * -0x6B2FB644ECCEEE15

    colour = torch.zeros(len(edge), NODES, dtype=torch.int64)
    colour[:, [0, HALF]] = 1
    for _ in range(HALF):
        near = mix(colour + 3)
        after, before = (edge * near[:, None]).sum(2), (edge * near[:, :, None]).sum(1)
        told = mix(after + 5) + mix(before * 7 + 11)
        colour = mix(colour * 13 + told)
    return mix(colour).sum(-1).abs()


def ask(graphs: Graphs, draw: Generator) -> Questions:
    """Ask each graph one question, from either start."""
    n, each = len(graphs), torch.arange(len(graphs))
    names = torch.rand(n, NODES, generator=draw).argsort(-1)
    order = torch.rand(n, EDGES, generator=draw).argsort(-1)
    start = torch.randint(2, (n,), generator=draw)
    swap = torch.randint(2, (n,), generator=draw)

    def named(nodes: Tensor) -> Tensor:
        return names.gather(1, nodes.flatten(1)).view_as(nodes)

    edges = named(graphs.edges)[each[:, None], order]
    answer = named(graphs.target)[each, start]
    candidates = named(graphs.target).gather(1, torch.stack([swap, 1 - swap], 1))
    asked = torch.cat([candidates, named(start[:, None] * HALF)], 1)
    paths = named(graphs.path)
    path, other_path = paths[each, start], paths[each, 1 - start]
    back = names.argsort(-1)  # name -> node
    distance = graphs.distance[each, start].gather(1, back)
    other = graphs.distance[each, 1 - start].gather(1, back)
    truth = path, other_path, graphs.depth, answer, distance, other
    return Questions(edges, asked, *truth)
