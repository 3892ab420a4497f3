"""Published tokenizers as parts: codecs, encoders and joint embeddings of transformers, by torch.

`importing` makes a part of a checkpoint: model.json holds its configuration, weights.safetensors
its tensors, and everything that runs a trained part runs it too. The classes meet `protocols`, with
the torch module as the first argument of each method. Torch and transformers (the extra [hf]) are
imported inside functions alone.
"""

import dataclasses
import json

import numpy as np

from musiclm_jax import audio, descriptions
from musiclm_jax.tokenizers import inputs


@dataclasses.dataclass(frozen=True)
class TorchCodec:
  """EnCodec, DAC or Mimi: the first `num_quantizers` levels of a published codec.

  `config` is the JSON of its configuration. sample_rate is in Hz; `hop` samples are one frame.
  """

  config: str
  sample_rate: int
  hop: int
  num_quantizers: int
  codebook_size: int

  @property
  def frame_rate(self) -> float:
    """Frames of codes in a second."""
    return self.sample_rate / self.hop

  @property
  def methods(self) -> inputs.Methods:
    """What the codec can do."""
    codes = inputs.Codes(self.num_quantizers, self.codebook_size)
    return {"encode": (inputs.Waveform(),), "decode": (codes,)}

  def encode(self, network, waveform: np.ndarray) -> np.ndarray:
    """Codes [batch, ceil(samples / hop), num_quantizers] int32 of [batch, samples] float32."""
    spare = -waveform.shape[1] % self.hop
    x = _tensor(np.pad(waveform, ((0, 0), (0, spare))))[:, None]
    if network.config.model_type == "encodec":
      x = network.encode(x, bandwidth=network.config.target_bandwidths[-1]).audio_codes[0]
    else:
      x = network.encode(x).audio_codes
    return x[:, : self.num_quantizers].transpose(1, 2).numpy().astype(np.int32)

  def decode(self, network, codes: np.ndarray) -> np.ndarray:
    """Waveform [batch, frames * hop] float32 of codes [batch, frames, levels]."""
    x = _tensor(codes.astype(np.int64)).transpose(1, 2)
    if network.config.model_type == "encodec":
      x = network.decode(x[None], [None]).audio_values
    elif network.config.model_type == "dac":
      x = network.decode(audio_codes=x).audio_values
    else:
      x = network.decode(x).audio_values
    waveform = x.reshape(len(codes), -1).numpy()
    samples = codes.shape[1] * self.hop
    # DAC's transposed convolutions leave out a few samples at the end
    return np.pad(waveform, ((0, 0), (0, max(0, samples - waveform.shape[1]))))[:, :samples]


@dataclasses.dataclass(frozen=True)
class TorchEncoder:
  """HuBERT, MERT or Wav2Vec2-BERT: the frames of any layer of a published encoder.

  `config` and `preprocessor` are the JSON of the files of these names. Waveforms come in at
  sample_rate Hz and are resampled to the encoder's own rate.
  """

  config: str
  preprocessor: str
  sample_rate: int

  @property
  def methods(self) -> inputs.Methods:
    """What the encoder can do; `embed` takes the layer too."""
    return {"embed": (inputs.Waveform(),)}

  @property
  def layers(self) -> tuple[int, ...]:
    """What `embed` can give."""
    return tuple(range(json.loads(self.config)["num_hidden_layers"] + 1))

  def embed(self, network, waveform: np.ndarray, layer: int) -> np.ndarray:
    """Output [batch, frames, dim] float32 of `layer` for [batch, samples]; 0 is the first's input.

    Raises ValueError where there is no such layer.
    """
    if layer not in self.layers:
      raise ValueError(f"wanted a layer of 0..{self.layers[-1]}, found {layer}")
    preprocess = preprocessor_of(json.loads(self.preprocessor))
    features = _features(preprocess, waveform, self.sample_rate)
    return network(**features, output_hidden_states=True).hidden_states[layer].numpy()


