"""The bytes that devices send to each other in a compiled program, from the text of its HLO."""

import collections
import dataclasses
import functools
import math
import re

_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "f8e4m3fn": 8, "f8e5m2": 8, "bf16": 16}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_CALLS = re.compile(r"(?:calls|to_apply|body)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=(%?[\w.\-]+)")
_ARRAY = re.compile(r"\b([a-z]+\d[a-z0-9]*|pred)\[([\d,]*)\]")


def collectives(hlo: str) -> dict[str, dict[str, int]]:
  """{kind: {"count", "bytes"}} of one run of the program: bytes that each device sends.

  A ring of n devices sends (n - 1) / n of the whole array to gather or scatter it and twice as much
  to reduce it everywhere. The body of a loop counts as often as the loop runs. Of the branches of a
  condition, the one that sends the least counts: only the first step initialises codebooks.
  """
  computations, entry = _parse(hlo)

  @functools.cache
  def sums(name: str) -> collections.Counter:
    """{(kind, "count" or "bytes"): sum}."""
    computation, total = computations[name], collections.Counter()
    for kind, size in computation.sent:
      total.update({(kind, "count"): 1, (kind, "bytes"): size})
    for callee, times in computation.calls:
      total.update({key: value * times for key, value in sums(callee).items()})
    for branches in computation.conditions:
      total.update(min(map(sums, branches), key=lambda each: sum(each[k, "bytes"] for k in _KINDS)))
    return total

  all_sums = sums(entry)
  fields = ("count", "bytes")
  found = {kind: {field: round(all_sums[kind, field]) for field in fields} for kind in _KINDS}
  return {kind: each for kind, each in found.items() if each["count"]}


@dataclasses.dataclass
class _Computation:
  """A computation: sent [(kind, bytes)], calls [(name, times)], the branches of its conditions."""

  sent: list = dataclasses.field(default_factory=list)
  calls: list = dataclasses.field(default_factory=list)
  conditions: list = dataclasses.field(default_factory=list)


def _parse(hlo: str) -> tuple[dict[str, _Computation], str]:
  """({name: computation}, the entry's name)."""
  computations = collections.defaultdict(_Computation)
  bounds: dict[str, int] = {}  # the largest constant of a computation: of a condition, the count
  loops, name, entry = [], "", ""
  for line in hlo.splitlines():
    if head := _COMPUTATION.match(line):
      name = head[2]
      entry = name if head[1] else entry
      continue
    if not (instruction := _INSTRUCTION.match(line)):
      continue
    shape, operation, rest = instruction.groups()
    kind = operation.removesuffix("-start")
    if kind in _KINDS:
      computations[name].sent.append((kind, _sent(kind, shape, operation != kind, rest)))
    if operation == "constant" and shape.startswith("s32[]") and rest.split(")")[0].isdigit():
      bounds[name] = max(bounds.get(name, 0), int(rest.split(")")[0]))
    if operation == "while":
      condition = re.search(r"condition=%?([\w.\-]+)", rest)[1]
      known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', rest)
      loops.append((name, _CALLS.search(rest)[1], condition, known and int(known[1])))
    elif operation == "conditional":
      names = ",".join(many or one for many, one in _BRANCHES.findall(rest)).split(",")
      computations[name].conditions.append([each.strip().lstrip("%") for each in names])
    else:
      computations[name].calls += [(callee, 1) for callee in _CALLS.findall(rest)]
  for name, body, condition, known in loops:
    computations[name].calls.append((body, known or bounds.get(condition, 1)))
  return computations, entry


def _sent(kind: str, shape: str, starts: bool, rest: str) -> float:
  """Bytes that a device sends in a collective whose result is of this shape.

  The start of an asynchronous one has the shapes of operands and results, but for all-reduce.
  """
  sizes = [_size(*array) for array in _ARRAY.findall(shape)]
  if starts and kind == "collective-permute":
    sizes = sizes[1:2]
  elif starts and kind != "all-reduce":
    sizes = sizes[len(sizes) // 2 :]
  if kind == "collective-permute":
    return sum(sizes)
  devices = _group(rest)
  whole = sum(sizes) * (devices if kind == "reduce-scatter" else 1)
  return whole * (devices - 1) / devices * (2 if kind == "all-reduce" else 1)


def _size(kind: str, dimensions: str) -> int:
  bits = _BITS.get(kind) or int(re.search(r"\d+", kind)[0])
  return math.prod(int(d) for d in dimensions.split(",") if d) * bits // 8


def _group(rest: str) -> int:
  """How many devices exchange data with each other, in any of HLO's three notations.

  Raises ValueError for another notation.
  """
  if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]* \{([^}]*)\}", rest):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
    return math.prod(int(sizes[axis.strip("' ")]) for axis in mesh[2].split(","))
  if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
    return int(iota[1])
  if lists := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
    return lists[1].count(",") + 1
  raise ValueError(f"a collective without replica_groups: {rest[:200]}")
