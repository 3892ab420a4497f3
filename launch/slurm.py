"""Starts a job on a Slurm cluster with GPUs.

    python -m launch.slurm --nodes=2 --gpus_per_node=8 --time=24:00:00 -- train paper/coarse ...

Run it with the Python that the nodes will use, on a file system that they share.
"""

import argparse
import re
import shlex
import sys

from launch import command
from musiclm_jax.supervisor import MISTAKES

_SAVING_SECONDS = 120  # between SIGTERM and the time limit
_EARLY_SECONDS = 60  # Slurm may send the signal up to this much earlier
_MIN_SECONDS = 600

_SCRIPT = r"""#!/bin/bash
#SBATCH --job-name={options.name}
#SBATCH --nodes={options.nodes}
#SBATCH --ntasks-per-node={options.processes_per_node}
#SBATCH --gpus-per-node={options.gpus_per_node}
#SBATCH --cpus-per-task={cpus}
#SBATCH --time={options.time}
#SBATCH --signal=TERM@{saving}
#SBATCH --requeue
#SBATCH --open-mode=append
set -u
: "${{SLURM_JOB_END_TIME:?wanted Slurm 23.02 or later, which sets it}}"

# Every task is a supervisor, because Slurm requeues a job for a lost node, not for a lost process.
# The supervisor restarts its process at once, and the other supervisors restart theirs. It ends
# with an error where a restart is useless; srun then ends the other tasks.
srun --kill-on-bad-exit=1 --label --cpus-per-task={cpus} --gpu-bind=none \
  {task}
code=$?

# Shortly before the time limit Slurm signals the tasks, not this script, to save and end. The same
# job is then queued again and continues from that checkpoint, unless it is complete or has failed
# in a way that a restart would repeat.
if (({again} && SLURM_JOB_END_TIME - $(date +%s) < {margin})); then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
"""


def main(argv: list[str]) -> int:
  """Submits the job and returns sbatch's exit code."""
  parser = _parser()
  options, words = parser.parse(argv)
  if options.processes_per_node not in (1, options.gpus_per_node):
    parser.error(
      f"argument --processes_per_node: wanted 1 or {options.gpus_per_node}, one process per node"
      f" or per GPU; got {options.processes_per_node}"
    )
  line = ["sbatch", *options.sbatch]
  return command.start(line, dry_run=options.dry_run, stdin=_script(options, words))


def _parser() -> command.Parser:
  parser = command.Parser(prog="launch.slurm", usage="%(prog)s OPTIONS -- VERB ...")
  parser.description = __doc__
  add = parser.add_argument
  add("--nodes", type=command.count, required=True)
  add("--gpus_per_node", type=command.count, required=True)
  add("--processes_per_node", type=command.count, default=1, help="1 (default) or gpus_per_node")
  add("--cpus_per_gpu", type=command.count, default=8, help="default 8")
  add(
    "--time", type=_time, required=True, help="[DAYS-]HH:MM:SS, after which the job is queued again"
  )
  add("--name", type=_name, default="musiclm", help="default musiclm")
  add("--python", default=sys.executable, help="on the nodes; default: the Python that runs this")
  add(
    "--sbatch",
    action="append",
    default=[],
    metavar="OPTION",
    help="such as --sbatch=--partition=gpu",
  )
  add("--dry_run", action="store_true", help="print the command and exit")
  return parser


def _time(text: str) -> str:
  parts = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text)
  days, hours, minutes, seconds = (int(part or 0) for part in parts.groups()) if parts else [0] * 4
  if ((days * 24 + hours) * 60 + minutes) * 60 + seconds < _MIN_SECONDS:
    raise argparse.ArgumentTypeError(f"wanted [DAYS-]HH:MM:SS from 0:10:00 on, got {text!r}")
  return text


def _name(text: str) -> str:
  if not re.fullmatch(r"[\w.-]+", text):
    raise argparse.ArgumentTypeError(f"wanted letters, digits and any of _.-, got {text!r}")
  return text


def _script(options: argparse.Namespace, words: list[str]) -> str:
  """The batch script."""
  gpus, processes = options.gpus_per_node, options.processes_per_node
  environment = ["JAX_PLATFORMS=cuda"]
  if processes == 1:
    # Under Slurm, JAX uses one GPU per process by default.
    environment.append(f"JAX_LOCAL_DEVICE_IDS={','.join(map(str, range(gpus)))}")
  run = command.supervised(options.python, words, f"--devices={options.nodes * gpus}")
  return _SCRIPT.format(
    options=options,
    cpus=options.cpus_per_gpu * gpus // processes,
    saving=_SAVING_SECONDS,
    again=" && ".join(f"code != {code}" for code in (0, *MISTAKES)),
    margin=_SAVING_SECONDS + _EARLY_SECONDS,
    task=shlex.join(["env", *environment, *run]),
  )


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
