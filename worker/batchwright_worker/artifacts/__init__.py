"""What an artifact consists of: the files that belong together, their one digest, and which file of a folder is the
model. Used where artifacts are fetched and where they are loaded."""
