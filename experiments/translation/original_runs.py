"""Run the original experiments again, decoded whole and cut side by side (R5a, R5b).

    experiments           original/experiments.csv: pieces, settings, right answers
    untested_reason       why an experiment cannot be run on a model
    write_vectors         concept tokens after a prompt, without a cache
    fillings              prompts with concept tokens in the slot, and each control
    sample_continuations  what `model.generate` samples after them, seeded
    run_experiment        one row a sample: the whole text, and what the cut leaves
    run_all               the same for all experiments of one of the original's models
    run_on_models         GPT-2's on the first model of a set, Qwen's on the last
    shares                shares of answers by experiment and filling, with intervals
    run_table, said_dots  the same to show, and for the figure; answer_examples: texts
    cut_parts             R5a: is the output the whole answer without its first tokens?
    language_parts        R5b: other scripts after concept tokens and after controls

The original scripts decoded `output[prompt_length:]` of a `generate` call that returns
new tokens only (its author's find, original/README.md): `cut` here, `whole` beside it.
Samples are of one prompt each: their intervals say nothing about other prompts.
"""

from __future__ import annotations

import json
import re
import warnings
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from experiments.floors import random_like
from experiments.frames import SLOT
from experiments.hf_reference import truncate_at_eos
from experiments.prompts import SUITES
from experiments.scoring import acceptable_answers, contains_answer, count_scripts
from experiments.stats import bootstrap, share
from experiments.translation.continuations import Counted
from experiments.translation.stimuli import has_chat
from harness.files import ROOT
from harness.safe_text import readable
from helpers.batching import next_logits
from helpers.mixture import MixtureConfig, clip_norm, mix, mixture_weights, norm_bounds

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from experiments.translation.in_loop import Parts
    from helpers.models import LM

    Piece = str | int  # a text, tokenised on its own, or so many vectors

WEIGHTS = MixtureConfig.appendix()  # T 0.8, top-k 50, alpha 1.5, as all the scripts had
GOLD = {item.prompt: item.gold for item in SUITES["writeup"]}
MARKER = "<|im_start|>"
OPEN = f"{MARKER}assistant\n"
TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>\n", re.DOTALL)
OTHERS = 8  # prompts whose concept tokens are the "other prompt" control
BATCH = 256  # rows a forward pass
SAMPLING = {"temperature": "T", "top_k": "top-k", "top_p": "top-p"}
SAMPLING |= {"repetition_penalty": "penalty"}
NO_MARKERS = "the experiment needs a chat template and this model has none"
NO_TURNS = "this model's chat template does not take the experiment's turns"
# First words of Unicode names of letters that no script has to itself.
SHARED = ("FULLWIDTH", "FEMININE", "MASCULINE", "MODIFIER", "MATHEMATICAL", "MICRO")
PARTS = ("empty_whole", "empty_cut", "says_whole", "says_cut")
CONTROLS = ("text", "top tokens", "other prompt", "random vectors")
SHOWN = {  # of the figure: what it is called, filling, part
    "concept tokens, whole": ("concept tokens", "says_whole"),
    "concept tokens, cut": ("concept tokens", "says_cut"),
    "content as text (ceiling)": ("text", "says_whole"),
    "another prompt's (floor)": ("other prompt", "says_whole"),
}


def experiments(model: str = "") -> pd.DataFrame:
    """Read original/experiments.csv, indexed by id; model: a part of the model's id.

    pieces: parsed; settings: of `generate`, as that run had them; gold: the right
    answer after its prompt, or "".
    """
    frame = pd.read_csv(ROOT / "original" / "experiments.csv", keep_default_na=False)
    frame = frame[frame["model"].str.contains(model, regex=False)].set_index("id")
    return frame.assign(
        pieces=frame["pieces"].map(json.loads),
        settings=frame["sampling"].map(parse_sampling),
        gold=[GOLD.get(prompt, "") for prompt in frame["prompt"]],
    )


def parse_sampling(sampling: str) -> dict[str, float]:
    """Turn "sampled: T 0.8, top-k 50, ..." into settings of `generate`."""
    settings = {"top_p": 1.0, "top_k": 0, "temperature": 1.0, "repetition_penalty": 1.0}
    for name, word in SAMPLING.items():
        if found := re.search(rf"(?<!\w){re.escape(word)} ([\d.]*\d)", sampling):
            settings[name] = float(found[1]) if "." in found[1] else int(found[1])
    return settings


