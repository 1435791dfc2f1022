"""Prompts to embeddings: the instruction and its token window, the tokenizer, the Gemma-2 encoder, its files."""
