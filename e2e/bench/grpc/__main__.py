"""The command line: `python -m e2e.bench.grpc --help`."""

from e2e.bench.grpc.run import main

main()
