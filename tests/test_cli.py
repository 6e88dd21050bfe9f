"""The command line: what it passes on, what it says, how it ends; and that asking for help is quick."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from command import Command, save_portrait, save_toy
from personalive import __version__, animate, cli, gallery, pipeline
from personalive.animate import AnimateOptions
from personalive.config import TOY, override
from personalive.errors import InputError
from personalive.rendering import builtin, face_mesh, people
from personalive.reporting import DEBUG_VARIABLE, STOPPED, progress_bar
from personalive.training import run as training
from personalive.weights import find, load
from personalive.weights.describe import describe_checkpoint
from personalive.weights.idle import idle_entries
from toy import picture, toy_networks
from toy_video import make_video

HEAVY = ("torch", "diffusers", "transformers", "cv2", "av", "numpy", "PIL", "rich", "openvino", "onnxruntime")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv(DEBUG_VARIABLE, "")  # and back to what it was, whatever --debug does
    return Command(capsys)


@pytest.fixture(scope="module")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_toy(tmp_path_factory.mktemp("model"))


def test_help_names_every_command(command: Command) -> None:
    ended = command("--help")
    assert ended.code == 0
    for name in ("animate", "info", "train", "data", "--version", "--debug", "Exit codes"):
        assert name in ended.out
    options = command("animate", "--help").out
    for name in (
        "PORTRAIT", "DRIVING", "--output", "--model", "--device", "--seed", "--max-frames", "--crop", "--face",
        "--side-by-side", "--rotation-gain", "--translation-gain", "--scale-gain", "--no-overwrite",
        "--force", "builtin",
    ):  # fmt: skip
        assert name in options


def test_version(command: Command) -> None:
    assert command("--version").out == f"personalive {__version__}\n"


def test_importing_and_asking_for_help_bring_nothing_heavy() -> None:
    code = f"""
import sys
import personalive
assert not set({HEAVY!r}) & set(sys.modules), "import personalive"
from personalive.cli import main
for asked in (["--help"], ["animate", "--help"]):
    try:
        main(asked)
    except SystemExit as ended:
        assert ended.code == 0
found = set({HEAVY!r}) & set(sys.modules)
assert not found, found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "animate" in done.stdout


def test_animate_says_where_the_file_is(command: Command, tmp_path: Path, toy_model: Path) -> None:
    driving = make_video(tmp_path / "d.mp4", 5, size=(64, 64), draw=lambda index: picture(index, 64))
    output = tmp_path / "a.mp4"
    ended = command(
        "animate",
        save_portrait(tmp_path),
        driving,
        "-o",
        output,
        "--model",
        toy_model,
        "--crop",
        "none",
        "--runtime",
        "eager",
    )
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"{output}: 5 frames, 0.5 s at 10 frames/s, 32x32 pixels; made in ")
    assert ended.out.count("\n") == 1
    assert output.exists()


