"""Published tokenizers as parts: codecs and self-supervised encoders of transformers, run by torch.

`musiclm import` makes a part of a checkpoint: its configuration stands in model.json, its tensors
in weights.safetensors, and everything that runs a trained part runs it too. Torch and transformers
(the extra [hf]) are imported inside functions alone.
"""

import dataclasses
import json
import pathlib
import re
import sys

import numpy as np

from musiclm_jax import audio, checkpointing


@dataclasses.dataclass(frozen=True)
class Codec:
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
  def quantizer(self) -> "Codec":
    """What has num_quantizers and codebook_size, as in SoundStream."""
    return self

  @property
  def encoder(self) -> "Codec":
    """What has the hop, as in SoundStream."""
    return self

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
class Encoder:
  """HuBERT or Wav2Vec2-BERT: the frames of any layer of a published encoder.

  `config` and `preprocessor` are the JSON of the files of these names. Waveforms come in at
  sample_rate Hz and are resampled to the encoder's own rate.
  """

  config: str
  preprocessor: str
  sample_rate: int

  def embed(self, network, waveform: np.ndarray, layer: int) -> np.ndarray:
    """Output [batch, frames, dim] float32 of `layer` for [batch, samples]; 0 is the first's input.

    Raises ValueError where there is no such layer.
    """
    layers = network.config.num_hidden_layers
    if not 0 <= layer <= layers:
      raise ValueError(f"wanted a layer of 0..{layers}, found {layer}")
    preprocess = _preprocessor(json.loads(self.preprocessor))
    rate = preprocess.sampling_rate
    rows = [audio.resample(row, self.sample_rate, rate) for row in waveform]
    inputs = preprocess(rows, sampling_rate=rate, return_tensors="pt")
    return network(**inputs, output_hidden_states=True).hidden_states[layer].numpy()


_KINDS = {
  "encodec": Codec,
  "dac": Codec,
  "mimi": Codec,
  "hubert": Encoder,
  "wav2vec2-bert": Encoder,
}


class Published:
  """A published part at work, with the calls of `frozen.Frozen`: `codec("encode", waveform)`."""

  def __init__(self, module, variables, provenance, fingerprint):
    self.module, self.provenance, self.fingerprint = module, provenance, fingerprint
    self._network = _network(json.loads(module.config), variables)

  def __call__(self, method: str, *arrays, **static) -> np.ndarray:
    torch, _ = _libraries()
    with torch.inference_mode():
      arrays = (np.asarray(array) for array in arrays)
      return getattr(self.module, method)(self._network, *arrays, **static)


def import_checkpoint(
  *,
  source: str,
  model_dir: str,
  sample_rate: int,
  levels: int,
  licence: str,
  accept_noncommercial: bool,
) -> str:
  """Makes the part `model_dir` of a checkpoint of transformers, and gives one line about it.

  `source` is a directory or a name on the hub; `levels` of a codec are used, 0 for all of them;
  waveforms come at `sample_rate` Hz. The licence is that of the checkpoint's README.md, or
  `licence` where it states none. Raises ValueError, naming the source, where a file is missing or
  of another architecture, a tensor is missing or too many, the rate is not the codec's, or the
  licence is unknown or forbids commercial use and that is not accepted.
  """
  torch, transformers = _libraries()
  folder = _folder(source)
  config = _json(folder / "config.json", source)
  kind = config.get("model_type")
  if kind not in _KINDS:
    raise ValueError(f"{source}: wanted one of {', '.join(_KINDS)}, config.json says {kind!r}")
  preprocessor = _json(folder / "preprocessor_config.json", source)
  licence = _licence(folder, source, licence, accept_noncommercial)
  config = transformers.AutoConfig.for_model(**config)
  if _KINDS[kind] is Codec:
    module = _codec(config, source, sample_rate, levels)
  else:
    module = Encoder(_text(config.to_dict()), _text(preprocessor), sample_rate)
  network, report = transformers.AutoModel.from_pretrained(
    str(folder), config=config, output_loading_info=True, ignore_mismatched_sizes=True
  )
  wrong = [f"{name} {sorted(map(str, found))[:5]}" for name, found in report.items() if found]
  if wrong:
    raise ValueError(f"{source}: weights do not fit its config.json: {'; '.join(wrong)}")
  provenance = {"sources": {}, "parts": {}, "checkpoint": source, "licence": licence}
  checkpointing.describe_run(model_dir, module, provenance)
  weights = network.to(torch.float32).state_dict()
  checkpointing.write_weights(model_dir, {name: x.numpy() for name, x in weights.items()})
  line = f"{model_dir}: {kind} of {source}, licence {licence}"
  if isinstance(module, Codec):
    line += (
      f"; {module.num_quantizers} levels of {module.codebook_size} at {module.frame_rate:g} Hz:"
      f" --acoustic_rate={module.frame_rate:g} --acoustic_codes={module.codebook_size}"
    )
  print(line, file=sys.stderr)
  return line


