"""The items of a data set, format by format. Never writes."""
