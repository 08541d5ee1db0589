"""Which files of a Hugging Face model's folder are read, and that they are safe to read.

Weights come from plain `*.safetensors` files of the folder itself; JSON goes through the guard.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsing.study.errors import DefinitionError, NotFoundError, SparsingError
from sparsing.study.guarded_json import read_json_file

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
INDEX, BIN_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
OTHER_JSON = ("generation_config.json", TOKENIZER_CONFIG, INDEX)
"""What is read beside the configuration, where it is there."""

MOST_INDEX_BYTES = 2**26
"""Of an index of weights; one of 10^5 tensors has 10 MB."""

GGUF = ".gguf"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def gguf_of(path: Path) -> Path | None:
    """The GGUF file that is meant: the path itself, or the only one of a folder without a model.

    Raises:
        DefinitionError: a folder has several.
    """
    if path.is_file() and path.suffix == GGUF:
        return path
    if not path.is_dir() or (path / CONFIG).is_file():
        return None
    found = sorted(path.glob(f"*{GGUF}"))
    if len(found) > 1:
        names = ", ".join(each.name for each in found[:5])
        raise DefinitionError(f"{path} has several GGUF files ({names}): give one of them")
    return found[0] if found else None


def read_folder(folder: Path, allow_bin: bool = False) -> dict[str, Any]:
    """config.json of a folder that holds a model which can be read safely.

    Args:
        allow_bin: take PyTorch's pickles where there are no safetensors; they are then read with
            `weights_only`, which makes tensors and runs no code.

    Raises:
        NotFoundError: there is no such folder, or no model, tokenizer or weights in it.
        DefinitionError: there are pickles only, the weights lie elsewhere, or are quantized.
        SparsingError: a file is damaged.
    """
    if not (folder / CONFIG).is_file():
        raise NotFoundError(f"{folder}: there is no {CONFIG}; give a model's folder")
    _check_weights(folder, allow_bin)
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


def _check_weights(folder: Path, allow_bin: bool) -> None:
    if weight_files(folder):
        return
    pickles = sorted(path.name for p in PICKLES for path in folder.glob(p))
    if allow_bin and any(name.startswith("pytorch_model") for name in pickles):
        return
    if pickles:
        raise DefinitionError(
            f"{folder}: weights only as pickles ({', '.join(pickles[:3])}), which can run code "
            "when they are loaded; convert them to safetensors, or give --allow-bin: then only "
            "tensors are read from pytorch_model*.bin",
            code="pickled_weights",
        )
    raise NotFoundError(f"{folder}: there are no weights (*.safetensors)")


def _check_index(folder: Path) -> None:
    """Raise where the index of the weights that are read names another file than one of them."""
    read = weight_files(folder)
    index, ending = (INDEX, ".safetensors") if read else (BIN_INDEX, ".bin")
    if not (folder / index).is_file():
        return
    said = read_json_file(folder / index, most_bytes=MOST_INDEX_BYTES)
    files = said.get("weight_map") if isinstance(said, dict) else None
    if not isinstance(files, dict):
        raise SparsingError(f"{folder / index} has no 'weight_map'; save the model again")
    for name in set(map(str, files.values())):
        if Path(name).name != name or not name.endswith(ending):
            raise DefinitionError(
                f"{folder / index} names {name[:100]!r}: weights are read from *{ending} in the "
                "folder itself only",
                code="weights_elsewhere",
            )
        if not (folder / name).is_file():
            raise NotFoundError(f"{folder}: {name}, which {index} names, is not there")
