"""The device memory that units stream through: a ring, and host buffers. Never decides what is fetched."""
