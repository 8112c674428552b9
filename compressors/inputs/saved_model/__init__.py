"""SavedModels in an archive: the gate, and TensorFlow's converter, which makes a float LiteRT file of one."""
