"""Layers compiled by torch: norms, rotary positions, activations and residuals in few kernels.

Each layer is compiled alone, once for all of them, so that compiling takes seconds and a layer's
weights stay where they are. Where torch cannot compile, the layer runs as it is written.
"""

from __future__ import annotations

from sparsing.actors.models.transformer import Transformer


def compile_layers(model: Transformer, backend: str = "inductor") -> None:
    """Compile the layers of a model in place; shapes must stay as in the first call.

    backend: of torch.compile; `aot_eager` traces the same graphs and makes no kernels.
    """
    import torch._dynamo as dynamo

    dynamo.config.suppress_errors = True
    for layer in model.layers:
        layer.compile(dynamic=False, backend=backend)
