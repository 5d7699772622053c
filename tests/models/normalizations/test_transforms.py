"""Normalizations under torch.func, tracers, meta device, inference mode and DDP: each works, or says that it cannot."""

import copy
import functools

import pytest
import torch
import torch.distributed as dist
from torch import fx, nn
from torch.func import functional_call, grad, jvp, stack_module_state, vmap
from torch.nn.parallel import DistributedDataParallel

from models.kernels import Conv2d
from models.normalizations import NORMALIZATIONS, build_normalization, normalize

OPTIONS = [(name, {}) for name in sorted(NORMALIZATIONS)] + [
    ("conv_norm", {"running_average": True}),
    ("conv_norm", {"through_gradient": True, "stride": "strided"}),
]
options = pytest.mark.parametrize(("name", "options"), OPTIONS, ids=str)
MODES = {False: "evaluation", True: "training"}
# Both modes, of which the fast tests have one.
in_evaluation, in_training = (
    pytest.mark.parametrize(
        "training",
        [pytest.param(mode, id=name, marks=() if mode == fast else pytest.mark.slow) for mode, name in MODES.items()],
    )
    for fast in MODES
)

WITH_STATE = {"spectral", "bidirectional_spectral", "stable_rank", "spectral_conv", "soc"}
CHANGES_STATE = "would mutate a captured Tensor"
NO_TRANSFORM = "inside of a function being transformed"


