"""The command line: python -m e2e.cluster --help."""

from e2e.cluster.cli import main

if __name__ == "__main__":
    main(prog_name="python -m e2e.cluster")
