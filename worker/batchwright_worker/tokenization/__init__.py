"""Tokenizers from their files, for jobs and for served models alike."""
