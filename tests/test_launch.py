"""The launchers: what they would run is what they run, and its words reach musiclm unchanged."""

import ast
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time

import pytest

from launch import gke, offline, slurm, tpu_vm
from musiclm_jax import main, processes, supervisor
from musiclm_jax.configuration import Configuration, find

_ROOT = pathlib.Path(__file__).parent.parent
_WORDS = [
  "train",
  "paper/coarse",
  "--data_dir=/data/two words",
  '--note=it\'s "here", `id` \\ $HOME ${HOME} $(id) !x',
  "--process_name=$(JOB_COMPLETION_INDEX) $$ $$(JOB_COMPLETION_INDEX)",
  "--empty=",
  "",
  "a;b & c | d > e",
  "*",
  "1e5",
  "line\nEND\nline",
  "größer",
  "--",
  "--not_a_flag",
]
_SLURM = ["--nodes=2", "--gpus_per_node=4", "--time=1-02:00:00"]
_TPU_VM = ["--tpu=my-slice", "--zone=us-east5-b", "--devices=256"]
_POD = ["--name=coarse", "--image=registry/musiclm:1", "--volume=music:/music"]
_TPU = ["tpu", *_POD, "--accelerator=tpu-v5-lite-podslice", "--topology=16x16", "--slices=2"]
_GPU = ["gpu", *_POD, "--accelerator=nvidia-h100-80gb", "--nodes=3", "--gpus_per_node=8"]
_LAUNCHES = {
  "slurm": (slurm, [*_SLURM, "--sbatch=--partition=gpu", "--sbatch=--comment=two words"]),
  "tpu_vm": (tpu_vm, [*_TPU_VM, "--gcloud=--internal-ip"]),
  "queued_resource": (tpu_vm, ["--queued_resource=qr", "--zone=z", "--devices=512"]),
  "gke_tpu": (gke, _TPU),
  "gke_gpu": (gke, _GPU),
}
_TOOLS = {"slurm": "sbatch", "tpu_vm": "gcloud", "queued_resource": "gcloud"}
_each_launch = pytest.mark.parametrize("launch", _LAUNCHES)


@pytest.fixture
def tools(tmp_path, monkeypatch):
  """A folder that alone is on PATH, for stubs of the clusters' tools."""
  folder = tmp_path / "tools"
  folder.mkdir()
  monkeypatch.setenv("PATH", str(folder))
  return folder


def _stub(path: pathlib.Path, code: str = "") -> pathlib.Path:
  """A program that appends what it is called with to PATH.json, and then runs the code."""
  path.parent.mkdir(parents=True, exist_ok=True)
  path.write_text(f"""#!{sys.executable}
import json, os, sys
call = dict(argv=sys.argv[1:], stdin=sys.stdin.read(), environment=dict(os.environ))
with open({f"{path}.json"!r}, "a") as file:
  print(json.dumps(call), file=file)
{code}
""")
  path.chmod(0o755)
  return path


def _calls(path: pathlib.Path) -> list[dict]:
  """What a stub was called with, and forgets it."""
  file = pathlib.Path(f"{path}.json")
  calls = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
  file.unlink(missing_ok=True)
  return calls


def _dry_run(launch: str, capsys, options=(), words=_WORDS) -> str:
  module, given = _LAUNCHES[launch]
  assert module.main([*given, *options, "--dry_run", "--", *words]) == 0
  return capsys.readouterr().out


def _of_musiclm(line: list[str], capsys) -> list[str]:
  """The words that reach musiclm where a host runs this line of the supervisor."""
  assert line[1:3] == ["-m", "musiclm_jax.supervisor"]
  assert supervisor.main(["--dry_run", *line[3:]]) == 0
  command = shlex.split(capsys.readouterr().out)
  assert command[1:3] == ["-m", "musiclm_jax"]
  return command[3:]


@_each_launch
def test_what_a_dry_run_prints_is_what_runs(launch, tools, capfd):
  dry = _dry_run(launch, capfd)
  tool = _stub(tools / _TOOLS.get(launch, "kubectl"), "print('said'); sys.exit(3)")
  module, options = _LAUNCHES[launch]
  assert module.main([*options, "--", *_WORDS]) == 3
  assert capfd.readouterr().out == "said\n"
  subprocess.run(["/bin/bash", "-c", dry], check=False)
  ran, pasted = _calls(tool)
  assert (ran["argv"], ran["stdin"]) == (pasted["argv"], pasted["stdin"])
  assert len(ran["stdin"]) > 500 or len(ran["argv"][-1]) > 300


