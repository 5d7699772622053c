import math

import pytest
import torch
from torch import nn

from gan.objectives.regularizers import REGULARIZERS, Batch

NO_BATCH = Batch(torch.zeros(1, 1), None, torch.zeros(1, 1), None)


def penalty(name, network, **options):
    return REGULARIZERS.get(name)(**options).penalty(network, NO_BATCH, torch.Generator().manual_seed(0))


def linear(matrix):
    layer = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False)
    layer.weight = nn.Parameter(matrix)
    return layer


def test_orthogonal_penalizes_products_of_different_rows_only():
    assert penalty("orthogonal", linear(torch.diag(torch.tensor([1.0, 5.0, 2.0])))).item() == 0
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert penalty("orthogonal", linear(rows)).item() == pytest.approx(2 * 11**2)


def test_spectral_reg_is_half_of_the_squared_norm():
    network = nn.Sequential(linear(torch.diag(torch.tensor([3.0, 1.0]))), linear(torch.diag(torch.tensor([2.0, 0.5]))))
    assert penalty("spectral_reg", network, iterations=30).item() == pytest.approx((9 + 4) / 2, rel=1e-5)


def test_srip_is_the_squared_norm_of_the_deviation_from_isometry():
    wide = torch.diag(torch.tensor([2.0, 1.0]))
    assert penalty("srip", linear(wide), iterations=30).item() == pytest.approx((4 - 1) ** 2, rel=1e-5)
    assert penalty("srip", linear(torch.eye(5)[:, :3].contiguous())).item() == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (4, 2), (3, 3), (2, 1)])
