"""`musiclm import`: a part of a published checkpoint, whole or not at all.

Codecs, encoders and joint embeddings stay as they are and are run by torch (`pretrained`); BERT and
AST become towers of MuLan (`conversion`), from which a training may start.
"""

import dataclasses
import json
import pathlib
import re
import sys

from musiclm_jax import licence_terms, part_files
from musiclm_jax.ranges import NonNegativeInt, PositiveInt
from musiclm_jax.tokenizers import conversion, model_card
from musiclm_jax.tokenizers.pretrained import TorchCodec, TorchEncoder, TorchJoint, libraries

# What a checkpoint has beyond the network itself: poolers and the heads of its own tasks.
_HEADS = re.compile(
  r"(?:^|\.)(pooler|cls|classifier|lm_head|projector|final_proj|label_embs_concat)(?:\.|$)"
)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """A directory as transformers saves it; `source` is the user's name of it."""

  source: str
  folder: pathlib.Path

  def json(self, name: str) -> dict:
    """The content of one of its files. Raises ValueError where that is missing or no JSON."""
    if not (self.folder / name).is_file():
      raise ValueError(f"{self.source}: {name} is missing")
    try:
      return json.loads((self.folder / name).read_text())
    except json.JSONDecodeError as error:
      raise ValueError(f"{self.source}: {name} is not JSON ({error})") from None

  def tensors(self, config, **options) -> dict:
    """{name: float32 array} of all tensors of the network that `config` describes, without heads.

    Older names of tensors are understood as transformers does. Prints the heads that were left out.
    Raises ValueError with a table of the tensors that are missing, too many or of another shape.
    """
    torch, transformers = libraries()
    network, report = transformers.AutoModel.from_pretrained(
      str(self.folder),
      config=config,
      output_loading_info=True,
      ignore_mismatched_sizes=True,
      **options,
    )
    state = network.to(torch.float32).state_dict()
    rows = [(name, f"missing, wanted {list(state[name].shape)}") for name in report["missing_keys"]]
    heads = {name: _HEADS.search(name) for name in report["unexpected_keys"]}
    rows += [(name, "too many") for name, head in heads.items() if not head]
    rows += [
      (name, f"{list(found)} instead of {list(wanted)}")
      for name, found, wanted in report["mismatched_keys"]
    ]
    if rows:
      width = max(len(name) for name, _ in rows)
      error = ValueError(f"{self.source}: {len(rows)} tensors do not fit its config.json")
      error.add_note("\n".join(f"  {name:<{width}}  {wrong}" for name, wrong in sorted(rows)))
      raise error
    if heads:
      names = ", ".join(sorted({head[1] for head in heads.values()}))
      print(f"{self.source}: left out the heads of its own tasks: {names}", file=sys.stderr)
    return {name: x.numpy() for name, x in state.items()}


def import_checkpoint(
  *,
  source: str,
  model_dir: str,
  sample_rate: PositiveInt,
  levels: NonNegativeInt,
  licence: str,
  accept_noncommercial: bool,
) -> str:
  """Makes the part `model_dir` of a checkpoint of transformers, and gives one line about it.

  `source` is a directory or a name on the hub; `levels` of a codec are used, 0 for all of them;
  waveforms come at `sample_rate` Hz. The licence is that of the checkpoint's README.md, or
  `licence` where the card states none whose terms are known. Raises ValueError, naming the source,
  where a file is missing or of another architecture, a tensor is missing or too many, the rate is
  not the codec's, or the licence is unknown or forbids commercial use and that is not accepted.
  """
  _, transformers = libraries()
  checkpoint = Checkpoint(source, _folder(source))
  config = checkpoint.json("config.json")
  kind = config.get("model_type")
  if kind not in _KINDS:
    raise ValueError(f"{source}: wanted one of {', '.join(_KINDS)}, config.json has {kind!r}")
  licence = _licence(checkpoint, licence, accept_noncommercial)
  if kind == "mert_model":
    config = _hubert_of_mert(source, config)
  config = transformers.AutoConfig.for_model(**config)
  module, variables, about = _KINDS[kind](checkpoint, config, sample_rate, levels)
  tokenizer = checkpoint.folder / "tokenizer.json"
  parts = {"text_model": part_files.fingerprint(tokenizer)} if kind == "clap" else {}
  provenance = {"sources": {}, "parts": parts, "checkpoint": source, "licence": licence}
  part_files.describe_run(model_dir, module, provenance)
  part_files.write_weights(model_dir, variables)
  line = f"{model_dir}: {kind} of {source}, licence {licence}; {about}"
  print(line, file=sys.stderr)
  return line


# Each of these makes (module, variables, what a user must know of it) of a checkpoint.


