"""Hugging Face causal language models, to be measured or to write.

From a local folder as `save_pretrained` writes it: config.json, tokenizer.json, safetensors. No
network, no pickles, no code of the folder's own. `transformers` loads the model; its FFNs are found
by what they compute (`hugging_face_ffns`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from safetensors import safe_open
from torch import Tensor

from sparsing.actors.models.hugging_face_ffns import (
    activation_name,
    check_activation,
    experts_of,
    find_ffns,
)
from sparsing.actors.models.hugging_face_files import (
    CONFIG,
    TOKENIZER,
    gguf_of,
    read_folder,
    tokenizer_says,
    weight_files,
)
from sparsing.actors.models.subject import Subject
from sparsing.study.errors import DefinitionError, SparsingError

OF_A_LAYER = re.compile(r"\.\d+\..*(proj|fc|mlp|ffn|dense|expert|attn|attention).*weight$")
"""Weights of a decoder layer, which a configuration must not leave out."""

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Precisions, as safetensors names them and as torch does."""

MUP_KEYS = {"scale_emb": 1.0, "scale_depth": 1.0, "dim_model_base": 1.0}
"""Keys of a `minicpm` configuration with their defaults."""


@dataclass(frozen=True, kw_only=True)
class Foreign:
    """A model of someone else's."""

    subject: Subject
    tokenizer: ForeignTokenizer
    activation: str
    """Activation function, as the configuration names it."""
    max_positions: int | None
    """Longest sequence it was made for, in tokens."""
    stored: str
    """Precision its FFN weights are stored in."""
    computed: str
    """Precision it is computed in."""
    ends: frozenset[int]
    """Token ids that end a text."""
    experts: dict[str, int] | None
    """`in_layer` and `per_token`, where its FFNs are mixtures of experts."""
    bos: tuple[int, ...]
    """The BOS that its configuration names; none: it has none."""


class ForeignTokenizer:
    """A tokenizer.json, by the `tokenizers` library."""

    def __init__(
        self,
        source: Path | tokenizers.Tokenizer,
        end_of_document: int | None,
        bos: tuple[int, ...] | None = None,
    ) -> None:
        """`bos`: what to put before a text; None: what the tokenizer itself says."""
        self._inner = _read_tokenizer(source) if isinstance(source, Path) else source
        # Truncation or padding that was saved with it is for training, not for measuring.
        self._inner.no_truncation()
        self._inner.no_padding()
        # Text that spells a special token out is text.
        self._inner.encode_special_tokens = True
        self.vocabulary_size = 1 + max(self._inner.get_vocab(with_added_tokens=True).values())
        """Token ids are below it."""
        self._end = [] if end_of_document is None else [end_of_document]
        self.prefix = self._template() if bos is None else bos
        """Token ids that it puts before a text (BOS)."""

    def documents(self, texts: list[str], *, bos: bool = True) -> list[np.ndarray]:
        """Ids of each document, int64: BOS where it puts one, closed by the model's EOS."""
        encodings = self._inner.encode_batch_fast(texts, add_special_tokens=False)
        before = [*self.prefix] if bos else []
        return [np.array(self._closed(before + e.ids), dtype=np.int64) for e in encodings]

    def _template(self) -> tuple[int, ...]:
        """What it adds before a text by itself."""
        plain = self._inner.encode("a", add_special_tokens=False).ids
        whole = self._inner.encode("a", add_special_tokens=True).ids
        for start in range(len(whole) - len(plain) + 1):
            if plain and whole[start : start + len(plain)] == plain:
                return tuple(whole[:start])
        return ()

    def encode(self, text: str) -> list[int]:
        """Ids of a text that goes on: with what its tokenizer puts before it, without an EOS."""
        return [*self.prefix, *self._inner.encode(text, add_special_tokens=False).ids]

    def decode(self, ids: list[int]) -> str:
        """Text of the ids, special tokens left out."""
        return self._inner.decode(ids, skip_special_tokens=True)

    def _closed(self, ids: list[int]) -> list[int]:
        return ids if ids[-1:] == self._end else ids + self._end

    @property
    def json(self) -> str:
        """Two tokenizers with the same JSON are the same."""
        return self._inner.to_str() + str((self._end, self.prefix))


