"""Describe charts in words, from what is drawn: the second half of every alt text.

describe_values      bars and dots: each value, or each series' range if many
describe_lines       lines: where each begins, ends and turns back
describe_points      scatter: how many points, their range and rank correlation
describe_mixtures    the heaviest token of each step
describe_table       tables: the first rows, cell by cell
"""

from collections.abc import Iterable, Sequence

import pandas as pd

from harness.safe_text import readable_sentence

MOST_VALUES = 16  # that are read out one by one
Keys = Sequence[str | None]  # columns that tell values apart; None where there is none


def describe_values(frame: pd.DataFrame, y: str, keys: Keys) -> str:
    """'a, b: 0.5; ...' for the values of y, named by the key columns that vary."""
    frame, keys = frame.dropna(subset=[y]), _varying(frame, keys)
    if len(frame) <= MOST_VALUES:
        rows = zip(*(frame[k] for k in keys), frame[y])
        return _joined((_name(names), _number(v)) for *names, v in rows)
    parts = _parts(frame, keys[:-1][:2])
    return _joined((name, _range(part[y])) for name, part in parts)


def describe_lines(frame: pd.DataFrame, x: str, y: str, keys: Keys) -> str:
    """'a: 0.9 at 1 to 0.5 at 12 to 0.2 at 24' for each line.

    Its ends, its middle, and its highest and lowest where they lie between.
    """
    described = []
    for name, part in _parts(frame.dropna(subset=[y]), _varying(frame, keys)):
        xs, ys = part[x].tolist(), part[y].tolist()
        first, last = sorted((ys[0], ys[-1]))
        extremes = part[y].argmin(), part[y].argmax()
        turns = {i for i in extremes if not first <= ys[i] <= last}
        stops = dict.fromkeys([0, *sorted(turns | {len(xs) // 2}), len(xs) - 1])
        text = " to ".join(f"{_number(ys[i])} at {_number(xs[i])}" for i in stops)
        described.append((name, text))
    return _joined(described)


def describe_points(frame: pd.DataFrame, x: str, y: str, keys: Keys) -> str:
    """'a: 24 points, 0.2 to 0.9, rank correlation -0.8' for each cloud."""
    described = []
    for name, part in _parts(frame.dropna(subset=[x, y]), _varying(frame, keys)):
        text = f"{len(part)} points, {_range(part[y])}"
        if len(part) > 2 and part[x].nunique() > 1 and part[y].nunique() > 1:
            rank = round(part[x].corr(part[y], method="spearman"), 2) + 0.0  # no -0
            text += f", rank correlation {rank:.2f}"
        described.append((name, text))
    return _joined(described)


def describe_mixtures(
    frame: pd.DataFrame, step: str, token: str, prob: str, panel: str | None
) -> str:
    """'panel: step 1 a 0.8, step 2 b 0.5' for each mixture drawn."""
    described = []
    for name, part in _parts(frame, _varying(frame, [panel])):
        top = part.sort_values(prob, ascending=False).drop_duplicates(step)
        rows = top.sort_values(step)[[step, token, prob]].itertuples(index=False)
        steps = (f"{step} {s} {readable_sentence(t)} {_number(p)}" for s, t, p in rows)
        described.append((name, ", ".join(steps)))
    return _joined(described)


def describe_table(rows: list[list[str]], heads: list[str], most: int = 10) -> str:
    """'head: cell, ...; ...' for the first `most` rows of a table."""
    described = []
    for row in rows[:most]:
        cells = [(head, cell) for head, cell in zip(heads, row) if cell]
        described.append(", ".join(": ".join(map(readable_sentence, c)) for c in cells))
    more = [f"and {len(rows) - most} more rows"] if len(rows) > most else []
    return "; ".join([*described, *more]) + "."


def _varying(frame: pd.DataFrame, keys: Keys) -> list[str]:
    return [k for k in keys if k is not None and frame[k].nunique() > 1]


def _parts(frame: pd.DataFrame, keys: list[str]) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each combination of the keys, with its name."""
    if not keys:
        return [("", frame)]
    groups = frame.groupby(list(keys), sort=False)
    return [(_name(values), part) for values, part in groups]


def _name(values: Iterable) -> str:
    return ", ".join(map(readable_sentence, values))


def _range(values: pd.Series) -> str:
    low, high = _number(values.min()), _number(values.max())
    return low if low == high else f"{low} to {high}"


def _number(x: object) -> str:
    return f"{x:.3g}" if isinstance(x, (int, float)) else str(x)


def _joined(pairs: Iterable[tuple[str, str]]) -> str:
    described = (f"{name}: {text}" if name else text for name, text in pairs)
    return "; ".join(described) + "."