def test_ocnn_equals_deviation_of_convolution_matrix_from_orthogonality(kernel, stride):
    """The penalty is ||A Aᵀ - I||²_F per output position of the matrix A of a large circular convolution."""
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, kernel, stride=stride, bias=False, dtype=torch.float64)
    side = 12
    positions = torch.arange(side + kernel - 1) % side
    basis = torch.eye(2 * side**2, dtype=torch.float64).view(-1, 2, side, side)[:, :, positions][..., positions]
    matrix = layer(basis)[..., : side // stride, : side // stride].flatten(1).T  # (3 m m, 2 side side)
    deviation = matrix @ matrix.T - torch.eye(len(matrix), dtype=torch.float64)
    expected = deviation.square().sum() / (side // stride) ** 2
    assert penalty("ocnn", layer).item() == pytest.approx(expected.item(), rel=1e-10)


def test_ocnn_of_orthogonal_grouped_convolution_is_zero():
    layer = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, :, 1, 1] = torch.eye(2).repeat(2, 1)
    assert penalty("ocnn", layer).item() == pytest.approx(0, abs=1e-12)


# The authors' code at commit aa7f569 of samaonline/Orthogonal-Convolutional-Neural-Networks, in double precision:
# deconv_orth_dist(W, stride, padding), or orth_dist(W) where no stride is given, of the weight of `sines`.
AUTHORS_OCNN = [  # shape, stride, padding, value
    ((4, 3, 3, 3), 1, 1, 1.8665532667398765),
    ((4, 3, 3, 3), 2, 1, 2.395023356951112),
    ((4, 3, 4, 4), 2, 1, 2.551694590933679),
    ((4, 3, 3, 3), 1, 2, 2.653755590370516),
    ((4, 3, 3, 3), 2, 2, 1.3796561822343334),
    ((4, 3, 4, 4), 2, 2, 3.116452638872226),
    ((6, 4, 1, 1), None, None, 1.4645836524321003),
    ((4, 3, 3, 3), None, None, 0.7141322679957554),
]


def sines(*shape, scale):
    return scale * torch.sin(torch.arange(1.0, math.prod(shape) + 1, dtype=torch.float64).square()).view(shape)


@pytest.mark.parametrize(("shape", "stride", "padding", "value"), AUTHORS_OCNN)
def test_ocnn_equals_the_authors_code(shape, stride, padding, value):
    layer = nn.Conv2d(shape[1], shape[0], shape[2], stride or shape[2], bias=False)
    layer.weight = nn.Parameter(sines(*shape, scale=0.3))
    if padding == 2:  # all shifts
        assert penalty("ocnn", layer).item() == pytest.approx(value**2, rel=1e-6)
    else:
        assert penalty("ocnn", layer, form="code").item() == pytest.approx(value, rel=1e-6)
        assert penalty("ocnn", nn.Sequential(layer, layer, layer), form="code").item() == pytest.approx(value, rel=1e-6)


def test_ocnn_in_the_form_of_the_code_of_a_linear_layer():
    """orth_dist(W) of the authors' code at commit aa7f569."""
    layer = linear(sines(4, 6, scale=0.3))
    assert penalty("ocnn", layer, form="code").item() == pytest.approx(1.516456782389433, rel=1e-6)
    penalty("ocnn", linear(torch.eye(3)), form="code").backward()


@pytest.mark.parametrize(
    ("matrix", "value", "gradient"),
    [
        (sines(12, 4, scale=0.5), 1.0720630895327736, 7.4088690599402245),
        (sines(12, 4, scale=0.5).T, 1.0720630895327736, 7.4088690599402245),
        (sines(6, 6, scale=0.5).T, 0.40421236986541986, 1.4868195166483567),
    ],
    ids=["tall", "wide", "square"],
)
def test_srip_equals_the_authors_code(matrix, value, gradient):
    """The value and the norm of the gradient of `l2_reg_ortho` for the tall or square matrix, without `.T`.

    It is that of Imagenet/resnet/train_n.py, commit 99897ee of VITA-Group/Orthogonality-in-CNNs, in double precision,
    with Torch's seed 0. It uses Wᵀ W for any matrix. The authors' code for Wide ResNets takes the smaller Gram matrix,
    W Wᵀ if both have the same size, but starts from a uniform vector.
    """
    layer = linear(matrix.contiguous())
    result = penalty("srip", layer)
    result.backward()
    assert result.item() == pytest.approx(value, rel=1e-9)
    assert layer.weight.grad.norm().item() == pytest.approx(gradient, rel=1e-9)


def test_orthogonal_has_twice_the_gradient_of_the_authors_code():
    """`ortho` of utils.py, commit 9845943 of ajbrock/BigGAN-PyTorch, with strength 1."""
    layer = nn.Conv2d(2, 4, 3, bias=False)
    layer.weight = nn.Parameter(sines(4, 2, 3, 3, scale=0.3))
    (0.5 * penalty("orthogonal", layer)).backward()
    assert layer.weight.grad.norm().item() == pytest.approx(0.6260512498804783, rel=1e-9)
    expected = torch.tensor([0.015643452400767522, 0.06681269500471113, -0.0489091014484975], dtype=torch.float64)
    torch.testing.assert_close(layer.weight.grad.flatten()[:3], expected)


@pytest.mark.parametrize("name", ["orthogonal", "ocnn", "srip", "spectral_reg"])
def test_networks_that_are_penalized(name):
    D, G = linear(torch.tensor([[1.0, 2.0], [3.0, 4.0]])), linear(torch.tensor([[1.0, 2.0], [3.0, -4.0]]))
    values = [penalty(name, network) for network in (D, G)]
    assert values[0] != values[1]
    for networks in (["discriminator"], ["generator"], ["generator", "discriminator"]):
        regularizer = REGULARIZERS.get(name)(networks=tuple(networks))
        of_G = regularizer.generator_penalty(
            G, NO_BATCH.x_fake, None, NO_BATCH.x_fake, torch.Generator().manual_seed(0)
        )
        of_D = regularizer.penalty(D, NO_BATCH, torch.Generator().manual_seed(0))
        assert of_D == (values[0] if "discriminator" in networks else 0)
        assert of_G == (values[1] if "generator" in networks else None)


@pytest.mark.parametrize("name", ["orthogonal", "ocnn", "srip", "spectral_reg"])
def test_penalty_on_the_generator_is_finite_in_fp16(name):
    """The squares of the products of these rows are above the largest number of half precision."""
    G = linear(torch.randn(4, 512, generator=torch.Generator().manual_seed(0)))
    regularizer, z = REGULARIZERS.get(name)(networks=("generator",)), torch.zeros(1, 1)

    def compute(half: bool) -> list[torch.Tensor]:
        with torch.autocast("cpu", torch.float16, enabled=half):
            penalty = regularizer.generator_penalty(G, z, None, z, torch.Generator().manual_seed(0))
        return [penalty, *torch.autograd.grad(penalty, G.parameters())]

    assert all(map(torch.equal, compute(half=True), compute(half=False)))


def test_no_network_is_an_error():
    with pytest.raises(ValueError, match="networks: name at least one"):
        REGULARIZERS.get("orthogonal")(networks=())


@pytest.mark.parametrize(("name", "expected"), [("orthogonal", 0), ("srip", 0), ("spectral_reg", 0.5 * 2)])
def test_each_group_is_a_separate_matrix(name, expected):
    layer = nn.Conv2d(4, 4, 1, groups=2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2).repeat(2, 1)[:, :, None, None])
    assert penalty(name, layer).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", ["orthogonal", "ocnn", "srip", "spectral_reg"])
def test_gradient_descent_lowers_the_penalty(name):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ConvTranspose2d(4, 2, 4, 2), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    before = penalty(name, network).item()
    for _ in range(20):
        optimizer.zero_grad()
        penalty(name, network).backward()
        optimizer.step()
    assert penalty(name, network).item() < 0.9 * before
    assert math.isfinite(before)
