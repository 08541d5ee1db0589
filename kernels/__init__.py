"""How a gated FFN computes and which of its neurons count as active. Knows nothing of Ray."""
