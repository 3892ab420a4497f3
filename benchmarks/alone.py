"""Runs a setting of a benchmark in its own process, so that settings do not share memory."""

import json
import os
import re
import subprocess
import sys
import tempfile

_ERROR = re.compile(r"F\d{4} |[\w.]*(Error|Exception|Interrupt)\b")  # XLA's aborts, Python's


def alone(
  module: str, setting: dict, env: dict[str, str] | None = None, seconds: float | None = None
) -> dict:
  """The JSON in the last line that `python -m MODULE --one=SETTING` prints.

  {"error": one line} where it fails, or takes longer than `seconds`.
  """
  command = [sys.executable, "-m", module, f"--one={json.dumps(setting)}"]
  env = {**os.environ, **(env or {})}
  # Files instead of pipes: a child of the process could hold a pipe open after the process ended.
  with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as log:
    try:
      done = subprocess.run(command, stdout=out, stderr=log, env=env, timeout=seconds)
    except subprocess.TimeoutExpired:
      return {"error": f"not done after {seconds:.0f} s"}
    failed = done.returncode != 0
    file = log if failed else out
    file.seek(0)
    lines = [line for line in file.read().splitlines() if line.strip()]
  if not failed:
    return json.loads(lines[-1])
  errors = [line for line in lines if _ERROR.match(line)] or lines
  return {"error": errors[-1][:300] if errors else f"exit code {done.returncode}"}


def needed(module: str, setting: dict, env: dict[str, str] | None = None) -> dict:
  """As `alone`, but raises RuntimeError where the setting fails."""
  result = alone(module, setting, env)
  if "error" in result:
    raise RuntimeError(f"{module} {setting}: {result['error']}")
  return result
