"""llmchain: the whole chain of language models, from raw text to an answering service."""

__version__ = "0.1.0"