def _read_tokenizer(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception for a broken file
        raise SparsingError(f"{path} is no tokenizer ({error}); save it again") from error


def is_foreign(path: Path) -> bool:
    """Whether a folder holds a Hugging Face model, or there is a GGUF file."""
    return (path / CONFIG).is_file() or gguf_of(path) is not None


def load_foreign(folder: Path, device: torch.device, allow_bin: bool = False) -> Foreign:
    """The model in a folder or GGUF file, its FFNs replaced, to be measured on a device.

    On the CPU it is computed in float32 whatever its weights are stored in, on a GPU in the
    precision of its weights; those of a GGUF file are dequantized.

    Args:
        allow_bin: read tensors from PyTorch's pickles where there are no safetensors.

    Raises:
        NotFoundError: there is no such folder, or no model, tokenizer or weights in it.
        DefinitionError: it is no causal language model whose FFNs are understood, or it cannot be
            read safely.
        SparsingError: a file is damaged, or weights are missing.
    """
    if (gguf := gguf_of(folder)) is not None:
        model, about, inner, stored = _load_gguf(gguf, device)
        adds = None
    else:
        about = read_folder(folder, allow_bin)
        stored = _stored_precision(folder, about)
        model = _load_model(folder, about, torch.float32 if device.type == "cpu" else "auto")
        inner, adds = folder / TOKENIZER, tokenizer_says(folder).get("add_bos_token")
    ffns = find_ffns(model.to(device).eval(), folder)
    config = model.config.get_text_config()
    bos = _first(_said(about, "bos_token_id"))
    named = () if bos is None else (bos,)
    tokenizer = ForeignTokenizer(
        inner,
        _first(_said(about, "eos_token_id")),
        # What the tokenizer's own settings say stands over its file, as in `transformers`.
        None if adds is None or (adds and not named) else named if adds else (),
    )
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.vocabulary_size > rows:
        raise DefinitionError(
            f"{folder}: {TOKENIZER} has ids up to {tokenizer.vocabulary_size - 1}, the model "
            f"embeds {rows} tokens; put the model's own tokenizer there"
        )
    return Foreign(
        subject=Subject(model, _logits_of(model), config.vocab_size, device, ffns),
        tokenizer=tokenizer,
        activation=activation_name(config),
        max_positions=getattr(config, "max_position_embeddings", None),
        stored=stored,
        computed=str(next(model.parameters()).dtype).removeprefix("torch."),
        ends=_ends(about, model),
        experts=experts_of(ffns),
        bos=named,
    )


def _load_model(folder: Path, about: dict[str, Any], dtype: torch.dtype | str) -> Any:
    transformers = _transformers()
    try:
        if about["model_type"] == "minicpm":
            kind, config = transformers.GraniteForCausalLM, _minicpm_config(about, folder)
        else:
            kind = transformers.AutoModelForCausalLM
            config = transformers.AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        check_activation(config, folder)
        model, info = kind.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            # Of pickles, which were asked for, torch reads tensors only (`weights_only`).
            use_safetensors=bool(weight_files(folder)),
            # Not to take them: so that they are listed, and refused below.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except SparsingError:
        raise
    except Exception as error:  # the library's errors have no common root
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DefinitionError(
            f"{folder}: transformers {transformers.__version__} cannot load it without running "
            f"code of its own ({first_line}); convert it to a family that transformers has, and "
            "save_pretrained it",
            code="needs_own_code",
        ) from error
    _check_loaded(folder, info)
    return model


def _load_gguf(file: Path, device: torch.device) -> tuple[Any, dict[str, Any], Any, str]:
    """Model, configuration, tokenizer and stored precision of a GGUF file."""
    transformers = _transformers()
    try:
        import accelerate  # noqa: F401  (transformers asks for it, in other words)
        from gguf import GGUFReader
    except ImportError as error:
        raise DefinitionError(
            f"{file}: GGUF needs two packages more: pip install gguf accelerate",
            code="package_missing",
        ) from error
    given = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    try:
        kinds = Counter(tensor.tensor_type.name for tensor in GGUFReader(file).tensors)
        tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **given)
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=dtype, output_loading_info=True, **given
        )
    except Exception as error:  # the libraries' errors have no common root
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise DefinitionError(f"{file}: transformers cannot read it ({first_line})") from error
    _check_loaded(file, info)
    stored = f"{kinds.most_common(1)[0][0]} of GGUF, dequantized"
    return model, model.config.to_dict(), tokenizer.backend_tokenizer, stored


