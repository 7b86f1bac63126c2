"""Parts of the output, whole or absent."""
