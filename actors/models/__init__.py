"""The models: the paper's Transformer, its KV cache, Hugging Face models, decoding."""
