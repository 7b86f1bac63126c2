"""Which dimension of a model's tensors is the batch: found out by trying the model, never guessed; what its calls are
made of; whether its answers are what it declares. Pure: who drives the model runs what is asked for here."""
