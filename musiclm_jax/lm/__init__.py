"""The token models of the stages: the model, sampling from it, text to music."""
