"""From waveforms, embeddings and text to codes: the codec, the encoders and their quantizer."""
