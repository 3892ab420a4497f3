"""Starts a job on GKE as one JobSet (as JSON, which kubectl reads): TPU slices, or nodes with GPUs.

    python -m launch.gke tpu --name=coarse --image=IMAGE --volume=CLAIM:/music
      --accelerator=tpu-v5-lite-podslice --topology=16x16 --slices=2 -- train ...
    python -m launch.gke gpu --name=coarse --image=IMAGE --volume=CLAIM:/music
      --accelerator=nvidia-h100-80gb --nodes=4 --gpus_per_node=8 -- train paper/coarse ...

Every pod is a host with one process and its supervisor. The image is that of launch/Dockerfile.
"""

import argparse
import json
import math
import re
import sys

from launch import command
from musiclm_jax.supervisor import MISTAKES

_HOSTS = "host"  # the JobSet's one group of Jobs
_PORT = 8476  # of the coordinator
_USER = 1000  # of the image


def main(argv: list[str]) -> int:
  """Creates the JobSet, and gives kubectl's exit code."""
  parser = _parser()
  options, words = parser.parse(argv)
  # In a container's command Kubernetes reads $(NAME) as a variable and $$ as $.
  words = [word.replace("$", "$$") for word in words]
  try:
    jobset = options.jobset(options, words)
  except ValueError as error:
    parser.error(str(error))
  line = ["kubectl", "create", "--filename=-"]
  return command.start(line, dry_run=options.dry_run, stdin=json.dumps(jobset, indent=2) + "\n")


def _parser() -> command.Parser:
  parser = command.Parser(prog="launch.gke", usage="%(prog)s tpu|gpu OPTIONS -- VERB ...")
  parser.description = __doc__
  kinds = parser.add_subparsers(required=True, prog=parser.prog, metavar="tpu|gpu")
  tpu, gpu = kinds.add_parser("tpu"), kinds.add_parser("gpu")
  for kind, jobset in ((tpu, _tpu), (gpu, _gpu)):
    kind.set_defaults(jobset=jobset)
    add = kind.add_argument
    add("--name", type=_name, required=True, help="of the JobSet")
    add("--image", required=True)
    volume = "a persistent volume claim that all pods may write, and where they see it; repeatable"
    add(
      "--volume", type=_volume, action="append", required=True, metavar="CLAIM:/PATH", help=volume
    )
    add("--accelerator", required=True, help="the nodes' label")
    add("--max_restarts", type=command.count, default=10, help="of the JobSet; default 10")
    add("--dry_run", action="store_true", help="prints what would run")
  tpu.add_argument("--topology", type=_topology, required=True, help="of a slice, as 16x16")
  tpu.add_argument("--slices", type=command.count, default=1, help="default 1")
  tpu.add_argument("--chips_per_host", type=command.count, default=4, help="default 4")
  gpu.add_argument("--nodes", type=command.count, required=True)
  gpu.add_argument("--gpus_per_node", type=command.count, required=True)
  return parser


def _name(text: str) -> str:
  if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", text):
    wanted = "up to 40 of a-z, 0-9 and -, a letter first and no - last"
    raise argparse.ArgumentTypeError(f"wanted {wanted}; got {text!r}")
  return text


def _volume(text: str) -> tuple[str, str]:
  claim, _, path = text.partition(":")
  if not claim or not path.startswith("/"):
    raise argparse.ArgumentTypeError(f"wanted CLAIM:/PATH, got {text!r}")
  return claim, path


def _topology(text: str) -> str:
  if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", text):
    raise argparse.ArgumentTypeError(f"wanted one like 4x4 or 4x4x8, got {text!r}")
  return text


