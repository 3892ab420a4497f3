"""What devices send to each other in a compiled program, read from the text of its HLO."""

import collections
import math
import re

_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
_BITS = {"pred": 8, "f8e4m3fn": 8, "f8e5m2": 8, "bf16": 16}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = (.*?) ([a-z][a-z0-9\-]*)\((.*)$")
_CALLS = re.compile(r"(?:calls|to_apply|body)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:branch|called)_computations=\{([^}]*)\}")
_ARRAY = re.compile(r"\b([a-z]+\d[a-z0-9]*|pred)\[([\d,]*)\]")


def collectives(hlo: str) -> dict[str, dict[str, int]]:
  """{kind: {"count", "bytes"}} of one run of the program: bytes that each device sends.

  A ring of n devices sends (n - 1) / n of the whole array to gather or scatter it and twice as much
  to reduce it everywhere. What stands in the body of a loop counts as often as the loop runs.
  """
  own, calls, entry = _parse(hlo)
  times = collections.Counter({entry: 1})
  for name in _in_calling_order(entry, calls):
    for callee, trips in calls[name]:
      times[callee] += times[name] * trips
  found = {kind: {"count": 0, "bytes": 0} for kind in _KINDS}
  for name, each in own.items():
    for kind, size in each:
      found[kind]["count"] += times[name]
      found[kind]["bytes"] += round(times[name] * size)
  return {kind: sums for kind, sums in found.items() if sums["count"]}


def _parse(hlo: str):
  """({computation: [(kind, bytes)]}, {computation: [(callee, times)]}, entry's name)."""
  own, calls = collections.defaultdict(list), collections.defaultdict(list)
  bounds: dict[str, int] = {}  # the largest number in a computation: a loop's condition has its end
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
      own[name].append((kind, _sent(kind, shape, operation != kind, rest)))
    if operation == "constant" and shape.startswith("s32[]") and rest.split(")")[0].isdigit():
      bounds[name] = max(bounds.get(name, 0), int(rest.split(")")[0]))
    if operation == "while":
      condition = re.search(r"condition=%?([\w.\-]+)", rest)[1]
      known = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', rest)
      loops.append((name, _CALLS.search(rest)[1], condition, known and int(known[1])))
    else:
      calls[name] += [(callee, 1) for callee in _CALLS.findall(rest)]
      for branches in _BRANCHES.findall(rest):
        calls[name] += [(each.strip().lstrip("%"), 1) for each in branches.split(",")]
  for name, body, condition, known in loops:
    calls[name].append((body, known or bounds.get(condition, 1)))
  return own, calls, entry


def _in_calling_order(entry: str, calls) -> list[str]:
  """All computations that `entry` leads to, each before those that it calls."""
  order, seen = [], set()

  def visit(name):
    if name not in seen:
      seen.add(name)
      for callee, _ in calls[name]:
        visit(callee)
      order.append(name)

  visit(entry)
  return order[::-1]


def _sent(kind: str, shape: str, starts: bool, rest: str) -> float:
  """Bytes that a device sends in a collective whose result is of this shape.

  What starts one gives its operands and its results, but for all-reduce.
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
  """How many devices exchange data with each other, of the three ways in which HLO says so.

  Raises ValueError for a fourth.
  """
  if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]* \{([^}]*)\}", rest):
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
    return math.prod(int(sizes[axis.strip("' ")]) for axis in mesh[2].split(","))
  if iota := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
    return int(iota[1])
  if lists := re.search(r"replica_groups=\{\{([\d,]*)\}", rest):
    return lists[1].count(",") + 1
  raise ValueError(f"a collective without replica_groups: {rest[:200]}")