def untested_reason(lm: LM, pieces: list[Piece]) -> str:
    """Say why an experiment's pieces cannot be fed to a model; "" when they can."""
    if not _has_markers(pieces):
        return ""
    if not has_chat(lm):
        return NO_MARKERS
    try:
        own_markers(lm, pieces)
    except Exception:  # a template may refuse in any way it likes
        return NO_TURNS
    return ""


def own_markers(lm: LM, pieces: list[Piece]) -> list[Piece]:
    """Exchange Qwen's markers for those of the model's own template, where they differ.

    Unchanged where "<|im_start|>" is one of the model's tokens, or where no piece has
    markers.
    """
    if not _has_markers(pieces) or MARKER in lm.tokenizer.get_vocab():
        return pieces
    (count, *_) = [p for p in pieces if isinstance(p, int)] or [0]
    text = "".join(SLOT if isinstance(p, int) else p for p in pieces)
    start = text.index(MARKER)
    plain, turns, after = text[:start], TURN.findall(text), text.partition(OPEN)[2]
    messages = [{"role": role, "content": content} for role, content in turns]
    if messages:
        rendered = _render(lm, messages, True)
    else:  # the assistant's tag alone
        turn = [{"role": "user", "content": "x"}]
        rendered = _render(lm, turn, True).removeprefix(_render(lm, turn, False))
    text = plain + rendered + after
    found = re.split(f"({SLOT})", text)
    if not rendered or text.count(SLOT) > 1 or (SLOT in text) != bool(count):
        raise ValueError(NO_TURNS)
    return [count if piece == SLOT else piece for piece in found if piece]


def _render(lm: LM, messages: list[dict], prompt: bool) -> str:
    how = {"tokenize": False, "add_generation_prompt": prompt}
    return lm.tokenizer.apply_chat_template(messages, **how)


def _has_markers(pieces: list[Piece]) -> bool:
    return any(isinstance(p, str) and MARKER in p for p in pieces)


def piece_ids(lm: LM, pieces: list[Piece]) -> list[list[int] | int]:
    """Tokenise each text by itself; only the first may bring the model's own start."""
    own_start = not _has_markers(pieces) or MARKER not in str(pieces[0])
    return [
        piece
        if isinstance(piece, int)
        else lm.tokenizer(piece, add_special_tokens=own_start and not k)["input_ids"]
        for k, piece in enumerate(pieces)
    ]


@torch.no_grad()
def write_vectors(
    lm: LM, prompt: str, count: int, norm: str = "none", doubled: bool = False
) -> tuple[Tensor, Tensor]:
    """Write concept tokens after a prompt -> vectors (count,D) and top ids (count,).

    As the original did: no cache, no stop, the prefix computed anew at each step.
    norm: "original" bounds norms as its scripts in src/ did; those in experiments/ did
    not. doubled: GPT-2's position embeddings are added twice there too.
    """
    (ids,), top, bounds = piece_ids(lm, [prompt]), [], norm_bounds(lm.embed, norm)
    row = lm.embed[ids]
    for _ in range(count):
        logits = next_logits(lm, [add_positions(lm, row) if doubled else row])
        probs, indices, _ = mixture_weights(logits, WEIGHTS)
        vector = clip_norm(mix(probs, indices, lm.embed), bounds)
        row = torch.cat([row, vector])
        top.append(indices[0, 0])
    return row[len(ids) :], torch.stack(top)


def add_positions(lm: LM, row: Tensor) -> Tensor:
    """Add GPT-2's position embeddings (L,D) to a prompt: the model adds them again."""
    return row + lm.model.transformer.wpe.weight[: len(row)].to(row)


def can_double(lm: LM) -> bool:
    """Whether the model is a GPT-2, whose position embeddings could be added twice."""
    return getattr(lm.model.config, "model_type", "") == "gpt2"


