"""A counter of what torch operations cost, while they are dispatched."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, register_flop_formula

from seqae.lstm import ONEDNN_LINEAR

if ONEDNN_LINEAR is not None:

    @register_flop_formula(ONEDNN_LINEAR)
    def _linear_operations(x: Any, weight: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
        return 2 * x[0] * x[1] * weight[0]  # shapes


class DispatchCounter(TorchDispatchMode):
    """Counts the torch operations made inside its context, forward and backward, on any device, `meta` included.

    launches: operations that a device has to be sent; views and allocations are not counted. operations: the
    floating-point operations of matrix products and convolutions. bytes: of these products' operands and results.
    products: with keep_products, one function for each product, in their order, that makes it again; they keep the
    operands in memory.
    """

    def __init__(self, *, keep_products: bool = False) -> None:
        super().__init__()
        self.launches = self.operations = self.bytes = 0
        self.keep_products = keep_products
        self.products: list[Callable[[], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self.launches += not (func.is_view or "empty" in func.overloadpacket.__name__)
        if (count := flop_registry.get(func.overloadpacket)) is not None:
            self.operations += int(count(*args, **kwargs, out_val=result))
            tensors = {id(leaf): leaf for leaf in tree_leaves((args, result)) if isinstance(leaf, Tensor)}
            self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
            if self.keep_products:
                self.products.append(partial(func, *args, **kwargs))
        return result
