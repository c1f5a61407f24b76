"""The recurrent core against plain loops that autograd differentiates."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from seqae.lstm.layers import Feedback, LSTMStack, LSTMState
from seqae.tasks import ACTIVATIONS

MAPS = LSTMStack(8, [8], kernel_size=3, map_size=(2, 2))
STACKS = [(5, [3]), (3, [4, 7]), (6, [5, 2, 6])]
F64 = torch.float64


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # at these sizes a second one only waits
    yield
    torch.set_num_threads(before)


def make_stack(input_size: int, sizes: list[int], dtype: torch.dtype = F64, **given) -> LSTMStack:
    torch.manual_seed(0)
    stack = LSTMStack(input_size, sizes, **given).to(dtype)
    for parameter in stack.parameters():  # larger than by default, so that no gate is near its middle
        nn.init.normal_(parameter, std=0.7)
    return stack


def make_states(stack: LSTMStack, batch: int, dtype: torch.dtype = F64) -> list[tuple[Tensor, Tensor]]:
    def random(size: int) -> Tensor:
        return torch.randn(batch, size, dtype=dtype, requires_grad=True)

    return [(random(h), random(h)) for h in stack.hidden_sizes]


def only_h(stack: LSTMStack, batch: int, dtype: torch.dtype = F64) -> list[tuple[Tensor, None] | None]:
    """The first layer's h, the rest zero: what tells at least how many sequences there are."""
    h = torch.randn(batch, stack.hidden_sizes[0], dtype=dtype, requires_grad=True)
    return [(h, None), *[None] * (len(stack.layers) - 1)]


def make_feedback(kind: str, stack: LSTMStack, activation: str, gain: float, dtype: torch.dtype = F64) -> Feedback:
    if kind == "h":
        return Feedback(gain=gain, activation=activation)
    weight = torch.randn(stack.input_size, stack.hidden_sizes[-1], dtype=dtype, requires_grad=True)
    bias = torch.randn(stack.input_size, dtype=dtype, requires_grad=True) if kind == "linear" else None
    return Feedback(weight, bias, gain, activation)


def plain_cells(stack: LSTMStack) -> list[Callable]:
    """One `nn.LSTMCell` per layer on the stack's own parameters, so that its gradients land there."""

    def cell_of(layer: nn.Module) -> Callable:
        cell = nn.LSTMCell(layer.weight_ih.shape[1], layer.weight_hh.shape[1], dtype=layer.bias.dtype)
        tensors = {"weight_ih": layer.weight_ih, "weight_hh": layer.weight_hh, "bias_ih": layer.bias}
        tensors["bias_hh"] = torch.zeros_like(layer.bias)
        return lambda x, state: torch.func.functional_call(cell, tensors, (x, state))

    return [cell_of(layer) for layer in stack.layers]