class Network(nn.Module):
    """A discriminator with several types of layers."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, 2, 1)
        self.transposed = nn.ConvTranspose2d(4, 4, 4, 2, 1)
        self.line = nn.Conv1d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        h = self.transposed(self.conv(x).tanh()).tanh()
        return self.head(self.line(h.flatten(2)).tanh().mean(2)).squeeze(1)


def build(name, options, training=False):
    network = copy.deepcopy(build_once(name, tuple(options.items())))
    torch.manual_seed(0)
    return network.train(training)


@functools.cache
def build_once(name, options):
    torch.manual_seed(0)
    network = normalize(Network(), build_normalization(name, **dict(options)))
    network(images())  # some buffers get their shape from it
    return network


def images(count=3):
    return torch.randn(count, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def changes_state(name, options):
    return name in WITH_STATE or "running_average" in options


def check(function, *arguments, error=None, message=None):
    """Return the result of a function, or None if it must fail with a message of one line."""
    if error is None:
        return function(*arguments)
    with pytest.raises(error, match=message) as raised:
        function(*arguments)
    assert "\n" not in str(raised.value).strip()
    return None


@options
@in_training
def test_gradient_of_parameters(name, options, training):
    network = build(name, options, training)
    parameters = dict(network.named_parameters())
    reason = {"gradient": NO_TRANSFORM}.get(name, CHANGES_STATE if training and changes_state(name, options) else None)
    gradients = check(
        grad(lambda parameters: functional_call(network, parameters, (images(),)).square().sum()),
        parameters,
        error=reason and RuntimeError,
        message=reason,
    )
    if gradients is not None:
        network(images()).square().sum().backward()
        for path, parameter in parameters.items():
            torch.testing.assert_close(gradients[path], parameter.grad)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # of PyTorch's own import
@options
def test_forward_mode(name, options):
    network, direction = build(name, options).double(), torch.randn(3, 2, 6, 6).double()
    reason = NO_TRANSFORM if name == "gradient" else None
    result = check(
        lambda: jvp(network, (images().double(),), (direction,)), error=reason and RuntimeError, message=reason
    )
    if result is not None:
        step = 1e-6
        slope = network(images().double() + step * direction) - network(images().double() - step * direction)
        torch.testing.assert_close(result[1], slope / (2 * step), rtol=1e-5, atol=1e-7)


@options
def test_vmap_over_inputs_and_over_networks(name, options):
    network, x = build(name, options), images()
    other = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    if name == "gradient":
        check(vmap(lambda x: network(x[None])[0]), x, error=RuntimeError, message=NO_TRANSFORM)
        return
    torch.testing.assert_close(vmap(lambda x: network(x[None])[0])(x), network(x))
    parameters, buffers = stack_module_state([network, other])
    outputs = vmap(lambda *state: functional_call(network, state, (x,)))(parameters, buffers)
    torch.testing.assert_close(outputs, torch.stack([network(x), other(x)]))


@options
@in_evaluation
def test_vmap_of_gradients(name, options, training):
    network = build(name, options, training).double()
    parameters = dict(network.named_parameters())

    def loss(parameters, x):
        return functional_call(network, parameters, (x[None],)).square().sum()

    per_sample = vmap(grad(loss), in_dims=(None, 0))
    reason = {"gradient": NO_TRANSFORM}.get(name, CHANGES_STATE if training and changes_state(name, options) else None)
    gradients = check(per_sample, parameters, images().double(), error=reason and RuntimeError, message=reason)
    if gradients is not None:
        network(images().double()).square().sum().backward()
        for path, parameter in parameters.items():
            torch.testing.assert_close(gradients[path].sum(0), parameter.grad)


@pytest.mark.filterwarnings("ignore")  # of the tracer
@options
def test_jit_trace(name, options):
    network = build(name, options)
    if name == "gradient":
        with pytest.raises(RuntimeError, match=r"torch\.jit\.trace cannot record"):
            torch.jit.trace(network, images())
        return
    traced = torch.jit.trace(network, images(), check_trace=False)  # checked below
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.3)
    with torch.jit.optimized_execution(False):  # which takes longer than the graph
        for count in (3, 5):
            torch.testing.assert_close(traced(images(count)), network(images(count)), rtol=1e-4, atol=1e-6)


@options
@in_training
def test_symbolic_trace(name, options, training):
    network = build(name, options, training)
    if name == "gradient":
        traced = fx.symbolic_trace(nn.Sequential(network))
        torch.testing.assert_close(traced(images()), network(images()))
        check(fx.symbolic_trace, network, error=TypeError, message="but not the layer alone")
        return
    traced, expected = fx.symbolic_trace(network), copy.deepcopy(network)
    with torch.no_grad():
        for parameter, other in zip(network.parameters(), expected.parameters(), strict=True):
            other.copy_(parameter.mul_(1.3))
    x = torch.randn(2, 2, 10, 10)  # the graph must not record the size
    torch.testing.assert_close(traced(x), expected(x))


def test_symbolic_trace_of_a_layer_alone():
    for layer in (nn.Conv2d(2, 3, 3), nn.ConvTranspose1d(2, 3, 3)):
        check(fx.symbolic_trace, normalize(layer, "conv_norm"), error=TypeError, message="but not the layer alone")


@options
def test_meta_device(name, options):
    network = build(name, options).to("meta")
    assert network(images().to("meta")).shape == (3,)
    with torch.device("meta"):
        network = Network()
    if name in WITH_STATE:
        with pytest.raises(ValueError, match=r"conv .* is on the meta device, and the state is computed from"):
            normalize(network, build_normalization(name, **options))
        return
    network = normalize(network, build_normalization(name, **options)).to_empty(device="cpu")
    trained = build(name, options)
    network.load_state_dict(trained.state_dict())
    assert torch.equal(network.eval()(images()), trained(images()))


@options
@in_training
def test_inference_mode(name, options, training):
    torch.manual_seed(0)
    network = normalize(Network(), build_normalization(name, **options)).train(training)
    expected = copy.deepcopy(network)(images())
    with torch.inference_mode():
        torch.testing.assert_close(network(images()), expected)
    for _ in range(2):  # later calls may train
        network(images()).sum().backward()


@options
@in_training
def test_empty_batch(name, options, training):
    network = build(name, options, training)
    y = network(images()[:0])
    assert y.shape == (0,)
    y.sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in network.parameters())


def test_empty_batch_of_wide_layers():
    conv = Conv2d(128, 128, 3, padding=1)
    for layer in (conv, normalize(copy.deepcopy(conv), "conv_norm")):
        x = torch.randn(0, 128, 8, 8).contiguous(memory_format=torch.channels_last)
        assert layer(x).shape == (0, 128, 8, 8)


@pytest.fixture(scope="module")
def process_group(tmp_path_factory):
    """A group of one process."""
    store = dist.FileStore(str(tmp_path_factory.mktemp("store") / "file"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:Grad strides do not match:UserWarning")
@options
def test_two_forward_passes_of_a_distributed_network(name, options, process_group):
    torch.manual_seed(0)
    alone = normalize(Network(), build_normalization(name, **options))
    network = DistributedDataParallel(copy.deepcopy(alone))
    for _ in range(2):
        for module in (alone, network):
            module.zero_grad()
            (module(images()).sum() - module(images(2)).square().sum()).backward()
    for one, other in zip(alone.parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
