"""The measures against scipy, scikit-learn, closed forms and cases whose answer is known."""

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import mutual_info_score

from musiclm_jax.evaluation import metrics


@pytest.mark.parametrize(
  ("value", "wanted", "met"),
  [
    (0.5, "<= 0.6", True),
    (0.7, "<= 0.6", False),
    (2, ">= 2", True),
    (0, "> 0", False),
    (1, "", None),
  ],
)
def test_figure_says_whether_its_target_is_met(value, wanted, met):
  assert metrics.figure(value, wanted)["met"] is met


@pytest.mark.parametrize(
  ("value", "wanted"), [(float("nan"), ""), (float("inf"), "> 0"), (1.0, "about 3")]
)
def test_figure_refuses_what_is_no_number_and_no_comparison(value, wanted):
  with pytest.raises(ValueError):
    metrics.figure(value, wanted)


def test_figure_refuses_a_baseline_that_is_no_number():
  with pytest.raises(ValueError, match="finite"):
    metrics.figure(1.0, baseline=float("nan"))


def test_figure_keeps_its_interval_and_refuses_one_that_is_no_number():
  assert metrics.figure(0.5, interval=(0.4, 0.6))["interval"] == [0.4, 0.6]
  assert metrics.figure(0.5)["interval"] is None
  with pytest.raises(ValueError, match="finite"):
    metrics.figure(0.5, interval=(0.4, float("nan")))


def test_bootstrap_of_groups_covers_the_mean_where_that_of_rows_would_not(rng):
  works, clips = 40, 6
  covered, widths = [], []
  for trial in range(200):
    values = rng.normal(size=(works, 1)) + 0.1 * rng.normal(size=(works, clips))
    groups = np.repeat(np.arange(works), clips)
    low, high = metrics.bootstrap(values.ravel(), groups, resamples=400, seed=trial)
    covered.append(low <= 0 <= high)
    rows = metrics.bootstrap(values.ravel(), np.arange(values.size), resamples=400, seed=trial)
    widths.append((high - low) / (rows[1] - rows[0]))
  assert 0.89 <= np.mean(covered) <= 0.99
  assert np.mean(widths) > 2  # about the root of the clips per work


def test_bootstrap_of_a_ratio_is_that_of_sums(rng):
  weights = rng.uniform(1, 2, 60)
  groups = np.arange(60) // 2
  low, high = metrics.bootstrap(0.7 * weights, groups, weights)
  assert low == pytest.approx(0.7) and high == pytest.approx(0.7)
  low, high = metrics.bootstrap(0.7 * weights + rng.normal(size=60) * 0.2, groups, weights)
  assert low < 0.7 < high


@hypothesis.given(st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 4)), min_size=2, max_size=30))
def test_bootstrap_is_within_the_values_and_needs_two_groups(pairs):
  values, groups = zip(*pairs)
  interval = metrics.bootstrap(values, groups, resamples=50)
  if len(set(groups)) < 2:
    assert interval is None
  else:
    assert min(values) - 1e-9 <= interval[0] <= interval[1] <= max(values) + 1e-9


def test_ranks_of_a_small_case():
  similarity = np.array([[0.9, 0.1, 0.5], [0.9, 0.1, 0.5], [0.2, 0.1, 0.2]])
  right = np.eye(3, dtype=bool)
  assert metrics.ranks(similarity, right).tolist() == [
    1,
    3,
    2,
  ]  # a tied wrong answer ranks before it


def test_a_model_that_gives_everything_one_embedding_finds_nothing():
  found = metrics.retrieval(np.ones((20, 20)), np.eye(20, dtype=bool))
  assert (found["recall_at_1"], found["recall_at_10"]) == (0, 0)


def test_candidates_and_queries_that_are_none_do_not_count():
  similarity = np.where(np.eye(4, dtype=bool), -np.inf, 1.0)
  similarity[0, 1] = 2
  right = np.zeros((4, 4), bool)
  right[0, 1] = right[0, 0] = True  # only query 0 has an answer
  found = metrics.retrieval(similarity, right, places=(1,))
  assert (found["recall_at_1"], found["queries"]) == (1.0, 1)
  assert found["chance_at_1"] == pytest.approx(1 / 3)
  with pytest.raises(ValueError, match="no query"):
    metrics.retrieval(similarity, np.zeros((4, 4), bool))


@pytest.mark.parametrize(("candidates", "answers"), [(1, 1), (4, 1), (5, 2), (6, 6), (6, 3)])
def test_chance_is_the_mean_over_all_orders(candidates, answers):
  orders = np.array(list(itertools.permutations(range(candidates))), float)
  right = np.broadcast_to(np.arange(candidates) < answers, orders.shape)
  found = metrics.retrieval(orders, right, places=(1, 3))
  for name in ("recall_at_1", "recall_at_3", "mrr"):
    chance = name.replace("recall", "chance").replace("mrr", "chance_mrr")
    assert found[name] == pytest.approx(found[chance])


