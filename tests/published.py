"""Small checkpoints with random weights, as transformers saves published ones."""

import torch
import transformers

RATE = 24000


def _codecs():
  small = dict(sampling_rate=RATE, codebook_size=16)
  ratios = dict(upsampling_ratios=[8, 6, 5, 2], hidden_size=16, num_filters=4, num_lstm_layers=1)
  encodec = transformers.EncodecConfig(
    **small, **ratios, target_bandwidths=[0.2, 1.6], codebook_dim=16, use_causal_conv=True
  )
  music = transformers.EncodecConfig(  # as MusicGen's: 32 kHz, not causal
    sampling_rate=32000,
    codebook_size=32,
    codebook_dim=16,
    **ratios | {"upsampling_ratios": [8, 5, 4, 4]},
    target_bandwidths=[1.0],
    use_causal_conv=False,
  )
  dac = transformers.DacConfig(
    **small,
    encoder_hidden_size=4,
    decoder_hidden_size=64,
    downsampling_ratios=[2, 5, 6, 8],
    n_codebooks=4,
    codebook_dim=4,
  )
  layers = dict(num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=8)
  mimi = transformers.MimiConfig(
    **small,
    **layers,
    hidden_size=16,
    num_filters=4,
    codebook_dim=8,
    num_quantizers=4,
    num_semantic_quantizers=1,
    intermediate_size=16,
    vector_quantization_hidden_dimension=8,
    upsample_groups=16,
    upsampling_ratios=[8, 6, 5, 4],
  )
  return {"encodec": encodec, "encodec of music": music, "dac": dac, "mimi": mimi}


def _encoders():
  small = dict(hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=16)
  hubert = transformers.HubertConfig(
    **small, conv_dim=[8] * 7, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2
  )
  w2v_bert = transformers.Wav2Vec2BertConfig(**small)
  return {"hubert": hubert, "wav2vec2-bert": w2v_bert}


def _towers():
  small = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
  return {
    "bert": transformers.BertConfig(**small, vocab_size=40, max_position_embeddings=12),
    "audio-spectrogram-transformer": transformers.ASTConfig(
      **small, max_length=64, num_mel_bins=32
    ),
  }


def _clap():
  audio = dict(depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 2], patch_embeds_hidden_size=8)
  text = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
  return transformers.ClapConfig(
    text_config=dict(text, vocab_size=300, projection_dim=12),
    audio_config=dict(audio, hidden_size=64, projection_dim=12, spec_size=256),
    projection_dim=12,
  )


PREPROCESSORS = {
  "encodec": lambda: transformers.EncodecFeatureExtractor(sampling_rate=RATE),
  "encodec of music": lambda: transformers.EncodecFeatureExtractor(sampling_rate=32000),
  "mimi": lambda: transformers.EncodecFeatureExtractor(sampling_rate=RATE),
  "dac": lambda: transformers.DacFeatureExtractor(sampling_rate=RATE),
  "hubert": lambda: transformers.Wav2Vec2FeatureExtractor(do_normalize=True),
  "wav2vec2-bert": lambda: transformers.SeamlessM4TFeatureExtractor(),
  "bert": None,
  "audio-spectrogram-transformer": transformers.ASTFeatureExtractor,
  "clap": lambda: transformers.ClapFeatureExtractor(truncation="rand_trunc"),
}
CODECS, ENCODERS, TOWERS = tuple(_codecs()), tuple(_encoders()), tuple(_towers())
CONFIGS = _codecs() | _encoders() | _towers() | {"clap": _clap()}


def save(kind: str, folder):
  """The directory `folder` with a checkpoint as transformers saves it, of random weights."""
  torch.manual_seed(0)
  model = transformers.AutoModel.from_config(CONFIGS[kind])
  for name, buffer in model.named_buffers():  # codebooks start empty
    if "embed" in name and buffer.is_floating_point():
      buffer.normal_()
  model.save_pretrained(folder)
  if PREPROCESSORS[kind]:
    PREPROCESSORS[kind]().save_pretrained(folder)
  (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n")
  return folder