def fillings(
    lm: LM, run: pd.Series, samples: int = 64, seed: int = 0, doubled: bool = False
) -> dict[str, list[Tensor]]:
    """Embed an experiment's prompt with each filling of its slot: `samples` rows (L,D).

    concept tokens: of the experiment's own prompt. Where that has a right answer, the
    controls too: text, the answer in words; top tokens, the heaviest members alone;
    other prompt, concept tokens of OTHERS prompts with other answers, in turn; random
    vectors of equal norms, drawn anew for each sample. Without a slot: text; with noise
    in it: noise vectors, whose numbers spread as the embedding matrix's, as then.
    """
    pieces = own_markers(lm, run["pieces"])
    ids, counts = piece_ids(lm, pieces), [p for p in pieces if isinstance(p, int)]
    draw = torch.Generator().manual_seed(seed)
    if not counts:
        filled = {"text": [lm.embed[:0]]}
    elif "noise" in run["frame"]:
        noise = torch.randn(samples, counts[0], lm.embed.shape[1], generator=draw)
        spread = lm.embed.float().std()
        filled = {"noise vectors": list((noise.to(lm.device) * spread).to(lm.dtype))}
    else:
        norm = "original" if run["script"].startswith("src/") else "none"
        how = (counts[0], norm, doubled)
        own, top = write_vectors(lm, run["prompt"], *how)
        filled = {"concept tokens": [own]}
        if run["gold"]:
            others = other_prompts(run["prompt"], run["gold"])
            other = [write_vectors(lm, p, *how)[0] for p in others]
            random = random_like(own.expand(samples, *own.shape), draw)
            filled |= {"top tokens": [lm.embed[top]], "other prompt": other}
            filled |= {"random vectors": list(random)}
    rows = {name: [_fill(lm, ids, slot) for slot in x] for name, x in filled.items()}
    if counts and run["gold"]:
        text = piece_ids(lm, [written_out(pieces, run["gold"])])
        rows["text"] = [_fill(lm, text, lm.embed[:0])]
    if doubled:
        rows = {name: [add_positions(lm, row) for row in x] for name, x in rows.items()}
    return {name: [x[k % len(x)] for k in range(samples)] for name, x in rows.items()}


