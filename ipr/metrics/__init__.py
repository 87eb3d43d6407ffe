"""What an evaluation measures: a file per choice, found by its name (``ipr.choices``)."""
