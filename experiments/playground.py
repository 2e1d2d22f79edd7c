"""The playground: move a setting, see each step's mixture and what is read back.

    look        one prompt under one setting -> a Look: the steps, and what came back
    page        a Look as HTML, every piece of model text escaped
    Playground  the panel of widgets; show() puts it in a notebook

Nothing is kept and nothing is judged here: notebooks 01 to 04 do that.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import torch

from experiments.prompts import FRAMES
from experiments.translation import readers
from harness.safe_text import readable
from helpers.batching import prompt_embeds
from helpers.decode import continue_from, generate_concepts
from helpers.mixture import MODES, NORMS, MixtureConfig

if TYPE_CHECKING:
    from helpers.models import LM

FILLS = ("#9DC8E8", "#F4B98A", "#95D5BF", "#E8C1D6", "#F2D38B", "#C7E3F5")
LONGEST = 160  # characters of a text that are shown


@dataclass(frozen=True)
class Step:
    """A step: its tokens with their weights, the top ones first; the entropy in nats
    of the whole distribution; the token nearest to the vector that was fed; whether
    that vector was a mixture; and what a frame read in it."""

    tokens: list[tuple[str, float]]
    entropy: float
    nearest: str
    mixed: bool
    read: str


@dataclass(frozen=True)
class Look:
    """The steps after a prompt; their top tokens as text; greedy text after them."""

    steps: list[Step]
    chain: str
    goes_on: str


def look(
    lm: LM, prompt: str, config: MixtureConfig, steps: int, way="completion"
) -> Look:
    """Write `steps` concept tokens after a prompt; read each, and go on after them all.

    way: a frame of experiments.prompts. ValueError for a bad prompt or settings.
    """
    trace = generate_concepts(lm, prompt, steps, config)
    ids, vectors = trace.tokens[0], trace.vectors[0, : int(trace.lengths[0])]
    why = readers.unavailable_reason(lm, way)
    read = (
        [why] * len(ids) if why else readers.read_in_frame(lm, way, vectors, 12).texts
    )
    near = readers.nearest_token(lm, vectors)
    found = []
    for t, text in enumerate(read):
        pairs = zip(trace.indices[0, t].tolist(), trace.probs[0, t].tolist())
        tokens = [(lm.tokenizer.decode([i]), p) for i, p in pairs if p >= 0.005]
        mixed, nats = bool(trace.mixed[0, t]), float(trace.entropy[0, t])
        found.append(Step(tokens, nats, lm.tokenizer.decode([near[t]]), mixed, text))
    embeds = torch.cat([prompt_embeds(lm, [prompt])[0][0], vectors])
    rest = continue_from(lm, embeds, max_new_tokens=30)[0]
    return Look(found, lm.tokenizer.decode(ids), rest)


def page(seen: Look, prompt: str) -> str:
    """A Look as one HTML table and two lines of text."""
    heads = ("step", "mixture", "entropy, nats", "nearest token", "read back as")
    rows = "".join(
        f"<tr><td>{t}</td><td style='width:26em'>{_bar(step)}</td>"
        f"<td>{step.entropy:.2f}</td><td><code>{_said(step.nearest)}</code></td>"
        f"<td>{_said(step.read.strip())}</td></tr>"
        for t, step in enumerate(seen.steps, 1)
    )
    cells = "".join(f"<th style='text-align:left'>{head}</th>" for head in heads)
    chain, rest = _said(seen.chain.strip()), _said(seen.goes_on.strip())
    return (
        f"<table style='border-spacing:.6em .2em'><tr>{cells}</tr>{rows}</table>"
        f"<p><b>Top tokens:</b> {_said(prompt)} <mark>{chain}</mark></p>"
        f"<p><b>It goes on:</b> {rest or '<i>(it ends here)</i>'}</p>"
    )


def _bar(step: Step) -> str:
    """A bar as wide as its weights; a fed token is framed, a mixture is not."""
    parts = []
    for (token, p), fill in zip(step.tokens, FILLS * len(step.tokens)):
        label = readable(token, 14)
        shown = f"{100 * p:.0f}% {escape(label)}" if p >= 0.1 else ""
        parts.append(
            f"<span style='flex:{p:.4f} 0 0;background:{fill};color:#111;"
            f"overflow:hidden;white-space:nowrap;min-width:0;text-indent:.2em' "
            f"title='{escape(label)} {100 * p:.1f}%'>{shown}</span>"
        )
    edge = "1px solid transparent" if step.mixed else "2px solid #D55E00"
    return f"<div style='display:flex;border:{edge}'>{''.join(parts)}</div>"


def _said(text: str) -> str:
    """Model text for HTML: cut, spelled out where invisible, escaped."""
    return escape(readable(text, LONGEST))


class Playground:
    """Widgets over `look`: every change of a setting draws the page anew."""

    def __init__(self, lms: dict[str, LM], prompt: str = "The capital of France is"):
        import ipywidgets as w

        wide = {"style": {"description_width": "9em"}, "layout": {"width": "30em"}}
        slow = {**wide, "continuous_update": False}
        self.lms = lms
        self.prompt = w.Text(prompt, description="prompt", **slow)
        self.model = w.Dropdown(options=list(lms), description="model", **wide)
        self.steps = w.IntSlider(4, 1, 16, description="steps", **slow)
        self.top_k = w.IntSlider(50, 1, 100, description="top-k", **slow)
        self.temperature = w.FloatSlider(
            0.8, min=0.05, max=3, step=0.05, description="temperature", **slow
        )
        self.alpha = w.FloatSlider(
            1.5, min=0.25, max=5, step=0.25, description="sharpening α", **slow
        )
        self.mode = w.Dropdown(options=MODES, description="mode", **wide)
        self.gate_entropy = w.FloatSlider(
            1.0, min=0, max=5, step=0.1, description="gate (nats)", **slow
        )
        self.norm = w.Dropdown(options=NORMS, description="clip to", **wide)
        ways = ["completion", *(way for way in FRAMES if way != "completion")]
        self.way = w.Dropdown(options=ways, description="read by", **wide)
        self.page = w.HTML()
        left = [self.prompt, self.model, self.steps, self.way, self.norm]
        right = [self.top_k, self.temperature, self.alpha, self.mode, self.gate_entropy]
        controls = w.HBox([w.VBox(left), w.VBox(right)])
        self.box = w.VBox([controls, self.page])
        self.norm.value = "all"  # the write-up's settings are what it starts from
        for widget in (*left, *right):
            widget.observe(self.refresh, "value")
        self.refresh()

    def refresh(self, _=None):
        """Draw the page for the settings as they stand, or say what is wrong."""
        self.gate_entropy.disabled = self.mode.value != "gated"
        names = ("top_k", "temperature", "alpha", "mode", "gate_entropy", "norm")
        try:
            config = MixtureConfig(**{n: getattr(self, n).value for n in names})
            lm, prompt = self.lms[self.model.value], self.prompt.value
            seen = look(lm, prompt, config, self.steps.value, self.way.value)
            self.page.value = page(seen, prompt)
        except ValueError as error:
            self.page.value = f"<p><b>Not possible:</b> {escape(str(error))}</p>"

    def show(self):
        """Put the panel under the cell."""
        from IPython.display import display

        display(self.box)
