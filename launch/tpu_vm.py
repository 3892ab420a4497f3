"""Starts a job on all workers of a TPU slice, or of the slices of a queued resource.

    python -m launch.tpu_vm --tpu=NAME --zone=ZONE --devices=256 -- train paper/coarse ...
    python -m launch.tpu_vm --queued_resource=NAME --zone=ZONE --devices=512 -- train ...

Every worker has the repository and its Python in the same folder. The job runs on after this
command ends; on each worker FOLDER/musiclm.log is its output and FOLDER/musiclm.pid its supervisor.
"""

import argparse
import shlex
import sys

from launch import command


def main(argv: list[str]) -> int:
  """Starts the job and returns gcloud's exit code."""
  options, words = _parser().parse(argv)
  if options.queued_resource is None:
    where = ["tpu-vm", "ssh", options.tpu]
  else:
    where = ["queued-resources", "ssh", options.queued_resource, "--node=all"]
  line = ["gcloud", "compute", "tpus", *where, f"--zone={options.zone}", "--worker=all"]
  line += [*options.gcloud, f"--command={_remote(options, words)}"]
  return command.start(line, dry_run=options.dry_run)


def _parser() -> command.Parser:
  parser = command.Parser(prog="launch.tpu_vm", usage="%(prog)s OPTIONS -- VERB ...")
  parser.description = __doc__
  which = parser.add_mutually_exclusive_group(required=True)
  which.add_argument("--tpu", help="a slice, made by `gcloud compute tpus tpu-vm create`")
  which.add_argument("--queued_resource", help="all of its slices")
  add = parser.add_argument
  add("--zone", required=True)
  add("--devices", type=command.count, required=True, help="all chips of all slices")
  add("--folder", default="musiclm_jax", help="the clone on the workers; default musiclm_jax")
  add("--python", default=".venv/bin/python", help="path in the folder; default .venv/bin/python")
  add(
    "--gcloud", action="append", default=[], metavar="OPTION", help="such as --gcloud=--internal-ip"
  )
  add("--dry_run", action="store_true", help="print the command and exit")
  return parser


def _remote(options: argparse.Namespace, words: list[str]) -> str:
  """The shell command of a worker."""
  python = shlex.quote(options.python)
  run = shlex.join(command.supervised(options.python, words, f"--devices={options.devices}"))
  # The job must outlast the connection; errors about a missing folder or Python come before that.
  return (
    f"cd {shlex.quote(options.folder)} && {python} -m {command.SUPERVISOR} --help > /dev/null && "
    f"{{ nohup env JAX_PLATFORMS=tpu {run} >> musiclm.log 2>&1 < /dev/null & "
    "echo $! > musiclm.pid; }"
  )


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
