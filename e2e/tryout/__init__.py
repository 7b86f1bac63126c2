"""`make try`: the OCR example on this machine, without a cluster: pages in, lines of text out, in two minutes."""