@dataclasses.dataclass(frozen=True)
class TorchJoint:
  """CLAP: one space for sound and the words about it, in place of MuLan.

  `config` and `preprocessor` are the JSON of the files of these names. Waveforms come in at
  sample_rate Hz and are resampled to the model's own rate.
  """

  config: str
  preprocessor: str
  sample_rate: int
  vocab_size: int
  pad_id: int

  @property
  def methods(self) -> inputs.Methods:
    """What the joint embedding can do."""
    return {"embed_audio": (inputs.Waveform(),), "embed_text": (inputs.Tokens(self.vocab_size),)}

  @property
  def embed_dim(self) -> int:
    """Dimensions of the embeddings."""
    return json.loads(self.config)["projection_dim"]

  @property
  def max_tokens(self) -> int:
    """The most tokens of a text; RoBERTa's positions begin after its padding id."""
    return json.loads(self.config)["text_config"]["max_position_embeddings"] - self.pad_id - 1

  def embed_audio(self, network, waveform: np.ndarray) -> np.ndarray:
    """Embeddings [batch, dim] float32 of length 1 of waveforms [batch, samples].

    Raises ValueError where they are longer than the model reads: it would choose a part by chance.
    """
    preprocess = preprocessor_of(json.loads(self.preprocessor))
    seconds = waveform.shape[1] / self.sample_rate
    if seconds > preprocess.max_length_s:
      raise ValueError(f"wanted at most {preprocess.max_length_s} s of audio, found {seconds:g} s")
    features = _features(preprocess, waveform, self.sample_rate)
    return network.get_audio_features(**features).pooler_output.numpy()

  def embed_text(self, network, tokens: np.ndarray) -> np.ndarray:
    """Embeddings [batch, dim] float32 of length 1 of token ids [batch, length]; 0 pads."""
    tokens = _tensor(tokens.astype(np.int64))
    mask = tokens > 0
    mask[:, 0] = True  # RoBERTa's texts begin with a 0
    tokens = tokens.masked_fill(~mask, self.pad_id)
    return network.get_text_features(tokens, attention_mask=mask.long()).pooler_output.numpy()


class TorchPart:
  """A published part in use, with the calls of `frozen.Frozen`: `codec("encode", waveform)`."""

  def __init__(self, module, variables, provenance, fingerprint):
    self.module, self.provenance, self.fingerprint = module, provenance, fingerprint
    self._network = _network(json.loads(module.config), variables)

  def __call__(self, method: str, *arrays, **static) -> np.ndarray:
    inputs.check(self.module, method, arrays)
    torch, _ = libraries()
    with torch.inference_mode():
      arrays = (np.asarray(array) for array in arrays)
      return getattr(self.module, method)(self._network, *arrays, **static)


def libraries():
  """(torch, transformers). Raises ValueError where the extra is not installed."""
  try:
    import torch
    import transformers
  except ImportError as error:
    raise ValueError(
      f"published models need the extra [hf]: pip install 'musiclm_jax[hf]' ({error})"
    ) from None
  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  return torch, transformers


def _tensor(array: np.ndarray):
  import torch

  return torch.from_numpy(np.array(array))  # a copy: arrays of JAX cannot be written to


def _network(config: dict, weights: dict):
  """The torch module of a configuration with exactly these weights."""
  torch, transformers = libraries()
  config = transformers.AutoConfig.for_model(**config)
  network = transformers.AutoModel.from_config(config).eval()
  wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
  found = {name: array.shape for name, array in weights.items()}
  if wanted != found:
    line = descriptions.difference(wanted, found, config.model_type, "weights.safetensors")
    raise ValueError(f"this transformers has another {config.model_type}: {line}")
  network.load_state_dict({name: _tensor(array) for name, array in weights.items()})
  return network.requires_grad_(False)


def _features(preprocess, waveform: np.ndarray, sample_rate: int):
  """What a feature extractor makes of waveforms [batch, samples], resampled to its own rate."""
  rate = preprocess.sampling_rate
  rows = [audio.resample(row, sample_rate, rate) for row in waveform]
  return preprocess(rows, sampling_rate=rate, return_tensors="pt")


def preprocessor_of(description: dict):
  """The feature extractor of transformers that a preprocessor_config.json describes."""
  _, transformers = libraries()
  name = description.get("feature_extractor_type", "")
  if not hasattr(transformers, name):
    raise ValueError(f"preprocessor_config.json: no feature extractor {name!r} in transformers")
  return getattr(transformers, name).from_dict(description)
