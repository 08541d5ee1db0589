"""The model against independent implementations, and muP's promises over widths."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import GraniteConfig, GraniteForCausalLM, LlamaConfig, LlamaForCausalLM

from sparsing.actors.bench.models import llama_weights
from sparsing.actors.models.transformer import ModelConfig, Transformer, parameter_groups
from sparsing.study.definition.shapes import nonembedding_parameters

CONFIG = ModelConfig(
    d_h=48, layers=3, d_f=120, heads=4, activation="silu", vocabulary_size=96, dim_model_base=16
)


def shape_of(config: ModelConfig) -> dict:
    return {
        "vocab_size": config.vocabulary_size,
        "hidden_size": config.d_h,
        "intermediate_size": config.d_f,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.heads,
        "hidden_act": config.activation,
        "rms_norm_eps": config.norm_epsilon,
        "attn_implementation": "eager",
    }


def randomized(model: Transformer) -> Transformer:
    """Norm gains away from 1, so that a missing or misplaced gain shows."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("activation", ["silu", "relu"])
def test_agrees_with_granite_which_has_the_same_mup_factors(activation: str) -> None:
    config = ModelConfig(**{**vars(CONFIG), "activation": activation})
    ours = randomized(Transformer(config).initialize(0))
    theirs = GraniteForCausalLM(
        GraniteConfig(
            **shape_of(config),
            embedding_multiplier=config.scale_emb,
            residual_multiplier=config.residual_scale,
            attention_multiplier=(config.d_h / config.heads) ** -0.5,
            logits_scaling=config.width,
            tie_word_embeddings=True,
        )
    )
    theirs.load_state_dict(llama_weights(ours), strict=False)
    theirs.tie_weights()
    tokens = torch.randint(config.vocabulary_size, (2, 33))
    torch.testing.assert_close(ours(tokens), theirs(tokens).logits, rtol=1e-5, atol=1e-5)


def test_agrees_with_llama_once_the_mup_factors_are_folded_into_its_weights() -> None:
    ours = randomized(Transformer(CONFIG).initialize(1))
    weights = llama_weights(ours)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] / CONFIG.width
    weights["model.embed_tokens.weight"] = weights["model.embed_tokens.weight"] * CONFIG.scale_emb
    for name in weights:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] = weights[name] * CONFIG.residual_scale
    theirs = LlamaForCausalLM(LlamaConfig(**shape_of(CONFIG), tie_word_embeddings=False))
    theirs.load_state_dict(weights)
    tokens = torch.randint(CONFIG.vocabulary_size, (2, 33))
    expected = theirs(tokens, labels=tokens)
    torch.testing.assert_close(ours(tokens), expected.logits, rtol=1e-5, atol=1e-5)
    loss = ours(tokens[:, :-1], tokens[:, 1:])
    torch.testing.assert_close(loss, expected.loss, rtol=1e-5, atol=1e-5)


def test_parameters_are_those_of_the_plan() -> None:
    model = Transformer(CONFIG)
    total = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("embedding"))
    assert total == nonembedding_parameters(CONFIG.d_h, CONFIG.layers, CONFIG.d_f)


def test_initialisation_follows_width_and_seed() -> None:
    first, again = Transformer(CONFIG).initialize(3), Transformer(CONFIG).initialize(3)
    other = Transformer(CONFIG).initialize(4)
    weight = first.layers[0].ffn.w_in.weight
    assert torch.equal(weight, again.layers[0].ffn.w_in.weight)
    assert not torch.equal(weight, other.layers[0].ffn.w_in.weight)
    assert weight.std().item() == pytest.approx(0.1 / math.sqrt(CONFIG.width), rel=0.05)
    assert first.embedding.weight.std().item() == pytest.approx(0.1, rel=0.05)


def model_of_width(d_h: int, seed: int = 0) -> Transformer:
    config = ModelConfig(
        d_h=d_h,
        layers=2,
        d_f=d_h * 5 // 2,
        heads=d_h // 16,
        activation="relu",
        vocabulary_size=64,
        dim_model_base=32,
    )
    return Transformer(config).initialize(seed)


def train_steps(model: Transformer, peak: float, steps: int, *, mup: bool = True) -> float:
    """Train on a learnable stream (each token follows from the two before); mean last losses."""
    groups = parameter_groups(model, weight_decay=0.0)
    optimizer = torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95))
    for group in optimizer.param_groups:
        group["lr"] = peak * (group["learning_rate_factor"] if mup else 1.0)
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(steps):
        tokens = torch.randint(64, (8, 33), generator=generator)
        for i in range(2, 33):
            tokens[:, i] = (5 * tokens[:, i - 1] + 3 * tokens[:, i - 2] + 7) % 64
        loss = model(tokens[:, :-1], tokens[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-10:]) / len(losses[-10:])


def test_coordinate_check_activations_do_not_grow_with_width() -> None:
    """muP: after a few Adam steps, how far each layer's output moved is the same at any width."""
    moved: dict[int, list[float]] = {}
    tokens = torch.randint(64, (4, 32), generator=torch.Generator().manual_seed(0))
    for d_h in (64, 128, 256, 512):
        model = model_of_width(d_h)
        outputs: list[torch.Tensor] = []
        parts = [m for layer in model.layers for m in (layer.attention, layer.ffn)]
        for part in parts:
            part.register_forward_hook(lambda *a, to=outputs: to.append(a[2].detach()))
        logits = [model(tokens).detach()]
        before = outputs[: len(parts)]
        train_steps(model, peak=0.01, steps=3)
        outputs.clear()
        logits.append(model(tokens).detach())
        changes = [
            (a - b).square().mean().sqrt().item()
            for a, b in zip([*before, logits[0]], [*outputs, logits[1]], strict=True)
        ]
        moved[d_h] = changes
    for index, narrow in enumerate(moved[64]):
        for d_h in (128, 256, 512):
            assert 0.4 < moved[d_h][index] / narrow < 2.5, (index, moved)


def losses_by_rate(d_h: int, *, mup: bool) -> list[float]:
    """Mean losses of two seeds, at learning rates in factors of two."""
    rates = [0.01 * 2**k for k in range(-4, 3)]
    return [
        sum(train_steps(model_of_width(d_h, seed), peak, 150, mup=mup) for seed in (0, 1)) / 2
        for peak in rates
    ]


def shift(narrow: list[float], wide: list[float]) -> int:
    """By how many factors of two the wide model's rates must grow for the narrow one's losses.

    From the whole curves: near the best rate they are flat, and which is lowest is chance.
    """

    def apart(by: int) -> float:
        pairs = [(narrow[i + by], wide[i]) for i in range(len(wide)) if 0 <= i + by < len(narrow)]
        return sum(abs(a - b) for a, b in pairs) / len(pairs)

    return min(range(-2, 5), key=apart)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # on a busy machine
def test_the_best_learning_rate_does_not_move_with_width() -> None:
    """Four times wider: muP's best rate stays, without muP's factors it falls by four."""
    narrow = losses_by_rate(64, mup=True)
    assert shift(narrow, losses_by_rate(256, mup=True)) == 0
    assert shift(narrow, losses_by_rate(256, mup=False)) == 2
