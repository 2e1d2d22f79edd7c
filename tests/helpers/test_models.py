"""models.py and checkpoints.py: what loads, and what is refused with one clear line."""

import hashlib
import json
import os
import pickle
import re
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import chat_prompt, checkpoints, load, models, prompt_embeds
from helpers.batching import next_logits
from helpers.models import LM
from tests.tiny import MINI, named, tiny_model, tiny_tokenizer


@pytest.fixture
def folder(tmp_path):
    """A complete model folder: configuration, tokenizer, safetensors."""
    tiny_model("gpt2").save_pretrained(tmp_path / "m")
    tiny_tokenizer().save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def refusal(*args, **given) -> tuple[type, str]:
    """The error load() raises, which must be one line."""
    with pytest.raises((ValueError, OSError, MemoryError)) as refused:
        load(*args, **given)
    message = str(refused.value)
    assert message and "\n" not in message and len(message) < 300
    return refused.type, message


def test_a_folder_loads_from_any_working_directory(folder, monkeypatch):
    monkeypatch.chdir("/")
    lm = load(str(folder), device="cpu")
    assert lm.embed.shape == (100, 32) and not lm.model.training
    assert lm.dtype == torch.float32 and lm.device.type == "cpu"
    assert (lm.context, lm.used, lm.eos_ids) == (64, 100, (2,))
    assert torch.equal(lm.embed, tiny_model("gpt2").get_input_embeddings().weight)
    monkeypatch.chdir(folder.parent)
    assert load("m", device="cpu", dtype="bfloat16").dtype == torch.bfloat16


def test_a_folder_named_like_a_set_member_does_not_shadow_it(folder, monkeypatch):
    folder.rename(folder.parent / "gpt2")
    monkeypatch.chdir(folder.parent)
    kind, message = refusal("gpt2")
    assert kind is OSError and "mini" in message and "607a30d" in message


def test_auto_device_is_one_that_exists(folder):
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    if not torch.backends.mps.is_available():
        assert load(str(folder)).device.type == expected


def test_the_paper_s_models_are_pinned():
    assert checkpoints.PINNED["gpt2"] == checkpoints.PINNED["openai-community/gpt2"]
    assert all(len(commit) == 40 for _, commit in checkpoints.PINNED.values())


@pytest.mark.parametrize("name", MINI)
def test_the_embedded_models_load_and_match_their_checksum(name):
    lm = named(name)
    checkpoints.verify_checkpoint(checkpoints.EMBEDDED[name])
    assert type(lm.model).__name__ in ("GPT2LMHeadModel", "Qwen2ForCausalLM")
    head = lm.model.get_output_embeddings().weight
    assert head.data_ptr() == lm.embed.data_ptr()  # tied, like the paper's models
    assert lm.used <= lm.embed.shape[0] and lm.eos_ids


def test_a_real_llama_of_others_loads(stories):
    embeds, mask = prompt_embeds(stories, "Once upon a time")
    assert stories.embed.shape == (512, 64) and mask.all()
    assert embeds.shape[1] == len(stories.tokenizer("Once upon a time")["input_ids"])


@pytest.mark.parametrize(
    "given, kind, says",
    [
        ({"name": "nope"}, FileNotFoundError, "mini-gpt2"),
        ({"name": "./nope"}, FileNotFoundError, "folder"),
        ({"name": "nobody/nothing"}, OSError, "mini"),
        ({"name": "a b/c?"}, OSError, "mini"),
        ({"name": "Qwen/Qwen2.5-1.5B-Instruct"}, OSError, "989aa79"),
        ({"name": "mini-gpt2", "dtype": "int8"}, ValueError, "float32"),
        ({"name": "mini-gpt2", "device": "tpu"}, ValueError, "cuda"),
    ],
)
def test_what_cannot_be_found_is_refused(given, kind, says):
    found, message = refusal(**given)
    assert issubclass(found, kind) and says in message


def test_an_absent_device_is_refused(folder):
    absent = "mps" if sys.platform != "darwin" else "cuda"
    kind, message = refusal(str(folder), device=absent)
    assert kind is ValueError and absent in message and "cpu" in message


def test_folders_that_are_not_models_are_refused(folder):
    (folder / "tokenizer.json").unlink()
    kind, message = refusal(str(folder), device="cpu")
    assert kind is FileNotFoundError and "tokenizer" in message
    (folder / "config.json").write_text("{}")
    assert refusal(str(folder), device="cpu")[0] is ValueError
    (folder / "config.json").unlink()
    assert refusal(str(folder))[0] is FileNotFoundError


