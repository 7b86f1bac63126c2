"""Side-by-side performance tables; `python -m e2e.bench --help`. What is measured and how: README.md beside this file."""
