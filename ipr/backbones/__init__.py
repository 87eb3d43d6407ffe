"""Image trunks: a file per choice, found by its name (``ipr.choices``)."""
