"""Run concept_meanings by rule: python -m integrations.lm_eval MODEL OUT.csv

Each row is one `lm_eval run`, in this process so that forward calls can be counted:
share right and its standard error as lm-eval gives them, number of questions, new
tokens of the answers, forward calls (a batch counts once) and the CPU seconds from the
first to the last of them. Needs lm-eval: `pip install .[lm-eval]`.
"""

from __future__ import annotations

import argparse
import csv
import json
import runpy
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from integrations.custom_generate.__main__ import ROOT, build

TASK = "concept_meanings"
SOFT = "alpha=1.0,mixture_temperature=0.6,mixture_top_k=30,norm=none"
# settings of the custom_generate folder; generate: transformers' greedy decoding itself
RULES = {
    "generate": "",
    "discrete": "mode=discrete",
    "sharpened": "rule=sharpened",
    "soft_thinking": f"rule=soft_thinking,{SOFT}",
    "gumbel": f"rule=gumbel,{SOFT}",
}
COLUMNS = ("rule", "right", "stderr", "n", "tokens", "calls", "cpu_seconds")


def command(model: str, folder: Path, settings: str, limit: int, out: Path) -> str:
    """Write the command line of one run."""
    words = f"lm_eval run --model hf --model_args pretrained={model},dtype=float32"
    words += f" --tasks {TASK} --include_path integrations/lm_eval --limit {limit}"
    words += f" --batch_size 16 --device cpu --log_samples --output_path {out}"
    if settings:
        words += f" --gen_kwargs custom_generate={folder},trust_remote_code=True"
        words += f",{settings}"
    return words


def run(words: str) -> dict[str, float]:
    """Run a command of lm-eval here -> calls, cpu_seconds."""
    from torch.nn.modules import module
    from transformers import GenerationMixin

    times: list[float] = []

    def watched(called: Any, *_: Any) -> None:
        if isinstance(called, GenerationMixin):
            times.append(time.process_time())

    hooks = module.register_module_forward_pre_hook(watched)
    after = module.register_module_forward_hook(watched)
    before, sys.argv = sys.argv, shlex.split(words)
    try:
        runpy.run_module("lm_eval", run_name="__main__", alter_sys=False)
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.argv = before
        hooks.remove()
        after.remove()
    return {"calls": len(times) // 2, "cpu_seconds": round(times[-1] - times[0], 1)}


def results(out: Path, model: str) -> dict[str, float]:
    """Read what lm-eval wrote -> right, stderr, n, tokens."""
    from transformers import AutoTokenizer

    found = json.loads(next(out.rglob("results_*.json")).read_text("utf-8"))
    scores = found["results"][TASK]
    samples = next(out.rglob("samples_*.jsonl")).read_text("utf-8").splitlines()
    texts = [json.loads(line)["resps"][0][0] for line in samples]
    tokens = AutoTokenizer.from_pretrained(model)(texts)["input_ids"]
    return {
        "right": round(scores["right,none"], 4),
        "stderr": round(scores["right_stderr,none"], 4),
        "n": len(texts),
        "tokens": sum(map(len, tokens)),
    }


def main() -> None:
    """Run what the command line asks for and write one row a rule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a folder or a hub id")
    parser.add_argument("out", type=Path, help="a csv file")
    parser.add_argument("--limit", type=int, default=80, help="questions")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = build(Path(name) / "concept", ROOT / "models" / "mini-qwen2")
        for rule, settings in RULES.items():
            out = Path(name) / rule
            words = command(args.model, folder, settings, args.limit, out)
            print(words, flush=True)
            cost = run(words)
            rows.append({"rule": rule} | results(out, args.model) | cost)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
