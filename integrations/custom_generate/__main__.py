"""Build the custom_generate folder: python -m integrations.custom_generate OUT.

OUT becomes a model repository that transformers can load and a hub can hold: README.md,
a mini model, and custom_generate/ with generate.py and the modules of `helpers`. It is
built when it is wanted and not committed, so that it cannot be out of date.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]


def build(out: Path, model: Path) -> Path:
    """Write the repository to the folder out, which must be new or empty -> out."""
    if not (model / "config.json").is_file():
        raise ValueError(f"{model} holds no config.json: give a model's folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty: give a new folder")
    code = out / "custom_generate"
    shutil.copytree(model, out, dirs_exist_ok=True)
    code.mkdir()
    for module in sorted((ROOT / "helpers").glob("*.py")):
        if module.name != "__init__.py":
            shutil.copy(module, code)
    for name in ("generate.py", "requirements.txt"):
        shutil.copy(HERE / name, code)
    shutil.copy(HERE / "README.md", out)
    for licence in ("LICENSE", "LICENSE-TEXT"):
        shutil.copy(ROOT / licence, code)
    return out


def main() -> None:
    """Build what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "mini-qwen2")
    args = parser.parse_args()
    try:
        print(build(args.out, args.model))
    except (ValueError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
