"""The page of a listening test."""

import html
import json

from musiclm_jax.evaluation import page

# MusicLM Appendix B: five points, from a strong preference for one clip to one for the other.
CHOICES = (
  (-2, "A, clearly"),
  (-1, "A, slightly"),
  (0, "no difference"),
  (1, "B, slightly"),
  (2, "B, clearly"),
)
_STYLE = """
fieldset { border: 0; padding: 0; margin: .8rem 0 0; display: flex; flex-wrap: wrap; gap: .5rem }
fieldset label { border: 1px solid var(--line); border-radius: 6px; padding: .35rem .6rem;
  cursor: pointer } fieldset label:has(:checked) { background: var(--ink); color: var(--paper) }
button { font: inherit; padding: .45rem .9rem; margin: 1rem .5rem 0 0 }
"""
_SCRIPT = """
const pairs = JSON.parse(document.getElementById("pairs").textContent);
const test = document.body.dataset.test, slot = "listening-" + test;
const kept = JSON.parse(localStorage.getItem(slot) || "null") || {
  listener: crypto.getRandomValues(new Uint32Array(2)).join("-"), order: null, answers: {} };
if (!kept.order) {  // another order for each listener, and the sides changed for half of the pairs
  kept.order = pairs.map((_, i) => [Math.random(), i]).sort((a, b) => a[0] - b[0])
    .map(([_, i]) => [i, Math.random() < .5]);
}
const keep = () => localStorage.setItem(slot, JSON.stringify(kept));
keep();
let at = Math.max(0, kept.order.findIndex(([i]) => !(pairs[i].id in kept.answers)));
const byId = id => document.getElementById(id);
let heard = new Set();
function show() {
  const [index, changed] = kept.order[at], pair = pairs[index];
  const clips = changed ? [pair.b, pair.a] : [pair.a, pair.b];
  byId("text").textContent = pair.text;
  byId("text").hidden = !pair.text;
  heard = new Set(pair.id in kept.answers ? ["a", "b"] : []);
  ["a", "b"].forEach((side, n) => { byId(side).src = "clips/" + clips[n]; });
  document.querySelectorAll("[name=choice]").forEach(each => {
    each.checked = pair.id in kept.answers &&
      kept.answers[pair.id] === (changed ? -1 : 1) * each.value;
  });
  byId("place").textContent = `${at + 1} of ${pairs.length}`;
  byId("back").disabled = at === 0;
  state();
}
function state() {
  document.querySelectorAll("[name=choice]").forEach(each => { each.disabled = heard.size < 2; });
  const pair = pairs[kept.order[at][0]];
  byId("next").disabled = !(pair.id in kept.answers) || at === pairs.length - 1;
  const left = pairs.length - Object.keys(kept.answers).length;
  byId("left").textContent = left ? `${left} to go` : "all answered: save the results";
}
["a", "b"].forEach(side => byId(side).addEventListener("play", () => {
  byId(side === "a" ? "b" : "a").pause();
  heard.add(side);
  state();
}));
document.querySelectorAll("[name=choice]").forEach(each => each.addEventListener("change", () => {
  const [index, changed] = kept.order[at];
  kept.answers[pairs[index].id] = (changed ? -1 : 1) * each.value;
  keep();
  state();
}));
byId("next").addEventListener("click", () => { at += 1; show(); });
byId("back").addEventListener("click", () => { at -= 1; show(); });
byId("save").addEventListener("click", () => {
  const result = { test, listener: kept.listener, answers: kept.answers };
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(result, null, 1)],
    { type: "application/json" }));
  link.download = `listening-${kept.listener}.json`;
  link.click();
});
show();
"""


def document(test: str, question: str, rows: list[dict]) -> str:
  """The page of the test of this name as HTML: one pair {"id", "text", "a", "b"} of `rows` after
  another.

  A listener answers with one of CHOICES once both clips have been played, can go back, and saves
  the answers as JSON: {"test", "listener", "answers": {id: -2 .. 2}}, negative for the pair's "a",
  whichever side it was shown on. Answers are kept if the page is closed.
  """
  choices = "".join(
    f"<label><input type=radio name=choice value={value}> {label}</label>"
    for value, label in CHOICES
  )
  content = json.dumps(rows).replace("<", "\\u003c")
  inner = (
    f"<style>{_STYLE}</style><p class=note>Listen to both clips, then choose. Pay no attention to "
    "how good the sound is. <span id=place></span>; <span id=left></span>.</p>"
    "<article><blockquote id=text></blockquote><div class=players>"
    "<figure><figcaption>A</figcaption><audio id=a controls></audio></figure>"
    "<figure><figcaption>B</figcaption><audio id=b controls></audio></figure></div>"
    f"<fieldset>{choices}</fieldset></article>"
    "<button id=back>back</button><button id=next>next</button>"
    "<button id=save>save the results</button>"
    f'<script id=pairs type="application/json">{content}</script><script>{_SCRIPT}</script>'
  )
  head = f'<body data-test="{html.escape(test, quote=True)}">'
  return page.document(question, inner).replace("<body>", head, 1)
