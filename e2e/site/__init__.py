"""The documentation as a site: the pages of this repository, and references made from the CRDs and the settings."""
