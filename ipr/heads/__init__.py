"""From features to joints: a file per choice, found by its name (``ipr.choices``)."""
