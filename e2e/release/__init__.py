"""What a release is made of: the Helm chart, and the files that are published beside it."""
