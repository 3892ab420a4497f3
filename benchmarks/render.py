"""Prints as JSON how fast the built-in corpus is rendered: seconds of audio per second.

python benchmarks/render.py [--works=40] [--workers=2]: one core reads and renders --works works of
the demo corpus; then --workers processes build the tiny corpus in a temporary folder.
"""

import argparse
import json
import multiprocessing
import pathlib
import tempfile
import time

from musiclm_jax.datasets import (
  corpus_builder,
  corpus_clips,
  corpus_sizes,
  draws,
  parallel_build,
  passages,
  scores,
  soundfonts,
)


def measure(job_count: int, soundfont: str) -> dict[str, float]:
  """Seconds of audio per second on one core, of rendering alone and with everything else."""
  size = corpus_sizes.SIZES["demo"]
  jobs = corpus_sizes.jobs(size, "train", seed=0, soundfont=soundfont, scores="")[:job_count]
  corpus_clips.render_work(jobs[0])  # imports and opens the soundfont
  begin = time.process_time()
  count = sum(len(corpus_clips.render_work(job)) for job in jobs)
  whole = time.process_time() - begin
  begin = time.process_time()
  for job in jobs:
    scores.read_music(job.work)
  reading = time.process_time() - begin
  audio = count * size.clip_seconds
  return {
    "works": len(jobs),
    "audio_seconds": audio,
    "read_ms_per_work": round(1000 * reading / len(jobs), 1),
    "audio_per_second_one_core": round(audio / whole, 1),
    "audio_per_second_without_reading": round(audio / (whole - reading), 1),
  }


def synthesis_speed(soundfont: str) -> float:
  """Seconds of audio per second of the synthesizer alone, which repeats a solo passage."""
  size = corpus_sizes.SIZES["demo"]
  job = corpus_sizes.jobs(size, "train", seed=0, soundfont=soundfont, scores="")[0]
  music = scores.read_music(job.work)
  rng = draws.generator(0)
  passage = passages.draw_passages(music, job.work, job.clip_seconds, 1, rng)[0]
  music = passages.repeated(music, job.clip_seconds, scores.BEAT_QUARTERS[job.work.metre])
  begin = time.process_time()
  for _ in range(20):
    corpus_clips.render_clip(job, music, passage, 0)
  return 20 * job.clip_seconds / (time.process_time() - begin)


def build_speed(workers: int) -> dict[str, float]:
  """Wall-clock seconds to build the tiny corpus, and seconds of audio per second."""
  with tempfile.TemporaryDirectory() as folder:
    builder = corpus_builder.Rendered(config="tiny", data_dir=folder)
    begin = time.perf_counter()
    parallel_build.build(builder, workers)
    seconds = time.perf_counter() - begin
    clip_count = sum(split.num_examples for split in builder.info.splits.values())
    audio = clip_count * builder.builder_config.size.clip_seconds
  return {
    "tiny_build_seconds": round(seconds, 1),
    "tiny_audio_per_second": round(audio / seconds, 1),
    "workers": workers,
  }


def main() -> None:
  """Measures everything and prints the results."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--works", type=int, default=40)
  parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
  options = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    soundfont = soundfonts.write_corrected("", pathlib.Path(folder))
    result = measure(options.works, soundfont)
    result["clip_audio_per_second"] = round(synthesis_speed(soundfont), 1)
  result |= build_speed(options.workers)
  print(json.dumps(result))


if __name__ == "__main__":
  main()
