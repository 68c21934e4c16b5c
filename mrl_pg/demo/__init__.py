"""What ``mrl-pg demo`` searches: the documentation of Python's standard library, and embeddings of it."""
