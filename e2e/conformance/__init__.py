"""Other people's models with known answers, each through `serve`: every answer right, or refused with a reason."""
