"""Getting tensors to a device and back: nobody waits, and a CUDA queue is told things in an order without races."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from personalive.device import Arriving, constant, fetch, send
from personalive.stream import Stream, begin_together
from personalive.weights.load import build_networks, modules
from toy import picture, pictures, toy_networks


def test_on_a_cpu_all_is_done_on_return() -> None:
    given = torch.arange(3)
    arriving = fetch(lambda tensor: tensor * 2, given, beside=True)
    given.zero_()
    assert arriving.wait().tolist() == [0, 2, 4]
    assert send(given, torch.device("cpu")) is given


def test_constants_are_sent_once_and_may_take_part_in_training() -> None:
    cpu = torch.device("cpu")
    with torch.inference_mode():
        table = constant(((1, 2), (3, 4)), cpu, torch.float64)
    assert table is constant(((1, 2), (3, 4)), cpu, torch.float64)
    assert table.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert not table.is_inference()
    assert constant((1, 2), cpu).dtype == torch.int64


class Gpu:
    """What `fetch` needs of torch.cuda, and the order in which it was told what."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[str] = []
        self.queue = "main"
        for name in ("Stream", "Event", "stream", "current_stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch, "empty", self.empty)

    def tell(self, what: str) -> None:
        self.told.append(f"{self.queue}: {what}")

    def current_stream(self, device: object) -> Any:
        return SimpleNamespace(name=self.queue)

    def Stream(self, device: object) -> Any:  # noqa: N802
        return SimpleNamespace(
            name="second", wait_stream=lambda other: self.told.append(f"second waits for {other.name}")
        )

    def Event(self) -> Any:  # noqa: N802
        return SimpleNamespace(
            record=lambda queue: self.told.append(f"{queue.name}: done"),
            synchronize=lambda: self.told.append("the host waits"),
        )

    @contextmanager
    def stream(self, queue: Any) -> Iterator[None]:
        before, self.queue = self.queue, queue.name
        yield
        self.queue = before

    def empty(self, shape: object, dtype: object, pin_memory: bool) -> Any:
        assert pin_memory
        return SimpleNamespace(copy_=lambda result, non_blocking: self.tell(f"copy, waiting: {not non_blocking}"))

    def tensor(self, what: str = "what it was given") -> Any:
        record = lambda queue: self.told.append(f"{queue.name} keeps {what}")  # noqa: E731
        return SimpleNamespace(device=SimpleNamespace(type="cuda"), record_stream=record)

    def work(self, given: object) -> Any:
        self.tell("work")
        return SimpleNamespace(shape=(2,), dtype=torch.uint8)


@pytest.mark.parametrize("beside", [False, True])
def test_a_gpu_is_told_in_an_order_without_races(beside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second queue begins after all that was told before, and its input's memory is not given away meanwhile."""
    gpu = Gpu(monkeypatch)
    monkeypatch.setattr("personalive.device._second_queue", gpu.Stream)
    given = gpu.tensor()
    arriving = fetch(gpu.work, given, beside, [gpu.tensor("what it reads")])
    expected = ["main: work", "main: copy, waiting: False", "main: done"]
    if beside:
        first = ["second waits for main", "second keeps what it was given", "second keeps what it reads"]
        expected = [*first, "second: work", "second: copy, waiting: False", "second: done"]
    assert gpu.told == expected
    arriving.wait()
    assert gpu.told == [*expected, "the host waits"]
    assert gpu.queue == "main"


def test_what_has_arrived_is_at_hand() -> None:
    tensor = torch.zeros(1)
    assert Arriving(tensor).wait() is tensor


# A whole chunk


class NoWaiting(TorchFunctionMode):
    """An error where torch would silently copy numbers to a device and wait for all that the device still has to do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {**dict(enumerate(args)), **(kwargs or {})}
        on_device = any(isinstance(value, Tensor) and value.is_meta for value in given.values())
        named = torch.device(given.get("device") or "cpu").type == "meta"
        if (func in (torch.tensor, torch.as_tensor) and named) or (func is Tensor.new_tensor and on_device):
            raise AssertionError("numbers become a tensor on the device: keep a constant there")
        if func is torch.where and on_device and not all(isinstance(value, Tensor) for value in given.values()):
            raise AssertionError("where() sends its number: use masked_fill")
        if func in (Tensor.__getitem__, Tensor.__setitem__) and on_device:
            index = given[1] if isinstance(given[1], tuple) else (given[1],)
            if any(isinstance(part, list) or (isinstance(part, Tensor) and not part.is_meta) for part in index):
                raise AssertionError("an index is sent: keep a constant there")
        return func(*args, **(kwargs or {}))


class NoBlockingCopies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """An error for a copy from the CPU that waits."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default) and result.is_meta:
            source = args[-1] if func is torch.ops.aten.copy_.default else args[0]
            if not source.is_meta and not (kwargs or {}).get("non_blocking"):
                raise AssertionError("a copy to the device waits: use device.send")
        return result


@contextmanager
def no_waiting() -> Iterator[None]:
    with NoWaiting(), NoBlockingCopies():  # type: ignore[no-untyped-call]
        yield


@pytest.mark.parametrize("frames", [True, False])
def test_a_chunk_is_told_without_waiting(frames: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """From uint8 frames to uint8 frames, on the meta device, where a look at a value is an error of torch's own."""
    config = toy_networks().config
    networks = build_networks(config, "meta")
    for module in modules(networks).values():
        module.to("meta")
    monkeypatch.setattr("personalive.stream.fetch", lambda work, given, beside, reads: Arriving(work(given)))
    streams = [Stream(networks, picture(0)) for _ in range(2)]
    chunk(streams, frames)  # constants are sent with the first
    with no_waiting():
        painted = [chunk(streams, frames) for _ in range(5)]
    assert painted[-1] == [(8, 32, 32, 3)] * 2


def chunk(streams: list[Stream], frames: bool) -> list[torch.Size]:
    """One chunk of each; the sizes of what comes."""
    for frame in pictures(4):
        for stream in streams:
            stream.feed(frame if frames else None)
    return [painting._arriving.wait().shape for painting in begin_together(streams)]


def test_what_would_wait_is_noticed() -> None:
    device = torch.zeros(3, device="meta")
    wait: list[Callable[[], Tensor]] = [
        lambda: torch.tensor([1], device="meta"),
        lambda: torch.where(device > 0, 1.0, device),
        lambda: device[[0, 1]],
        lambda: torch.zeros(3).to("meta"),
        lambda: device.copy_(torch.zeros(3)),
    ]
    for each in wait:
        with pytest.raises(AssertionError), no_waiting():
            each()
