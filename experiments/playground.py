"""The playground: move a setting, see each step's mixture and what is read back.

    look        one prompt under one setting -> a Look: the steps, and what came back
    page        a Look as HTML, every piece of model text escaped
    Playground  the panel of widgets; show() puts it in a notebook

Nothing is kept and nothing is judged here: the numbered notebooks do that.
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
from helpers.weight_rules import RULES, named_rule

if TYPE_CHECKING:
    from helpers.models import LM

FILLS = ("#9DC8E8", "#F4B98A", "#95D5BF", "#E8C1D6", "#F2D38B", "#C7E3F5")
MOST_CHARACTERS = 160  # of a text that are shown


@dataclass(frozen=True)
class Step:
    """One step of the loop."""

    tokens: list[tuple[str, float]]  # with their weights, the heaviest first
    entropy: float  # of the whole distribution, nats
    nearest: str  # the token nearest to the vector that was fed
    mixed: bool  # whether that vector was a mixture
    read: str  # what a frame read in it


@dataclass(frozen=True)
class Look:
    """What came after a prompt."""

    steps: list[Step]
    chain: str  # the steps' top tokens as text
    continuation: str  # greedy text after them


def look(
    lm: LM,
    prompt: str,
    config: MixtureConfig,
    steps: int,
    way: str = "completion",
    rule: str = "sharpened",
) -> Look:
    """Write `steps` concept tokens after a prompt; read each, and go on after them all.

    way: a frame of experiments.prompts; rule: one of helpers.weight_rules.RULES, which
    draws from seed 0. ValueError for a bad prompt or settings.
    """
    how = named_rule(rule)
    trace = generate_concepts(lm, prompt, steps, config, weight_rule=how)
    ids, vectors = trace.tokens[0], trace.vectors[0, : int(trace.lengths[0])]
    read = [readers.unavailable_reason(lm, way)] * len(ids)
    if not any(read):
        read = readers.read_in_frame(lm, way, vectors, 12).texts
    near = readers.nearest_token(lm, vectors)
    taken = []
    for t, text in enumerate(read):
        pairs = zip(trace.indices[0, t].tolist(), trace.probs[0, t].tolist())
        tokens = [(lm.tokenizer.decode([i]), p) for i, p in pairs if p >= 0.005]
        mixed, nats = bool(trace.mixed[0, t]), float(trace.entropy[0, t])
        taken.append(Step(tokens, nats, lm.tokenizer.decode([near[t]]), mixed, text))
    embeds = torch.cat([prompt_embeds(lm, [prompt])[0][0], vectors])
    rest = continue_from(lm, embeds, max_new_tokens=30)[0]
    return Look(taken, lm.tokenizer.decode(ids), rest)


def page(seen: Look, prompt: str) -> str:
    """Write a Look as HTML: one table and two lines of text, all of it escaped."""
    heads = ("step", "mixture", "entropy, nats", "nearest token", "read back as")
    rows = "".join(
        f"<tr><td>{t}</td><td style='width:26em'>{_bar(step)}</td>"
        f"<td>{step.entropy:.2f}</td><td><code>{_html_text(step.nearest)}</code></td>"
        f"<td>{_html_text(step.read.strip())}</td></tr>"
        for t, step in enumerate(seen.steps, 1)
    )
    cells = "".join(f"<th style='text-align:left'>{head}</th>" for head in heads)
    chain, rest = _html_text(seen.chain.strip()), _html_text(seen.continuation.strip())
    return (
        f"<table style='border-spacing:.6em .2em'><tr>{cells}</tr>{rows}</table>"
        f"<p><b>Top tokens:</b> {_html_text(prompt)} <mark>{chain}</mark></p>"
        f"<p><b>It goes on:</b> {rest or '<i>(it ends here)</i>'}</p>"
    )


def _bar(step: Step) -> str:
    """Draw a bar as wide as its weights; a fed token is framed, a mixture is not."""
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


def _html_text(text: str) -> str:
    """Make model text fit for HTML: cut, spelled out where invisible, escaped."""
    return escape(readable(text, MOST_CHARACTERS))


class Playground:
    """A panel of widgets over `look`: every change of a setting draws the page anew."""

    def __init__(self, lms: dict[str, LM], prompt: str = "The capital of France is"):
        """Make the panel for models by name, and draw its first page."""
        import ipywidgets

        wide = {"style": {"description_width": "9em"}, "layout": {"width": "30em"}}
        on_release = {**wide, "continuous_update": False}
        self.lms = lms
        self.prompt = ipywidgets.Text(prompt, description="prompt", **on_release)
        self.model = ipywidgets.Dropdown(options=list(lms), description="model", **wide)
        self.steps = ipywidgets.IntSlider(4, 1, 16, description="steps", **on_release)
        self.top_k = ipywidgets.IntSlider(50, 1, 100, description="top-k", **on_release)
        self.temperature = ipywidgets.FloatSlider(
            0.8, min=0.05, max=3, step=0.05, description="temperature", **on_release
        )
        self.alpha = ipywidgets.FloatSlider(
            1.5, min=0.25, max=5, step=0.25, description="sharpening α", **on_release
        )
        self.rule = ipywidgets.Dropdown(options=RULES, description="weights", **wide)
        self.mode = ipywidgets.Dropdown(options=MODES, description="mode", **wide)
        self.gate_entropy = ipywidgets.FloatSlider(
            1.0, min=0, max=5, step=0.1, description="gate (nats)", **on_release
        )
        self.norm = ipywidgets.Dropdown(options=NORMS, description="norm", **wide)
        ways = ["completion", *(way for way in FRAMES if way != "completion")]
        self.way = ipywidgets.Dropdown(options=ways, description="read by", **wide)
        self.page = ipywidgets.HTML()
        left = [self.prompt, self.model, self.steps, self.way, self.rule, self.norm]
        right = [self.top_k, self.temperature, self.alpha, self.mode, self.gate_entropy]
        controls = ipywidgets.HBox([ipywidgets.VBox(left), ipywidgets.VBox(right)])
        self.box = ipywidgets.VBox([controls, self.page])
        self.norm.value = "all"  # the write-up's settings are what it starts from
        for widget in (*left, *right):
            widget.observe(self.refresh, "value")
        self.refresh()

    def refresh(self, _: object = None) -> None:
        """Draw the page for the settings as they stand, or say what is wrong."""
        self.gate_entropy.disabled = self.mode.value != "gated"
        names = ("top_k", "temperature", "alpha", "mode", "gate_entropy", "norm")
        try:
            config = MixtureConfig(**{n: getattr(self, n).value for n in names})
            lm, prompt = self.lms[self.model.value], self.prompt.value
            asked = self.steps.value, self.way.value, self.rule.value
            seen = look(lm, prompt, config, *asked)
            self.page.value = page(seen, prompt)
        except ValueError as error:
            self.page.value = f"<p><b>Not possible:</b> {escape(str(error))}</p>"

    def show(self) -> None:
        """Put the panel under the cell."""
        from IPython.display import display

        display(self.box)