def test_no_pickle_is_ever_loaded(folder):
    """A folder with only pytorch_model.bin is refused, and the pickle is not opened."""
    (folder / "model.safetensors").unlink()

    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("a pickle was loaded",)

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    kind, message = refusal(str(folder), device="cpu")
    assert kind is FileNotFoundError and "safetensors" in message


def test_code_that_comes_with_a_model_is_not_run(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "x", "auto_map": {"AutoConfig": "bomb.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "bomb.py").write_text("raise SystemExit('code was run')")
    assert refusal(str(folder), device="cpu")[0] is ValueError


def test_weights_that_fail_their_checksum_are_refused(folder):
    weights = folder / "model.safetensors"
    right = hashlib.sha256(weights.read_bytes()).hexdigest()
    (folder / "SHA256").write_text(f"{right}  model.safetensors\n")
    load(str(folder), device="cpu")
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    kind, message = refusal(str(folder), device="cpu")
    assert kind is ValueError and "checksum" in message and right[:12] in message


def test_cut_and_incomplete_weights_are_refused(folder):
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:5], b"version https://git-lfs"):
        weights.write_bytes(broken)
        assert refusal(str(folder), device="cpu")[0] is ValueError
    weights.write_bytes(whole)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_layer": 3}))
    kind, message = refusal(str(folder), device="cpu")
    assert kind is ValueError and "h.2" in message  # never filled with random numbers


def rewrite(folder, weights=None, **config):
    """Change a folder's configuration, and its weights by what `weights` does."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    if weights:
        stored = load_file(folder / "model.safetensors")
        weights(stored)
        save_file(stored, folder / "model.safetensors", {"format": "pt"})


def as_float8(stored):
    name = next(k for k in stored if k.endswith("c_attn.weight"))
    stored[name] = stored[name].to(torch.float8_e4m3fn)


@pytest.mark.parametrize(
    "weights, config, says",
    [
        (None, {"n_layer": 1}, "does not take: transformer.h.1.attn.c_attn.weight and"),
        (
            lambda w: w.update(extra=torch.ones(1)),
            {},
            "does not take: extra and 0 more",
        ),
        (None, {"n_inner": 48}, r"wrong shape: transformer.h.0.mlp.c_fc.bias \(128,\)"),
        (as_float8, {}, "h.0.attn.c_attn.weight of m is F8_E4M3, and config.json"),
        (None, {"quantization_config": {"quant_method": "fp0"}}, "quantization 'fp0'"),
        (None, {"n_layer": 10**9}, "asks for 1000000000 layers"),
        (None, {"_attn_implementation": "a/kernel"}, "'a/kernel' is code from a hub"),
        (None, {"attn_implementation": "a/kernel"}, "'a/kernel' is code from a hub"),
        (None, {"eos_token_id": "2"}, "eos_token_id"),
        (None, {"n_head": "two"}, "n_head"),
    ],
)
def test_a_file_that_does_not_fit_its_configuration_is_refused(
    folder, weights, config, says
):
    rewrite(folder, weights, **config)
    kind, message = refusal(str(folder), device="cpu")
    assert kind is ValueError and re.search(says, message), message


def test_buffers_that_gpt2_s_own_files_hold_are_no_surprise(folder):
    mask = torch.ones(1, 1, 64, 64).tril()
    rewrite(folder, lambda w: w.update({"transformer.h.0.attn.bias": mask}))
    load(str(folder), device="cpu")
    rewrite(folder, lambda w: w.update({"transformer.h.0.attn.bias": mask.bool()}))
    load(str(folder), device="cpu")


def test_a_second_copy_of_the_weights_counts_once(folder):
    once = checkpoints.count_parameters(folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "consolidated.safetensors").write_bytes(whole)
    assert checkpoints.count_parameters(folder) == once


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_pipe_is_not_waited_for(folder, name):
    (folder / name).unlink()
    os.mkfifo(folder / name)
    kind, message = refusal(str(folder), device="cpu")
    assert kind is ValueError and f"{name} of m is no ordinary file" in message


def test_a_revision_is_a_hub_s(folder):
    for name in (str(folder), "mini-gpt2"):
        kind, message = refusal(name, revision="main")
        assert kind is ValueError and "revision='main' is for a hub id" in message


def test_a_device_map_for_a_device_that_is_not_there(folder):
    if not torch.cuda.is_available():
        assert refusal(str(folder), device_map="cuda")[0] is ValueError


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize(
    "text", ["[" * 10**5, '{"a":' * 10**5, "[]", "{}", "9" * 10**4]
)
def test_json_of_any_shape_is_refused_in_a_line(folder, name, text):
    (folder / name).write_text(text)
    refusal(str(folder), device="cpu")


@pytest.mark.parametrize(
    "index, says",
    [
        ("{}", "weight_map"),
        ("[]", "weight_map"),
        ('{"weight_map": []}', "weight_map"),
        ('{"weight_map": {"a": "pytorch_model.bin"}}', "pytorch_model.bin"),
        ('{"weight_map": {"a": "../b.safetensors"}}', "beside it"),
        ('{"weight_map": {"a": "b.safetensors"}}', "lacks b.safetensors"),
    ],
)
def test_an_index_names_safetensors_beside_it_only(folder, index, says):
    (folder / "model.safetensors.index.json").write_text(index)
    kind, message = refusal(str(folder), device="cpu")
    assert kind in (ValueError, FileNotFoundError) and says in message


def test_a_model_larger_than_the_memory_is_refused_before_it_is_read(
    folder, monkeypatch
):
    numbers = sum(p.numel() for p in tiny_model("gpt2").parameters())
    assert checkpoints.count_parameters(folder) == numbers  # from the headers alone
    monkeypatch.setattr(models, "free_memory", lambda: numbers * 4)
    monkeypatch.setattr(models, "_read_model", lambda *_: pytest.fail("it was read"))
    kind, message = refusal(str(folder), device="cpu")
    assert kind is MemoryError and "GB" in message


def test_mps_is_kept_only_if_its_first_step_agrees(monkeypatch):
    """No Mac at hand: a model whose .to() does nothing, and first steps as given."""
    model, moves = tiny_model("gpt2"), []
    monkeypatch.setattr(model, "to", lambda place: moves.append(place) or model)

    def placed(gap, asked):
        steps = iter([torch.zeros(5), torch.full((5,), gap)])
        monkeypatch.setattr(models, "first_logits", lambda _: next(steps))
        moves.clear()
        return models._move(model, "mps", asked)

    assert placed(1e-4, "auto") is model and moves == ["mps"]
    with pytest.warns(UserWarning, match="using the CPU"):
        placed(1.0, "auto")
    assert moves == ["mps", "cpu"]
    with pytest.warns(UserWarning, match="device='cpu'"):
        placed(float("nan"), "mps")
    assert moves == ["mps"]
    monkeypatch.undo()
    assert models.first_logits(model).shape == (100,)


class Expansions(TorchDispatchMode):
    """Collects the shapes that tensors are repeated to."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name == "aten::expand":
            self.shapes.append(tuple(args[1]))
        return func(*args, **(kwargs or {}))


