"""Models other than ours: the paper's own tokenizers and configurations, and Llama.

The folders are built here: the real configuration and tokenizer, cut to two narrow
layers with random weights of the same class, so that every id is the real one.
"""

import json
import shutil

import nbformat
import pytest
import torch

from harness import files
from helpers import (
    MixtureConfig,
    chat_prompt,
    concept_decoding,
    continue_from,
    generate_concepts,
    load,
    models,
)
from tests.trial_runs import PARAMETERS

TOKENIZERS = files.ROOT.parent / "shared" / "tokenizers"
NARROW = {
    "gpt2": {"n_layer": 2, "n_embd": 16, "n_head": 2},
    "qwen2.5-1.5b-instruct": {
        "num_hidden_layers": 2,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 32,
        "max_window_layers": 2,
        "layer_types": ["full_attention"] * 2,
    },
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """GPT-2 and Qwen2.5 with their real vocabularies and next to no weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    if not TOKENIZERS.exists():
        pytest.skip("the paper's tokenizers are not beside this checkout")
    out = {}
    for name, narrow in NARROW.items():
        folder = out[name] = tmp_path_factory.mktemp("models") / name
        shutil.copytree(TOKENIZERS / name, folder, copy_function=shutil.copyfile)
        folder.chmod(0o755)
        config = json.loads((folder / "config.json").read_text()) | narrow
        (folder / "config.json").write_text(json.dumps(config))
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
        model.save_pretrained(folder)
    return out


def exercised(lm) -> None:
    """Every public function on one model."""
    prompts = ["The capital of France is", "Two"]
    trace = generate_concepts(lm, prompts, steps=3)
    assert trace.vectors.shape == (2, 3, lm.embed.shape[1])
    assert torch.isfinite(trace.vectors).all() and len(trace.to_frame()) > 0
    texts = continue_from(lm, trace.vectors[0, :1], max_new_tokens=4)
    assert len(texts) == 1 and isinstance(texts[0], str)
    inputs = lm.tokenizer(prompts[0], return_tensors="pt")
    one = concept_decoding(MixtureConfig(top_k=1, norm="none"))
    more = {"max_new_tokens": 4, "do_sample": False}
    expected = lm.model.generate(**inputs, **more)
    found = lm.model.generate(**inputs, custom_generate=one, **more)
    assert torch.equal(found, expected)


def test_gpt2_with_its_real_vocabulary(folders):
    lm = load(str(folders["gpt2"]), device="cpu")
    assert type(lm.model).__name__ == "GPT2LMHeadModel" and lm.embed.shape[0] == 50257
    assert lm.tokenizer(" Paris")["input_ids"] == [6342] and lm.eos_ids == (50256,)
    with pytest.raises(ValueError, match="no chat template"):
        chat_prompt(lm, "hello")
    exercised(lm)


def test_qwen_with_its_real_vocabulary(folders):
    lm = load(str(folders["qwen2.5-1.5b-instruct"]), device="cpu")
    assert type(lm.model).__name__ == "Qwen2ForCausalLM" and lm.embed.shape[0] == 151936
    assert lm.used == 151665 and 151645 in lm.eos_ids
    ids = lm.tokenizer(chat_prompt(lm, "Repeat: gato"))["input_ids"]
    assert ids[0] == 151644 and ids.count(151644) == 3 and 151645 in ids
    exercised(lm)


def test_a_llama_of_others(stories):
    assert type(stories.model).__name__ == "LlamaForCausalLM"
    exercised(stories)


def test_half_precision(folders):
    lm = load(str(folders["gpt2"]), device="cpu", dtype="bfloat16")
    assert lm.dtype == torch.bfloat16
    exercised(lm)


def test_a_device_map_gives_the_same_tokens(folders):
    name = str(folders["gpt2"])
    spread = load(name, device_map="auto")
    alone = load(name, device="cpu")
    prompts = ["The capital of France is"]
    traces = [generate_concepts(lm, prompts, steps=3) for lm in (spread, alone)]
    if spread.device.type == "cpu":
        assert traces[0].tokens == traces[1].tokens
    exercised(alone)


def test_layers_on_the_disk_give_the_same_tokens():
    parts = ("wte", "wpe", "drop", "ln_f")
    spread = {f"transformer.{part}": "cpu" for part in parts} | {"lm_head": "cpu"}
    spread = load("mini-gpt2", device_map=spread | {"transformer.h": "disk"})
    assert {p.device.type for p in spread.model.parameters()} == {"cpu", "meta"}
    prompts = ["The capital of France is"]
    traces = [
        generate_concepts(lm, prompts, steps=3)
        for lm in (spread, load("mini-gpt2", device="cpu"))
    ]
    assert traces[0].tokens == traces[1].tokens


def test_a_device_map_counts_all_memory(folders, monkeypatch):
    need = models.count_parameters(folders["gpt2"]) * 4
    monkeypatch.setattr(models, "free_memory", lambda: need // 2)
    monkeypatch.setattr(models, "gpu_memory", lambda: 0)
    with pytest.raises(MemoryError, match="needs about"):
        load(str(folders["gpt2"]), device_map="auto")
    monkeypatch.setattr(models, "gpu_memory", lambda: need)
    assert load(str(folders["gpt2"]), device_map={"": "cpu"}).device.type == "cpu"


USES = """
import sys; sys.path.insert(0, "{root}")
from harness import files
from helpers import chat_prompt, generate_concepts, load
base = load(BASE, DEVICE, DTYPE)
trace = generate_concepts(base, ["The capital of France is"], steps=2)
lm = load(INSTRUCT, DEVICE, DTYPE)
chat = generate_concepts(lm, [chat_prompt(lm, "Repeat: cat")], steps=2)
said = f"{{base.dtype}},{{trace.vectors.shape[-1]}},{{chat.vectors.shape[-1]}}"
files.write_whole(files.figures_dir(SET) / "01_seen.csv", said)
"""


def test_reproduce_runs_on_any_two_folders(folders, place, go):
    book = nbformat.v4.new_notebook()
    cell = nbformat.v4.new_code_cell
    book.cells = [
        cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        cell(USES.format(root=files.ROOT)),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    book.metadata["kernelspec"] = kernel
    nbformat.write(book, place / "notebooks" / "01_trial.ipynb")
    base, instruct = folders.values()
    status, printed, errors = go(
        "--base", str(base), "--instruct", str(instruct), "--dtype", "bfloat16"
    )
    assert status == 0, printed + errors
    seen = (place / "figures" / "trial" / "01_seen.csv").read_text()
    assert seen == "torch.bfloat16,16,16"
