"""Transformations equal independent references, depend on image and seed alone, and say what their gradient is."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch.nn import functional as F

from lipcert.defenses import JPEG, BitDepth, GaussianSmoothing, MedianFilter, Resample, TotalVariation, Transformation
from lipcert.defenses.base import rounded_softly, with_gradient_of
from lipcert.defenses.total_variation import minimize_total_variation, total_variation_objective
from lipcert.errors import InputError

CASES = {
    "jpeg": JPEG(50),
    "jpeg-444": JPEG(20, subsampling="4:4:4"),
    "total-variation": TotalVariation(0.1, iterations=10),
    "bit-depth": BitDepth(3),
    "median-2": MedianFilter(2),
    "median-3": MedianFilter(3),
    "resample": Resample(0.5),
    "gaussian": GaussianSmoothing(1.0),
}


@pytest.fixture(params=CASES)
def transformation(request) -> Transformation:
    return CASES[request.param]


def images(*shape, seed=0, smooth=False):
    generator = torch.Generator().manual_seed(seed)
    if not smooth:
        return torch.rand(*shape, generator=generator)
    coarse = torch.rand(*shape[:2], 4, 4, generator=generator)
    return F.interpolate(coarse, size=shape[2:], mode="bicubic").clamp(0, 1)


def by_pillow(levels, quality, subsampling):
    def one(image):
        grey = len(image) == 1
        picture = Image.fromarray((image[0] if grey else image.permute(1, 2, 0)).to(torch.uint8).numpy())
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=quality, **({} if grey else {"subsampling": subsampling}))
        read = torch.from_numpy(np.array(Image.open(file)))
        return read[None] if grey else read.permute(2, 0, 1)

    return torch.stack([one(image) for image in levels]).float()


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (33, 47), (5, 7), (9, 3), (1, 1), (64, 17)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("quality", [1, 10, 50, 75, 95, 100])
def test_jpeg_is_pillows_to_the_bit(quality, channels, size):
    for smooth in (False, True):
        inputs = images(2, channels, *size, smooth=smooth)
        for subsampling in ("4:2:0", "4:4:4") if channels == 3 else ("4:2:0",):
            found = JPEG(quality, subsampling=subsampling)(inputs)
            assert torch.equal(found, by_pillow((inputs * 255).round(), quality, subsampling) / 255)


@pytest.mark.parametrize("channels", [1, 3])
def test_large_images_take_another_way_to_the_same_result(channels, monkeypatch):
    inputs = images(3, channels, 101, 99, smooth=True)
    for subsampling in ("4:2:0", "4:4:4"):
        jpeg = JPEG(60, subsampling=subsampling)
        with monkeypatch.context() as patch:
            patch.setattr("lipcert.defenses.jpeg_codec._by_pillow_", None)
            patch.setattr("lipcert.defenses.jpeg_codec.LARGE", 10**9)
            native = jpeg(inputs)
        assert torch.equal(jpeg(inputs), native)
        assert torch.equal(native, by_pillow((inputs * 255).round(), 60, subsampling) / 255)


def test_jpeg_rounds_to_8_bits_and_does_not_truncate():
    assert JPEG(100)(torch.full((1, 1, 8, 8), 0.999)).unique().tolist() == [1.0]


def test_halving_the_resolution_of_colours_costs_colour_and_not_brightness():
    grey = images(1, 1, 16, 16).expand(1, 3, 16, 16)
    halved, full = (JPEG(100, subsampling=which) for which in ("4:2:0", "4:4:4"))
    assert torch.equal(halved(grey), full(grey))
    stripes = torch.zeros(1, 3, 16, 16)
    stripes[:, 0, :, ::2] = 1
    assert (full(stripes) - stripes).abs().mean() < 0.02
    assert (halved(stripes) - stripes).abs().mean() > 0.1


def test_the_stand_in_of_jpeg_with_hard_rounding_is_jpeg_up_to_its_own_rounding(monkeypatch):
    monkeypatch.setattr("lipcert.defenses.jpeg.rounded_softly", torch.round)
    for channels in (1, 3):
        inputs = (images(4, channels, 24, 20, smooth=True) * 255).round() / 255
        for subsampling in ("4:2:0", "4:4:4"):
            jpeg = JPEG(50, subsampling=subsampling)
            difference = (jpeg.surrogate(inputs) - jpeg(inputs)).abs().mean()
            # colours are rounded to 8 bits on the way, which tips some coefficients over
            assert difference < (0.6 / 255 if channels == 1 else 0.3 * (jpeg(inputs) - inputs).abs().mean())


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_median_is_scipys(size):
    inputs = images(2, 3, 9, 11)
    expected = ndimage.median_filter(inputs.numpy(), size=(1, 1, size, size), mode="reflect")
    assert np.array_equal(MedianFilter(size)(inputs).numpy(), expected)


def test_median_window_may_be_larger_than_the_image():
    inputs = images(1, 1, 2, 3)
    expected = ndimage.median_filter(inputs.numpy(), size=(1, 1, 7, 7), mode="reflect")
    assert np.array_equal(MedianFilter(7)(inputs).numpy(), expected)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_gaussian_is_scipys(sigma):
    inputs = images(2, 3, 9, 11)
    expected = ndimage.gaussian_filter(inputs.numpy(), (0, 0, sigma, sigma), mode="reflect")
    assert np.abs(GaussianSmoothing(sigma)(inputs).numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("factor", [0.5, 0.3])
def test_resampling_is_pillows(factor):
    inputs = images(2, 2, 13, 17)
    small = (round(17 * factor), round(13 * factor))
    for image, found in zip(inputs.flatten(0, 1), Resample(factor)(inputs).flatten(0, 1), strict=True):
        picture = Image.fromarray(image.numpy()).resize(small, Image.Resampling.BILINEAR)
        expected = np.asarray(picture.resize((17, 13), Image.Resampling.BILINEAR))
        assert np.abs(found.numpy() - expected).max() < 1e-6


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_bit_depth_is_numpys_rounding(bits):
    inputs, steps = images(2, 1, 5, 5), 2**bits - 1
    assert np.allclose(BitDepth(bits)(inputs).numpy(), np.rint(inputs.numpy() * steps) / steps, atol=1e-7)


def least_variation(inputs, mask, strength):
    """A direct optimiser of the smoothed objective, one image: L-BFGS down to ever less smoothing."""
    found = inputs.double().clone().requires_grad_()
    smallest = math.inf
    for smoothing in (1e-2, 1e-4, 1e-6, 1e-8):
        optimizer = torch.optim.LBFGS([found], max_iter=400, line_search_fn="strong_wolfe", tolerance_grad=1e-9)

        def closure(smoothing=smoothing, optimizer=optimizer):
            optimizer.zero_grad()
            misfit = (((found - inputs.double()) * mask).square().sum((2, 3)) + smoothing**2).sqrt()
            rows = (found.diff(dim=2).square().sum(3) + smoothing**2).sqrt().sum(2)
            columns = (found.diff(dim=3).square().sum(2) + smoothing**2).sqrt().sum(2)
            value = (misfit + strength * (rows + columns)).sum()
            value.backward()
            return value

        optimizer.step(closure)
        value = total_variation_objective(found.detach(), inputs.double(), mask, strength=strength).item()
        smallest = min(smallest, value)
    return smallest


@pytest.mark.parametrize(("strength", "keep"), [(0.03, 0.5), (0.1, 0.7), (0.5, 0.3)])
def test_total_variation_comes_as_low_as_a_direct_optimiser(strength, keep):
    inputs = (images(1, 2, 12, 10, smooth=True) + 0.1 * images(1, 2, 12, 10)).clamp(0, 1)
    mask = torch.rand(inputs.shape, generator=torch.Generator().manual_seed(1)) < keep

    def reached(iterations):
        found = minimize_total_variation(inputs.double(), mask, strength=strength, iterations=iterations)
        return total_variation_objective(found, inputs.double(), mask, strength=strength).item()

    direct = least_variation(inputs, mask, strength)
    assert reached(1000) <= direct * (1 + 1e-4)
    assert reached(1000) >= direct * (1 - 2e-2)
    assert reached(30) <= direct * 1.05
    assert direct < 0.95 * total_variation_objective(inputs.double(), inputs.double(), mask, strength=strength).item()


def test_total_variation_treats_rows_and_columns_alike_and_channels_apart():
    inputs = images(2, 3, 12, 9)
    mask = inputs > 0.3
    found = minimize_total_variation(inputs, mask, strength=0.1, iterations=30)
    turned = minimize_total_variation(inputs.mT.contiguous(), mask.mT, strength=0.1, iterations=30)
    assert torch.allclose(turned.mT, found, atol=1e-5)
    alone = minimize_total_variation(inputs[1:, 2:], mask[1:, 2:], strength=0.1, iterations=30)
    assert torch.allclose(alone, found[1:, 2:], atol=1e-5)


def test_masks_keep_the_share_they_should_and_depend_on_image_seed_and_draw():
    inputs = images(50, 1, 20, 20)
    kept = TotalVariation(keep=0.3, seed=1).mask(inputs)
    assert kept.float().mean().item() == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / inputs.numel()))
    for other in (TotalVariation(keep=0.3, seed=2).mask(inputs), TotalVariation(keep=0.3, seed=1).mask(inputs, 1)):
        assert (kept == other).float().mean().item() == pytest.approx(0.58, abs=0.02)
    assert (kept[0] == kept[1]).float().mean() < 0.8
    assert torch.equal(TotalVariation(keep=0.3, seed=1).mask(inputs.double()), kept)


def test_an_image_does_not_depend_on_its_company(transformation):
    inputs = images(5, 3, 16, 16)
    together = transformation(inputs)
    assert torch.allclose(transformation(inputs[3:4]), together[3:4], atol=1e-6)
    assert torch.allclose(transformation(inputs.flip(0)).flip(0), together, atol=1e-6)
    assert torch.equal(transformation(inputs), together)


def test_outputs_are_images_of_the_same_type_and_inputs_are_left_alone(transformation):
    for dtype in (torch.float32, torch.float64):
        inputs = images(2, 3, 16, 12).to(dtype)
        before = inputs.clone()
        outputs = transformation(inputs)
        assert outputs.dtype == dtype
        assert outputs.shape == inputs.shape
        assert outputs.min() >= 0
        assert outputs.max() <= 1
        assert torch.equal(inputs, before)


def with_gradient(transformation, gradient):
    settings = {name: value for name, value in vars(transformation).items() if name[0] != "_" and name != "training"}
    return type(transformation)(**{**settings, "gradient": gradient})


def test_the_choice_of_gradient_changes_no_output(transformation):
    inputs = images(2, 3, 16, 16).requires_grad_()
    expected = transformation(inputs.detach())
    for gradient in type(transformation).gradients:
        assert torch.equal(with_gradient(transformation, gradient)(inputs), expected)


def test_straight_through_is_the_identitys_gradient(transformation):
    inputs = images(2, 3, 16, 16).requires_grad_()
    weights = images(2, 3, 16, 16, seed=1)
    outputs = with_gradient(transformation, "straight-through")(inputs)
    assert torch.equal(torch.autograd.grad((outputs * weights).sum(), inputs)[0], weights)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "exact" in case.gradients])
def test_the_exact_gradient_is_that_of_finite_differences(name):
    case = with_gradient(CASES[name], "exact")
    inputs = images(1, 2, 6, 6).double() * 0.8 + 0.1
    if isinstance(case, TotalVariation):  # a step would be a new draw
        mask = case.mask(inputs)

        def function(points):
            return minimize_total_variation(points, mask, strength=0.1, iterations=10)
    else:
        function = case
    assert torch.autograd.gradcheck(function, inputs.requires_grad_(), eps=1e-7, atol=1e-5)


def test_the_smooth_gradient_is_that_of_the_surrogate():
    for case in (JPEG(50, gradient="differentiable"), BitDepth(3, gradient="differentiable")):
        inputs = images(1, 3, 8, 8).double().requires_grad_()
        weights = images(1, 3, 8, 8, seed=1).double()
        expected = torch.autograd.grad((case.surrogate(inputs) * weights).sum(), inputs)[0]
        assert torch.equal(torch.autograd.grad((case(inputs) * weights).sum(), inputs)[0], expected)
        assert expected.abs().sum() > 0


def test_an_image_of_one_colour_has_a_gradient_that_is_a_number():
    inputs = torch.full((1, 1, 8, 8), 0.5, requires_grad=True)
    for case in (TotalVariation(gradient="exact"), MedianFilter(3), JPEG(gradient="differentiable")):
        assert torch.autograd.grad(case(inputs).sum(), inputs)[0].isfinite().all()


def test_soft_rounding_is_smooth_and_flat_at_whole_numbers():
    numbers = torch.tensor([1.0, 0.5 - 1e-9, 0.5 + 1e-9], dtype=torch.float64, requires_grad=True)
    slopes = torch.autograd.grad(rounded_softly(numbers).sum(), numbers)[0]
    assert slopes.tolist() == pytest.approx([0.0, 0.75, 0.75])
    rounded = rounded_softly(numbers.detach())
    assert rounded[1].item() == pytest.approx(0.125)
    assert with_gradient_of(numbers, rounded).equal(rounded)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: JPEG(0), "expected quality from 1 to 100, got 0"),
        (lambda: JPEG(101), "expected quality from 1 to 100, got 101"),
        (lambda: JPEG(subsampling="4:1:1"), "expected subsampling among 4:2:0, 4:4:4, got '4:1:1'"),
        (lambda: JPEG(gradient="exact"), "expected gradient 'straight-through' or 'differentiable' for JPEG, got 'ex"),
        (lambda: BitDepth(0), "expected bits from 1 to 16, got 0"),
        (lambda: MedianFilter(1), "expected size >= 2, got 1"),
        (lambda: MedianFilter(gradient="differentiable"), "expected gradient 'exact' or 'straight-through' for Med"),
        (lambda: Resample(1.0), "expected 0 < factor < 1, got 1"),
        (lambda: GaussianSmoothing(0.0), "expected a finite sigma > 0, got 0"),
        (lambda: TotalVariation(-1.0), "expected a finite strength > 0, got -1"),
        (lambda: TotalVariation(keep=0.0), "expected 0 < keep <= 1, got 0"),
        (lambda: TotalVariation(iterations=0), "expected iterations >= 1, got 0"),
        (lambda: BitDepth()(255 * torch.rand(1, 1, 4, 4)), r"expected inputs in \[0, 1\], got values from"),
        (lambda: BitDepth()(torch.rand(4, 4)), r"expected inputs \(N, C, H, W\), got shape \(4, 4\)"),
        (lambda: BitDepth()(torch.ones(1, 1, 4, 4, dtype=torch.uint8)), "expected floating-point inputs, got"),
        (lambda: BitDepth()(torch.full((1, 1, 2, 2), torch.nan)), "expected finite inputs, got nan or infinity"),
    ],
)
def test_bad_input_is_one_clear_error(build, message):
    with pytest.raises(InputError, match=message):
        build()
