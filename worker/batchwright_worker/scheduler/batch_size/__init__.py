"""The batch size of a model: the controller, the trend test and the fit of device time that it goes by. Pure."""