def _tpu(options: argparse.Namespace, words: list[str]) -> dict:
  """A Job per slice; GKE tells the pods of each other."""
  chips, per_host = math.prod(map(int, options.topology.split("x"))), options.chips_per_host
  if chips % per_host:
    raise ValueError(
      f"argument --topology: wanted a multiple of {per_host} chips (--chips_per_host), got {chips}"
    )
  # JAX shows the two cores of a TPU7x chip as two devices.
  devices = options.slices * chips * (2 if options.accelerator.startswith("tpu7") else 1)
  container = {
    "command": command.supervised("python", words, f"--devices={devices}"),
    "env": [{"name": "JAX_PLATFORMS", "value": "tpu"}],
    "securityContext": {"runAsUser": 0},  # whose the TPUs' device files are
    "resources": {"limits": {"google.com/tpu": per_host}},
  }
  pod = {
    "nodeSelector": {
      "cloud.google.com/gke-tpu-accelerator": options.accelerator,
      "cloud.google.com/gke-tpu-topology": options.topology,
    },
    # What goes from slice to slice does without the pods' own network.
    "hostNetwork": True,
    "dnsPolicy": "ClusterFirstWithHostNet",
  }
  # All pods of a slice in one node pool, and no two slices in the same.
  placement = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
  jobset = _jobset(options, options.slices, chips // per_host, pod, container)
  return jobset | {"metadata": jobset["metadata"] | {"annotations": placement}}


def _gpu(options: argparse.Namespace, words: list[str]) -> dict:
  """One Job, whose first pod is the coordinator."""
  flags = (
    f"--devices={options.nodes * options.gpus_per_node}",
    f"--coordinator={options.name}-{_HOSTS}-0-0.{options.name}:{_PORT}",
    f"--num_processes={options.nodes}",
    "--process_id=$(JOB_COMPLETION_INDEX)",
  )
  container = {
    "command": command.supervised("python", words, *flags),
    "env": [
      {"name": "JAX_PLATFORMS", "value": "cuda"},
      {"name": "LD_LIBRARY_PATH", "value": "/usr/local/nvidia/lib64"},  # GKE puts the driver there
    ],
    "resources": {"limits": {"nvidia.com/gpu": options.gpus_per_node}},
    # NCCL wants more shared memory than the 64 MB of a container.
    "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
  }
  pod = {
    "nodeSelector": {"cloud.google.com/gke-accelerator": options.accelerator},
    "securityContext": {"fsGroup": _USER},  # who may write to the volumes
    "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
  }
  return _jobset(options, 1, options.nodes, pod, container)


def _jobset(
  options: argparse.Namespace, replicas: int, pods: int, pod: dict, container: dict
) -> dict:
  """The JobSet of `replicas` Jobs with so many pods each."""
  claims = {f"volume-{index}": volume for index, volume in enumerate(options.volume)}
  mounts = [{"name": name, "mountPath": path} for name, (_, path) in claims.items()]
  volumes = [
    {"name": name, "persistentVolumeClaim": {"claimName": claim}}
    for name, (claim, _) in claims.items()
  ]
  container = {"name": "musiclm", "image": options.image} | container
  container["volumeMounts"] = [*container.get("volumeMounts", ()), *mounts]
  pod = pod | {
    "restartPolicy": "Never",
    "terminationGracePeriodSeconds": 120,  # to save in
    "containers": [container],
    "volumes": [*pod.get("volumes", ()), *volumes],
  }
  job = {
    "completionMode": "Indexed",
    "parallelism": pods,
    "completions": pods,
    "backoffLimit": 0,  # one pod that is lost ends the Job: none of the others can go on
    "podFailurePolicy": {
      "rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": list(MISTAKES)}}]
    },
    "template": {"spec": pod},
  }
  return {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": {"name": options.name},
    "spec": {
      "network": {"enableDNSHostnames": True},
      # New pods must not meet those of the last start: those would join them.
      "failurePolicy": {
        "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
        "maxRestarts": options.max_restarts,
        "restartStrategy": "BlockingRecreate",
      },
      "replicatedJobs": [{"name": _HOSTS, "replicas": replicas, "template": {"spec": job}}],
    },
  }


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
