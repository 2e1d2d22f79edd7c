"""Describe charts in words, from what is drawn: the second half of every alt text.

describe_values      bars, dots, grids: each value, or each series' range if many
describe_lines       lines: where each begins, ends and turns back
describe_points      scatter: how many points, their range and rank correlation
describe_mixtures    the heaviest token of each step
describe_table       tables: the first rows, cell by cell
"""

from harness.safe_text import readable_sentence

MOST_VALUES = 16  # that are read out one by one


def describe_values(frame, y, keys) -> str:
    """'a, b: 0.5; ...' for the values of y, named by the key columns that vary."""
    frame, keys = frame.dropna(subset=[y]), _vary(frame, keys)
    if len(frame) <= MOST_VALUES:
        rows = zip(*(frame[k] for k in keys), frame[y])
        return _joined(
            (", ".join(map(readable_sentence, names)), _number(v)) for *names, v in rows
        )
    parts = _parts(frame, keys[:-1][:2])
    return _joined((name, _reach(part[y])) for name, part in parts)


def describe_lines(frame, x, y, keys) -> str:
    """'a: 0.9 at 1 to 0.5 at 12 to 0.2 at 24' for each line.

    Its ends, its middle, and its highest and lowest where they lie between.
    """
    said = []
    for name, part in _parts(frame.dropna(subset=[y]), _vary(frame, keys)):
        at, found = part[x].tolist(), part[y].tolist()
        ends = sorted((found[0], found[-1]))
        turns = [
            i
            for i in (part[y].argmin(), part[y].argmax())
            if not ends[0] <= found[i] <= ends[1]
        ]
        way = [0, *sorted({*turns, len(at) // 2}), len(at) - 1]
        said.append(
            (
                name,
                " to ".join(
                    f"{_number(found[i])} at {_number(at[i])}"
                    for i in dict.fromkeys(way)
                ),
            )
        )
    return _joined(said)


def describe_points(frame, x, y, keys) -> str:
    """'a: 24 points, 0.2 to 0.9, rank correlation -0.8' for each cloud."""
    said = []
    for name, part in _parts(frame.dropna(subset=[x, y]), _vary(frame, keys)):
        text = f"{len(part)} points, {_reach(part[y])}"
        if len(part) > 2 and part[x].nunique() > 1 and part[y].nunique() > 1:
            rank = round(part[x].corr(part[y], method="spearman"), 2) + 0.0  # no -0
            text += f", rank correlation {rank:.2f}"
        said.append((name, text))
    return _joined(said)


def describe_mixtures(frame, step, token, prob, panel) -> str:
    """'panel: step 1 a 0.8, step 2 b 0.5' for each mixture drawn."""
    said = []
    for name, part in _parts(frame, _vary(frame, [panel])):
        top = part.sort_values(prob, ascending=False).drop_duplicates(step)
        rows = top.sort_values(step)[[step, token, prob]].itertuples(index=False)
        said.append(
            (
                name,
                ", ".join(
                    f"{step} {s} {readable_sentence(t)} {_number(p)}"
                    for s, t, p in rows
                ),
            )
        )
    return _joined(said)


def describe_table(rows, heads, most=10) -> str:
    """'head: cell, ...; ...' for the first `most` rows of a table."""
    said = [
        ", ".join(
            f"{readable_sentence(h)}: {readable_sentence(c)}"
            for h, c in zip(heads, row)
            if str(c)
        )
        for row in rows[:most]
    ]
    more = [f"and {len(rows) - most} more rows"] if len(rows) > most else []
    return "; ".join([*said, *more]) + "."


def _vary(frame, keys) -> list:
    return [k for k in keys if k is not None and frame[k].nunique() > 1]


def _parts(frame, keys):
    if not keys:
        return [("", frame)]
    groups = frame.groupby(list(keys), sort=False)
    return [(", ".join(map(readable_sentence, name)), part) for name, part in groups]


def _reach(found) -> str:
    low, high = _number(found.min()), _number(found.max())
    return low if low == high else f"{low} to {high}"


def _number(x) -> str:
    return f"{x:.3g}" if isinstance(x, (int, float)) else str(x)


def _joined(pairs) -> str:
    said = (f"{name}: {text}" if name else text for name, text in pairs)
    return "; ".join(said) + "."
