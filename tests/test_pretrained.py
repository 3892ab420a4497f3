"""TorchPart tokenizers: parts of small checkpoints with random weights, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from musiclm_jax import audio, part_files
from musiclm_jax.datasets import features
from musiclm_jax.tokenizers import frozen, importing
from musiclm_jax.tokenizers.quantizer import dequantize, quantize
from tests import published
from tests.published import CODECS, CONFIGS, ENCODERS, PREPROCESSORS, RATE, TOWERS


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
  """{kind: directory as transformers saves it}."""
  return {kind: published.save(kind, tmp_path_factory.mktemp(kind)) for kind in published.CONFIGS}


def adopt(source, model_dir, **changes):
  settings = dict(sample_rate=RATE, levels=0, licence="", accept_noncommercial=False)
  return importing.import_checkpoint(
    source=str(source), model_dir=str(model_dir), **settings | changes
  )


def sound(rows=2, samples=RATE):
  return np.random.default_rng(0).normal(0, 0.1, (rows, samples)).astype(np.float32)


@pytest.mark.parametrize("kind", CODECS)
def test_a_codec_codes_as_its_own_library_does(kind, checkpoints, tmp_path):
  network = transformers.AutoModel.from_pretrained(checkpoints[kind])
  rate, encodec = network.config.sampling_rate, kind.startswith("encodec")
  adopt(checkpoints[kind], tmp_path, levels=3, sample_rate=rate)
  part, x = frozen.load(str(tmp_path)), sound(2, 12 * 1920)
  with torch.no_grad():
    options = {"bandwidth": network.config.target_bandwidths[-1]} if encodec else {}
    codes = network.encode(torch.from_numpy(x)[:, None], **options).audio_codes
    codes = (codes[0] if encodec else codes)[:, :3].transpose(1, 2).numpy()
  module = part.module
  found = part("encode", x)
  frames = 12 * 1920 // module.hop
  assert found.dtype == np.int32 and found.shape == (2, frames, 3)
  assert module.hop == {"encodec": 480, "encodec of music": 640, "dac": 480, "mimi": 1920}[kind]
  assert module.frame_rate == rate / module.hop
  assert module.codebook_size == network.config.codebook_size
  np.testing.assert_array_equal(found, codes)
  for levels in (2, 3):
    y = part("decode", found[..., :levels])
    assert y.shape == (2, frames * module.hop) and y.dtype == np.float32 and np.isfinite(y).all()
  assert part("encode", x[:, : module.hop + 1]).shape[1] == 2


@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_gives_any_layer_at_its_own_rate(kind, checkpoints, tmp_path):
  adopt(checkpoints[kind], tmp_path, sample_rate=16000)
  part, x = frozen.load(str(tmp_path)), sound(2, 16000)
  network = transformers.AutoModel.from_pretrained(checkpoints[kind])
  inputs = PREPROCESSORS[kind]()(list(x), sampling_rate=16000, return_tensors="pt")
  with torch.no_grad():
    wanted = network(**inputs, output_hidden_states=True).hidden_states
  for layer in (0, 3):
    np.testing.assert_allclose(part("embed", x, layer=layer), wanted[layer].numpy(), atol=1e-5)
  with pytest.raises(ValueError, match="a layer of 0..3, found 4"):
    part("embed", x, layer=4)


def test_an_encoder_is_given_the_rate_of_the_corpus(checkpoints, tmp_path):
  adopt(checkpoints["hubert"], tmp_path)
  frames = frozen.load(str(tmp_path))("embed", sound(1, 2 * RATE), layer=2)
  assert frames.shape == (1, 99, 16)  # 50 Hz, one frame lost at the end


def test_mert_is_hubert_at_another_rate(checkpoints, tmp_path):
  folder = shutil.copytree(checkpoints["hubert"], tmp_path / "mert")
  _rewrite("config.json", model_type="mert_model", feature_extractor_cqt=False)(folder)
  _rewrite("preprocessor_config.json", sampling_rate=RATE)(folder)
  assert "mert_model of" in adopt(folder, tmp_path / "part")
  adopt(checkpoints["hubert"], tmp_path / "hubert", sample_rate=16000)
  found, wanted = (
    frozen.load(str(tmp_path / name))("embed", sound(1, 4000), layer=2)
    for name in ("part", "hubert")
  )
  np.testing.assert_array_equal(found, wanted)  # the same samples, another clock
  _rewrite("config.json", feature_extractor_cqt=True)(folder)
  with pytest.raises(ValueError, match="MERT with feature_extractor_cqt is another architecture"):
    adopt(folder, tmp_path / "other")


def test_clap_embeds_sound_and_text_in_the_place_of_mulan(checkpoints, tmp_path):
  folder = shutil.copytree(checkpoints["clap"], tmp_path / "clap")
  with pytest.raises(ValueError, match="tokenizer.json is missing"):
    adopt(folder, tmp_path / "part")
  (folder / "tokenizer.json").write_text("{}")
  assert "tokenizer.json --embed_dim=12" in adopt(folder, tmp_path / "part")
  part, x = frozen.load(str(tmp_path / "part")), sound(2, 2 * RATE)
  network = transformers.AutoModel.from_pretrained(folder)
  rows = [audio.resample(row, RATE, 48000) for row in x]
  inputs = PREPROCESSORS["clap"]()(rows, sampling_rate=48000, return_tensors="pt")
  tokens = np.array([[0, 5, 9, 2], [0, 7, 2, 0]], np.int32)  # RoBERTa: 0 begins, 2 ends, 1 pads
  ids = torch.tensor([[0, 5, 9, 2], [0, 7, 2, 1]])
  with torch.no_grad():
    audio_rows = network.get_audio_features(**inputs).pooler_output.numpy()
    text_rows = network.get_text_features(ids, attention_mask=(ids != 1).long()).pooler_output
  np.testing.assert_allclose(part("embed_audio", x), audio_rows, atol=1e-5)
  np.testing.assert_allclose(part("embed_text", tokens), text_rows.numpy(), atol=1e-5)
  with pytest.raises(ValueError, match="wanted at most 10 s of audio, found 11 s"):
    part("embed_audio", sound(1, 11 * RATE))
  with pytest.raises(ValueError, match="tokens .* of 0..299, found 0..300"):
    part("embed_text", np.array([[0, 300]], np.int32))


@pytest.mark.parametrize("kind", TOWERS)
def test_a_tower_of_mulan_is_that_of_the_checkpoint(kind, checkpoints, tmp_path, rng):
  adopt(checkpoints[kind], tmp_path)
  network = transformers.AutoModel.from_pretrained(checkpoints[kind])
  if kind == "bert":
    x = rng.integers(1, 40, (2, 12)).astype(np.int32)
    wanted = lambda: network(torch.from_numpy(x).long()).last_hidden_state[:, 0]  # noqa: E731
  else:
    x = rng.normal(size=(2, 64, 32)).astype(np.float32)
    wanted = lambda: network(torch.from_numpy(x)).pooler_output  # noqa: E731
  with torch.no_grad():
    wanted = wanted().numpy()
  part = frozen.load(str(tmp_path))
  found = part.module.apply(part.variables, x)
  np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_tower_is_taken_without_the_heads_of_its_checkpoint(checkpoints, tmp_path, capsys):
  config = CONFIGS["audio-spectrogram-transformer"]
  for name, model in {
    "audio-spectrogram-transformer": transformers.ASTForAudioClassification(config),
    "bert": transformers.BertForPreTraining(CONFIGS["bert"]),
  }.items():
    model.save_pretrained(tmp_path / name)
    if PREPROCESSORS[name]:
      PREPROCESSORS[name]().save_pretrained(tmp_path / name)
    adopt(tmp_path / name, tmp_path / f"{name}_part", licence="MIT")
  assert "left out the heads of its own tasks: classifier" in capsys.readouterr().err


OLD_NAMES = {
  "parametrizations.weight.original0": "weight_g",
  "parametrizations.weight.original1": "weight_v",
  "LayerNorm.weight": "LayerNorm.gamma",
  "LayerNorm.bias": "LayerNorm.beta",
}
HEADS = {"hubert": "lm_head.bias", "bert": "cls.predictions.bias"}


@pytest.mark.parametrize("kind", HEADS)
def test_a_checkpoint_with_older_names_and_a_head_is_the_same_part(
  kind, checkpoints, tmp_path, capsys
):
  folder, tensors = shutil.copytree(checkpoints[kind], tmp_path / "old"), {}
  for name, tensor in load_file(folder / "model.safetensors").items():
    for now, before in OLD_NAMES.items():
      name = name.replace(now, before)
    tensors[f"{kind}.{name}"] = tensor
  tensors |= {HEADS[kind]: torch.zeros(40)}
  if kind == "bert":
    tensors["bert.embeddings.position_ids"] = torch.arange(12)[None]
  torch.save(tensors, folder / "pytorch_model.bin")
  (folder / "model.safetensors").unlink()
  adopt(folder, tmp_path / "part")
  head = HEADS[kind].partition(".")[0]
  assert f"left out the heads of its own tasks: {head}" in capsys.readouterr().err
  adopt(checkpoints[kind], tmp_path / "wanted")
  found, wanted = (load_file(tmp_path / n / "weights.safetensors") for n in ("part", "wanted"))
  assert found.keys() == wanted.keys()
  assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def _without(prefix):
  def change(folder):
    path = str(folder / "model.safetensors")
    kept = {k: v for k, v in load_file(path).items() if prefix not in k}
    save_file(kept | {"spare.weight": torch.ones(3)}, path, {"format": "pt"})

  return change


@pytest.mark.parametrize("kind", TOWERS)
def test_a_tensor_missing_or_too_many_is_an_error_with_a_table(kind, checkpoints, tmp_path):
  folder = shutil.copytree(checkpoints[kind], tmp_path / "source")
  _without("embeddings.position_embeddings")(folder)
  with pytest.raises(ValueError) as caught:
    adopt(folder, tmp_path / "part")
  assert str(caught.value).endswith("2 tensors do not fit its config.json")
  rows = caught.value.__notes__[0].splitlines()
  assert [row.split()[1:3] for row in rows] == [["missing,", "wanted"], ["too", "many"]]
  assert rows[0].split()[0].startswith("embeddings.position_embeddings")
  assert not (tmp_path / "part").exists()


def test_a_source_of_extraction_runs_it_and_asserts_its_rate(checkpoints, tmp_path):
  adopt(checkpoints["encodec"], tmp_path, levels=2)
  source = features.Feature("acoustic", str(tmp_path), "encode", None, 0.0, 0.0, "", 50.0)
  codes = features.Encoder(source, RATE)(sound(2))
  assert codes.shape == (2, 50, 2) and codes.dtype == np.uint16
  entry = features.Encoder(source, RATE).describe(codes)
  assert entry["codebook_size"] == 16 and entry["encoder"] == part_files.fingerprint(tmp_path)
  with pytest.raises(ValueError, match="75.0 Hz would give 75 frames"):
    features.Encoder(features.Feature(*(*vars(source).values(),)[:-1], 75.0), RATE)(sound(2))


def test_our_residual_quantizer_is_that_of_encodec(checkpoints):
  network = transformers.AutoModel.from_pretrained(checkpoints["encodec"])
  codebooks = np.stack([layer.codebook.embed.numpy() for layer in network.quantizer.layers])
  x = np.random.default_rng(1).normal(size=(2, 50, 16)).astype(np.float32)
  codes, quantized = quantize(x, codebooks)
  with torch.no_grad():
    theirs = network.quantizer.encode(torch.from_numpy(x).transpose(1, 2), bandwidth=1.6)
    vectors = network.quantizer.decode(theirs).transpose(1, 2).numpy()
  np.testing.assert_array_equal(codes, theirs.permute(1, 2, 0).numpy())
  np.testing.assert_allclose(quantized, vectors, atol=1e-4)
  np.testing.assert_allclose(dequantize(codes, codebooks), vectors, atol=1e-4)


def _remove(name):
  return lambda folder: (folder / name).unlink()


def _rewrite(name, **changes):
  def change(folder):
    description = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(description | changes))

  return change


def _other_weights(folder):
  transformers.HubertModel(CONFIGS["hubert"]).save_pretrained(folder / "other")
  shutil.copy(folder / "other" / "model.safetensors", folder / "model.safetensors")


@pytest.mark.parametrize(
  ("damage", "options", "message"),
  [
    (_remove("config.json"), {}, "config.json is missing"),
    (_remove("preprocessor_config.json"), {}, "preprocessor_config.json is missing"),
    (_rewrite("config.json", model_type="gpt2"), {}, "wanted one of encodec, dac"),
    (_rewrite("config.json", audio_channels=2), {}, "wanted a codec of mono"),
    (_other_weights, {}, "tensors do not fit its config.json"),
    (_remove("README.md"), {}, "states no licence"),
    (lambda folder: None, {"sample_rate": 16000}, "a codec of 24000 Hz; pass --sample_rate=24000"),
    (lambda folder: None, {"levels": 9}, "has 8 levels, found --levels=9"),
    (lambda f: (f / "config.json").write_text("{"), {}, "config.json is not JSON"),
  ],
)
def test_what_cannot_be_imported_is_one_line_and_leaves_nothing(
  checkpoints, tmp_path, damage, options, message
):
  folder = shutil.copytree(checkpoints["encodec"], tmp_path / "source")
  damage(folder)
  with pytest.raises(ValueError, match=message) as caught:
    adopt(folder, tmp_path / "part", **options)
  assert "\n" not in str(caught.value) and not (tmp_path / "part").exists()


def test_what_forbids_commerce_wants_consent(checkpoints, tmp_path):
  folder = shutil.copytree(checkpoints["encodec"], tmp_path / "source")
  (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
  with pytest.raises(ValueError, match="cc-by-nc-4.0 forbids commercial use.*accept_noncommercial"):
    adopt(folder, tmp_path / "part")
  assert "licence cc-by-nc-4.0" in adopt(folder, tmp_path / "part", accept_noncommercial=True)
  (folder / "README.md").unlink()
  line = adopt(folder, tmp_path / "other", licence="MIT")
  assert "licence MIT; 8 levels of 16 at 50 Hz: --acoustic_rate=50 --acoustic_codes=16" in line


def test_a_name_that_is_no_directory_and_not_of_the_hub_is_refused(tmp_path):
  with pytest.raises(ValueError, match="no such directory, and no name on the hub"):
    adopt(tmp_path / "nowhere", tmp_path / "part")
