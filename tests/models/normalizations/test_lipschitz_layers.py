"""The normalizations whose layers have a norm of at most 1: aol, cayley, orthogonal_conv, soc."""

import copy
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metrics.lipschitz.certificate import certified_bound
from models import DISCRIMINATORS, ImageShape, build_discriminator
from models.normalizations import build_normalization, normalize

NAMES = ["aol", "cayley", "orthogonal_conv", "soc"]
names = pytest.mark.parametrize("name", NAMES)


def circular(make, *arguments, **options):
    return lambda: make(*arguments, padding_mode="circular", **options)


# Layers with the size of a map of which the stride is a divisor. With circular padding, orthogonal ones are isometries,
# or the transposes of isometries.
CIRCULAR = {
    "square": (circular(nn.Conv2d, 4, 4, 3, 1, 1), (6, 5)),
    "up": (circular(nn.Conv2d, 4, 6, 3, 1, 1), (6, 6)),
    "down": (circular(nn.Conv2d, 6, 4, 3, 1, 1), (6, 6)),
    "one_channel": (circular(nn.Conv2d, 1, 5, 3, 1, 1), (6, 6)),
    "even": (circular(nn.Conv2d, 3, 3, 4, padding="same"), (6, 6)),
    "strided": (circular(nn.Conv2d, 4, 6, 4, 2, 1), (8, 6)),
    "strided_up": (circular(nn.Conv2d, 2, 12, 4, 2, 1), (8, 8)),
    "strided_one_channel": (circular(nn.Conv2d, 1, 9, 4, 2, 1), (8, 8)),
    "strided_odd": (circular(nn.Conv2d, 4, 6, 5, 2, 2, groups=2), (8, 8)),
    "rectangular": (circular(nn.Conv2d, 6, 4, (3, 5), (3, 1), (0, 2)), (9, 6)),
    "dilated": (circular(nn.Conv2d, 4, 6, 3, 2, 3, dilation=3), (12, 12)),
    "dilated_1d": (circular(nn.Conv1d, 2, 4, 4, 3, 2, dilation=2), (9,)),
    "1x1": (circular(nn.Conv2d, 5, 3, 1), (4, 4)),
    "1d": (circular(nn.Conv1d, 4, 6, 4, 2, 1), (8,)),
    "3d": (circular(nn.Conv3d, 2, 3, 3, 1, 1), (4, 4, 3)),
    "linear": (lambda: nn.Linear(5, 5), ()),
    "linear_wide": (lambda: nn.Linear(6, 4), ()),
    "linear_tall": (lambda: nn.Linear(3, 8), ()),
    "head": (lambda: nn.Linear(6, 1), ()),
}
ZEROS = {
    "odd": (lambda: nn.Conv2d(4, 6, 3, padding=1), (5, 5)),
    "strided_zeros": (lambda: nn.Conv2d(4, 6, 4, 2, 1, groups=2), (7, 8)),
    "1x1_strided": (lambda: nn.Conv2d(4, 6, 1, 2), (5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 4, 2, 1), (4, 4)),
    "transposed_grouped": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2, dilation=3), (3, 4)),
    "transposed_down": (lambda: nn.ConvTranspose1d(6, 4, 3), (5,)),
}


def singular_values(name, make, size, dense_matrix):
    torch.manual_seed(0)
    layer = make().double()
    nn.init.normal_(layer.weight, std=0.02)
    channels = layer.weight.shape[1] if isinstance(layer, nn.Linear) else layer.in_channels
    if name in ("cayley", "soc") and (
        isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d) or max(getattr(layer, "dilation", (1,))) > 1
    ):
        with pytest.raises(ValueError, match=rf"{name} accepts|it is dilated"):
            normalize(layer, name)
        pytest.skip("transposed and dilated convolutions are not accepted")
    return torch.linalg.svdvals(dense_matrix(normalize(layer, name), (channels, *size)))


@pytest.mark.parametrize("name", ["cayley", "orthogonal_conv", "soc"])
@pytest.mark.parametrize(("make", "size"), CIRCULAR.values(), ids=CIRCULAR)
def test_orthogonal_convolutions_are_orthogonal(name, make, size, dense_matrix):
    values = singular_values(name, make, size, dense_matrix)
    torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("name", "kind"), [*itertools.product(["aol"], CIRCULAR), *itertools.product(NAMES, ZEROS)])
