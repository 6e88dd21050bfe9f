"""Built-in pictures by name, files by path, and what is said where there is neither."""

from __future__ import annotations

from pathlib import Path

import pytest

from personalive import gallery
from personalive.errors import InputError
from personalive.media.frames import load_picture
from personalive.media.video import probe
from personalive.rendering.builtin import DRIVING_RATE, DRIVING_SECONDS, DRIVING_SIZE, PORTRAIT_SIZE, PORTRAITS


def test_what_is_built_in_is_there() -> None:
    assert set(gallery.portraits()) == set(PORTRAITS)
    for name in gallery.portraits():
        assert load_picture(gallery.find_portrait(name)).shape == (PORTRAIT_SIZE, PORTRAIT_SIZE, 3)
    clip = probe(gallery.find_driving(gallery.DRIVING))
    assert (clip.width, clip.height) == (DRIVING_SIZE, DRIVING_SIZE)
    assert float(clip.rate) == DRIVING_RATE
    assert clip.frames == DRIVING_SECONDS * DRIVING_RATE


def test_paths_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ada").touch()
    (tmp_path / "picture").touch()
    assert gallery.find_portrait("ada") == gallery.portraits()["ada"]  # the name wins
    for path in ("./ada", "picture", "missing.png", "folder/missing", tmp_path / "missing"):
        assert gallery.find_portrait(path) == Path(path)
        assert gallery.find_driving(path) == Path(path)


def test_unknown_names_and_missing_assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"nobody does not exist, and no built-in portrait \(known: ada, bruno"):
        gallery.find_portrait("nobody")
    monkeypatch.setattr(gallery, "ASSETS", tmp_path)
    assert gallery.portraits() == {}
    assert not gallery.has_driving()
    with pytest.raises(InputError, match="nobody does not exist; check the path"):
        gallery.find_portrait("nobody")
    with pytest.raises(InputError, match="not in this installation"):
        gallery.find_driving("builtin")
