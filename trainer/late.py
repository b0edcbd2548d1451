"""Numbers that the host reads when the device has gone on."""

import torch
from torch import Tensor


class Late:
    """A tensor on its way to main memory. `read` waits for what was queued before it, and for nothing that came after:
    `Tensor.tolist` on a GPU would stand in line behind the step that was launched meanwhile, and leave the GPU idle."""

    def __init__(self, numbers: Tensor) -> None:
        self._here = numbers.to("cpu", non_blocking=True)
        self._event: torch.cuda.Event | None = None
        if numbers.is_cuda:
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> list[float]:
        """The numbers."""
        if self._event is not None:
            self._event.synchronize()
        return self._here.tolist()
