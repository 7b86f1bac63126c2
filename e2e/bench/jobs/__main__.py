"""The command line: `python -m e2e.bench.jobs --help`."""

from e2e.bench.jobs.run import main

main()
