"""The numbers that the optimiser works on: float32, whatever the modules compute with, and wherever they are kept.

A master is a parameter's own memory where that is float32 and on the right device, so that nothing is held twice; else
(`Optimisation.weights`, `Optimisation.offload`) it is a copy, to which gradients come and from which weights go. Of a
parameter that is spread over processes it is this process's part.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from personalive.training.recipe import Optimisation
from personalive.training.sharding import own


class Masters:
    """See the module's text. `tensors`: the masters of some learning parameters, by the same names."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], settings: Optimisation) -> None:
        self._parameters = dict(parameters)
        self.tensors: dict[str, nn.Parameter] = {}
        for name, parameter in parameters.items():
            place = torch.device("cpu") if settings.offload else parameter.device
            value = own(parameter).detach().to(place, torch.float32, copy=settings.offload)
            self.tensors[name] = nn.Parameter(value)

    def _apart(self, name: str) -> bool:
        """Whether a master has memory of its own."""
        return own(self._parameters[name]).data_ptr() != self.tensors[name].data_ptr()

    def take_gradients(self) -> None:
        """Move the parameters' gradients to the masters, in float32. None stays None.

        The mean over processes that sharding leaves becomes their sum.
        """
        for name, parameter in self._parameters.items():
            gradient, master = parameter.grad, self.tensors[name]
            parameter.grad = None
            if gradient is not None:
                moved = own(gradient).to(master.device, torch.float32)
                master.grad = moved.mul_(gradient.device_mesh.size()) if isinstance(gradient, DTensor) else moved

    @torch.no_grad()
    def show(self) -> None:
        """Write the masters into the modules."""
        for name, parameter in self._parameters.items():
            if self._apart(name):
                own(parameter).copy_(self.tensors[name])

    @contextmanager
    def replaced(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """For `with`: the modules carry `values` inside, the masters' again outside."""
        live = {n: m.detach().clone() for n, m in self.tensors.items() if not self._apart(n)}
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                own(parameter).copy_(values[name])
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in live.items():
                    self.tensors[name].copy_(value)
            self.show()