@hypothesis.given(st.lists(st.integers(0, 50), min_size=1, max_size=20).filter(any))
def test_entropy_is_that_of_scipy_and_cross_entropy_is_never_less(counts):
  counts = np.array(counts)
  assert metrics.entropy(counts) == pytest.approx(stats.entropy(counts / counts.sum()), abs=1e-9)
  codes = np.repeat(np.arange(len(counts)), counts)
  assert metrics.cross_entropy(counts, codes) >= metrics.entropy(counts) - 1e-9


def test_cross_entropy_of_a_code_never_seen_is_finite():
  assert metrics.cross_entropy(np.array([9, 0]), np.array([1])) == pytest.approx(np.log(11))


def test_code_counts_are_per_level(rng):
  codes = rng.integers(0, 5, (7, 11, 3)).astype(np.uint16)
  counts = metrics.code_counts(codes, 6)
  assert counts.shape == (3, 6)
  for level in range(3):
    for code in range(6):
      assert counts[level, code] == (codes[..., level] == code).sum()


@hypothesis.given(
  st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=60)
)
def test_mutual_information_is_that_of_scikit_learn(pairs):
  a, b = np.array(pairs, np.uint16).T
  assert metrics.mutual_information(a, b) == pytest.approx(mutual_info_score(a, b), abs=1e-9)


def test_against_shuffled(rng):
  test = metrics.against_shuffled(10.0, rng.normal(5, 1, 1000))
  assert test["z"] == pytest.approx(5, abs=0.3)
  assert test["p"] == pytest.approx(1 / 1001)
  assert metrics.against_shuffled(1.0, np.ones(9))["p"] == 1.0  # a tie is no success


def test_outputs_that_fit_their_prompts_are_found_and_others_are_not(rng):
  scores = rng.normal(size=(20, 20))
  assert metrics.matched(scores + 3 * np.eye(20), 999, rng)["p"] == pytest.approx(0.001)
  assert metrics.matched(scores - 3 * np.eye(20), 999, rng)["p"] > 0.99
  assert metrics.matched(np.ones((20, 20)), 99, rng)["p"] == 1.0


def test_the_p_values_of_outputs_that_ignore_their_prompts_are_uniform(rng):
  values = [metrics.matched(rng.normal(size=(12, 12)), 99, rng)["p"] for _ in range(300)]
  assert stats.kstest(values, "uniform").pvalue > 0.001


@hypothesis.given(
  st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=3, max_size=30)
)
def test_rank_agreement_is_spearmans_correlation(pairs):
  a, b = np.array(pairs, float).T
  found = np.diagonal(metrics.rank_agreement(a, b)).mean()
  if np.ptp(a) and np.ptp(b):
    assert found == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-9)
  else:
    assert found == 0


def test_paired_losses(rng):
  own = rng.random(40)
  better = metrics.paired(own, own + 0.1 + 0.05 * rng.random(40))
  assert better["difference"] == pytest.approx(0.125, abs=0.02) and better["p"] < 1e-6
  assert metrics.paired(own + 0.1, own)["p"] > 0.999
  assert metrics.paired(own, own) == {"difference": 0.0, "p": 1.0}


def test_a_figure_of_too_few_observations_meets_no_target():
  assert metrics.too_few(21, 21, "clips") == ""
  few = metrics.too_few(4, 21, "clips")
  assert few == "4 clips, at least 21 are needed"
  assert metrics.figure(0.5, "<= 0.6", too_few=few)["met"] is False
  assert metrics.figure(0.5, too_few=few)["met"] is None


def test_shuffles_that_all_agree_are_refused_unless_they_agree_with_the_data():
  assert metrics.against_shuffled(1.0, np.ones(9))["z"] == 0
  with pytest.raises(ValueError, match="too little data"):
    metrics.against_shuffled(2.0, np.ones(9))


def test_figures_have_the_targets_that_are_wanted_and_a_misspelt_one_is_named():
  measures = {
    "notes": {"value": 0.5, "baseline": 1.0, "baseline_is": "real"},
    "chroma": {"value": 1},
  }
  found = metrics.figures(measures, {"notes": ">= 0.8"})
  assert found["notes"] == metrics.figure(0.5, ">= 0.8", baseline=1.0, baseline_is="real")
  assert found["chroma"]["met"] is None
  metrics.check_wanted({"notes": ">= 0.8"}, tuple(measures))
  with pytest.raises(ValueError, match="no figure 'note'; nearest notes"):
    metrics.check_wanted({"note": ">= 0.8"}, tuple(measures))
