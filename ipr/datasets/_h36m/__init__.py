"""The parts of the Human3.6M reader: videos and splits, cameras, and one file per layout on disk."""