def _codec(checkpoint: Checkpoint, config, sample_rate: int, levels: int):
  checkpoint.json("preprocessor_config.json")  # not read, but a whole checkpoint has one
  rate, source = config.sampling_rate, checkpoint.source
  if rate != sample_rate:
    raise ValueError(f"{source}: is a codec of {rate} Hz; pass --sample_rate={rate}")
  if getattr(config, "audio_channels", 1) != 1 or getattr(config, "normalize", False):
    raise ValueError(f"{source}: wanted a codec of mono without normalisation")
  hop = config.hop_length if hasattr(config, "hop_length") else config.frame_size
  total = config.n_codebooks if hasattr(config, "n_codebooks") else config.num_quantizers
  if not 0 <= levels <= total:
    raise ValueError(f"{source}: has {total} levels, found --levels={levels}")
  module = TorchCodec(
    _text(config.to_dict()), rate, int(hop), levels or total, config.codebook_size
  )
  about = (
    f"{module.num_quantizers} levels of {module.codebook_size} at {module.frame_rate:g} Hz:"
    f" --acoustic_rate={module.frame_rate:g} --acoustic_codes={module.codebook_size}"
  )
  return module, checkpoint.tensors(config), about


def _encoder(checkpoint: Checkpoint, config, sample_rate: int, levels: int):
  preprocessor = checkpoint.json("preprocessor_config.json")
  module = TorchEncoder(_text(config.to_dict()), _text(preprocessor), sample_rate)
  about = f"{config.num_hidden_layers} layers: --layer=N --embed_dim={config.hidden_size}"
  return module, checkpoint.tensors(config), about


def _joint(checkpoint: Checkpoint, config, sample_rate: int, levels: int):
  preprocessor = checkpoint.json("preprocessor_config.json")
  words = config.text_config
  module = TorchJoint(
    _text(config.to_dict()), _text(preprocessor), sample_rate, words.vocab_size, words.pad_token_id
  )
  tokenizer = checkpoint.folder / "tokenizer.json"
  if not tokenizer.is_file():
    raise ValueError(f"{checkpoint.source}: tokenizer.json is missing")
  about = f"--text_model={tokenizer} --embed_dim={config.projection_dim}"
  return module, checkpoint.tensors(config), about


def _text_tower(checkpoint: Checkpoint, config, sample_rate: int, levels: int):
  tensors = checkpoint.tensors(config, add_pooling_layer=False)
  tower, params = conversion.bert(config.to_dict(), tensors)
  return tower, {"params": params}, "--initial_text takes it as MuLan's text tower"


def _spectrogram_tower(checkpoint: Checkpoint, config, sample_rate: int, levels: int):
  tower, params = conversion.ast(config.to_dict(), checkpoint.tensors(config))
  return tower, {"params": params}, "--initial_audio takes it as MuLan's audio tower"


_KINDS = {
  "encodec": _codec,
  "dac": _codec,
  "mimi": _codec,
  "hubert": _encoder,
  "mert_model": _encoder,
  "wav2vec2-bert": _encoder,
  "clap": _joint,
  "bert": _text_tower,
  "audio-spectrogram-transformer": _spectrogram_tower,
}


def _hubert_of_mert(source: str, config: dict) -> dict:
  """MERT's configuration as HuBERT's: it differs in its rate and its training alone (2306.00107).

  Raises ValueError for the variants whose architecture differs.
  """
  for name in ("feature_extractor_cqt", "deepnorm"):
    if config.get(name):
      raise ValueError(f"{source}: MERT with {name} is another architecture than HuBERT's")
  return config | {"model_type": "hubert"}


def _text(description: dict) -> str:
  return json.dumps(description, sort_keys=True, default=str)


def _folder(source: str) -> pathlib.Path:
  """The directory of a checkpoint, fetched from the hub where `source` is no directory here."""
  if pathlib.Path(source).is_dir():
    return pathlib.Path(source)
  if pathlib.Path(source).is_absolute() or source.count("/") != 1:
    raise ValueError(f"{source}: no such directory, and no name on the hub (OWNER/NAME)")
  from huggingface_hub import snapshot_download

  files = ("*.json", "*.txt", "*.safetensors", "*.bin", "README.md")  # not those of other libraries
  return pathlib.Path(snapshot_download(source, allow_patterns=files))


def _licence(checkpoint: Checkpoint, given: str, accept_noncommercial: bool) -> str:
  """The strictest licence of the model card, or `given` where the card states none that is known.

  Raises ValueError where neither is known, the two differ, or one forbids commercial use and that
  is not accepted.
  """
  source, card = checkpoint.source, model_card.read(checkpoint.folder / "README.md")
  known = [name for name in card.names if licence_terms.is_known(name)]
  unknown = [name for name in card.names if name not in known]
  if not given and not card.names:
    raise ValueError(f"{source}: states no licence; look it up and pass --licence=NAME")
  if not given and unknown:
    where = f" ({card.link})" if card.link else ""
    raise ValueError(
      f"{source}: states licence {', '.join(unknown)}{where}, whose terms are not known here; read"
      " it and pass --licence=NAME"
    )
  if given and known and not unknown and given.lower() not in map(str.lower, known):
    raise ValueError(f"{source}: states licence {', '.join(known)}, --licence is {given}")
  licences = known + [given] * bool(given)
  forbidding = [name for name in licences if licence_terms.forbids_commerce(name)]
  if forbidding and not accept_noncommercial:
    raise ValueError(
      f"{source}: licence {forbidding[0]} forbids commercial use, also of what is made with it; "
      "--accept_noncommercial=True accepts that"
    )
  return licence_terms.strictest(licences)
