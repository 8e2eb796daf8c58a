"""A sweep: all jobs checked before the first starts, one after another, a failure does not stop the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from imgcls.checkpoints import format as checkpoint_format
from imgcls.cli.app import main
from imgcls.compose.composer import Composer
from imgcls.config.options import as_yaml
from imgcls.errors import ConfigError, RunError
from imgcls.sweeps import jobs as sweep_jobs
from imgcls.sweeps import local as sweep
from imgcls.sweeps import plan as sweep_plan
from imgcls.sweeps import results as sweep_results
from tests.conftest import SMALL

Capture = pytest.CaptureFixture[str]

MODEL = """
import torch

class Net(torch.nn.Module):
    def __init__(self, num_classes, breaks: bool = False):
        super().__init__()
        self.breaks = breaks
        self.linear = torch.nn.Linear(64, num_classes)

    def forward(self, images):
        if self.training and self.breaks:
            raise RuntimeError("broken on purpose")
        return self.linear(images.flatten(1))
"""


def expanded(*words: str, **flags: str) -> list[str]:
    composer = Composer(**flags)
    return [" ".join(composer.words(job)) for job in composer.expand(words)]


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The words of the jobs that would run; each "reports" an accuracy by its place, the second fails."""
    ran: list[list[str]] = []

    def pretend(launcher: sweep.Launcher, job: sweep_jobs.Job) -> None:
        ran.append([*job.plan.words, *launcher.flags])
        job.code = 1 if len(ran) == 2 else 0
        job.folder.mkdir(exist_ok=True)
        accuracy = 0.5 + len(ran) / 10
        rows = [{"val_accuracy": accuracy - 0.2}, {"val_accuracy": accuracy - 0.3}]
        (job.folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if job.code == 0:
            (job.folder / "report.json").write_text(json.dumps({"accuracy": accuracy}))

    monkeypatch.setattr(sweep.Launcher, "run", pretend)
    return ran


# --- which jobs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "jobs"),
    [
        (["seed=0"], ["seed=0"]),
        (["model=mlp,lenet", "seed=0,1"], [f"model={m} seed={s}" for m in ("mlp", "lenet") for s in (0, 1)]),
        (["seed=choice(3,5)"], ["seed=3", "seed=5"]),
        (["seed=range(1,4)"], ["seed=1", "seed=2", "seed=3"]),
        (["seed=range(0,5,2)"], ["seed=0", "seed=2", "seed=4"]),
        (["seed=sort(3,1)"], ["seed=1", "seed=3"]),
        (["model=glob(l*)"], ["model=lenet", "model=linear"]),
        (["model=glob([l*,mlp*],exclude=le*)"], ["model=linear", "model=mlp"]),
        (["model.hidden=[1,2],[3]"], ["model.hidden=[1,2]", "model.hidden=[3]"]),
        (["optimizer.lr=1e-3,0.10"], ["optimizer.lr=0.001", "optimizer.lr=0.1"]),
        (["device='cpu'"], ["device='cpu'"]),
        (["dataset=./a b,./c=d"], ["dataset=./a b", "dataset=./c=d"]),
        (["dataset=digits,./c"], ["dataset=digits", "dataset=./c"]),
        (["dataset.root=a,b", "sweep_dir=c d"], ["dataset.root=a sweep_dir=c d", "dataset.root=b sweep_dir=c d"]),
        (["experiment=mnist_99", "seed=0,1"], ["experiment=mnist_99 seed=0", "experiment=mnist_99 seed=1"]),
        (["experiment=null,mnist_99"], ["experiment=null", "experiment=mnist_99"]),
        (["experiment=glob(mnist*)"], ["experiment=mnist_99"]),
        (["~model.num_classes", "seed=1,2"], ["~model.num_classes seed=1", "~model.num_classes seed=2"]),
    ],
)
def test_the_jobs_are_every_combination(words: list[str], jobs: list[str]) -> None:
    assert expanded(*words) == jobs


def test_a_glob_finds_custom_options() -> None:
    Path("own/model").mkdir(parents=True)
    Path("own/model/my_net.yaml").write_text("name: lenet\n")
    assert expanded("model=glob([mlp,my_*])", config_dir="own") == ["model=mlp", "model=my_net"]