@_each_launch
def test_a_tool_that_is_missing_is_one_line(launch, tools, capsys):
  module, options = _LAUNCHES[launch]
  assert module.main([*options, "--", *_WORDS]) == 1
  expected = f"{_TOOLS.get(launch, 'kubectl')} is not on PATH; --dry_run works without it\n"
  assert capsys.readouterr().err == expected


@pytest.mark.parametrize(
  ("module", "argv", "message"),
  [
    (slurm, ["--", "train"], "required: --nodes, --gpus_per_node, --time"),
    (slurm, _SLURM, "wanted `-- VERB ...` at the end, a command of musiclm; got nothing"),
    (slurm, [*_SLURM, "--"], "got nothing"),
    (slurm, [*_SLURM, "--", "--seed=1"], "got --seed=1"),
    (slurm, [*_SLURM, "--node=3", "--", "train"], "unrecognized arguments: --node=3"),
    (slurm, [*_SLURM, "--nodes=two", "--", "train"], "--nodes: wanted a whole number from 1 on,"),
    (slurm, [*_SLURM, "--nodes=0", "--", "train"], "got '0'"),
    (slurm, [*_SLURM, "--processes_per_node=2", "--", "train"], "wanted 1 or 4, one process per"),
    (slurm, [*_SLURM, "--time=0:09:59", "--", "train"], "from 0:10:00 on, got '0:09:59'"),
    (slurm, [*_SLURM, "--time=60", "--", "train"], "wanted [DAYS-]HH:MM:SS"),
    (slurm, [*_SLURM, "--name=a\nb", "--", "train"], "--name: wanted letters, digits and"),
    (slurm, [*_SLURM, "--", "train", "--devices=3"], "--devices is set by the launcher"),
    (slurm, [*_SLURM, "--", "train", "--num-processes", "3"], "--num-processes is set by"),
    (tpu_vm, ["--zone=z", "--devices=4", "--", "train"], "one of the arguments --tpu --queued_re"),
    (tpu_vm, [*_TPU_VM, "--queued_resource=q", "--", "train"], "not allowed with argument --tpu"),
    (tpu_vm, ["--tpu=a", "--zone=z", "--", "train"], "required: --devices"),
    (gke, ["--", "train"], "launch.gke: the following arguments are required: tpu|gpu"),
    (gke, ["cpu", "--", "train"], "invalid choice: 'cpu' (choose from 'tpu', 'gpu')"),
    (gke, ["tpu", "--", "train"], "launch.gke tpu: the following arguments are required: --name"),
    (gke, [*_TPU, "--name=Coarse", "--", "train"], "--name: wanted at most 40 of a-z, 0-9"),
    (gke, [*_TPU, "--volume=music", "--", "train"], "--volume: wanted CLAIM:/PATH, got 'music'"),
    (gke, [*_TPU, "--topology=16", "--", "train"], "wanted a topology such as 4x4"),
    (gke, [*_TPU, "--topology=3x3", "--", "train"], "wanted a multiple of 4 chips (--chips_per_ho"),
    (gke, [*_GPU, "--topology=4x4", "--", "train"], "unrecognized arguments: --topology=4x4"),
  ],
)
def test_wrong_options_are_one_line(module, argv, message, tools, capsys):
  with pytest.raises(SystemExit) as ended:
    module.main(argv)
  out, err = capsys.readouterr()
  assert ended.value.code == 2
  assert not out and message in err and err.endswith("\n") and err.count("\n") == 1


def _submitted(dry: str) -> tuple[list[str], str]:
  """(the line of sbatch, the batch script) of a dry run."""
  line, _, rest = dry.partition(" <<'")
  end, _, rest = rest.partition("'\n")
  script, _, nothing = rest.partition(f"\n{end}\n")
  assert not nothing
  return shlex.split(line), script + "\n"