def test_animate_passes_every_option_on(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def prepare(*arguments: Any) -> str:
        asked.append(arguments)
        return "the job"

    def load_model(name: str, device: str, dtype: torch.dtype | None, memory: str, *more: object) -> None:
        asked.append((name, device, dtype, memory, *more[:2]))
        raise InputError("far enough")

    monkeypatch.setattr(animate, "prepare", prepare)
    monkeypatch.setattr(pipeline.PersonaLive, "from_pretrained", load_model)
    ended = command(
        "animate", "ada", "builtin", "-o", "x.gif", "--model", "m", "--device", "cpu", "--seed", "7",
        "--max-frames", "9", "--crop", "none", "--face", "1", "--driver-face", "2", "--side-by-side",
        "--rotation-gain", "0.5", "--translation-gain", "0.25", "--scale-gain", "1.5", "--no-overwrite",
        "--precision", "float16", "--memory", "8GB", "--decoder", "taesd", "--runtime", "compile", "--force",
    )  # fmt: skip
    assert ended.err == "error: far enough\n"
    assert asked == [
        ("ada", "builtin", Path("x.gif"), AnimateOptions(7, 9, "none", 1, 2, True, 0.5, 0.25, 1.5, False, True)),
        ("m", "cpu", torch.float16, "8GB", "taesd", "compile"),
    ]
    asked.clear()
    command("animate", "a.png", "b.mp4")
    assert asked == [
        ("a.png", "b.mp4", Path("animated.mp4"), AnimateOptions()),
        ("mini", "auto", None, "auto", "vae", "auto"),
    ]


def test_wrong_usage_ends_with_2(command: Command) -> None:
    for arguments in (["animate", "a.png"], ["animate", "a", "b", "--seed", "x"], ["dance"], ["data", "render"]):
        ended = command(*arguments)
        assert ended.code == 2
        assert "Traceback" not in ended.err


def failing(error: BaseException) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (InputError("a line\nand another"), 1, "error: a line and another"),
        (OSError(28, "No space left on device", "x.png"), 1, "error: x.png: No space left on device; check the path"),
        (ModuleNotFoundError("No module", name="scipy"), 1, "error: this needs scipy, which is not installed: pip"),
        (ModuleNotFoundError("No module", name="torch"), 70, "error: a fault of the program, ModuleNotFoundError"),
        (ValueError("odd"), 70, "error: a fault of the program, ValueError: odd (personalive --debug ... shows"),
        (KeyboardInterrupt(), 130, "stopped; nothing was written"),
    ],
)
def test_errors_are_one_line(
    command: Command, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, says: str
) -> None:
    monkeypatch.setattr(animate, "prepare", failing(error))
    ended = command("animate", "a", "b")
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith(says)
    assert ended.err.count("\n") == 1
    shown = command("--debug", "animate", "a", "b")
    assert shown.code == code
    assert "Traceback" in shown.err
    assert says in shown.err


