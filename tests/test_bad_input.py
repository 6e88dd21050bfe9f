"""Whatever a user hands us: one clear line, exit code 1 (130 after Ctrl-C), no traceback, nothing left behind."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from command import Command, save_portrait, save_toy
from personalive.config import TOY, override
from personalive.media.frames import Pixels
from personalive.plain_data import to_json
from toy import picture, toy_networks
from toy_video import make_video


class Place:
    """Good inputs, an empty folder for the output, and what a refusal must look like."""

    def __init__(self, folder: Path, model: Path, command: Command) -> None:
        self.folder, self.model, self.command = folder, model, command
        self.portrait = save_portrait(folder)
        self.driving = make_video(folder / "driver.mp4", 3, size=(64, 64), draw=partial(picture, side=64))
        self.out = folder / "out"
        self.out.mkdir()

    def file(self, name: str, content: bytes) -> Path:
        """An input with this content."""
        (self.folder / name).write_bytes(content)
        return self.folder / name

    def refuses(
        self,
        *says: str,
        portrait: Path | None = None,
        driving: Path | None = None,
        output: Path | None = None,
        model: str | Path | None = None,
        crop: str = "none",
    ) -> None:
        """The command ends with one line on stderr that holds all of `says`, and the output folder stays as it was."""
        before = sorted(os.listdir(self.out))
        ended = self.command(
            "animate", portrait or self.portrait, driving or self.driving, "-o", output or self.out / "a.mp4",
            "--model", model or self.model, "--crop", crop, "--runtime", "eager",
        )  # fmt: skip
        assert ended.code == 1
        assert ended.out == ""
        lines = ended.err.splitlines()
        assert len(lines) == 1, ended.err
        assert lines[0].startswith("error: ")
        for words in says:
            assert words in lines[0]
        assert sorted(os.listdir(self.out)) == before


@pytest.fixture(scope="module")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_toy(tmp_path_factory.mktemp("model"))


@pytest.fixture
def place(tmp_path: Path, toy_model: Path, capsys: pytest.CaptureFixture[str]) -> Place:
    return Place(tmp_path, toy_model, Command(capsys))


def test_the_good_inputs_are_good(place: Place) -> None:
    ended = place.command(
        "animate",
        place.portrait,
        place.driving,
        "-o",
        place.out / "a.mp4",
        "--model",
        place.model,
        "--crop",
        "none",
        "--runtime",
        "eager",
    )
    assert (ended.code, ended.err) == (0, "")
    assert os.listdir(place.out) == ["a.mp4"]


# Pictures and videos


def test_missing_file(place: Place) -> None:
    none = place.folder / "none"
    place.refuses("none.png does not exist; check the path", portrait=none.with_suffix(".png"))
    place.refuses("none.mp4 does not exist; check the path", driving=none.with_suffix(".mp4"))


def test_unknown_built_in_name(place: Place) -> None:
    place.refuses("nobody does not exist, and no built-in portrait (known: ", "ada", portrait=Path("nobody"))


def test_folder(place: Place) -> None:
    place.refuses("out is a folder, not a picture; name a picture file", portrait=place.out)
    place.refuses("out is a folder, not a video; name a video file", driving=place.out)


def test_empty_file(place: Place) -> None:
    place.refuses("empty.png is an empty file; choose another picture", portrait=place.file("empty.png", b""))
    place.refuses("empty.mp4 is an empty file; choose another video", driving=place.file("empty.mp4", b""))


def test_text_with_a_video_or_picture_name(place: Place) -> None:
    text = b"Dear diary, this is not a film.\n" * 100
    place.refuses("t.png is not a picture that can be read; use PNG", portrait=place.file("t.png", text))
    place.refuses("t.mp4 is not a video that can be read", "use MP4", driving=place.file("t.mp4", text))


def noise(index: int) -> Pixels:
    return np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param({}, ("is not a video that can be read", "cut short"), id="index-lost"),
        pytest.param(
            {"movflags": "faststart"}, ("is cut short: it breaks off after", "get it whole"), id="index-there"
        ),
    ],
)
def test_truncated_video(place: Place, options: dict[str, str], says: tuple[str, ...]) -> None:
    whole = make_video(place.folder / "w.mp4", 30, size=(64, 64), draw=noise, container_options=options)
    cut = place.file("cut.mp4", whole.read_bytes()[: whole.stat().st_size // 2])
    place.refuses("cut.mp4", *says, driving=cut)


def test_truncated_picture(place: Place) -> None:
    content = place.portrait.read_bytes()
    place.refuses("cut.png is damaged or cut short", portrait=place.file("cut.png", content[: len(content) // 2]))


def test_video_without_frames(place: Place) -> None:
    sound = make_video(place.folder / "s.mkv", 1, sound="aac", sound_seconds=0.2)
    only = place.folder / "only.mp4"
    with av.open(str(sound)) as source, av.open(str(only), "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    place.refuses("only.mp4 holds sound only, no video; choose a file with a video stream", driving=only)
    none = make_video(place.folder / "none.mkv", 0)
    place.refuses("none.mkv", driving=none)


def png_header(width: int, height: int) -> bytes:
    """A PNG that says its size and breaks off there: to decode 20,000 x 20,000 pixels would take a gigabyte."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\x00" * 64))


def test_tiny_picture(place: Place) -> None:
    Image.new("RGB", (1, 1)).save(place.folder / "tiny.png")
    place.refuses("tiny.png is 1x1 pixels; at least 32", portrait=place.folder / "tiny.png")
    place.refuses("tiny.png is 1x1 pixels; at least 32", driving=place.folder / "tiny.png")


def test_huge_picture(place: Place) -> None:
    huge = place.file("huge.png", png_header(20_000, 20_000))
    place.refuses("huge.png has ", "pixels", "make it smaller", portrait=huge)


