"""seqae.losses and seqae.metrics against hand-computed values, formulas and scikit-image."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from seqae.losses import activate, binary_cross_entropy, squared_error, training_loss
from seqae.metrics import (
    HISTOGRAM_CENTRES,
    HISTOGRAM_EDGES,
    UNITS,
    frame_errors,
    histogram,
    image_quality,
    preactivation_range,
)
from seqae.objective import Objective

GENERATOR = torch.Generator().manual_seed(6)


def frames(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=GENERATOR)


# ---- losses ----


def test_activations_by_hand() -> None:
    z = torch.tensor([-1.0, 0.0, math.log(3)], dtype=torch.float64)
    assert activate(z, "none").tolist() == z.tolist()
    assert activate(z, "sigmoid").tolist() == pytest.approx([1 / (1 + math.e), 0.5, 0.75])
    assert activate(z, "tanh").tolist() == pytest.approx([(1 - math.e**2) / (1 + math.e**2), 0, 0.8])
    # h lies in (-1, 1), so its sigmoid and tanh never reach black or white
    assert activate(torch.tensor([-1.0, 1.0]), "sigmoid").tolist() == pytest.approx([0.269, 0.731], abs=1e-3)
    assert activate(torch.tensor([-1.0, 1.0]), "tanh").tolist() == pytest.approx([-0.762, 0.762], abs=1e-3)


def test_squared_error_by_hand() -> None:
    # two sequences of two frames of one pixel
    z = torch.tensor([[0.0, 1.0], [2.0, -1.0]]).reshape(2, 2, 1, 1)
    target = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).reshape(2, 2, 1, 1)
    assert squared_error(z, target, activation="none").tolist() == [0.5, 2.5]
    assert squared_error(torch.zeros_like(z), target, activation="sigmoid").tolist() == [0.25, 0.25]


def test_squared_error_on_minus_one_to_one_is_four_times_that_on_zero_to_one() -> None:
    output, target = frames(3, 2, 4, 4), frames(3, 2, 4, 4)
    wide = squared_error(2 * output - 1, 2 * target - 1, activation="none")
    assert torch.allclose(wide, 4 * squared_error(output, target, activation="none"))


def test_cross_entropy_by_hand() -> None:
    z = torch.tensor([math.log(3), -math.log(3)]).reshape(1, 2, 1, 1)  # sigmoid: 3/4, 1/4
    target = torch.tensor([1.0, 0.5]).reshape(1, 2, 1, 1)
    expected = (-math.log(3 / 4) - 0.5 * math.log(1 / 4) - 0.5 * math.log(3 / 4)) / 2
    assert binary_cross_entropy(z, target).tolist() == pytest.approx([expected])


@given(st.floats(-30, 30), st.floats(0, 1))
def test_cross_entropy_is_the_formula(logit: float, target: float) -> None:
    p, q = 1 / (1 + math.exp(-logit)), 1 / (1 + math.exp(logit))
    shaped = [torch.tensor(v, dtype=torch.float64).reshape(1, 1, 1, 1) for v in (logit, target)]
    expected = -(target * math.log(p) + (1 - target) * math.log(q))
    assert binary_cross_entropy(*shaped).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_cross_entropy_is_finite_however_wrong_the_logit() -> None:
    z = torch.tensor([1e4, -1e4]).reshape(1, 2, 1, 1)
    assert binary_cross_entropy(z, torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1)).tolist() == [1e4]


def test_the_training_loss_is_the_one_asked_for() -> None:
    z, target = frames(3, 2, 4, 4), frames(3, 2, 4, 4)
    mse = training_loss(z, target, kind="mse", activation="sigmoid")
    bce = training_loss(z, target, kind="bce", activation="sigmoid")
    assert mse.shape == bce.shape == (3,)  # one value a sequence: the caller averages
    assert torch.equal(mse, squared_error(z, target, activation="sigmoid"))
    assert torch.equal(bce, binary_cross_entropy(z, target))
    assert (bce > mse).all()


def test_unknown_names_list_the_known() -> None:
    z = torch.zeros(1, 1, 1, 1)
    with pytest.raises(ValueError, match="none, tanh, sigmoid; not 'relu'"):
        activate(z, "relu")
    with pytest.raises(ValueError, match="mse, bce; not 'mae'"):
        training_loss(z, z, kind="mae", activation="none")


def test_bce_of_what_is_no_probability_is_refused() -> None:
    z = torch.zeros(1, 1, 1, 1)
    told = r"training_loss bce needs a probability, which activation tanh with pixels in \(0, 1\) does not give: choose"
    with pytest.raises(ValueError, match=told):
        training_loss(z, z, kind="bce", activation="tanh")
    for activation, pixel_range in (("tanh", (0, 1)), ("none", (0, 1)), ("sigmoid", (0, 0.5)), ("sigmoid", (-1, 1))):
        with pytest.raises(ValueError, match=f"needs a probability, which activation {activation} with pixels in"):
            Objective("both", 2, "bce", activation, pixel_range)


# ---- metrics ----


def test_errors_are_per_frame() -> None:
    target = torch.zeros(2, 3, 4, 4)
    output = torch.zeros(2, 3, 4, 4)
    output[1, 2] = 0.5
    output[0, 1, 0, 0] = 2.0  # a linear output may lie outside [0, 1]: counted as it is
    errors = frame_errors(output, target, None)
    assert errors["mse"].tolist() == [[0, 4 / 16, 0], [0, 0, 0.25]]


def test_cross_entropy_is_absent_where_the_output_is_no_probability() -> None:
    z, target = frames(2, 3, 4, 4), frames(2, 3, 4, 4)
    assert [*frame_errors(z, target, None)] == ["mse"]
    errors = frame_errors(z.sigmoid(), target, z)
    p = z.sigmoid().double()
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).mean((2, 3))
    assert errors["bce"].shape == (2, 3)
    assert torch.allclose(errors["bce"].double(), expected, atol=1e-6)


@pytest.mark.parametrize("size", [16, 32, 64])
def test_image_quality_is_scikit_images(size: int) -> None:
    target = frames(2, 3, size, size) ** 4
    output = target + 0.3 * (frames(2, 3, size, size) - 0.4)  # some of it outside [0, 1]
    assert output.min() < 0
    assert output.max() > 1
    quality = image_quality(output, target)
    for b in range(2):
        for t in range(3):
            seen, truth = np.clip(output[b, t].double().numpy(), 0, 1), target[b, t].double().numpy()
            expected = {
                "mae": np.abs(seen - truth).mean(),
                "psnr": peak_signal_noise_ratio(truth, seen, data_range=1),
                "ssim": structural_similarity(
                    truth, seen, data_range=1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
                ),
            }
            assert {k: float(v[b, t]) for k, v in quality.items()} == pytest.approx(expected, abs=1e-4)
            unclipped = frame_errors(output, target, None)["mse"][b, t]
            assert float(unclipped) == pytest.approx(mean_squared_error(output[b, t].numpy(), target[b, t].numpy()))


def bins(*outputs: float) -> list[float]:
    """Shares of a sequence of one frame with these pixels."""
    output = torch.tensor(outputs).reshape(1, 1, 1, -1)
    (shares,) = histogram(output).tolist()
    assert len(shares) == 60
    assert sum(shares) == pytest.approx(1)
    return shares


def test_the_histograms_bins_are_forty_to_the_unit_and_ten_beyond_either_end() -> None:
    assert HISTOGRAM_EDGES.tolist() == pytest.approx([-0.25 + 0.025 * i for i in range(61)], abs=1e-6)
    assert pytest.approx(((HISTOGRAM_EDGES[1:] + HISTOGRAM_EDGES[:-1]) / 2).tolist(), abs=1e-6) == HISTOGRAM_CENTRES


@pytest.mark.parametrize(
    ("output", "where"),
    [
        (0.0, 10), (0.0249, 10), (0.0251, 11), (-0.001, 9), (0.51, 30), (0.999, 49), (1.0, 50), (1.24, 59),
        (-0.24, 0), (-0.25, 0), (1.25, 59), (-7.0, 0), (7.0, 59),
        (-1e20, 0), (1e20, 59), (-math.inf, 0), (math.inf, 59),
    ],
)  # fmt: skip
def test_a_pixel_is_counted_in_its_bin_and_beyond_them_in_the_last(output: float, where: int) -> None:
    shares = bins(output)
    assert [i for i, share in enumerate(shares) if share] == [where]


def test_shares_by_hand() -> None:
    shares = bins(0.0, 0.01, 0.3, 1.0, -3.0)
    assert {i: share for i, share in enumerate(shares) if share} == pytest.approx({10: 0.4, 22: 0.2, 50: 0.2, 0: 0.2})


def test_shares_of_more_pixels_than_float32_counts() -> None:
    shares = histogram(torch.zeros(()).expand(1, 2**24 + 2**20))[0]
    assert shares.sum() == 1


def test_no_number_at_all_has_a_share_as_well() -> None:
    shares = bins(math.nan, math.nan, math.nan, 0.51)
    assert {i: share for i, share in enumerate(shares) if share} == {0: 0.75, 30: 0.25}


def test_each_sequence_has_its_own_statistics() -> None:
    output, z = frames(3, 2, 4, 5), 10 * frames(3, 2, 4, 5) - 5
    found = preactivation_range(z)
    assert {*found} == {"preactivation_min", "preactivation_max"}
    for b in range(3):
        counts, _ = np.histogram(output[b].double(), np.linspace(-0.25, 1.25, 61))
        assert histogram(output)[b].tolist() == pytest.approx(counts / 40)
        for t in range(2):
            ends = found["preactivation_min"][b, t], found["preactivation_max"][b, t]
            assert [float(end) for end in ends] == [float(z[b, t].min()), float(z[b, t].max())]


@pytest.mark.parametrize("shape", [(10, 40), (40, 10)])
def test_ssim_is_absent_where_its_window_does_not_fit(shape: tuple[int, int]) -> None:
    output, target = torch.rand(2, 2, 3, *shape)
    assert {*image_quality(output, target)} == {"mae", "psnr"}
    assert {*image_quality(torch.rand(2, 3, 11, 12), torch.rand(2, 3, 11, 12))} == {"mae", "psnr", "ssim"}


def test_image_quality_of_the_truth_itself() -> None:
    target = frames(1, 2, 16, 16)
    quality = {key: value.tolist() for key, value in image_quality(target, target).items()}
    assert quality["mae"] == [[0, 0]]
    assert quality["psnr"] == [pytest.approx([100, 100])]  # finite: no infinity in a table
    assert quality["ssim"] == [pytest.approx([1, 1])]


def test_every_metric_has_a_unit() -> None:
    z, target = frames(1, 1, 16, 16), frames(1, 1, 16, 16)
    measured = frame_errors(z.sigmoid(), target, z) | image_quality(z.sigmoid(), target)
    assert {*measured} == {*UNITS}
    assert all(UNITS.values())
    assert all(value.shape == (1, 1) for value in measured.values())
