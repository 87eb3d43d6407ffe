"""What training minimises: a file per choice, found by its name (``ipr.choices``)."""