def test_norms_are_at_most_one(name, kind, dense_matrix):
    largest = singular_values(name, *(CIRCULAR | ZEROS)[kind], dense_matrix)[0]
    assert 0.3 < largest < 1 + 1e-6


@pytest.mark.parametrize("make", [circular(nn.Conv2d, 2, 8, 4, 2, 1), lambda: nn.Linear(4, 6)], ids=["conv", "linear"])
def test_aol_does_not_change_orthogonal_columns(make):
    torch.manual_seed(0)
    layer = make().double()
    layer.weight.data.copy_(normalize(make().double(), "orthogonal_conv").weight)
    expected = layer.weight.detach().clone()
    torch.testing.assert_close(normalize(layer, "aol").weight, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "kind",
    [
        *("square", "strided", "dilated_1d", "1d", "linear_wide"),
        *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("strided_odd", "dilated")),
    ],
)
def test_aol_equals_its_formula_for_the_matrix_of_the_layer(kind, dense_matrix):
    make, size = CIRCULAR[kind]
    torch.manual_seed(0)
    layer, size = make().double(), tuple(3 * n for n in size)  # on a large map, different lags have different pixels
    shape = (layer.in_features,) if kind == "linear_wide" else (layer.in_channels, *size)
    matrix = dense_matrix(layer, shape)
    expected = matrix / (matrix.T @ matrix).abs().sum(dim=0).sqrt()
    torch.testing.assert_close(dense_matrix(normalize(layer, "aol"), shape), expected)


# The entries at the first tap and the norm of the normalized weights, for W = 0.3 sin(1²), 0.3 sin(2²), ..., in double
# precision: `AOLConv2DRescaling` of berndprach/1LipschitzLayersCompared, commit 01e3f2a.
AUTHORS_AOL = {
    (4, 3, 3, 3): ([0.08002411558882609, -0.049878934835581874, 0.025304005469106428], 0.6921135724053744),
    (3, 5, 2, 2): ([0.12355267375708114, -0.018986749412982912, -0.09683564809309772], 0.81548741244281),
    (6, 4, 1, 1): ([0.40065282828016835, -0.3272361498089051, 0.15088403127985753], 1.4621012012413375),
}
# The first taps from input 2 to output 1 of the kernels of `BCOPTrivializer` for the projections of the same weights
# and, for a stride of 2, of its composition with the s x s kernel by `fast_matrix_conv`: thib-s/orthogonium, commit
# 0181e69.
AUTHORS_ORTHOGONAL = {
    (6, 6, 3, 1): [-0.1315134917234179, -0.057901233522606316],
    (8, 6, 3, 1): [0.02325406670645322, 0.07370190741240795],
    (6, 8, 3, 1): [-0.055095033323604985, -0.25528433758228347],
    (6, 6, 2, 1): [-0.2154798228527147, 0.1493756371571954],
    (6, 4, 4, 2): [0.013156090287385703, -0.011352777867092625],
    (12, 4, 3, 2): [0.1681822224745963, 0.022991811973164758],
    (12, 6, 4, 2): [0.005638443341046339, -0.024827797781685743],
}


# The first entries of the output of `CayleyConv` for the same weights, an input sin(1²), sin(2²), ... and no bias:
# locuslab/orthogonal-convolutions, commit 543b0aa.
AUTHORS_CAYLEY = {
    (4, 4, 3, 6): [1.0508040286317846, 0.2293044358767789, 0.6691576261395318],
    (4, 6, 3, 6): [-0.353532592362908, 0.7209135568546106, 0.6874767561645172],
    (3, 2, 5, 8): [-0.46066206886182987, -0.3033697727095221, -0.6155936203510817],
}
# The same by outputs, inputs, kernel size, stride, side of the map and terms, for `SOC` with a weight of zeros beyond
# the phases of these weights: singlasahil14/SOC, commit 561c7ac. Its kernel at a stride of 2 has half the size.
AUTHORS_SOC = {
    (4, 4, 3, 1, 6, 12): [0.6564458718473587, -0.8996191091597608, 0.29125475041652477],
    (4, 4, 3, 1, 6, 5): [0.6559618465369782, -0.8991526599736294, 0.2905675152071271],
    (3, 5, 3, 1, 6, 12): [0.46481667719961833, -0.7890161997354612, 0.2836779552232007],
    (8, 2, 6, 2, 8, 12): [1.0650768732922895, -0.0067862571879797814, -0.11446047830109086],
    (3, 2, 6, 2, 8, 12): [0.751492304859544, 0.3632156700246251, -0.3846719088524041],
    (4, 3, 1, 1, 4, 12): [1.1403048174254713, -0.7149359043631826, 0.2622537417194643],
}


