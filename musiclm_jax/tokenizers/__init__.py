"""What turns waveforms, embeddings and text into codes: the codec, the encoders and the quantizer
they share.
"""