# Faces


def test_picture_without_a_face(place: Place) -> None:
    place.refuses("no human face that can be read in ", "portrait.png: use a picture", "--force", crop="auto")


def test_a_picture_without_a_face_can_be_forced(place: Place) -> None:
    ended = place.command(
        "animate", place.portrait, "builtin", "-o", place.out / "a.gif", "--model", place.model, "--max-frames", "3",
        "--runtime", "eager", "--force",
    )  # fmt: skip
    assert ended.code == 0
    (line,) = ended.err.splitlines()
    assert line.startswith(f"warning: no human face that can be read in {place.portrait}; trying")
    assert os.listdir(place.out) == ["a.gif"]


def test_driver_without_any_face(place: Place) -> None:
    place.refuses("driver.mp4: no face was found; use a video", portrait=Path("ada"), crop="auto")


# Outputs


def test_output_folder_missing(place: Place) -> None:
    place.refuses("new does not exist; create it first", output=place.out / "new" / "a.mp4")
    assert not (place.out / "new").exists()


def test_output_of_an_unknown_kind(place: Place) -> None:
    place.refuses("a.avi: unknown kind of output '.avi'; use one of .mp4, .gif, .webp", output=place.out / "a.avi")


def test_output_is_an_input(place: Place) -> None:
    before = place.driving.read_bytes()
    place.refuses("driver.mp4 is also an input", "name another output", output=place.driving)
    assert place.driving.read_bytes() == before


def test_output_folder_not_writable(place: Place) -> None:
    if os.geteuid():
        place.out.chmod(0o555)
        place.refuses("a.mp4 cannot be written: no permission", "write elsewhere")
        return
    # Root may write wherever a file system takes new files: the kernel's own one for devices takes none.
    if not Path("/sys").is_dir():
        pytest.skip("run by root, on a machine without a folder that root cannot write")
    place.refuses("a.mp4 cannot be written: no permission for /sys; write elsewhere", output=Path("/sys/a.mp4"))


@pytest.mark.parametrize("earlier", [b"the old one", None])
def test_disk_full(place: Place, earlier: bytes | None) -> None:
    # The kernel refuses to let a file of this process grow beyond 4 kB, in the write itself as a full disk would.
    if earlier is not None:
        (place.out / "a.gif").write_bytes(earlier)
    long = make_video(place.folder / "long.mp4", 30, size=(64, 64), draw=noise)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        place.refuses("a.gif cannot be written: the disk is full; free", driving=long, output=place.out / "a.gif")
        place.refuses("b.mp4 cannot be written: the disk is full; free", driving=long, output=place.out / "b.mp4")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    if earlier is not None:
        assert (place.out / "a.gif").read_bytes() == earlier


# Models


def test_unknown_model(place: Place) -> None:
    place.refuses("maxi: no such file, and no built-in model (known: mini)", model="maxi")


def test_model_is_a_folder_or_empty_or_text(place: Place) -> None:
    place.refuses("out is no model's folder: it has neither", model=place.out)
    for name, content in (("empty.safetensors", b""), ("text.safetensors", b"not weights" * 100)):
        place.refuses(f"{name} is not a whole safetensors file", model=place.file(name, content))


def test_checkpoint_of_the_wrong_size(place: Place) -> None:
    tensors = load_file(place.model)
    larger = override(TOY, {"unet.feed_forward": 4})
    wrong = place.folder / "wrong.safetensors"
    save_file(tensors, wrong, metadata={"format": "personalive", "config": to_json(larger)})
    place.refuses("wrong.safetensors does not fit this network", "of the wrong size (", model=wrong)


def test_foreign_checkpoint(place: Place) -> None:
    foreign = place.folder / "foreign.safetensors"
    save_file(toy_networks().pose_guider.state_dict(), foreign)
    place.refuses("foreign.safetensors has no PersonaLive configuration", "mini", model=foreign)
    with safe_open(place.model, framework="pt") as file:
        metadata = file.metadata()
    save_file(toy_networks().pose_guider.state_dict(), foreign, metadata=metadata)
    place.refuses("foreign.safetensors does not fit this network", "missing", "foreign (", model=foreign)


class Trap:
    """Unpickling it runs a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("name", ["trap.pth", "trap.safetensors", "trap.bin"])
def test_a_pickle_that_runs_code(place: Place, name: str) -> None:
    mark = place.folder / "code-was-run"
    content = pickle.dumps({"weight": Trap(mark)})
    pickle.loads(content)
    assert mark.exists()  # the trap works
    mark.unlink()
    why = "is not a whole safetensors file" if name.endswith("safetensors") else "Pickles with code are never read"
    place.refuses(name, why, model=place.file(name, content))
    assert not mark.exists()


# Stopping


def test_ctrl_c_while_it_works(place: Place) -> None:
    """The real command in a process of its own, stopped when its temporary file is there (early, for a GIF)."""
    long = make_video(place.folder / "long.mp4", 1000, size=(64, 64), draw=partial(picture, side=64))
    (place.out / "a.gif").write_bytes(b"the old one")
    arguments = [
        "animate", place.portrait, long, "-o", place.out / "a.gif", "--model", place.model, "--crop", "none",
        "--runtime", "eager",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "personalive", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        # A test run in the background ignores Ctrl-C, and its children would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    with process:
        while len(os.listdir(place.out)) == 1:
            with pytest.raises(subprocess.TimeoutExpired):  # it is still at work
                process.wait(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "")
    assert err.splitlines() == ["stopped; nothing was written"]
    assert os.listdir(place.out) == ["a.gif"]
    assert (place.out / "a.gif").read_bytes() == b"the old one"
