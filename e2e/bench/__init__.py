"""Side-by-side performance tables; `python -m e2e.bench --help`, README.md beside this file."""
