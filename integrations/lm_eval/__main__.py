"""Run concept_meanings by rule: python -m integrations.lm_eval MODEL OUT.csv

Each row is one `lm_eval run`, in this process so that forward calls can be counted: the
share right, and what it has over `generate`'s, question by question, both with 95 %
intervals that draw words (a word has several questions, which lm-eval's own standard
error takes for independent); number of questions, new tokens of the answers, forward
calls (a batch counts once) and the CPU seconds from the first to the last of them.
Needs lm-eval: `pip install .[lm-eval]`.
"""

from __future__ import annotations

import argparse
import json
import runpy
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.stats import bootstrap, clustered, paired_difference
from harness.files import ROOT, write_whole
from integrations.custom_generate.__main__ import build

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


def command(
    model: str, folder: Path, settings: str, limit: int, out: Path
) -> list[str]:
    """Write the words of one run's command line."""
    options = f"--tasks {TASK} --include_path integrations/lm_eval --limit {limit}"
    options += " --batch_size 16 --device cpu --log_samples"
    words = ["lm_eval", "run", "--model", "hf", "--model_args"]
    words += [f"pretrained={model},dtype=float32", *options.split()]
    words += ["--output_path", str(out)]
    if settings:
        given = f"custom_generate={folder},trust_remote_code=True,{settings}"
        words += ["--gen_kwargs", given]
    return words


def run(words: list[str]) -> dict[str, float]:
    """Run a command of lm-eval here -> calls, cpu_seconds."""
    from torch.nn.modules import module
    from transformers import GenerationMixin

    times: list[float] = []

    def watched(called: Any, *_: Any) -> None:
        if isinstance(called, GenerationMixin):
            times.append(time.process_time())

    hooks = module.register_module_forward_pre_hook(watched)
    after = module.register_module_forward_hook(watched)
    before, sys.argv = sys.argv, words
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


def answers(out: Path) -> pd.DataFrame:
    """Read what lm-eval logged: question, word (its accepted answers), text, right."""
    logged = next(out.rglob("samples_*.jsonl")).read_text("utf-8").splitlines()
    samples = sorted(map(json.loads, logged), key=lambda sample: sample["doc_id"])
    return pd.DataFrame(
        {
            "question": sample["doc"]["question"],
            "word": sample["doc"]["accepted"],
            "text": sample["resps"][0][0],
            "right": float(sample["right"]),
        }
        for sample in samples
    )


def scores(asked: pd.DataFrame, plain: pd.DataFrame) -> dict[str, float]:
    """Estimate the share right, and what it has over `plain`, the same questions."""
    if asked.question.tolist() != plain.question.tolist():
        raise ValueError("both rules must be asked the same questions in one order")
    over = clustered(paired_difference, asked.word, asked.right, plain.right)
    found = clustered(bootstrap, asked.word, asked.right).columns("right")
    found |= {f"over_{k}": x for k, x in over.columns("generate").items() if k != "n"}
    return {name: round(x, 4) for name, x in found.items()}


def main() -> None:
    """Run what the command line asks for and write one row a rule."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a folder or a hub id")
    parser.add_argument("out", type=Path, help="a csv file")
    parser.add_argument("--limit", type=int, default=80, help="questions")
    args = parser.parse_args()
    from transformers import AutoTokenizer

    tokenizer, rows, plain = AutoTokenizer.from_pretrained(args.model), [], None
    with tempfile.TemporaryDirectory() as name:
        folder = build(Path(name) / "concept", ROOT / "models" / "mini-qwen2")
        for rule, settings in RULES.items():
            out = Path(name) / rule
            words = command(args.model, folder, settings, args.limit, out)
            print(shlex.join(words), flush=True)
            cost, asked = run(words), answers(out)
            plain = asked if plain is None else plain
            ids = tokenizer(asked.text.tolist(), add_special_tokens=False)["input_ids"]
            counts = {"tokens": sum(map(len, ids))} | cost
            rows.append({"rule": rule} | scores(asked, plain) | counts)
    write_whole(args.out, pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


if __name__ == "__main__":
    main()