def weight_of_sines(name, outputs, inputs, kernel, stride=1):
    conv = nn.Conv2d(inputs, outputs, kernel, stride).double()
    conv.weight.data.copy_(0.3 * sines(conv.weight.shape))
    return normalize(conv, name).weight.detach()


def sines(shape):
    return torch.arange(1.0, torch.Size(shape).numel() + 1, dtype=torch.float64).square().sin().view(shape)


@pytest.mark.parametrize(("shape", "expected"), AUTHORS_AOL.items(), ids=str)
def test_aol_equals_the_authors_code(shape, expected):
    weight = weight_of_sines("aol", *shape[:3])
    assert weight[0, :3, 0, 0].tolist() == pytest.approx(expected[0], rel=1e-5)
    assert weight.norm().item() == pytest.approx(expected[1], rel=1e-5)


@pytest.mark.parametrize(("shape", "expected"), AUTHORS_ORTHOGONAL.items(), ids=str)
def test_orthogonal_kernels_equal_the_authors_code(shape, expected):
    weight = weight_of_sines("orthogonal_conv", *shape)
    assert weight[1, 2].flatten()[:2].tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("shape", "expected"), AUTHORS_CAYLEY.items(), ids=str)
def test_cayley_equals_the_authors_code(shape, expected):
    outputs, inputs, kernel, side = shape
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, padding_mode="circular").double()
    conv.weight.data.copy_(0.3 * sines(conv.weight.shape))
    y = normalize(conv, "cayley")(sines((1, inputs, side, side)))
    assert y[0, 0, 0, :3].tolist() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("case", "expected"), AUTHORS_SOC.items(), ids=str)
def test_soc_equals_the_authors_code(case, expected):
    outputs, inputs, kernel, stride, side, terms = case
    conv = nn.Conv2d(inputs, outputs, kernel, stride, (kernel - stride) // 2, bias=False).double()
    conv.weight.data.copy_(0.3 * sines(conv.weight.shape))
    y = normalize(conv, build_normalization("soc", terms=terms))(sines((1, inputs, side, side)))
    assert y[0, 0, 0, :3].tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("terms", [1, 3, 5, 12])
def test_singular_values_of_soc_are_those_of_its_series(terms, mode, dense_matrix):
    """With one term, the layer is I + S. The eigenvalues of S are i θ."""
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 3, 3, padding=1, padding_mode=mode).double()
    shape = (3, 5, 4)
    exponential = normalize(copy.deepcopy(conv), build_normalization("soc", terms=terms)).eval()
    skew = dense_matrix(normalize(conv, build_normalization("soc", terms=1)).eval(), shape) - torch.eye(60)
    torch.testing.assert_close(skew, -skew.T)
    theta = torch.linalg.eigvalsh(1j * skew)
    series = sum((1j * theta) ** i / math.factorial(i) for i in range(terms + 1)).abs()
    values = torch.linalg.svdvals(dense_matrix(exponential, shape))
    torch.testing.assert_close(values, series.sort(descending=True).values)
    bound = certified_bound(exponential, shape)
    assert max(values[0] - 1e-9, 1) <= bound
    assert terms < 12 or bound < 1 + 1e-6


# Padding of a convolution, that of the map in its place, and where the output begins in that of zero padding by 1.
PADDINGS = {
    "none": ({"padding": 0}, (0, 0), {}, 1),
    "wide": ({"padding": 3}, (2, 2), {}, 0),
    "reflect": ({"padding": 1, "padding_mode": "reflect"}, (1, 1), {"mode": "reflect"}, 1),
    "circular_valid": ({"padding": 0, "padding_mode": "circular"}, (0, 0), {}, 1),
}