def _run_batch(script: str, folder: pathlib.Path, *, seconds_left: int, code: int = 0):
  """(the exit code of the batch script, the calls of srun, of python and of scontrol)."""
  srun = _stub(
    folder / "srun",
    "task = [word for word in sys.argv[1:] if not word.startswith('--')]\n"
    "task = sys.argv[sys.argv.index(task[0]):]\n"
    "os.execvp(task[0], task)",
  )
  python = _stub(folder / "two words/python", f"sys.exit({code})")
  scontrol = _stub(folder / "scontrol")
  environment = {
    "PATH": f"{folder}:/usr/bin:/bin",
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_END_TIME": str(int(time.time()) + seconds_left),
  }
  batch = folder / "batch.sh"
  batch.write_text(script)
  ended = subprocess.run(["/bin/bash", batch], env=environment, stdin=subprocess.DEVNULL)
  return ended.returncode, _calls(srun), _calls(python), _calls(scontrol)


@pytest.mark.parametrize(
  ("options", "devices", "tasks", "cpus"),
  [([], "0,1,2,3", 1, 32), (["--processes_per_node=4", "--cpus_per_gpu=6"], None, 4, 6)],
)
def test_slurm_runs_the_words_on_every_task(options, devices, tasks, cpus, tools, tmp_path, capsys):
  python = f"--python={tools}/two words/python"
  line, script = _submitted(_dry_run("slurm", capsys, [*options, python]))
  assert line == ["sbatch", "--partition=gpu", "--comment=two words"]
  asked = set(re.findall(r"^#SBATCH (.*)$", script, re.MULTILINE))
  assert asked == {
    "--job-name=musiclm",
    "--nodes=2",
    f"--ntasks-per-node={tasks}",
    "--gpus-per-node=4",
    f"--cpus-per-task={cpus}",
    "--time=1-02:00:00",
    "--signal=TERM@120",
    "--requeue",
    "--open-mode=append",
  }
  assert subprocess.run(["/bin/bash", "-n"], input=script, encoding="utf-8").returncode == 0
  code, [srun], [task], requeued = _run_batch(script, tools, seconds_left=3600)
  assert code == 0 and not requeued
  bound = {"--kill-on-bad-exit=1", "--label", f"--cpus-per-task={cpus}", "--gpu-bind=none"}
  assert set(srun["argv"][:4]) == bound
  assert task["environment"]["JAX_PLATFORMS"] == "cuda"
  assert task["environment"].get("JAX_LOCAL_DEVICE_IDS") == devices
  words = _of_musiclm(["python", *task["argv"]], capsys)
  assert words == ["train", "--devices=8", "--start_seconds=600", *_WORDS[1:]]


@pytest.mark.parametrize(("seconds_left", "requeued"), [(150, True), (-5, True), (400, False)])
@pytest.mark.parametrize("code", [0, 1, 2, 70, 130, 143])
def test_slurm_queues_the_job_again_near_its_limit(seconds_left, requeued, code, tools, capsys):
  _, script = _submitted(_dry_run("slurm", capsys, [f"--python={tools}/two words/python"]))
  ended, _, _, calls = _run_batch(script, tools, seconds_left=seconds_left, code=code)
  assert ended == code
  again = requeued and code in (70, 143)  # what has ended well or by a mistake has no use for it
  assert [call["argv"] for call in calls] == [["requeue", "7"]] * again


def test_slurm_wants_the_end_of_the_job_before_it_starts_anything(tools, capsys):
  _, script = _submitted(_dry_run("slurm", capsys))
  srun = _stub(tools / "srun")
  run = ["/bin/bash", "-c", script]
  ended = subprocess.run(run, env={"PATH": str(tools)}, capture_output=True, text=True)
  assert ended.returncode and "wanted Slurm 23.02 or later" in ended.stderr
  assert not _calls(srun)


