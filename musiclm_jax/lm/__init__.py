"""The token models of the stages: the model, the order of its tokens, sampling, text to music."""
