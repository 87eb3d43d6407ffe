"""The parts of the procedural data set: random draws, bodies, poses, scenes, and the renderer."""