def other_prompts(prompt: str, gold: str) -> list[str]:
    """List OTHERS prompts with other answers: sums beside a sum, else capitals."""
    suite = SUITES["sums" if gold.isdigit() else "capitals"]
    other = [i.prompt for i in suite if i.gold != gold and i.prompt != prompt]
    return other[:: len(other) // OTHERS][:OTHERS]


def written_out(pieces: list[Piece], word: str) -> str:
    """Join the pieces into one text, a word in the slot's place with a space before."""
    text = ""
    for piece in pieces:
        gap = " " if isinstance(piece, int) and text and not text[-1].isspace() else ""
        text += f"{gap}{word}" if isinstance(piece, int) else piece
    return text


def _fill(lm: LM, ids: list[list[int] | int], slot: Tensor) -> Tensor:
    """Embed one prompt (L,D): ids as they are, `slot` (N,D) for the number."""
    slot = slot.to(lm.device, lm.dtype)
    return torch.cat([slot if isinstance(p, int) else lm.embed[p] for p in ids])


@torch.no_grad()
def sample_continuations(
    lm: LM, rows: list[Tensor], new_tokens: int, settings: dict, seed: int
) -> tuple[list[list[int]], list[list[int]]]:
    """Sample one continuation of each prompt (L,D) by `model.generate`.

    -> (returned, written): the ids that `generate` returns, and those noted down one by
    one while the model wrote them; both up to the first end token.
    """
    kept = {"max_new_tokens": new_tokens, "do_sample": True, "num_beams": 1, **settings}
    filters = [_filter(settings, lm.embed.shape[0])]
    kept |= {"temperature": 1.0, "top_k": 0, "top_p": 1.0}  # the filter's
    kept |= {"pad_token_id": lm.eos_ids[0] if lm.eos_ids else 0}
    kept |= {"eos_token_id": list(lm.eos_ids) or None}
    by_length: dict[int, list[int]] = {}
    for k, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(k)
    returned: dict[int, list[int]] = {}
    written: dict[int, list[int]] = {}
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Passing `repetition_penalty`")  # as run
        torch.manual_seed(seed)
        for same in by_length.values():
            for first in range(0, len(same), BATCH):
                batch, steps = same[first : first + BATCH], []
                x = torch.stack([rows[k] for k in batch]).to(lm.device, lm.dtype)
                mask = torch.ones(x.shape[:2], dtype=torch.long, device=x.device)
                how = kept | {"stopping_criteria": [_note_last_ids(steps)]}
                how |= {"logits_processor": filters}
                out = lm.model.generate(inputs_embeds=x, attention_mask=mask, **how)
                returned |= zip(batch, out.tolist())
                written |= zip(batch, torch.stack(steps, 1).tolist())
    found = (
        [truncate_at_eos(ids[k], lm.eos_ids) for k in range(len(rows))]
        for ids in (returned, written)
    )
    return tuple(found)


def _filter(settings: dict, vocabulary: int) -> Callable[[Tensor, Tensor], Tensor]:
    """Make a filter of temperature, top-k and top-p in place of `generate`'s own.

    It leaves the same probabilities, without sorting the whole vocabulary at each step
    where top-k leaves a few tokens. The penalty stays with `generate`, which is first.
    """
    temperature, top_p = settings["temperature"], settings["top_p"]
    count = min(settings["top_k"] or vocabulary, vocabulary)

    def keep(input_ids: Tensor, scores: Tensor) -> Tensor:
        best, tokens = (scores / temperature).topk(count)
        p = best.softmax(-1)
        lighter = p.flip(-1).cumsum(-1).flip(-1)  # a token's mass and all below it
        lighter[:, 0] = 1.0  # the first is always kept
        best = best.masked_fill(lighter <= 1 - top_p, -torch.inf)
        return torch.full_like(scores, -torch.inf).scatter(-1, tokens, best)

    return keep


def _note_last_ids(steps: list[Tensor]):
    """A stopping criterion that stops nothing: it keeps each step's new ids (B,)."""

    def note(input_ids, scores, **kwargs):
        steps.append(input_ids[:, -1].clone())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    return note


def run_experiment(
    lm: LM, run: pd.Series, samples: int = 64, seed: int = 0, doubled: bool = False
) -> list[dict]:
    """Run one experiment with each filling: one row a sample.

    filling, prompt_length, ids (as returned), whole (the answer as it was written), cut
    (what `generate` returned, from the prompt's length on), tail (the answer from there
    on), says_whole, says_cut: the right answer is said (None where none is right, or
    where the prompt says it). Wordings that stand in the prompt's text do not count.
    """
    rows = fillings(lm, run, samples, seed, doubled)
    given = " ".join(p for p in run["pieces"] if isinstance(p, str))
    answers = acceptable_answers(run["gold"])
    answers = tuple(a for a in answers if not contains_answer(given, [a]))
    prompts = [row for x in rows.values() for row in x]
    how = (int(run["new_tokens"]), run["settings"], seed)
    returned, written = sample_continuations(lm, prompts, *how)
    names = [name for name, x in rows.items() for _ in x]

    def decode(ids):
        return lm.tokenizer.decode(ids, skip_special_tokens=True)

    found = []
    for name, prompt, ids, own in zip(names, prompts, returned, written):
        n = len(prompt)
        texts = {"whole": decode(own), "cut": decode(ids[n:]), "tail": decode(own[n:])}
        row = {"filling": name, "prompt_length": n, "ids": ids, **texts}
        for part in ("whole", "cut"):
            said = int(contains_answer(texts[part], answers)) if answers else None
            row |= {f"says_{part}": said, f"empty_{part}": int(not texts[part].strip())}
        found.append(row)
    return found


def run_all(
    lm: LM, model: str, samples: int = 64, seed: int = 0
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Run every experiment of an original model ("Qwen", "gpt2") on a model.

    -> (rows of run_experiment with experiment and positions: once, or twice as GPT-2
    had them; id -> why it could not be run). Experiments have seeds of their own.
    """
    rows, reasons = [], {}
    for k, (name, run) in enumerate(experiments(model).iterrows()):
        if reason := untested_reason(lm, run["pieces"]):
            reasons[name] = reason
            continue
        twice = "added twice" in run["note"] and can_double(lm)
        for doubled in (False, True)[: 1 + twice]:
            found = run_experiment(lm, run, samples, seed + k, doubled)
            head = {"experiment": name, "positions": "twice" if doubled else "once"}
            rows += [head | row for row in found]
    return pd.DataFrame(rows), reasons


def run_on_models(
    lms: dict[str, LM], samples: int = 64, seed: int = 0
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Run GPT-2's experiments on the first model and Qwen's on the last: as run_all."""
    first, *_, last = [*lms.values(), *lms.values()]
    qwen, qwen_reasons = run_all(last, "Qwen", samples, seed)
    gpt2, gpt2_reasons = run_all(first, "gpt2", samples, seed)
    return pd.concat([qwen, gpt2], ignore_index=True), qwen_reasons | gpt2_reasons


def shares(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Estimate the shares PARTS of each experiment and filling, one row a share.

    Columns experiment, positions, filling, part, value, low, high, n.
    """
    keys = ["experiment", "positions", "filling"]
    found = []
    for key, cell in rows.groupby(keys, sort=False):
        for part in PARTS:
            if (values := cell[part].dropna()).size:
                estimate = share(values, seed).columns()
                found.append(dict(zip(keys, key)) | {"part": part} | estimate)
    return pd.DataFrame(found)


def run_table(rows: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """One row an experiment: lengths, and shares with intervals (found: of `shares`).

    The first columns are those of what the original fed; the last say how often the
    content is said, decoded whole, after each control.
    """
    runs, keys, table = experiments(), ["experiment", "positions"], {}
    for key, cell in found.groupby(keys, sort=False):
        fed = next((f for f in cell["filling"] if f != "text"), "text")
        own = (rows["experiment"] == key[0]) & (rows["filling"] == fed)
        at = {(r.filling, r.part): _interval(r) for r in cell.itertuples()}
        columns = {
            "fed": fed,
            "vectors": rows.loc[own, "prompt_length"].iloc[0],
            "allowed": runs.loc[key[0], "new_tokens"],
        }
        for part in PARTS:
            columns[part.replace("_", ", ")] = at.get((fed, part), "")
        for other in CONTROLS:
            columns[other] = at.get((other, "says_whole"), "") if fed != other else ""
        table[key] = columns
    return pd.DataFrame(table).T.rename_axis(keys)


def _interval(row: Any) -> str:
    """value (low–high), to two digits."""
    return f"{row.value:.2f} ({row.low:.2f}–{row.high:.2f})"


def said_dots(found: pd.DataFrame) -> pd.DataFrame:
    """Pick from `shares` what the figure shows: run, what, value, low, high, n.

    Where no answer is right (the tag alone, noise) the share of texts that are not
    empty stands instead, as "any text".
    """
    twice = found["positions"].map({"once": "", "twice": ", positions twice"})
    found = found.assign(run=found["experiment"] + twice)
    parts = [
        found[(found["filling"] == filling) & (found["part"] == part)].assign(what=what)
        for what, (filling, part) in SHOWN.items()
    ]
    says = set(found["run"][found["part"] == "says_whole"])
    for part in ("whole", "cut"):
        empty = found[(found["part"] == f"empty_{part}") & ~found["run"].isin(says)]
        ends = {"low": 1 - empty["high"], "high": 1 - empty["low"]}
        text = empty.assign(what=f"any text, {part}", value=1 - empty["value"], **ends)
        parts.append(text)
    return pd.concat(parts)[["run", "what", "value", "low", "high", "n"]].reset_index(
        drop=True
    )


def answer_examples(rows: pd.DataFrame, count: int = 1) -> pd.DataFrame:
    """The first samples after concept tokens of each experiment, made safe to show."""
    own = rows[rows["filling"].isin(["concept tokens", "noise vectors"])]
    first = own.groupby(["experiment", "positions"], sort=False).head(count)
    shown = first.set_index(["experiment", "positions"])[["whole", "cut"]]
    return shown.map(lambda text: readable(text, 60))


def cut_parts(rows: pd.DataFrame, seed: int = 0) -> Parts:
    """R5a: Method 3's outputs against the answers written, over all samples.

    cut_equals_tail: the output is the answer without as many tokens as the prompt has
    vectors; cut_equals_whole: it is the whole answer.
    """
    own = _method_3(rows, "concept tokens")
    return {
        f"cut_equals_{name}": bootstrap(
            (own["cut"] == own[name]).astype(int), seed=seed
        )
        for name in ("tail", "whole")
    }


def language_parts(rows: pd.DataFrame, seed: int = 0) -> dict:
    """R5b: shares of Method 3's answers with letters of another script than Latin.

    other_script after concept tokens, other_script_top, _other and _random after the
    controls; scripts_written: how many scripts the text ceilings of all experiments
    hold, counted.
    """
    cells = {"": "concept tokens", "_top": "top tokens"}
    cells |= {"_other": "other prompt", "_random": "random vectors"}
    texts = {part: _method_3(rows, name)["whole"] for part, name in cells.items()}
    parts = {
        f"other_script{part}": share(
            [int(bool(scripts(text) - {"LATIN"})) for text in answers], seed
        )
        for part, answers in texts.items()
    }
    ceiling = rows[rows["filling"] == "text"]["whole"]
    written = set().union(*map(scripts, ceiling))
    return parts | {"scripts_written": Counted(len(written), len(ceiling))}


def scripts(text: str) -> set[str]:
    """Name the scripts that a text has letters of."""
    return {name for name in count_scripts(text) if name not in SHARED}


def _method_3(rows: pd.DataFrame, filling: str) -> pd.DataFrame:
    return rows[(rows["experiment"] == "method-3") & (rows["filling"] == filling)]
