"""Starts a job on GKE as one JobSet: TPU slices, or nodes with GPUs.

    python -m launch.gke tpu --name=coarse --image=IMAGE --volume=CLAIM:/music
      --accelerator=tpu-v5-lite-podslice --topology=16x16 --slices=2 -- train ...
    python -m launch.gke gpu --name=coarse --image=IMAGE --volume=CLAIM:/music
      --accelerator=nvidia-h100-80gb --nodes=4 --gpus_per_node=8 -- train paper/coarse ...

Every pod is one host with a supervisor and one process. The image is built by launch/Dockerfile.
"""

import argparse
import json
import math
import re
import sys

from launch import command
from musiclm_jax.supervisor import MISTAKES

_HOSTS = "host"  # name of the JobSet's only group of Jobs
_PORT = 8476  # the coordinator's
_USER = 1000  # the image's


def main(argv: list[str]) -> int:
  """Creates the JobSet and returns kubectl's exit code."""
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
    add("--name", type=_name, required=True, help="name of the JobSet")
    add("--image", required=True)
    volume = "a persistent volume claim that all pods can write, and its mount path; repeatable"
    add(
      "--volume", type=_volume, action="append", required=True, metavar="CLAIM:/PATH", help=volume
    )
    add("--accelerator", required=True, help="the accelerator label of the nodes")
    add("--max_restarts", type=command.count, default=10, help="default 10")
    add("--dry_run", action="store_true", help="print the command and exit")
  tpu.add_argument("--topology", type=_topology, required=True, help="of a slice, such as 16x16")
  tpu.add_argument("--slices", type=command.count, default=1, help="default 1")
  tpu.add_argument("--chips_per_host", type=command.count, default=4, help="default 4")
  gpu.add_argument("--nodes", type=command.count, required=True)
  gpu.add_argument("--gpus_per_node", type=command.count, required=True)
  return parser


def _name(text: str) -> str:
  if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", text):
    wanted = "at most 40 of a-z, 0-9 and -, starting with a letter and not ending with -"
    raise argparse.ArgumentTypeError(f"wanted {wanted}; got {text!r}")
  return text


def _volume(text: str) -> tuple[str, str]:
  claim, _, path = text.partition(":")
  if not claim or not path.startswith("/"):
    raise argparse.ArgumentTypeError(f"wanted CLAIM:/PATH, got {text!r}")
  return claim, path


def _topology(text: str) -> str:
  if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", text):
    raise argparse.ArgumentTypeError(f"wanted a topology such as 4x4 or 4x4x8, got {text!r}")
  return text


def _tpu(options: argparse.Namespace, words: list[str]) -> dict:
  """A Job per slice; GKE gives each pod the addresses of the others."""
  chips, per_host = math.prod(map(int, options.topology.split("x"))), options.chips_per_host
  if chips % per_host:
    raise ValueError(
      f"argument --topology: wanted a multiple of {per_host} chips (--chips_per_host), got {chips}"
    )
  # Each TPU7x chip is two devices in JAX.
  devices = options.slices * chips * (2 if options.accelerator.startswith("tpu7") else 1)
  container = {
    "command": command.supervised("python", words, f"--devices={devices}"),
    "env": [{"name": "JAX_PLATFORMS", "value": "tpu"}],
    "securityContext": {"runAsUser": 0},  # root, who owns the TPUs' device files
    "resources": {"limits": {"google.com/tpu": per_host}},
  }
  pod = {
    "nodeSelector": {
      "cloud.google.com/gke-tpu-accelerator": options.accelerator,
      "cloud.google.com/gke-tpu-topology": options.topology,
    },
    # Traffic between slices bypasses the pod network.
    "hostNetwork": True,
    "dnsPolicy": "ClusterFirstWithHostNet",
  }
  # All pods of a slice in one node pool, and each slice in another pool.
  placement = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}
  jobset = _jobset(options, options.slices, chips // per_host, pod, container)
  return jobset | {"metadata": jobset["metadata"] | {"annotations": placement}}


def _gpu(options: argparse.Namespace, words: list[str]) -> dict:
  """One Job; its first pod is the coordinator."""
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
      {
        "name": "LD_LIBRARY_PATH",
        "value": "/usr/local/nvidia/lib64",
      },  # where GKE installs the driver
    ],
    "resources": {"limits": {"nvidia.com/gpu": options.gpus_per_node}},
    # NCCL needs more shared memory than a container's default of 64 MB.
    "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
  }
  pod = {
    "nodeSelector": {"cloud.google.com/gke-accelerator": options.accelerator},
    "securityContext": {"fsGroup": _USER},  # may write to the volumes
    "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory"}}],
  }
  return _jobset(options, 1, options.nodes, pod, container)


def _jobset(
  options: argparse.Namespace, replicas: int, pods: int, pod: dict, container: dict
) -> dict:
  """The JobSet of `replicas` Jobs with `pods` pods each."""
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
    "terminationGracePeriodSeconds": 120,  # time to save
    "containers": [container],
    "volumes": [*pod.get("volumes", ()), *volumes],
  }
  job = {
    "completionMode": "Indexed",
    "parallelism": pods,
    "completions": pods,
    "backoffLimit": 0,  # a lost pod ends the Job, as the others cannot continue without it
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
      # Pods of the previous start must be gone first, or they would join the new ones.
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
