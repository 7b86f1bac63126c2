"""Texts in, vectors and scores out: OpenAI's and Cohere's calls in front of the engine, by the models' tokenizers."""
