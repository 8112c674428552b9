"""The main job from nothing: three devices, two models, two rollouts, on one machine. `python -m examples.demo`."""
