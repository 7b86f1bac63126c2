"""The command line: `python -m e2e.bench.noop --help`."""

from e2e.bench.noop.run import main

main()