def test_sigterm_is_what_ctrl_c_is(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(animate, "prepare", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.getsignal(signal.SIGTERM)
    ended = command("animate", "a", "b")
    assert (ended.code, ended.err) == (130, "stopped; nothing was written\n")
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_reader_that_has_gone_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "personalive", "--help"], stdout=pipe, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.stderr == ""


def test_warnings_go_to_stderr(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare(*_: object) -> None:
        logging.getLogger("personalive.media").warning("something is odd")
        logging.getLogger("personalive.media").info("not of interest")
        logging.getLogger("a_library").warning("neither is this")
        raise InputError("done")

    monkeypatch.setattr(animate, "prepare", prepare)
    assert command("animate", "a", "b").err == "warning: something is odd\nerror: done\n"


def test_progress_on_a_terminal_and_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_bar("animating") as show:
        show(1, 2)
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar("animating") as show:
        show(0, None)
        show(5, 10)
        show(10, 10)
    seen = capsys.readouterr()
    assert "animating" in seen.err
    assert "10/10" in seen.err
    assert seen.out == ""


def test_info(command: Command, monkeypatch: pytest.MonkeyPatch, toy_model: Path) -> None:
    monkeypatch.setattr(load, "find_model", lambda _: toy_model)
    ended = command("info")
    assert (ended.code, ended.err) == (0, "")
    about = describe_checkpoint(toy_model)
    for words in (
        f"personalive {__version__}", "torch", "device     ", "model      mini: 32x32 pixels", "random weights",
        f"{about.parameters / 1e6:.1f} M numbers, {toy_model.stat().st_size / 1e6:.1f} MB",
        "portraits  ada, ", "driving    builtin",
    ):  # fmt: skip
        assert words in ended.out
    stored = sum(
        tensor.numel()
        for part in load.modules(toy_networks()).values()
        for key, tensor in part.state_dict().items()
        if key not in idle_entries(part)
    )
    assert about.parameters == stored


def test_info_where_something_is_missing(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(load, "find_model", lambda _: tmp_path / "none.safetensors")
    monkeypatch.setattr(gallery, "ASSETS", tmp_path)
    ended = command("info")
    assert ended.code == 0
    assert "model      mini: cannot be used: " in ended.out
    assert ended.out.count("none in this installation") == 2


# Training


def test_train_passes_its_options_on(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def train_stage(*arguments: Any) -> dict[str, float]:
        asked.append(arguments)
        return {"l1": 0.125}

    monkeypatch.setattr(training, "train_stage", train_stage)
    (tmp_path / "r.toml").write_text("[image]\nframes = 3\n")
    ended = command(
        "train", "--stage", "image", "--data", "d", "--run", "r", "--recipe", tmp_path / "r.toml", "--fresh",
        "--set", "image.optimisation.steps=7", "--set", "image.level_odds=[0.5, 0.5]", "--budget-minutes", "1.5",
        "--config", "toy", "--seed", "3", "--device", "cpu", "--config-set", "stream.keyframes=0",
    )  # fmt: skip
    assert (ended.code, ended.out) == (0, "r/image.safetensors: l1 0.125\n")
    stage, sizes, recipe, data, options, start = asked[0]
    assert (stage, data, options.folder, options.device, start) == ("image", Path("d"), Path("r"), "cpu", None)
    assert sizes == override(TOY, {"stream.keyframes": 0})
    assert (recipe.image.frames, recipe.image.optimisation.steps, recipe.image.level_odds) == (3, 7, (0.5, 0.5))
    assert (options.resume, options.budget_minutes, options.seed) == (False, 1.5, 3)


def test_several_processes_run_the_same_command(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[tuple[int, tuple[str, ...]]] = []

    def elastic_launch(config: Any, program: str) -> Any:
        assert program == sys.executable
        return lambda *line: started.append((config.nproc_per_node, line))

    for name in ("OMP_NUM_THREADS", "ACCELERATE_USE_CPU", "PERSONALIVE_PROCESS"):
        monkeypatch.setenv(name, "1")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", elastic_launch)
    monkeypatch.setattr("sys.argv", ["personalive", "train", "--stage", "image"])
    arguments = ("--stage", "image", "--data", "d", "--run", tmp_path / "r", "--processes", "2", "--device", "cpu")
    assert command("train", *arguments).code == 0
    assert started == [(2, ("-m", "personalive", "train", "--stage", "image"))]
    # Stopped from outside, and one that failed.
    from torch.distributed.elastic.multiprocessing.api import SignalException

    def stopped(*_: Any) -> Any:
        raise SignalException("stop", signal.SIGTERM)

    monkeypatch.delenv("PERSONALIVE_PROCESS")
    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", stopped)
    ended = command("train", *arguments)
    assert (ended.code, ended.err.startswith("stopped; the checkpoint is saved")) == (STOPPED, True)
    # In the processes that it starts the same command trains: it does not start others.
    monkeypatch.setattr(training, "train_stage", lambda *_: {})
    ended = command("train", *arguments)
    assert (ended.code, ended.out, len(started)) == (0, "", 1)


def test_export_writes_a_checkpoint(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(training, "assemble", lambda sizes, run: toy_networks())
    path = tmp_path / "new.safetensors"
    ended = command("train", "--run", tmp_path, "--config", "toy", "--export", path, "--note", "trained a little")
    assert (ended.code, ended.out) == (0, f"{path}: {path.stat().st_size / 1e6:.1f} MB\n")
    assert describe_checkpoint(path).description == "trained a little"
    assert load.load_networks(path).config == TOY


def test_export_writes_a_folder_of_small_files(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(training, "assemble", lambda sizes, run: toy_networks())
    path = tmp_path / "new"
    arguments: list[str | Path] = ["--run", tmp_path, "--config", "toy", "--export", path]
    ended = command("train", *arguments, "--file-megabytes", "1")
    size = sum(file.stat().st_size for file in path.iterdir())
    assert (ended.code, ended.out) == (0, f"{path}: {size / 1e6:.1f} MB\n")
    assert find.open_model(path).config == TOY
    for wrong, says in (
        (arguments, "exists: choose a new folder"),
        ([*arguments[:-1], tmp_path / "other", "--note", "mine"], "--note goes into a checkpoint FILE.safetensors"),
        ([*arguments[:-1], "a.safetensors", "--file-megabytes", "1"], "--file-megabytes is for --export FOLDER"),
    ):
        ended = command("train", *wrong)
        assert ended.code == 1
        assert says in ended.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "nothing to do; give --stage"),
        (["--stage", "dance", "--data", "d"], "there is no stage 'dance'; choose one of autoencoder, motion"),
        (["--stage", "image"], "--stage needs --data"),
        (
            ["--export", "x", "--config", "huge"],
            "there is no config 'huge'; choose one of official, base, mini, small, toy",
        ),
        (["--stage", "image", "--data", "d", "--set", "x"], "--set x: write it as name=value"),
        (["--stage", "image", "--data", "d", "--set", "image.x=1"], "unknown key 'x'"),
        (["--stage", "image", "--data", "d", "--recipe", "none.toml"], "cannot read the recipe none.toml"),
        (["--stage", "image", "--data", "none"], "none holds no train-*.tar: render people"),
        (["--export", "x.safetensors"], "--stage"),
        (["--stage", "image", "--data", "d", "--config-set", "stream.keyframe=1"], "unknown field"),
        (["--stage", "image", "--data", "d", "--init", "mini", "--config", "toy"], "is of config 'mini', not 'toy'"),
        (["--stage", "image", "--data", "d", "--init", "nobody"], "nobody"),
    ],
)
def test_train_refuses(command: Command, tmp_path: Path, arguments: list[str], says: str) -> None:
    ended = command("train", "--run", tmp_path / "run", *arguments)
    assert ended.code == 1
    last = ended.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert says in last
    assert not (tmp_path / "run").exists()


# Data


def test_data_render_passes_its_options_on(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def render_people(*arguments: Any) -> list[Path]:
        asked.append(arguments)
        return [tmp_path / "train-00000.tar"]

    written: list[tuple[Path, Path]] = []
    monkeypatch.setattr(people, "render_people", render_people)
    monkeypatch.setattr(face_mesh, "write_face_mesh", lambda *arguments: written.append(arguments))
    ended = command(
        "data", "render", "-o", "d", "--people", "3", "--face-model", "f.npz", "--size", "64", "--split", "test"
    )
    assert ended.out == "d: 3 people in 1 shards\n"
    command(
        "data",
        "render",
        "-o",
        "d",
        "--people",
        "3",
        "--face-model",
        "f.npz",
        "--first-seed",
        "12345",
        "--workers",
        "1",
        "--no-pairs",
    )
    assert asked == [
        (Path("f.npz"), Path("d"), people.SEED_RANGES["test"][0], 3, 64, 2, 40, "test", True),
        (Path("f.npz"), Path("d"), 12345, 3, 128, 1, 40, "train", False),
    ]
    assert written == [(Path("f.npz"), Path("d"))] * 2
    monkeypatch.setattr(people, "render_people", failing(KeyboardInterrupt()))
    stopped = command("data", "render", "-o", "d", "--people", "3", "--face-model", "f.npz")
    assert (stopped.code, stopped.err) == (130, "stopped; complete shards are kept, the same command goes on\n")


def test_data_refuses(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for arguments, says in (
        (["render", "-o", tmp_path / "d", "--people", "1", "--split", "x"], "no split 'x'; choose one of train, test"),
        (
            ["render", "-o", tmp_path / "d", "--people", "1", "--face-model", tmp_path / "no.npz"],
            "face model not found",
        ),
        (["convert-obj", tmp_path, "-o", tmp_path / "f.npz"], "point to FaceXModel"),
        (["assets", "-o", tmp_path / "d", "--face-model", tmp_path / "no.npz"], "face model not found"),
    ):
        ended = command("data", *arguments)  # type: ignore[arg-type]
        assert ended.code == 1
        assert says in ended.err
        assert os.listdir(tmp_path) == []
    monkeypatch.setattr("personalive.rendering.face_model.find_face_model", lambda: None)
    assert "give --face-model or set PERSONALIVE_FACE_MODEL" in command("data", "assets", "-o", tmp_path / "d").err


def test_data_assets_lists_what_it_made(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        builtin, "render_assets", lambda model, out: [out / "portraits" / "ada.jpg", out / "driving.mp4"]
    )
    ended = command("data", "assets", "-o", tmp_path, "--face-model", "f.npz")
    assert ended.out.splitlines() == [f"{tmp_path}/portraits/ada.jpg", f"{tmp_path}/driving.mp4"]


def test_main_takes_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["personalive", "--version"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert __version__ in capsys.readouterr().out
