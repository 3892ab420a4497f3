"""The audio record: what every data set of audio has to offer to trainings and to the extraction.

A data set is a TFDS directory of ArrayRecord files whose features are these or more, with the
splits that a training names (train and validation by default). `corpus_builder` lists what the
built-in corpus has besides, for evaluation.
"""

from typing import TypedDict

import numpy as np
import tensorflow_datasets as tfds


class AudioRecord(TypedDict):
  """One clip.

  id: its name, unique in the data set.
  waveform: int16 [samples], mono; the data set's rate is that of all its clips.
  caption: text, or "" where none is known.
  aspect_list: phrases, as in MusicCaps; may be empty.
  work: what the clip is part of; all clips of one work are in one split.
  melody: the same text for renditions of one melody, or "" where none is known.
  """

  id: str
  waveform: np.ndarray
  caption: str
  aspect_list: list[str]
  work: str
  melody: str


# AudioRecord's fields as TFDS features.
FEATURES = {
  "id": tfds.features.Text(),
  "waveform": tfds.features.Tensor(
    shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES
  ),
  "caption": tfds.features.Text(),
  "aspect_list": tfds.features.Sequence(tfds.features.Text()),
  "work": tfds.features.Text(),
  "melody": tfds.features.Text(),
}
