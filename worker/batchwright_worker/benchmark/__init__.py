"""Method A1: the load table of a processor, measured with a reference model in the runtime of its kind."""
