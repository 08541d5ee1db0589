"""Models go out: `transformers` loads them without code of ours, and computes the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsing.actors.data.tokenizers import END_OF_DOCUMENT, ByteTokenizer, Encoder, train_bpe
from sparsing.actors.models.to_hugging_face import save_for_transformers, save_tokenizer
from sparsing.actors.models.transformer import ModelConfig, Transformer

TOKENIZERS: dict[str, Encoder] = {
    "bytes": ByteTokenizer(),
    "bpe": train_bpe(["the sea and the sun, der Süden; naïve \U0001f600"] * 20, 300),
}


def model_of(activation: str, vocabulary: int) -> Transformer:
    config = ModelConfig(
        d_h=48,
        layers=3,
        d_f=120,
        heads=3,
        activation=activation,
        vocabulary_size=vocabulary,
        dim_model_base=32,
        norm_epsilon=1e-5,
    )
    model = Transformer(config).initialize(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # gains of norms, which begin at 1
                parameter.copy_(torch.linspace(0.5, 1.5, len(parameter)) + 0.1 * ("ffn" in name))
    return model.eval()


@pytest.mark.parametrize("activation", ["relu", "silu", "relu2", "gelu"])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_transformers_computes_the_same_logits(tmp_path: Path, activation, kind):
    from transformers import AutoModelForCausalLM

    model, tokenizer = model_of(activation, 320), TOKENIZERS[kind]
    save_for_transformers(model, tokenizer, tmp_path, positions=64)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens = torch.randint(0, 257, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = model(tokens)
        assert ours.std() > 0.05
        torch.testing.assert_close(theirs(tokens).logits, ours, atol=1e-5, rtol=1e-5)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory):
    from transformers import AutoTokenizer

    found = {}
    for kind, tokenizer in TOKENIZERS.items():
        folder = tmp_path_factory.mktemp(kind)
        save_tokenizer(tokenizer, folder, 64)
        found[kind] = AutoTokenizer.from_pretrained(folder)
    return found


@settings(max_examples=60, deadline=None)
@given(text=st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=40))
def test_equal_texts_have_equal_ids(loaded, text):
    if END_OF_DOCUMENT in text:
        return
    for kind, tokenizer in TOKENIZERS.items():
        ids = tokenizer.encode([text])[0].astype(np.int64).tolist()
        assert loaded[kind](text, add_special_tokens=False)["input_ids"] == ids
        assert loaded[kind].decode(ids) == tokenizer.decode(ids) == text


def test_the_end_of_a_document_is_the_end(loaded):
    for kind, tokenizer in TOKENIZERS.items():
        assert loaded[kind].eos_token_id == tokenizer.end_of_document