def _check_loaded(folder: Path, info: dict[str, Any]) -> None:
    """Raise where weights are missing, or would be left out."""
    lacking = sorted([*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])])
    if lacking:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise SparsingError(
            f"{folder}: weights are missing or of another shape: {', '.join(lacking[:3])}{more}; "
            f"the folder is not complete, or {CONFIG} is that of other weights"
        )
    if extra := sorted(filter(OF_A_LAYER.search, info["unexpected_keys"])):
        more = f" and {len(extra) - 3} more" if len(extra) > 3 else ""
        raise SparsingError(
            f"{folder}: {CONFIG} describes a model without {', '.join(extra[:3])}{more}, which are "
            "among its weights; put the weights' own configuration there"
        )


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise DefinitionError(
            "measuring a Hugging Face model needs the package 'transformers'; "
            "pip install transformers"
        ) from error
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers


def _minicpm_config(about: dict[str, Any], folder: Path) -> Any:
    """MiniCPM (1 and 2, and the paper's models) as Granite, which has muP's factors built in.

    `transformers` has no MiniCPM but as code of the folder's own; the weights' names are the same.
    """
    if about.get("rope_scaling"):
        raise DefinitionError(f"{folder}: a minicpm model with rope_scaling is not supported")
    mup = {key: about.get(key, default) for key, default in MUP_KEYS.items()}
    left_out = {"model_type", "architectures", "auto_map", "rope_scaling", *MUP_KEYS}
    shape: dict[str, Any] = {
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
    }
    shape |= {key: value for key, value in about.items() if key not in left_out}
    return _transformers().GraniteConfig(
        **shape,
        embedding_multiplier=float(mup["scale_emb"]),
        residual_multiplier=mup["scale_depth"] / math.sqrt(shape["num_hidden_layers"]),
        logits_scaling=shape["hidden_size"] / mup["dim_model_base"],
        attention_multiplier=(shape["hidden_size"] / shape["num_attention_heads"]) ** -0.5,
    )


def _logits_of(model: Any) -> Callable[[Tensor], Tensor]:
    return lambda tokens: model(input_ids=tokens, use_cache=False).logits


def _stored_precision(folder: Path, about: dict[str, Any]) -> str:
    """Precision that most of the stored weights have, as torch calls it."""
    elements: Counter[str] = Counter()
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118 (not a dict)
                    part = file.get_slice(key)
                    elements[part.get_dtype()] += math.prod(part.get_shape())
        except Exception as error:  # SafetensorError, and OSError of all kinds
            raise SparsingError(f"{path} is damaged ({error})") from error
    if not elements:  # pickles, which are not read twice: what the configuration says
        return str(about.get("dtype") or about.get("torch_dtype") or "unknown")
    [(said, _)] = elements.most_common(1)
    return DTYPES.get(said, said)


def _said(about: dict[str, Any], key: str) -> Any:
    """What a configuration says, itself or for its text part."""
    return about.get(key, (about.get("text_config") or {}).get(key))


def _first(ids: int | list[int] | None) -> int | None:
    return ids[0] if isinstance(ids, list) else ids


def _ends(about: dict[str, Any], model: Any) -> frozenset[int]:
    """All ids that end a text: of the model's configuration and of its generation's."""
    said = [about.get("eos_token_id"), getattr(model.generation_config, "eos_token_id", None)]
    lists = [ids if isinstance(ids, list) else [ids] for ids in said if ids is not None]
    return frozenset(i for ids in lists for i in ids)