def _libraries():
  """(torch, transformers). Raises ValueError where the extra is not installed."""
  try:
    import torch
    import transformers
  except ImportError as error:
    raise ValueError(
      f"published tokenizers need the extra [hf]: pip install 'musiclm_jax[hf]' ({error})"
    ) from None
  transformers.logging.set_verbosity_error()
  transformers.logging.disable_progress_bar()
  return torch, transformers


def _tensor(array: np.ndarray):
  import torch

  return torch.from_numpy(np.array(array))  # a copy: arrays of JAX cannot be written to


def _folder(source: str) -> pathlib.Path:
  """The directory of a checkpoint, fetched from the hub where `source` is no directory here."""
  if pathlib.Path(source).is_dir():
    return pathlib.Path(source)
  if pathlib.Path(source).is_absolute() or source.count("/") != 1:
    raise ValueError(f"{source}: no such directory, and no name on the hub (OWNER/NAME)")
  from huggingface_hub import snapshot_download

  return pathlib.Path(snapshot_download(source))


def _json(path: pathlib.Path, source: str) -> dict:
  if not path.is_file():
    raise ValueError(f"{source}: {path.name} is missing")
  try:
    return json.loads(path.read_text())
  except json.JSONDecodeError as error:
    raise ValueError(f"{source}: {path.name} is not JSON ({error})") from None


def _text(description: dict) -> str:
  return json.dumps(description, sort_keys=True, default=str)


def _licence(folder: pathlib.Path, source: str, given: str, accept_noncommercial: bool) -> str:
  """The licence that the model card states in its front matter, else the one that was given."""
  card = folder / "README.md"
  text = card.read_text() if card.is_file() else ""
  stated = re.search(r"\A---\n(?:.*\n)*?license:\s*(\S+)", text)
  licence = stated[1] if stated else given
  if not licence:
    raise ValueError(f"{source}: states no licence; look it up and pass --licence=NAME")
  if re.search(r"\bnc\b|non-?commercial", licence.lower()) and not accept_noncommercial:
    raise ValueError(
      f"{source}: licence {licence} forbids commercial use, of what is made with it too; "
      "--accept_noncommercial=True accepts that"
    )
  return licence


def _codec(config, source: str, sample_rate: int, levels: int) -> Codec:
  """The part of a codec's configuration. Raises ValueError for what does not fit."""
  rate = config.sampling_rate
  if rate != sample_rate:
    raise ValueError(f"{source}: is a codec of {rate} Hz; pass --sample_rate={rate}")
  if getattr(config, "audio_channels", 1) != 1 or getattr(config, "normalize", False):
    raise ValueError(f"{source}: wanted a codec of mono without normalisation")
  hop = config.hop_length if hasattr(config, "hop_length") else config.frame_size
  total = config.n_codebooks if hasattr(config, "n_codebooks") else config.num_quantizers
  if not 0 <= levels <= total:
    raise ValueError(f"{source}: has {total} levels, found --levels={levels}")
  return Codec(_text(config.to_dict()), rate, int(hop), levels or total, config.codebook_size)


def _network(config: dict, weights: dict):
  """The torch module of a configuration with exactly these weights."""
  torch, transformers = _libraries()
  config = transformers.AutoConfig.for_model(**config)
  network = transformers.AutoModel.from_config(config).eval()
  wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
  found = {name: array.shape for name, array in weights.items()}
  if wanted != found:
    line = checkpointing.difference(wanted, found, config.model_type, "weights.safetensors")
    raise ValueError(f"this transformers has another {config.model_type}: {line}")
  network.load_state_dict({name: _tensor(array) for name, array in weights.items()})
  return network.requires_grad_(False)


def _preprocessor(description: dict):
  """The feature extractor of transformers that a preprocessor_config.json describes."""
  _, transformers = _libraries()
  name = description.get("feature_extractor_type", "")
  if not hasattr(transformers, name):
    raise ValueError(f"preprocessor_config.json: no feature extractor {name!r} in transformers")
  return getattr(transformers, name).from_dict(description)
