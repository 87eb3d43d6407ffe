"""Where labelled people come from: one file per data set, whose ``Config`` builds a ``PoseTable``."""