def peephole_cells(stack: LSTMStack) -> list[Callable]:
    """Srivastava et al. (2015), §2.1, equation by equation."""

    def cell_of(layer: nn.Module) -> Callable:
        w_xi, w_xf, w_xc, w_xo = layer.weight_ih.chunk(4)
        w_hi, w_hf, w_hc, w_ho = layer.weight_hh.chunk(4)
        b_i, b_f, b_c, b_o = layer.bias.chunk(4)
        w_ci, w_cf, w_co = (torch.diag(p) for p in (layer.peephole_i, layer.peephole_f, layer.peephole_o))

        def cell(x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            h, c = state
            i = torch.sigmoid(x @ w_xi.T + h @ w_hi.T + c @ w_ci + b_i)
            f = torch.sigmoid(x @ w_xf.T + h @ w_hf.T + c @ w_cf + b_f)
            c = f * c + i * torch.tanh(x @ w_xc.T + h @ w_hc.T + b_c)
            o = torch.sigmoid(x @ w_xo.T + h @ w_ho.T + c @ w_co + b_o)
            return o * torch.tanh(c), c

        return cell

    return [cell_of(layer) for layer in stack.layers]


def convolutional_cells(stack: LSTMStack) -> list[Callable]:
    """Shi et al. (2015), §3.1, equation (3), with a peephole a channel; x, h and c flat."""

    def cell_of(layer: nn.Module) -> Callable:
        peepholes = [
            0 if p is None else p[:, None, None] for p in (layer.peephole_i, layer.peephole_f, layer.peephole_o)
        ]
        w_ci, w_cf, w_co = peepholes

        def product(weight: Tensor, flat: Tensor, side: int) -> Tensor:
            maps = flat.unflatten(1, (-1, *stack.map_size))
            return nn.functional.conv2d(maps, weight.unflatten(1, (-1, side, side)), padding=side // 2)

        def cell(x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            (h, c), (read, kept) = state, layer.kernel_sizes
            z = product(layer.weight_ih, x, read) + product(layer.weight_hh, h, kept) + layer.bias[:, None, None]
            i, f, g, o = z.chunk(4, 1)
            c = c.view_as(i)
            i, f = torch.sigmoid(i + w_ci * c), torch.sigmoid(f + w_cf * c)
            c = f * c + i * torch.tanh(g)
            return (torch.sigmoid(o + w_co * c) * torch.tanh(c)).flatten(1), c.flatten(1)

        return cell

    return [cell_of(layer) for layer in stack.layers]


def plain_loop(cells, stack, states, steps, batch, inputs=None, feedback=None):
    """Step by step, layer by layer: the top h, or with feedback the pre-activations, and the last states."""
    like = stack.layers[0].bias
    states = [state or (None, None) for state in states or [None] * len(cells)]
    zeros = [like.new_zeros(batch, h) for h in stack.hidden_sizes]
    states = [tuple(z if s is None else s for s in state) for state, z in zip(states, zeros, strict=True)]
    fed, outputs = None, []
    for t in range(steps):
        x = fed if inputs is None else inputs[t]
        x = like.new_zeros(batch, stack.input_size) if x is None else x
        for n, cell in enumerate(cells):
            states[n] = cell(x, states[n])
            x = states[n][0]
        if feedback is not None:
            weight = torch.eye(x.shape[1], dtype=x.dtype) if feedback.weight is None else feedback.weight
            x = feedback.gain * nn.functional.linear(x, weight, feedback.bias)
            fed = {"none": x, "tanh": torch.tanh(x), "sigmoid": torch.sigmoid(x)}[feedback.activation]
        outputs.append(x)
    return torch.stack(outputs), states


def flat(result) -> list[Tensor]:
    outputs, final = result if isinstance(result, tuple) else (result, [])
    return [outputs, *itertools.chain(*final)]


def gradients(results: list[Tensor], leaves: list[Tensor]) -> list[Tensor]:
    """Of a fixed random projection of all results; where nothing arrives, zeros."""
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(r.shape, generator=generator, dtype=F64).to(r.dtype) for r in results]
    loss = sum((r * w).sum() for r, w in zip(results, weights, strict=True))
    found = torch.autograd.grad(loss, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)]


def leaves_of(stack: LSTMStack, *others) -> list[Tensor]:
    return [*stack.parameters(), *(t for t in others if t is not None)]


def assert_same(ours: list[Tensor], plain: list[Tensor], tolerance: float) -> None:
    assert len(ours) == len(plain)
    for a, b in zip(ours, plain, strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert (a - b).norm() <= tolerance * b.norm(), f"off by {(a - b).norm() / b.norm():.1e} ({a.shape})"


def compare(stack, states, steps, batch, *, inputs=None, feedback=None, tolerance=1e-9) -> None:
    dense = plain_cells if stack.layers[0].peephole_i is None else peephole_cells
    cells = (dense if stack.layers[0].kernel_sizes is None else convolutional_cells)(stack)
    if feedback is None:
        ours = flat(stack(inputs, states, steps=steps))
    else:
        ours = flat(stack.unroll(states, feedback, steps=steps))
    plain = flat(plain_loop(cells, stack, states, steps, batch, inputs, feedback))[: len(ours)]
    assert_same(ours, plain, tolerance)
    given = [s for state in states or [] for s in state or () if s is not None]
    readout = (feedback.weight, feedback.bias) if feedback else ()
    leaves = leaves_of(stack, inputs, *given, *readout)
    assert_same(gradients(ours, leaves), gradients(plain, leaves), tolerance)


@pytest.mark.parametrize(("steps", "dtype", "tolerance"), [(7, F64, 1e-9), (1, torch.float32, 1e-4)])
@pytest.mark.parametrize("known", [True, False], ids=["inputs", "zeros"])
@pytest.mark.parametrize("stateful", [True, False], ids=["states", "no states"])
@pytest.mark.parametrize("peepholes", [True, False], ids=["peepholes", "plain"])
@pytest.mark.parametrize(("input_size", "sizes"), STACKS)
def test_forward_equals_loop(input_size, sizes, peepholes, stateful, known, steps, dtype, tolerance):
    stack = make_stack(input_size, sizes, dtype, peepholes=peepholes)
    inputs = torch.randn(steps, 3, input_size, dtype=dtype, requires_grad=True) if known else None
    states = make_states(stack, 3, dtype) if stateful else None if known else only_h(stack, 3, dtype)
    compare(stack, states, steps, 3, inputs=inputs, tolerance=tolerance)


@pytest.mark.parametrize(("steps", "dtype", "tolerance"), [(1, F64, 1e-9), (5, torch.float32, 1e-4)])
@pytest.mark.parametrize("reads", ["inputs", "zeros", "its own h"])
@pytest.mark.parametrize("stateful", [True, False], ids=["states", "no states"])
@pytest.mark.parametrize("peepholes", [True, False], ids=["peepholes", "plain"])
@pytest.mark.parametrize(("kernel", "own", "map_size", "channels"), [
    (3, None, (4, 3), [2, 2]), (1, None, (3, 3), [5, 3, 5]), (5, None, (2, 2), [9, 1, 2, 9]),
    (3, None, (1, 1), [4, 4]), (3, None, (1, 5), [1, 1]), (3, None, (6, 7), [18, 16, 18]), (3, None, (3, 3), [17, 17]),
    (3, 1, (6, 7), [18, 16, 18]), (1, 3, (3, 2), [2, 3, 2]),
])  # fmt: skip
def test_convolutions_equal_a_loop(
    kernel, own, map_size, channels, peepholes, stateful, reads, steps, dtype, tolerance
):
    """9 channels in for 4 gates of 1; a kernel larger than its map; one position; one channel; kernels that C takes;
    inputs read by others.
    """
    input_size, *sizes = (n * math.prod(map_size) for n in channels)
    kernels = {"kernel_size": kernel, "input_kernel_size": own}
    stack = make_stack(input_size, sizes, dtype, peepholes=peepholes, map_size=map_size, **kernels)
    if max(channels) > 9:  # with as many inputs, such weights make of a rounding error a hundred times as much a step
        for parameter in stack.parameters():
            parameter.data.mul_(0.2)
    inputs = torch.randn(steps, 3, input_size, dtype=dtype, requires_grad=True) if reads == "inputs" else None
    feedback = Feedback(gain=2.0, activation="tanh") if reads == "its own h" else None
    states = make_states(stack, 3, dtype) if stateful else None if inputs is not None else only_h(stack, 3, dtype)
    compare(stack, states, steps, 3, inputs=inputs, feedback=feedback, tolerance=tolerance)


def test_a_kernel_of_one_at_one_position_is_the_matrix():
    stack, maps = make_stack(3, [4, 2]), make_stack(3, [4, 2], kernel_size=1, map_size=(1, 1))
    maps.load_state_dict(stack.state_dict())
    inputs = torch.randn(4, 2, 3, dtype=F64)
    assert_same(flat(maps(inputs)), flat(stack(inputs)), 1e-12)


@pytest.mark.parametrize("kernel", [{"kernel_size": 3, "map_size": (2, 2)}, {"peepholes": True}])
def test_fake_tensors_have_no_memory_that_c_could_read(kernel):
    with FakeTensorMode():
        stack = LSTMStack(8, [8], **kernel)
        assert stack(torch.zeros(3, 2, 8))[0].shape == (3, 2, 8)
        assert stack.unroll([LSTMState(torch.zeros(2, 8), None)], Feedback(), steps=4).shape == (4, 2, 8)


class Relaid(torch.autograd.graph.saved_tensors_hooks):
    """Saved tensors come back with the strides of a new tensor, as of save_on_cpu with pin_memory."""

    def __init__(self) -> None:
        super().__init__(lambda saved: saved.contiguous(), lambda kept: kept)


@pytest.mark.parametrize("dtype", [F64, torch.float32])
@pytest.mark.parametrize(
    ("kernel", "width"), [({"kernel_size": 3, "map_size": (2, 2)}, 8), ({}, 5)], ids=["maps", "dense"]
)
def test_saved_tensors_may_come_back_in_another_layout(kernel, width, dtype):
    stack = make_stack(width, [2 * width, width], dtype, peepholes=True, **kernel)
    inputs = torch.randn(3, 2, width, dtype=dtype)
    for run in (lambda: stack(inputs)[0], lambda: stack.unroll(make_states(stack, 2), Feedback(), steps=3)):
        torch.manual_seed(0)
        plain = torch.autograd.grad(run().square().sum(), [*stack.parameters()], allow_unused=True)
        torch.manual_seed(0)
        with Relaid():
            relaid = torch.autograd.grad(run().square().sum(), [*stack.parameters()], allow_unused=True)
        for one, other in zip(plain, relaid, strict=True):
            assert (one is None) == (other is None)
            assert one is None or torch.allclose(one, other, rtol=1e-5)


def test_a_readout_of_another_dtype_is_converted():
    stack, out = make_stack(5, [6], torch.float32), torch.nn.Linear(6, 5)
    states = make_states(stack, 2)
    feedback = [Feedback(out.weight.to(dtype), out.bias.to(dtype), 2.0) for dtype in (torch.float32, F64)]
    one, other = (stack.unroll(states, of, steps=3) for of in feedback)
    assert torch.equal(one, other)


def test_convolutions_in_bfloat16_keep_states_in_float32():
    stack = make_stack(2 * 16, [2 * 16], torch.float32, kernel_size=3, map_size=(4, 4))
    for parameter in stack.parameters():
        parameter.data.mul_(0.3)
    inputs, leaves = torch.randn(20, 4, 2 * 16), list(stack.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        low = flat(stack(inputs))
    high = flat(stack(inputs))
    assert all(result.dtype == torch.float32 for result in low)
    assert not torch.equal(low[0], high[0])
    assert_same(low, high, 0.03)
    assert_same(gradients(low, leaves), gradients(high, leaves), 0.05)


@pytest.mark.parametrize(("activation", "gain"), [("none", 1.0), ("tanh", 10.0), ("sigmoid", 10.0)])
@pytest.mark.parametrize("kind", ["h", "linear", "no bias"])
@pytest.mark.parametrize("stateful", [True, False], ids=["states", "no states"])
@pytest.mark.parametrize(("input_size", "sizes"), [(5, [5]), (6, [5, 2, 6])])
def test_unroll_equals_loop(input_size, sizes, stateful, kind, activation, gain):
    stack = make_stack(input_size, sizes)
    feedback = make_feedback(kind, stack, activation, gain)
    states = make_states(stack, 4) if stateful else only_h(stack, 4)
    compare(stack, states, 7, 4, feedback=feedback)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("peepholes", [True, False], ids=["peepholes", "plain"])
def test_unroll_equals_loop_in_float32(peepholes, activation):
    stack = make_stack(6, [5, 9], torch.float32, peepholes=peepholes)
    feedback = make_feedback("linear", stack, activation, 1.0, torch.float32)
    states = make_states(stack, 3, torch.float32)
    compare(stack, states, 7, 3, feedback=feedback, tolerance=1e-4)


@settings(max_examples=25)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    input_size=st.integers(1, 9),
    batch=st.integers(1, 5),
    steps=st.integers(1, 6),
    peepholes=st.booleans(),
    activation=st.sampled_from(list(ACTIVATIONS)),
)
def test_any_size(sizes, input_size, batch, steps, peepholes, activation):
    stack = make_stack(input_size, sizes, peepholes=peepholes)
    states = make_states(stack, batch)
    inputs = torch.randn(steps, batch, input_size, dtype=F64, requires_grad=True)
    compare(stack, states, steps, batch, inputs=inputs)
    compare(stack, states, steps, batch, feedback=make_feedback("linear", stack, activation, 2.0))


@pytest.mark.parametrize("given_h", [True, False])
def test_half_given_states(given_h):
    """The diary's hand-off: the first layer gets h or c alone, the layers above nothing."""
    stack = make_stack(3, [4, 3], peepholes=True)
    (h, c), _ = make_states(stack, 2)
    states = [(h, None) if given_h else (None, c), None]
    ours = [flat(stack(None, states, steps=4)), flat(stack.unroll(states, Feedback(), steps=4))]
    cells = peephole_cells(stack)
    plain = [flat(plain_loop(cells, stack, states, 4, 2, feedback=f)) for f in (None, Feedback())]
    leaves = leaves_of(stack, h if given_h else c)
    for a, b in zip(ours, plain, strict=True):
        b = b[: len(a)]
        assert_same(a, b, 1e-9)
        assert_same(gradients(a, leaves), gradients(b, leaves), 1e-9)


def test_equals_torch_lstm():
    """`nn.LSTM` in three layers of one width, with zero for the second of its biases."""
    stack = make_stack(5, [4, 4, 4])
    lstm = nn.LSTM(5, 4, num_layers=3, dtype=F64)
    for n, layer in enumerate(stack.layers):
        for own, theirs in (("weight_ih", "weight_ih"), ("weight_hh", "weight_hh"), ("bias", "bias_ih")):
            getattr(lstm, f"{theirs}_l{n}").data.copy_(getattr(layer, own).data)
        getattr(lstm, f"bias_hh_l{n}").data.zero_()
    inputs = torch.randn(7, 3, 5, dtype=F64, requires_grad=True)
    states = make_states(stack, 3)
    h, c = (torch.stack(s) for s in zip(*states, strict=True))
    outputs, (last_h, last_c) = lstm(inputs, (h, c))
    plain = [outputs, *itertools.chain(*zip(last_h, last_c, strict=True))]
    ours = flat(stack(inputs, states))
    assert_same(ours, plain, 1e-9)
    theirs = [p for name, p in lstm.named_parameters() if "bias_hh" not in name]
    given = [inputs, *itertools.chain(*states)]
    assert_same(gradients(ours, leaves_of(stack, *given)), gradients(plain, [*theirs, *given]), 1e-9)


@pytest.mark.parametrize("part", ["last c", "last h", "outputs", "last c of the first layer"])
def test_gradients_where_only_part_is_used(part):
    stack = make_stack(3, [4, 2])
    inputs = torch.randn(5, 2, 3, dtype=F64, requires_grad=True)

    def pick(result):
        outputs, final = result
        chosen = {"last c": final[1][1], "last h": final[1][0], "outputs": outputs}
        return [chosen.get(part, final[0][1])]

    leaves = leaves_of(stack, inputs)
    ours, plain = pick(stack(inputs)), pick(plain_loop(plain_cells(stack), stack, None, 5, 2, inputs))
    assert_same(gradients(ours, leaves), gradients(plain, leaves), 1e-9)


@pytest.mark.parametrize("peepholes", [True, False], ids=["peepholes", "plain"])
def test_gradcheck(peepholes):
    stack = make_stack(3, [2, 3], peepholes=peepholes)
    feedback = make_feedback("linear", stack, "tanh", 1.5)
    states = make_states(stack, 2)
    inputs = torch.randn(3, 2, 3, dtype=F64, requires_grad=True)
    leaves = leaves_of(stack, *itertools.chain(*states))
    assert torch.autograd.gradcheck(lambda x, *_: tuple(flat(stack(x, states))), (inputs, *leaves))
    unroll = lambda *_: stack.unroll(states, feedback, steps=3)  # noqa: E731
    assert torch.autograd.gradcheck(unroll, (feedback.weight, feedback.bias, *leaves))


def test_zero_inputs_leave_the_first_weight_without_gradient():
    stack = make_stack(3, [4, 2])
    stack(None, only_h(stack, 2), steps=4)[0].sum().backward()
    without = [name for name, p in stack.named_parameters() if p.grad is None]
    assert without == ["layers.0.weight_ih"]


def test_frozen_parameters_get_no_gradient_and_change_no_other():
    stack = make_stack(3, [4, 3])
    states = make_states(stack, 2)
    feedback = make_feedback("linear", stack, "sigmoid", 1.0)
    leaves = leaves_of(stack, feedback.weight, feedback.bias, *itertools.chain(*states))
    full = gradients([stack.unroll(states, feedback, steps=4)], leaves)
    for kept in range(len(leaves)):
        for n, leaf in enumerate(leaves):
            leaf.requires_grad_(n == kept)
        (alone,) = gradients([stack.unroll(states, feedback, steps=4)], [leaves[kept]])
        assert torch.equal(alone, full[kept])


def test_backward_again_and_in_place_on_results():
    """A retained graph gives the same gradients twice; results can be changed without touching them."""
    stack = make_stack(3, [3])
    inputs = torch.randn(4, 1, 3, dtype=F64)
    outputs, final = stack(inputs)
    loss = outputs.square().sum() + final[0][1].sum()
    once = torch.autograd.grad(loss, list(stack.parameters()), retain_graph=True)
    assert_same(list(torch.autograd.grad(loss, list(stack.parameters()))), list(once), 0.0)
    z = stack.unroll([tuple(s.detach() for s in final[0])], Feedback(), steps=4)
    doubled = torch.autograd.grad((2 * z).sum(), list(stack.parameters()), retain_graph=True)
    assert_same(list(torch.autograd.grad(z.mul_(2).sum(), list(stack.parameters()))), list(doubled), 0.0)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_same_values_without_gradients(mode):
    stack = make_stack(3, [4, 3], torch.float32)
    inputs = torch.randn(5, 2, 3)
    feedback = make_feedback("linear", stack, "sigmoid", 10.0, torch.float32)
    states = only_h(stack, 2, torch.float32)
    wanted = [*flat(stack(inputs)), stack.unroll(states, feedback, steps=5)]
    with mode():
        found = [*flat(stack(inputs)), stack.unroll(states, feedback, steps=5)]
    assert not any(tensor.requires_grad for tensor in found)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)  # to rounding: not every processor has one kernel


def test_autocast_computes_products_in_bfloat16_and_keeps_states_in_float32():
    stack = make_stack(16, [32, 16], torch.float32, peepholes=True)
    for parameter in stack.parameters():
        parameter.data.mul_(0.3)  # large weights would amplify bfloat16's rounding from step to step
    feedback = make_feedback("linear", stack, "sigmoid", 1.0, torch.float32)
    inputs = torch.randn(6, 8, 16, requires_grad=True)
    leaves = leaves_of(stack, inputs, feedback.weight, feedback.bias)

    def run() -> list[Tensor]:
        outputs, final = stack(inputs)
        return [outputs, *itertools.chain(*final), stack.unroll(final, feedback, steps=6)]

    with torch.autocast("cpu", torch.bfloat16):
        low = run()
        again = stack(inputs.bfloat16(), [(h.bfloat16(), c) for h, c in make_states(stack, 8, torch.float32)])
    high = run()
    assert all(result.dtype == torch.float32 for result in [*low, *flat(again)])
    assert_same(low, high, 0.03)
    assert not torch.equal(low[0], high[0])  # it did compute in bfloat16
    assert_same(gradients(low, leaves), gradients(high, leaves), 0.05)


def test_meta_device_counts_the_flops_of_the_matrix_products():
    with torch.device("meta"):
        stack = LSTMStack(10, [20, 30])
        inputs = torch.empty(7, 3, 10)
        feedback = Feedback(torch.empty(10, 30), torch.empty(10), 2.0, "tanh")
    with FlopCounterMode(display=False) as forward:
        outputs, final = stack(inputs, None)
    assert outputs.shape == (7, 3, 30)
    assert final[0][1].shape == (3, 20)
    assert outputs.is_meta
    step = 2 * 3 * 4 * (20 * 20 + 30 * 30)  # recurrent products: none at step 1, whose h is zero
    assert forward.get_total_flops() == 7 * 2 * 3 * 4 * (10 * 20 + 20 * 30) + 6 * step
    with FlopCounterMode(display=False) as unroll:
        stack.unroll(final, feedback, steps=7).sum().backward()
    assert unroll.get_total_flops() > 3 * 7 * step
    assert stack.layers[1].weight_hh.grad.is_meta


def test_parameters_and_initial_values():
    torch.manual_seed(0)
    stack = LSTMStack(7, [100, 25], peepholes=True)
    names = ["weight_ih", "weight_hh", "bias", "peephole_i", "peephole_f", "peephole_o"]
    assert [name for name, _ in stack.layers[1].named_parameters()] == names
    shapes = [(100, 100), (100, 25), (100,), (25,), (25,), (25,)]
    assert [tuple(p.shape) for p in stack.layers[1].parameters()] == shapes
    for layer, bound in zip(stack.layers, (0.1, 0.2), strict=True):
        for name in ("weight_ih", "weight_hh", "bias"):
            assert 0.9 * bound < getattr(layer, name).abs().max() <= bound
        assert not torch.stack([layer.peephole_i, layer.peephole_f, layer.peephole_o]).any()
    assert len(list(LSTMStack(7, [4]).parameters())) == 3


STACK = LSTMStack(3, [4, 2])
H4, H2 = torch.zeros(5, 4), torch.zeros(5, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: STACK(torch.zeros(6, 5, 2)), r"inputs must .* shape \(any, any, 3\); not \(6, 5, 2\)"),
        (lambda: STACK(torch.zeros(6, 3)), r"inputs must .* shape \(any, any, 3\); not \(6, 3\)"),
        (lambda: STACK(torch.zeros(0, 5, 3)), r"inputs must .* not \(0, 5, 3\)"),
        (lambda: STACK(torch.zeros(6, 5, 3), steps=4), r"shape \(4, any, 3\); not \(6, 5, 3\)"),
        (lambda: STACK(torch.zeros(6, 5, 3, dtype=torch.uint8)), r"floating point, .* not .* torch.uint8"),
        (
            lambda: STACK(torch.zeros(6, 5, 3, device="meta")),
            r"inputs must be .* on cpu, .* not \(6, 5, 3\) .* on meta",
        ),
        (lambda: STACK(None, [(H4.to("meta"), H4), None], steps=3), r"h of layer 0 .* on cpu, .* not .* on meta"),
        (
            lambda: STACK.unroll([(H4, H4), None], Feedback(torch.zeros(3, 2, device="meta")), steps=3),
            r"feedback weight .* on cpu, .* not .* on meta",
        ),
        (lambda: STACK(None, [(H4, H4), None]), r"steps \(=None\) must be 1 or more"),
        (lambda: STACK(None, [(H4, H4), None], steps=0), r"steps \(=0\) must be 1 or more"),
        (lambda: STACK(None, steps=3), r"must tell the number of sequences; not None for both"),
        (lambda: STACK(None, (H4, H4), steps=3), "one LSTMState per layer: of torch.nn.LSTM's h, c"),
        (lambda: STACK(None, H4, steps=3), "one LSTMState per layer: of torch.nn.LSTM's h, c"),
        (lambda: STACK(None, [(H4, H4)], steps=3), r"states \(of 1 layers\) must be one per layer, 2"),
        (lambda: STACK(None, [(H4, H4), (H4, H2)], steps=3), r"h of layer 1 .* \(5, 2\); not \(5, 4\)"),
        (lambda: STACK(None, [(H4, H4[:3]), None], steps=3), r"c of layer 0 .* \(5, 4\); not \(3, 4\)"),
        (lambda: STACK(torch.zeros(6, 2, 3), [(H4, H4), None]), r"h of layer 0 .* \(2, 4\); not \(5, 4\)"),
        (lambda: STACK.unroll([(H4, H4), None], Feedback(), steps=3), r"h \(=2 wide\) .* inputs \(=3\)"),
        (
            lambda: STACK.unroll([(H4, H4), None], Feedback(torch.zeros(3, 4)), steps=3),
            r"feedback weight .* \(3, 2\); not \(3, 4\)",
        ),
        (
            lambda: STACK.unroll([(H4, H4), None], Feedback(torch.zeros(3, 2), torch.zeros(2)), steps=3),
            r"feedback bias .* \(3,\); not \(2,\)",
        ),
        (
            lambda: STACK.unroll(None, Feedback(torch.zeros(3, 2)), steps=3),
            r"must tell the number of sequences; not None for both",
        ),
        (lambda: STACK.unroll(None, Feedback(torch.zeros(3, 2)), steps=-1), r"steps \(=-1\) must be 1 or"),
        (lambda: Feedback(activation="relu"), r"one of none, tanh, sigmoid; not 'relu'"),
        (lambda: Feedback(bias=torch.zeros(3)), r"bias of shape \(3,\) needs a weight"),
        (lambda: LSTMStack(4, [4], kernel_size=2), r"kernel_size \(=2\), and .* must be odd"),
        (lambda: LSTMStack(4, [4], input_kernel_size=3), r"kernel_size \(=None\), and input_kernel_size \(=3\)"),
        (
            lambda: LSTMStack(4, [4], kernel_size=3, input_kernel_size=0, map_size=(1, 1)),
            r"input_kernel_size \(=0\) beside it, must be odd",
        ),
        (lambda: LSTMStack(4, [4], map_size=(2, 2)), r"must be odd, with a map_size \(=\(2, 2\)\), or all None"),
        (
            lambda: LSTMStack(4, [4], kernel_size=3),
            r"kernel_size \(=3\), .* must be odd, with a map_size \(=None\), or all",
        ),
        (
            lambda: LSTMStack(8, [6], kernel_size=3, map_size=(2, 2)),
            r"must be channels · 2 · 2",
        ),
        (
            lambda: MAPS.unroll(None, Feedback(torch.ones(8, 8)), steps=2),
            r"maps \(of \(2, 2\)\) can feed back h itself only",
        ),
        (lambda: LSTMStack(3, []), r"hidden_sizes \[\], .*: whole numbers, 1 or more each, hidden_sizes a list"),
        (lambda: LSTMStack(3, 4), r"hidden_sizes 4, .*: whole numbers, .* hidden_sizes a list"),  # type: ignore[arg-type]
        (lambda: LSTMStack(3, [4.0]), r"hidden_sizes \[4.0\], .*: whole numbers"),  # type: ignore[list-item]
        (lambda: LSTMStack(4, [4], kernel_size=3, map_size=(0, 2)), r"map_size \(0, 2\): whole numbers, 1 or more"),
        (lambda: LSTMStack(0, [4]), "input_size 0, "),
    ],
)
def test_errors_say_what_is_wrong(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_second_derivatives_are_refused_and_not_zeros(dtype: torch.dtype) -> None:
    stack, inputs = make_stack(5, [3], dtype, peepholes=True), torch.randn(4, 2, 5, dtype=dtype, requires_grad=True)
    top = stack(inputs)[0].sum()
    with pytest.raises(RuntimeError, match="LSTMStack has no second derivatives: leave create_graph out, or use"):
        torch.autograd.grad(top, inputs, create_graph=True)


@pytest.mark.parametrize("recorded", [torch.export.export, torch.jit.trace])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_a_network_with_a_stack_that_is_exported_or_traced_computes_the_same(recorded: Callable) -> None:
    class Top(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stack = make_stack(5, [4, 3], torch.float32)

        def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
            top, states = self.stack(inputs)
            return top, states[0].c

    net, inputs = Top(), torch.randn(6, 2, 5)
    made = recorded(net, (inputs,))
    made = made.module() if recorded is torch.export.export else made
    for one, other in zip(made(inputs), net(inputs), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