@pytest.mark.parametrize(
  ("launch", "which", "devices"),
  [
    ("tpu_vm", "tpu-vm ssh my-slice --zone=us-east5-b --worker=all --internal-ip", 256),
    ("queued_resource", "queued-resources ssh qr --node=all --zone=z --worker=all", 512),
  ],
)
def test_tpu_vm_starts_the_words_on_every_worker(launch, which, devices, tmp_path, capsys):
  line = shlex.split(_dry_run(launch, capsys, ["--folder=the clone", "--python=my env/python"]))
  command = line.pop().removeprefix("--command=")
  assert line == ["gcloud", "compute", "tpus", *which.split()]

  folder = tmp_path / "the clone"
  python = _stub(folder / "my env/python", "print('working')")
  # gcloud splits the command at its spaces, and ssh joins the parts again.
  login = ["/bin/bash", "-c", " ".join(command.split(" "))]
  where = {"cwd": tmp_path, "env": {"PATH": "/usr/bin:/bin"}}
  subprocess.run(login, check=True, **where)
  _wait_for(folder / "musiclm.log", "working\n")
  checked, started = _calls(python)
  assert checked["argv"] == ["-m", "musiclm_jax.supervisor", "--help"]
  assert started["environment"]["JAX_PLATFORMS"] == "tpu"
  words = _of_musiclm(["python", *started["argv"]], capsys)
  assert words == ["train", f"--devices={devices}", "--start_seconds=600", *_WORDS[1:]]
  assert (folder / "musiclm.pid").read_text().strip().isdecimal()

  _stub(python, "sys.exit('no such package')")
  missing = subprocess.run(login, capture_output=True, text=True, **where)
  assert missing.returncode == 1 and "no such package" in missing.stderr
  assert len(_calls(python)) == 1


def _wait_for(file: pathlib.Path, text: str) -> None:
  for _ in range(3000):
    if file.exists() and file.read_text() == text:
      return
    time.sleep(0.01)
  pytest.fail(f"{file} does not hold {text!r}")


def _jobset(launch: str, capsys, options=()) -> tuple[dict, dict, dict, dict]:
  """(the JobSet, its one kind of Job, its pod, its container)."""
  line, text = _submitted(_dry_run(launch, capsys, options))
  assert line == ["kubectl", "create", "--filename=-"]
  jobset = json.loads(text)
  assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
  assert jobset["spec"]["failurePolicy"] == {
    "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
    "maxRestarts": 10,
    "restartStrategy": "BlockingRecreate",
  }
  [jobs] = jobset["spec"]["replicatedJobs"]
  job = jobs["template"]["spec"]
  assert job["completionMode"] == "Indexed" and job["backoffLimit"] == 0
  [rule] = job["podFailurePolicy"]["rules"]
  assert rule == {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1, 2, 130]}}
  assert job["parallelism"] == job["completions"]
  pod = job["template"]["spec"]
  assert (pod["restartPolicy"], pod["terminationGracePeriodSeconds"]) == ("Never", 120)
  [container] = pod["containers"]
  assert container["image"] == "registry/musiclm:1"
  assert {"name": "volume-0", "mountPath": "/music"} in container["volumeMounts"]
  claim = {"name": "volume-0", "persistentVolumeClaim": {"claimName": "music"}}
  assert claim in pod["volumes"]
  return jobset, jobs, pod, container


def _expanded(container: dict, **variables) -> list[str]:
  """The command as Kubernetes runs it: $(NAME) of a known variable is its value, $$ is $."""
  known = {entry["name"]: entry["value"] for entry in container["env"]} | variables

  def value(match):
    return "$" if match[0] == "$$" else known.get(match[1], match[0])

  return [re.sub(r"\$\$|\$\((\w+)\)", value, word) for word in container["command"]]


