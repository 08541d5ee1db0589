"""Which files of a Hugging Face model's folder are read, and that they are safe to read.

Weights come from plain `*.safetensors` files of the folder itself; JSON goes through the guard.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsing.study.errors import DefinitionError, NotFoundError, SparsingError
from sparsing.study.guarded_json import read_json_file

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
INDEX = "model.safetensors.index.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
OTHER_JSON = ("generation_config.json", TOKENIZER_CONFIG, INDEX)
"""What is read beside the configuration, where it is there."""

MOST_INDEX_BYTES = 2**26
"""Of an index of weights; one of 10^5 tensors has 10 MB."""

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_folder(folder: Path) -> dict[str, Any]:
    """config.json of a folder that holds a model which can be read safely.

    Raises:
        NotFoundError: there is no such folder, or no model, tokenizer or weights in it.
        DefinitionError: there are pickles only, the weights lie elsewhere, or are quantized.
        SparsingError: a file is damaged.
    """
    if not (folder / CONFIG).is_file():
        raise NotFoundError(f"{folder}: there is no {CONFIG}; give a model's folder")
    _check_weights(folder)
    if not (folder / TOKENIZER).is_file():
        raise NotFoundError(
            f"{folder}: there is no {TOKENIZER}; save the model's fast tokenizer there: "
            "AutoTokenizer.from_pretrained(...).save_pretrained(folder)"
        )
    about = read_json_file(folder / CONFIG)
    for name in OTHER_JSON:
        if (folder / name).is_file():
            read_json_file(folder / name, most_bytes=MOST_INDEX_BYTES)
    _check_index(folder)
    if not isinstance(about, dict) or "model_type" not in about:
        raise DefinitionError(f"{folder / CONFIG} has no 'model_type'; give a model's folder")
    if "quantization_config" in about:
        raise DefinitionError(f"{folder}: its weights are quantized; give the model before that")
    return about


def tokenizer_says(folder: Path) -> dict[str, Any]:
    """The settings beside tokenizer.json; none where they are not there."""
    if not (folder / TOKENIZER_CONFIG).is_file():
        return {}
    said = read_json_file(folder / TOKENIZER_CONFIG)
    return said if isinstance(said, dict) else {}


def weight_files(folder: Path) -> list[Path]:
    """Its safetensors files, in order."""
    return sorted(folder.glob("*.safetensors"))


def _check_weights(folder: Path) -> None:
    if weight_files(folder):
        return
    if pickles := [path.name for p in PICKLES for path in folder.glob(p)]:
        raise DefinitionError(
            f"{folder}: weights only as pickles ({', '.join(sorted(pickles)[:3])}), which run "
            "code when they are loaded; convert them to safetensors"
        )
    raise NotFoundError(f"{folder}: there are no weights (*.safetensors)")


def _check_index(folder: Path) -> None:
    """Raise DefinitionError where the index names another file than one of `weight_files`."""
    if not (folder / INDEX).is_file():
        return
    index = read_json_file(folder / INDEX, most_bytes=MOST_INDEX_BYTES)
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict):
        raise SparsingError(f"{folder / INDEX} has no 'weight_map'; save the model again")
    known = {path.name for path in weight_files(folder)}
    for name in files.values():
        if (
            not isinstance(name, str)
            or not name.endswith(".safetensors")
            or Path(name).name != name
        ):
            raise DefinitionError(
                f"{folder / INDEX} names {str(name)[:100]!r}: weights are read from *.safetensors "
                "in the folder itself only"
            )
        if name not in known:
            raise NotFoundError(f"{folder}: {name}, which {INDEX} names, is not there")
