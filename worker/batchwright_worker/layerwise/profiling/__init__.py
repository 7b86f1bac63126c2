"""How long each unit takes to fetch and to compute here, measured and kept on disk."""
