"""Rows of the store's tables from a measurement."""

from __future__ import annotations

from typing import Any

from sparsing.actors.measuring.measure import DEAD_FREQUENCY, Measurement


def sparsity_rows(measured: Measurement) -> list[dict[str, Any]]:
    """Rows for each domain and layer; layer null = the mean, which carries the losses."""
    rows: list[dict[str, Any]] = []
    for domain, part in measured.parts.items():
        shared: dict[str, Any] = {"domain": domain, "measured_tokens": part.tokens}
        low, high = part.interval
        rows.append(
            shared
            | {
                "activation_ratio": part.activation_ratio,
                "activation_ratio_low": low,
                "activation_ratio_high": high,
                "dense_loss": part.dense_loss,
                "sparse_loss": part.sparse_loss,
                "ppl_rise_percent": part.ppl_rise_percent,
            }
        )
        layers = zip(part.activation_ratios, part.layer_intervals, measured.thresholds, strict=True)
        rows += [
            shared
            | {
                "layer": layer,
                "activation_ratio": ratio,
                "activation_ratio_low": low,
                "activation_ratio_high": high,
                "threshold": threshold,
            }
            for layer, (ratio, (low, high), threshold) in enumerate(layers)
        ]
    return rows


def neuron_rows(measured: Measurement) -> list[dict[str, Any]]:
    """One row for each domain and layer: every neuron's frequency, and the dead ones' share."""
    return [
        {
            "domain": domain,
            "layer": layer,
            "frequency": frequency.astype("float32"),
            "dead_ratio": float((frequency < DEAD_FREQUENCY).mean()),
        }
        for domain, part in measured.parts.items()
        for layer, frequency in enumerate(part.frequency)
    ]


def vocabulary_rows(measured: Measurement) -> list[dict[str, Any]]:
    """One row for each token id that occurs in the reporting halves."""
    return [
        {"token_id": token, "activation_ratio": ratio, "count": count}
        for token, (ratio, count) in measured.vocabulary.items()
    ]
