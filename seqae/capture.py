"""The gradients of an update as one CUDA graph, recorded once and then replayed.

An update launches some 1,400 operations from Python, 10 µs each, and a GPU finishes small ones sooner. A graph
launches all of them at once. It reads and writes fixed addresses: each batch is copied to its input, and the gradients
always lie in the same tensors.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from seqae.checkpoint import Stateful
from seqae.objective import Objective
from seqae.updates import Gradients, gradients

WARM_UP = 3  # updates before the recording, in which libraries allocate what they keep


def can_capture(stateful: Stateful, objective: Objective, accelerator: Accelerator) -> bool:
    """Whether `CapturedGradients` does what `gradients` does: on one CUDA device, without a gradient scaler, which
    reads numbers back, and with an optimizer that asks for gradients once.

    A replay runs no Python. So a model or a loss of your own is recorded only if it has the attribute `capturable`,
    True: its forward pass launches the same operations at every call, and no hook has to be called. A subclass of
    `SequenceAutoencoder` does not inherit it, see there.
    """
    parts = [stateful.model, *([] if isinstance(objective.loss, str) else [objective.loss])]
    fits = accelerator.device.type == "cuda" and accelerator.num_processes == 1 and not stateful.scaler.is_enabled()
    once = not isinstance(stateful.optimizer, torch.optim.LBFGS)
    return fits and once and all(getattr(part, "capturable", False) for part in parts)


class CudaRecorder:
    """Records what is launched on a CUDA stream of its own."""

    def __init__(self) -> None:
        self.stream = torch.cuda.Stream()

    @contextmanager
    def warm_up(self) -> Iterator[None]:
        """In the block work is launched on that stream, after all that was launched before the block."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            yield
        torch.cuda.current_stream().wait_stream(self.stream)

    def record(self, compute: Callable[[], Gradients]) -> tuple[Callable[[], None], Gradients]:
        """What replays `compute`, and the memory of its result, which has no values before the first replay."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
            found = compute()
        return graph.replay, found


class CapturedGradients:
    """`gradients`, replayed after WARM_UP calls of its own. All arguments but `batch` have to stay what they are; where
    other weights ask for gradients than before, or the sequences have another length, it is recorded anew.

    batch_size: a batch of another size, such as an epoch's last one, goes to `gradients` itself; so does every batch if
    recording fails, which is warned of. The result and the weights' .grad are overwritten by the next call.
    """

    def __init__(self, batch_size: int, recorder: Any = None) -> None:
        self.batch_size, self.recorder, self.calls = batch_size, recorder or CudaRecorder(), 0
        self.shape = self.replay = self.found = self.trained = cast(Any, None)

    def __call__(self, net: nn.Module, batch: Tensor, **given: Any) -> Gradients:
        """As `gradients`, whose arguments these are."""
        if len(batch) != self.batch_size or self.recorder is None:
            return gradients(net, batch, **given)
        if batch.shape != self.shape:
            self.shape, self.calls, self.replay, self.found, self.grads = batch.shape, 0, None, None, []
        self.calls += 1
        trained = [weight.requires_grad for weight in net.parameters()]
        if self.calls <= WARM_UP:
            with self.recorder.warm_up():
                return gradients(net, batch, **given)
        if self.replay is None or trained != self.trained:  # a replay would not see that
            self.replay, self.batch, self.trained = None, batch.clone(), trained
            try:
                self.replay, self.found = self.recorder.record(lambda: gradients(net, self.batch, **given))
            except RuntimeError as error:
                first: Any = error  # ending the recording raises another error
                while first.__context__:
                    first = first.__context__
                why = str(first).partition("\n")[0]
                warnings.warn(f"updates are not captured in a CUDA graph, which makes them slower: {why}", stacklevel=2)
                self.recorder = None
            if self.recorder is None:  # out of the block, whose error keeps the memory of the recording
                return gradients(net, batch, **given)
            self.grads = [(weight, weight.grad) for weight in net.parameters()]
        self.batch.copy_(batch)
        for weight, grad in self.grads:  # where the graph writes it; a batch of another size has left others
            weight.grad = grad
        self.replay()
        return self.found