def test_the_head_s_weight_is_not_repeated_for_every_row(folder):
    wrapped, plain = LM(tiny_model("gpt2")), LM(tiny_model("gpt2"))
    again = LM(wrapped.model)
    assert len(again.model.lm_head._forward_pre_hooks) == 1  # not one a wrapping
    plain.model.lm_head._forward_pre_hooks.clear()
    for lm in (load(str(folder), device="cpu"), wrapped, plain):
        lm.model.requires_grad_(False)
        with Expansions() as seen:
            next_logits(lm, lm.embed[torch.arange(20).view(4, 5)])
        repeated = (4, 32, 100) in seen.shapes  # rows, width, vocabulary
        assert repeated == (lm is plain)


def test_a_loaded_model_can_be_handed_to_another_process(folder):
    model = load(str(folder), device="cpu").model
    copy, ids = pickle.loads(pickle.dumps(model)), torch.arange(5)[None]
    assert torch.equal(copy(ids).logits, model(ids).logits)


def test_chat_prompt_needs_a_template():
    lm = LM(tiny_model("qwen2"), tiny_tokenizer(), "plain")
    with pytest.raises(ValueError, match="^plain has no chat template[^\n]*$"):
        chat_prompt(lm, "w1")
    lm.tokenizer.chat_template = "{{ messages[0]['content'] }} w9"
    assert chat_prompt(lm, "w1 w2") == "w1 w2 w9"


def test_scaled_embeddings_are_seen_as_the_model_applies_them():
    lm = LM(tiny_model("gemma3", head_dim=8))
    ids = torch.tensor([3, 5])
    assert torch.equal(lm.embed[ids], lm.model.get_input_embeddings()(ids))
    assert not torch.equal(lm.embed, lm.model.get_input_embeddings().weight)
