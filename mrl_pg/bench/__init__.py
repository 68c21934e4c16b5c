"""The benchmark: first stages side by side on the same rows, each at the cheapest settings that reach a recall."""