def test_a_sweep_has_a_limit() -> None:
    assert len(expanded("seed=range(0,1000)")) == 1000
    with pytest.raises(ConfigError, match="limit 1,000"):
        expanded("seed=range(0,1001)")


@pytest.mark.parametrize(
    ("words", "needles"),
    [
        (["model=linear", "optimizer.lr=0.1,0.2,-1"], ["optimizer.lr: must be above 0", "(job 2: model=linear "]),
        (["model=linear,lenett"], ["model: unknown 'lenett'; did you mean 'lenet'?", "(job 1: model=lenett)"]),
        (["seed=0,1", "epoch=3"], ["unknown key 'epoch'; did you mean 'epochs' (now 'auto')?", "(job 0: "]),
        (["seed=0,1", "scheduler=step", "scheduler.milestones=[3],[30]"], ["milestones", "(job 1: "]),
        (["device=cpu", "precision=fp32,fp16"], ["fp16 needs a GPU", "(job 1: device=cpu precision=fp16)"]),
        (["dataset=digits,./a", "dataset.root=b"], ["dataset.root"]),
        (
            ["experiment=mnist_99,mnst_99"],
            ["unknown 'mnst_99'; did you mean 'mnist_99'?", "(job 1: experiment=mnst_99)"],
        ),
        (["model=lenet,inception_v3"], ["inception_v3 needs images of at least 75x75 pixels, got 8x8", "(job 1: "]),
        (["model=convnet", "model.widths=[8],[8,8,8,8,8]"], ["convnet with 5 convolutions needs larger", "(job 1: "]),
        (["augment=standard", "augment.padding=2,9"], ["padding 9 is too large for images of 8 pixels", "(job 1: "]),
        (["model=lenet,mlp", "model.freeze=[features]"], ["no layer is called 'features'", "(job 1: "]),
        (["model=mlp", "class_weights={3:2},{x:2}"], ["class_weights: unknown class 'x'", "(job 1: "]),
        (["model=mlp,lenet", "model.num_classes=7"], ["got 7, but digits has 10 classes", "(job 0: "]),
        (["compile=auto,maybe"], ["compile: unknown 'maybe' (choices: auto, true, false)", "(job 1: compile=maybe)"]),
    ],
)
def test_if_one_job_is_invalid_none_starts(
    words: list[str], needles: list[str], capsys: Capture, jobs: list[list[str]]
) -> None:
    assert main(["train", "-m", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("imgcls: error: ")
    assert err.count("\n") == 1
    for needle in needles:
        assert needle in err
    assert jobs == []
    assert list(Path.cwd().iterdir()) == []


def test_data_that_is_not_there_is_left_to_its_job(jobs: list[list[str]]) -> None:
    assert main(["train", "-m", "dataset=digits,./nowhere", "model=linear"]) in (0, 1)
    assert len(jobs) == 2


def test_a_custom_data_set_is_left_to_its_job(jobs: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own_source.py").write_text("def read():\n    raise RuntimeError('not now')\n")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    main(["train", "-m", "dataset.name=own_source:read", "seed=0,1"])
    assert len(jobs) == 2


def test_each_models_weights_have_their_own_image_size(jobs: list[list[str]]) -> None:
    main(["train", "-m", "model=inception_v3,vit_b_16", "model.pretrained=true"])
    assert len(jobs) == 2


def test_every_kind_of_model_can_be_checked(jobs: list[list[str]]) -> None:
    names = "lenet,resnet18,regnet_x_400mf,swin_t,maxvit_t,vit_b_16"
    main(["train", "-m", f"model={names}", "dataset.image_size=32"])
    assert len(jobs) == 6


# --- where, and what is told -----------------------------------------------------------------------------------------


def test_each_sweep_has_its_own_folder_with_numbered_runs(jobs: list[list[str]]) -> None:
    assert [main(["train", "-m", "seed=0,1,2"]) for _ in range(2)] == [1, 0]
    assert sorted(str(path) for path in Path("outputs").glob("*/[0-9]")) == [
        f"outputs/sweep-{n}/{i}" for n in (1, 2) for i in (0, 1, 2)
    ]
    assert jobs[:3] == [["seed=0"], ["seed=1"], ["seed=2"]]


def test_sweep_dir_names_the_folder(jobs: list[list[str]]) -> None:
    assert main(["train", "-m", "seed=0,1", "sweep_dir=here/a b"]) == 1
    assert {path.name for path in Path("here/a b").iterdir()} == {"0", "1", "sweep.json", ".lock"}
    assert jobs == [["seed=0"], ["seed=1"]]
    assert not Path("outputs").exists()


def test_sweep_dir_may_be_an_empty_folder_but_not_a_file(jobs: list[list[str]], capsys: Capture) -> None:
    Path("empty").mkdir()
    assert main(["train", "-m", "seed=0", "sweep_dir=empty"]) == 0
    with pytest.raises(RunError, match="cannot create the sweep's folder"):
        sweep.make_folder(str(Path("empty/0/report.json")), [])


def test_the_same_command_resumes_a_sweep(jobs: list[list[str]], capsys: Capture) -> None:
    words = ["train", "-m", "seed=0,1,2", "sweep_dir=here"]
    assert main(words) == 1
    assert capsys.readouterr().err.splitlines()[-2] == "resume with: the same command"
    rows = json.loads(Path("here/sweep.json").read_text())["jobs"]
    assert [row["exit_code"] for row in rows] == [0, 1, 0]
    assert main(words) == 0
    assert jobs[3:] == [["seed=1"]]
    assert capsys.readouterr().err.count("already done") == 2
    assert [row["exit_code"] for row in json.loads(Path("here/sweep.json").read_text())["jobs"]] == [0, 0, 0]
    assert main(words) == 0
    assert len(jobs) == 4


@pytest.mark.parametrize("there", ["other jobs", "other files", "a damaged summary"])
def test_a_folder_with_anything_else_in_it_is_refused(there: str, jobs: list[list[str]], capsys: Capture) -> None:
    if there == "other jobs":
        assert main(["train", "-m", "seed=0,1", "sweep_dir=here"]) == 1
    else:
        Path("here").mkdir()
        Path("here/sweep.json" if there == "a damaged summary" else "here/x").write_text("{")
    before, ran = sorted(Path("here").rglob("*")), len(jobs)
    capsys.readouterr()
    assert main(["train", "-m", "seed=0,2", "sweep_dir=here"]) == 2
    assert "sweep_dir: here " in capsys.readouterr().err
    assert (sorted(Path("here").rglob("*")), len(jobs)) == (before, ran)


def test_the_same_words_with_a_different_meaning_are_a_different_sweep(jobs: list[list[str]], capsys: Capture) -> None:
    for name, epochs in (("one", 3), ("two", 4)):
        Path(name, "experiment").mkdir(parents=True)
        Path(name, "experiment/mine.yaml").write_text(f"# @package _global_\n# x\nepochs: {epochs}\n")
    words = ["train", "-m", "experiment=mine", "seed=0,1", "sweep_dir=here"]
    assert main([*words, "--config-dir=one"]) == 1
    assert main([*words, "--config-dir=two"]) == 2
    assert "already holds a different sweep" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "is_same"), [(["plots=true"], True), (["tensorboard=false"], False)])
def test_a_sweep_started_before_a_key_existed_can_be_resumed(words: list[str], is_same: bool) -> None:
    composer = Composer()
    plans, _, _ = sweep_plan.plan(composer, words, lambda config: None)
    table = composer.table(composer.expand(words)[0], "train")
    before = {key: value for key, value in table.items() if key not in ("plots", "tensorboard")}
    before["model"] = {**before["model"], "pretrained": False}  # now auto
    before["optimizer"] = {**before["optimizer"], "lr": 0.005}  # now auto
    before["epochs"] = 20  # the default, which was no word yet
    newer = ("background", "depth", "folds", "fold")
    before["dataset"] = {key: value for key, value in before["dataset"].items() if key not in newer}
    assert (plans[0].digest == sweep_jobs.digest(as_yaml(before))) is is_same


@pytest.mark.process
def test_a_sweep_that_is_running_is_left_alone(jobs: list[list[str]], capsys: Capture) -> None:
    words = ["train", "-m", "seed=0,1", "sweep_dir=here"]
    assert main(words) == 1
    program = (
        "import sys; from imgcls.runs.folder import RunFolder as F; from pathlib import Path; f = F(Path('here'));"
    )
    with subprocess.Popen(
        [sys.executable, "-c", f"{program} print('held', flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert main(words) == 1
        assert f"here is in use by process {other.pid}" in capsys.readouterr().err
        other.communicate()
    assert len(jobs) == 2


def test_the_command_that_starts_or_resumes_a_job(tmp_path: Path) -> None:
    words, own = ["model=mine", "optimizer=sgd", "seed=1"], ["model.name=mine:Net"]
    job = sweep_jobs.Job(sweep_jobs.Plan(words, own, ""), "seed=1", tmp_path / "3")
    assert job.command() == [*words, f"run_dir={tmp_path / '3'}"]
    job.folder.mkdir()
    (job.folder / "config.yaml").touch()
    assert job.command() == [f"resume={tmp_path / '3'}", "model.name=mine:Net"]


@pytest.mark.parametrize(
    ("code", "state"),
    [(None, "not run"), (0, ""), (3, "failed (exit 3)"), (-9, "killed by SIGKILL"), (-35, "killed by signal 35")],
)
def test_how_a_job_ended(code: int | None, state: str) -> None:
    job = sweep_jobs.Job(sweep_jobs.Plan([], [], ""), "", Path("x"), code)
    assert sweep_results.ending(job) == state


def test_flags_that_matter_to_a_job_are_passed_on(jobs: list[list[str]]) -> None:
    Path("own").mkdir()
    Path("own/mine.yaml").write_text("defaults: [train, _self_]\nepochs: 3\n")
    assert main(["train", "-m", "seed=0,1", "--config-dir", "own", "--config-name=mine", "--debug"]) == 1
    assert jobs[0] == ["seed=0", "--config-dir=own", "--config-name=mine", "--debug"]


def test_experiments_are_jobs(jobs: list[list[str]]) -> None:
    Path("own/experiment").mkdir(parents=True)
    for name in ("a", "b"):
        Path(f"own/experiment/{name}.yaml").write_text(f"# @package _global_\n# {name}\nepochs: 3\n")
    assert main(["train", "-m", "experiment=a,b", "epochs=1", "--config-dir=own"]) == 1
    assert jobs == [[f"experiment={name}", "epochs=1", "--config-dir=own"] for name in ("a", "b")]


def test_the_table_is_sorted_and_shows_what_differs(jobs: list[list[str]], capsys: Capture) -> None:
    assert main(["train", "-m", "model=linear", "seed=0,1,2"]) == 1
    out, err = capsys.readouterr()
    assert [line.split() for line in out.splitlines() if line] == [
        ["job", "what", "differs", "val", "acc", "test", "acc", "seconds"],
        ["2", "seed=2", "60.0%", "80.0%", "0.0"],
        ["0", "seed=0", "40.0%", "60.0%", "0.0"],
        ["1", "seed=1", "50.0%", "-", "0.0", "failed", "(exit", "1)"],
    ]
    assert err.splitlines()[0] == "sweep    outputs/sweep-1, 3 jobs"
    assert err.splitlines()[-1] == "imgcls: error: 1 of 3 jobs did not finish: 1"


def test_json_of_a_sweep_is_json(jobs: list[list[str]], capsys: Capture) -> None:
    assert main(["train", "-m", "seed=0,1", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["jobs"]
    assert [row["exit_code"] for row in rows] == [0, 1]
    assert [row["status"] for row in rows] == ["finished", "failed"]
    assert [row["error"] for row in rows] == [None, "failed (exit 1)"]
    assert [row["run_dir"] for row in rows] == ["outputs/sweep-1/0", "outputs/sweep-1/1"]
    assert [row["overrides"] for row in rows] == [["seed=0"], ["seed=1"]]
    assert (rows[0]["accuracy"], rows[1]["accuracy"]) == (0.6, None)


def test_long_overrides_do_not_widen_the_table() -> None:
    job = sweep_jobs.Job(
        sweep_jobs.Plan(["x"], [], ""),
        "optimizer.weight_decay=0.0001 scheduler.warmup_epochs=3 augment=none",
        Path("0"),
        0,
    )
    lines = sweep_results.table([job], [{"accuracy": 0.9, "val_accuracy": None}])
    assert max(map(len, lines)) <= 80
    assert all(any(word in line for line in lines) for word in job.differs.split())


@pytest.mark.parametrize(
    ("report", "shown"),
    [({"accuracy": 0.7, "epoch": 2}, 0.6), ({"accuracy": 0.7, "epoch": 3}, 0.5), (None, 0.6)],
    ids=["the kept one is not the largest", "nor the last but one", "not tested yet"],
)
def test_the_validation_figure_is_that_of_the_kept_checkpoint(report: dict[str, Any] | None, shown: float) -> None:
    """As with monitor=val_loss, which keeps another epoch than that of the largest accuracy."""
    Path("0/checkpoints").mkdir(parents=True)
    rows = [{"epoch": 1, "val_accuracy": 0.9}, {"epoch": 2, "val_accuracy": 0.6}, {"epoch": 3, "val_accuracy": 0.5}]
    Path("0/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if report is None:
        meta = {"format_version": 1, "imgcls": "1", "epochs_done": 2}
        Path("0/checkpoints/best.safetensors").write_bytes(b"".join(checkpoint_format.encode({}, meta)))
    else:
        Path("0/report.json").write_text(json.dumps(report))
    assert sweep_jobs.Job(sweep_jobs.Plan([], [], ""), "", Path("0")).result()["val_accuracy"] == shown


def test_the_table_is_sorted_by_validation_not_by_the_test() -> None:
    plan = sweep_jobs.Plan(["x"], [], "")
    jobs = [sweep_jobs.Job(plan, f"job{i}", Path(str(i)), 0) for i in range(4)]
    figures = [(0.9, 0.5), (0.7, 0.8), (None, 0.9), (0.8, None)]
    for i in (0, 1, 3):  # the third has no report yet
        Path(str(i)).mkdir()
        Path(str(i), "report.json").write_text('{"accuracy": 0.5}')
    results = [{"accuracy": test, "val_accuracy": val} for test, val in figures]
    assert [line.split()[0] for line in sweep_results.table(jobs, results)[2:]] == ["1", "0", "3", "2"]


# --- with real runs --------------------------------------------------------------------------------------------------


@pytest.mark.process
def test_a_failing_job_does_not_stop_the_rest(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("sweep_net.py").write_text(MODEL)
    words = ["model.name=sweep_net:Net", "model.breaks=true,false", *SMALL, "epochs=1", "sweep_dir=here"]
    words.remove("epochs=2")
    assert main(["train", "-m", *words]) == 1
    out, err = capfd.readouterr()
    rows = [line.split() for line in out.splitlines() if line]
    assert [row[:2] for row in rows[1:]] == [["1", "model.breaks=False"], ["0", "model.breaks=True"]]
    assert json.loads(Path("here/1/report.json").read_text())["n"] == 60
    assert not Path("here/0/report.json").exists()
    assert "broken on purpose" in err
    assert err.splitlines()[-1] == "imgcls: error: 1 of 2 jobs did not finish: 0"


@pytest.mark.slow
def test_a_job_that_takes_too_long_is_stopped(capfd: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    hanging = MODEL.replace('raise RuntimeError("broken on purpose")', "__import__('time').sleep(99)")
    Path("sweep_net.py").write_text(hanging)
    monkeypatch.setattr(sweep, "GRACE", 0.1)
    words = ["model.name=sweep_net:Net", "model.breaks=true", *SMALL, "sweep_dir=here", "job_timeout=3"]
    assert main(["train", "-m", *words]) == 1
    assert capfd.readouterr().out.rstrip().endswith("stopped by job_timeout")
    words[1] = "model.breaks=false"
    assert main(["train", "-m", *words[:-2], "sweep_dir=there", "job_timeout=500"]) == 0


def test_a_job_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "GRACE", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(99)"
    with subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert sweep._stop(process) == -signal.SIGKILL


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_stops_the_sweep_after_the_job_has_saved(number: signal.Signals) -> None:
    words = ["model=linear", "dataset.limit=200", "seed=0,1", "epochs=100000", "threads=1", "sweep_dir=here"]
    command = [sys.executable, "-m", "imgcls", "train", "-m", *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=os.environ | {"NO_COLOR": "1"}) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("    1 "):  # the first epoch of the first job
                break
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"interrupted by {number.name}" in err
    assert "imgcls train resume=here/0" in err
    assert Path("here/0/checkpoints/last.safetensors").is_file()
    assert not Path("here/1").exists()
    assert "not run" in out
    assert "resume with: the same command\n" in err