@pytest.mark.parametrize(("options", "sides", "mode", "first"), PADDINGS.values(), ids=PADDINGS)
def test_soc_with_any_padding_is_a_part_of_that_of_a_padded_map(options, sides, mode, first, dense_matrix):
    torch.manual_seed(0)
    layer, plain = nn.Conv2d(2, 3, 3, **options).double(), nn.Conv2d(2, 3, 3, padding=1).double()
    plain.load_state_dict(layer.state_dict())
    layer, plain = normalize(layer, "soc").eval(), normalize(plain, "soc").eval()
    x = torch.randn(2, 2, 6, 7).double()
    y = layer(x)
    padded = plain(F.pad(x, (*sides, *sides), **mode))
    torch.testing.assert_close(y, padded[:, :, first : first + y.shape[2], first : first + y.shape[3]])
    norm = torch.linalg.matrix_norm(dense_matrix(layer, (2, 6, 7)), 2)
    assert norm < certified_bound(layer, (2, 6, 7)) < 2.001
    assert (norm > 1.1) == (mode != {})


def test_soc_with_a_stride_begins_its_phases_at_the_first_pixel():
    torch.manual_seed(0)
    layer, plain = (nn.Conv1d(2, 3, 4, 2, 1, padding_mode=mode).double() for mode in ("reflect", "zeros"))
    plain.load_state_dict(layer.state_dict())
    layer, plain = normalize(layer, "soc").eval(), normalize(plain, "soc").eval()
    x = torch.randn(2, 2, 8).double()
    padded = F.pad(F.pad(x, (1, 1), mode="reflect"), (1, 0))
    torch.testing.assert_close(layer(x), plain(padded)[:, :, 1:])


def test_soc_computes_the_singular_vectors_of_an_assigned_weight():
    torch.manual_seed(0)
    layer, weight = normalize(nn.Conv2d(4, 4, 3, padding=1), "soc").eval(), nn.Conv2d(4, 4, 3).weight
    layer.weight = nn.Parameter(3 * weight.detach())
    assert certified_bound(layer, (4, 6, 6)) < 1.001
    bare = nn.Conv2d(4, 4, 3, padding=1)
    bare.load_state_dict(layer.conv.state_dict())
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(layer(x), normalize(bare, "soc").eval()(x))


@names
@pytest.mark.parametrize("activation", ["default", "maxmin"])
def test_certified_bound_of_a_discriminator_is_one(name, activation):
    """DCGAN is a chain of convolutions, activations and a linear layer."""
    torch.manual_seed(0)
    options = {"width": 4, "activation": activation, "normalization": build_normalization(name)}
    D = build_discriminator(DISCRIMINATORS.get("dcgan")(**options), ImageShape(3, 16))
    optimizer = torch.optim.Adam(D.parameters(), lr=1e-2)
    for step in range(4):
        if step in (0, 3):
            bound = certified_bound(D, (3, 16, 16))
            assert (0.01 if name == "aol" else 0.9999) < bound < 1.0001
        optimizer.zero_grad()
        D(torch.randn(4, 3, 16, 16)).sum().backward()
        optimizer.step()


@names
def test_certified_bound_of_a_layer_is_one(name):
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 3, padding=1)
    nn.init.dirac_(layer.weight)
    layer.weight.data += 1e-4 * torch.randn_like(layer.weight)
    assert 0.99 < certified_bound(normalize(layer, name), (8, 8, 8)) < 1.0001


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: nn.Conv2d(4, 6, 3, 2, dilation=2), "common divisor"),
        (lambda: nn.Conv2d(4, 4, 3, groups=4), "one channel to one"),
        (lambda: nn.Linear(1, 1), "one channel to one"),
    ],
)
def test_kernels_that_cannot_be_orthogonal_are_refused(make, reason):
    with pytest.raises(ValueError, match=rf"orthogonal_conv cannot normalize .*{reason}"):
        normalize(make(), "orthogonal_conv")


def test_small_singular_values_become_one():
    torch.manual_seed(0)
    rows, columns = (torch.linalg.qr(torch.randn(n, n)).Q for n in (64, 128))
    layer = nn.Linear(128, 64)
    layer.weight.data.copy_(rows @ torch.diag(torch.tensor([1.0] * 63 + [4e-3])) @ columns[:64])
    values = torch.linalg.svdvals(normalize(layer, "orthogonal_conv").weight)
    torch.testing.assert_close(values, torch.ones(64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 4])
def test_orthogonal_kernels_of_ill_conditioned_weights_have_norms_of_at_most_one(kernel, dense_matrix):
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, kernel, padding=1)
    layer.weight.data[:, 1] = layer.weight[:, 0] * (1 + 1e-7)
    layer.weight.data[:3] *= 1e-6
    values = torch.linalg.svdvals(dense_matrix(normalize(layer, "orthogonal_conv").double(), (4, 5, 5)))
    assert 0.5 < values[0] < 1 + 1e-6