@pytest.mark.parametrize(
  ("options", "hosts", "limit", "devices"),
  [
    ([], 64, 4, 512),
    (["--accelerator=tpu-v5p-slice", "--topology=2x2x4", "--slices=1"], 4, 4, 16),
    (["--topology=2x4", "--chips_per_host=8"], 1, 8, 16),
    (["--accelerator=tpu7x", "--topology=2x2x2", "--slices=3"], 2, 4, 48),
  ],
)
def test_gke_has_a_job_for_every_slice(options, hosts, limit, devices, capsys):
  jobset, jobs, pod, container = _jobset("gke_tpu", capsys, options)
  given = dict(option[2:].split("=") for option in [*_TPU[1:], *options])
  assert jobs["replicas"] == int(given["slices"])
  assert jobs["template"]["spec"]["parallelism"] == hosts
  assert jobset["metadata"] == {
    "name": "coarse",
    "annotations": {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"},
  }
  assert pod["nodeSelector"] == {
    "cloud.google.com/gke-tpu-accelerator": given["accelerator"],
    "cloud.google.com/gke-tpu-topology": given["topology"],
  }
  assert pod["hostNetwork"] and pod["dnsPolicy"] == "ClusterFirstWithHostNet"
  assert container["resources"]["limits"] == {"google.com/tpu": limit}
  assert {"name": "JAX_PLATFORMS", "value": "tpu"} in container["env"]
  command = _expanded(container, JOB_COMPLETION_INDEX="5")
  words = _of_musiclm(command, capsys)
  assert words == ["train", f"--devices={devices}", "--start_seconds=600", *_WORDS[1:]]


def test_gke_tells_gpu_nodes_of_each_other(capsys):
  jobset, jobs, pod, container = _jobset("gke_gpu", capsys)
  assert jobs["replicas"] == 1 and jobs["template"]["spec"]["parallelism"] == 3
  assert jobset["metadata"] == {"name": "coarse"}
  assert jobset["spec"]["network"] == {"enableDNSHostnames": True}
  assert pod["nodeSelector"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
  assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
  environment = {entry["name"]: entry["value"] for entry in container["env"]}
  assert environment == {"JAX_PLATFORMS": "cuda", "LD_LIBRARY_PATH": "/usr/local/nvidia/lib64"}
  words = _of_musiclm(_expanded(container, JOB_COMPLETION_INDEX="2"), capsys)
  assert words[6:] == _WORDS[1:]
  flags = {key: value for key, (_, value) in main.parse(words[:6])[2].items()}
  assert set(flags) <= set(processes.FLAGS)
  assert flags == {
    "DEVICES": "24",
    "COORDINATOR": f"coarse-{jobs['name']}-0-0.coarse:8476",
    "NUM_PROCESSES": "3",
    "PROCESS_ID": "2",
    "START_SECONDS": "600",
  }


def test_the_start_can_be_given_its_own_time(capsys):
  dry = _dry_run("slurm", capsys, words=["train", "tiny/fine", "--start-seconds=60"])
  assert " -- train --devices=8 tiny/fine --start-seconds=60\n" in dry


@pytest.mark.parametrize("launch", ["slurm", "tpu_vm", "gke"])
def test_a_module_runs_from_the_clone(launch):
  run = [sys.executable, "-m", f"launch.{launch}", "--help"]
  out = subprocess.run(run, cwd=_ROOT, capture_output=True, text=True, check=True).stdout
  assert out.startswith(f"usage: launch.{launch}") and "-- VERB" in out


def _recipes() -> list[list[str]]:
  text = (_ROOT / "docs/launch.md").read_text().replace("\\\n", " ")
  lines = [shlex.split(line) for line in text.splitlines() if line.startswith("    ")]
  return [line for line in lines if "-m" in line]


_SUPERVISED = [line for line in _recipes() if "--" in line]


@pytest.mark.parametrize("line", _SUPERVISED, ids=lambda line: line[line.index("-m") + 1])
def test_the_recipes_of_the_docs_run(line, tools, capsys):
  where = line.index("-m")
  module, argv = line[where + 1], line[where + 2 :]
  modules = {"launch.slurm": slurm, "launch.tpu_vm": tpu_vm, "launch.gke": gke}
  at = argv.index("--")
  argv = [*argv[:at], "--dry_run", *argv[at:]]
  assert modules.get(module, supervisor).main(argv) == 0
  printed = capsys.readouterr().out
  devices = int(re.search(r"--devices=(\d+)", printed)[1])
  batch = re.search(r"--batch_size=(\d+)", printed)
  batch = batch or [0, Configuration([find("paper/coarse")]).macro("BATCH_SIZE").value]
  assert "train" in printed and int(batch[1]) % devices == 0


def _dockerfile() -> dict[str, list[str]]:
  """{instruction: [its text, ...]} in order."""
  text = (_ROOT / "launch/Dockerfile").read_text()
  lines = [line for line in text.split("\n") if not line.startswith("#")]
  instructions = {}
  for line in re.sub(r"\\\n", " ", "\n".join(lines)).splitlines():
    name, _, rest = line.partition(" ")
    if name:
      instructions.setdefault(name, []).append(rest.strip())
  return instructions


def test_the_image_copies_what_the_package_is_made_of():
  sources = {source for copy in _dockerfile()["COPY"] for source in copy.split()[:-1]}
  assert all((_ROOT / source).exists() for source in sources)
  ignored = (_ROOT / "launch/Dockerfile.dockerignore").read_text().split()
  assert ignored[0] == "*"
  assert {entry[1:] for entry in ignored if entry.startswith("!")} == sources
  setup = ast.walk(ast.parse((_ROOT / "setup.py").read_text()))
  folders = [k.value for k in setup if isinstance(k, ast.keyword) and k.arg == "package_dir"]
  assert {"requirements.lock", "musiclm_jax", *ast.literal_eval(folders[0]).values()} <= sources


@pytest.mark.parametrize(
  ("extra", "installed"), [("none", "."), ("tpu", ".[tpu]"), ("gpu", ".[gpu]"), ("", None)]
)
def test_the_image_installs_one_extra(extra, installed, tools):
  pip = _stub(tools / "pip")
  install = _dockerfile()["RUN"][0].partition(" ")
  assert install[0].startswith("--mount=type=cache")
  shell = ["/bin/sh", "-c", install[2]]
  ended = subprocess.run(shell, env=os.environ | {"EXTRA": extra}, capture_output=True, text=True)
  assert ended.returncode == (0 if installed else 2)
  expected = [["install", "--constraint=requirements.lock", installed]] if installed else []
  assert [call["argv"] for call in _calls(pip)] == expected
  assert installed or "EXTRA=tpu, gpu or none; got ''" in ended.stderr


def test_the_image_runs_the_supervisor_and_not_as_root():
  lines = _dockerfile()
  assert json.loads(lines["ENTRYPOINT"][0]) == ["python", "-m", "musiclm_jax.supervisor"]
  assert lines["USER"] == [str(gke._USER)]
  assert f"--uid={gke._USER}" in lines["RUN"][1]


def test_the_offline_recipes_of_the_docs_are_understood(tmp_path, capsys):
  lines = [line[line.index("-m") + 2 :] for line in _recipes() if "launch.offline" in line]
  assert [offline.parser().parse_args(line).action for line in lines] == ["pack", "train"]
  assert offline.main(["train", f"--list={tmp_path}/none.txt", f"--out={tmp_path}"]) == 1
  assert "launch.offline: [Errno 2] No such file" in capsys.readouterr().err


def test_the_list_of_offline_trainings_names_sizes_that_exist(tmp_path):
  trainings = offline.read_list(_ROOT / "launch/offline.txt", pathlib.Path("carried"))
  assert all(find(word) for each in trainings for word in each.words if "=" not in word)
  path = tmp_path / "list.txt"
  path.write_text("# stages\n\ncoarse 90 small/coarse --data_dir={folder}/tokens\n")
  (stage,) = offline.read_list(path, pathlib.Path("carried"))
  assert stage.words == ("small/coarse", "--data_dir=carried/tokens") and not stage.reads_corpus
  path.write_text("coarse small/coarse 90\n")
  with pytest.raises(ValueError, match="list.txt:1: wanted NAME SECONDS WORDS, got 'coarse small"):
    offline.read_list(path, pathlib.Path("carried"))


def test_offline_steps_fill_nine_tenths_of_what_the_start_leaves():
  assert offline.fitting_steps(seconds=240.0, fixed=40.0, seconds_per_step=0.1) == 1800
  assert offline.fitting_steps(seconds=30.0, fixed=40.0, seconds_per_step=0.1) == 1


def test_offline_parts_come_back_in_pieces(tmp_path):
  part = tmp_path / "part"
  part.mkdir()
  for name in offline.RESULTS:
    (part / name).write_bytes(os.urandom(3000))
  (tmp_path / "codec.tar.gz.07").write_text("of an earlier run")
  offline.write_pieces(part, tmp_path / "codec.tar.gz", 5000)
  pieces = sorted(tmp_path.glob("codec.tar.gz.*"))
  assert [path.stat().st_size <= 5000 for path in pieces] == [True] * 3
  command = f"cat {tmp_path}/codec.tar.gz.* | tar xz --directory={tmp_path}"
  subprocess.run(["/bin/bash", "-c", command], check=True)
  for name in offline.RESULTS:
    assert (tmp_path / "codec" / name).read_bytes() == (part / name).read_bytes()
