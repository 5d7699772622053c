"""Features of the Inception network that FID, KID and IS are defined by, from a weights file of torch-fidelity's.

pytorch-fid's file holds the same weights; the two packages differ in the resizing alone.
"""

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from metrics.extractors.base import Features, fingerprint, to_rgb

PUBLISHED_SHA256_PREFIX = "6726825d"
PUBLISHED_NAMES = (  # in the folder of torch.hub: torch-fidelity's name for the file and pytorch-fid's
    f"weights-inception-2015-12-05-{PUBLISHED_SHA256_PREFIX}.pth",
    f"pt_inception-2015-12-05-{PUBLISHED_SHA256_PREFIX}.pth",
)
LAST_STAGE = {"64": "MaxPool_1", "192": "MaxPool_2", "768": "Mixed_6e", "2048": "Mixed_7c"}
SIZE = 299

Preprocessing = Literal["torch_fidelity", "pytorch_fid"]


class InceptionExtractor:
    """Features of one layer, and of layer 2048 the 1008 logits without bias that the Inception score is taken of.

    The numbers are those of torch-fidelity's network to rounding in single precision, whatever the settings of TF32
    and autocast around the call. An earlier layer ("64", "192", "768": its mean over the map) costs less and gives no
    logits. `preprocessing` says which package's resizing to 299x299 is done. Gray images are repeated to RGB.
    """

    def __init__(
        self,
        state_dict: Mapping[str, Tensor],
        layer: str = "2048",
        preprocessing: Preprocessing = "torch_fidelity",
        device: torch.device | str = "cpu",
    ):
        if layer not in LAST_STAGE:
            raise ValueError(f"Inception has no layer '{layer}' (choices: {', '.join(LAST_STAGE)})")
        if preprocessing not in get_args(Preprocessing):
            raise ValueError(f"unknown preprocessing '{preprocessing}' (choices: {', '.join(get_args(Preprocessing))})")
        self.device = torch.device(device)
        self.preprocess = {"torch_fidelity": resize_like_torch_fidelity, "pytorch_fid": resize_like_pytorch_fid}[
            preprocessing
        ]
        self.fingerprint = fingerprint(state_dict, "inception-v3-compat", layer, preprocessing)
        network = _network()
        nn.Module.load_state_dict(network, state_dict, assign=True)
        stages = []
        for name, stage in network.named_children():
            stages.append(stage)
            if name == LAST_STAGE[layer]:
                break
        self.stages = nn.Sequential(*map(_folded, stages)).requires_grad_(False).to(self.device)
        if self.device.type == "cpu":
            self.stages.to(memory_format=torch.channels_last)  # the activations follow: a third of the time less
        self.head = network.get_parameter("fc.weight").detach().to(self.device) if layer == "2048" else None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Map uint8 images (B, 1 or 3, H, W) to features (B, d) and, at layer 2048, logits (B, 1008)."""
        with single_precision(self.device):
            x = self.preprocess(to_rgb(images).to(self.device))
            features = self.stages(x).mean(dim=(2, 3))
            return Features(features, None if self.head is None else features @ self.head.T)


def resize_like_torch_fidelity(images: Tensor) -> Tensor:
    """Map uint8 (B, 3, H, W) to (B, 3, 299, 299) in [-1, 1] as TensorFlow 1 did: bilinear, corner to corner at 0.

    Bilinear resizing is separable: one small matrix for the rows and one for the columns.
    """
    rows, columns = (_tensorflow_matrix(size, images.device) for size in images.shape[2:])
    return (rows @ images.float() @ columns.T - 128) / 128


def resize_like_pytorch_fid(images: Tensor) -> Tensor:
    """Map uint8 (B, 3, H, W) to (B, 3, 299, 299) in [-1, 1]: bilinear between the centers of pixels, no filter."""
    x = F.interpolate(images.float() / 255, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return 2 * x - 1


@lru_cache(maxsize=8)
def _tensorflow_matrix(size: int, device: torch.device) -> Tensor:
    """Return W (299, size): row i mixes the pixels on both sides of i * size / 299."""
    position = torch.arange(SIZE) * torch.tensor(size / SIZE)  # in single precision, as there
    lower = position.long()
    upper = (lower + 1).clamp(max=size - 1)
    share = (position - lower)[:, None]
    return ((1 - share) * F.one_hot(lower, size) + share * F.one_hot(upper, size)).to(device)


@contextmanager
def single_precision(device: torch.device) -> Iterator[None]:
    """Compute in true single precision within: no TF32, no bfloat16, no autocast."""
    matmul, convolution = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolution


def load_inception_weights(path: str | Path) -> tuple[dict[str, Tensor], str]:
    """Return the weights in a file and its sha256; ValueError when they are not those of this Inception network.

    The published file's sha256 starts with `PUBLISHED_SHA256_PREFIX`; it is for the caller to say so when it does not.
    """
    try:
        content = Path(path).read_bytes()
        state_dict = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"the Inception weights {path} cannot be read: {error.strerror}") from None
    except Exception:  # torch.load raises many kinds
        raise ValueError(f"{path} is no file of weights, or was cut short") from None
    if not isinstance(state_dict, Mapping):
        raise ValueError(f"{path} holds no weights by name but a {type(state_dict).__name__}")
    expected = {name: tensor.shape for name, tensor in _network().state_dict().items()}
    needed = {name for name in expected if not name.endswith("num_batches_tracked")}
    faults = {
        "missing": sorted(needed - state_dict.keys()),
        "unexpected": sorted(map(str, state_dict.keys() - expected.keys())),
        "of another shape": sorted(
            name for name in needed & state_dict.keys() if getattr(state_dict[name], "shape", None) != expected[name]
        ),
    }
    found = [f"{len(names)} {fault} ({', '.join(names[:3])}, ...)" for fault, names in faults.items() if names]
    if found:
        raise ValueError(f"{path} does not hold the weights of FID's Inception: {'; '.join(found)}")
    return dict(state_dict), hashlib.sha256(content).hexdigest()


def published_weights_path() -> Path | None:
    """Return the published file in torch.hub's folder, where torch-fidelity or pytorch-fid left it, or None."""
    paths = (_hub_folder() / name for name in PUBLISHED_NAMES)
    return next((path for path in paths if path.is_file()), None)


def download_weights() -> Path:
    """Download the published file to where torch-fidelity keeps it and return its path.

    The file appears there whole and with the right hash or not at all; ValueError when it cannot be had.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = _hub_folder() / PUBLISHED_NAMES[0]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=PUBLISHED_SHA256_PREFIX)
    except (OSError, RuntimeError) as error:  # no network, no room; another hash
        raise ValueError(f"the Inception weights cannot be downloaded from {URL_INCEPTION_V3}: {error}") from None
    return path


def _hub_folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _network() -> nn.Module:
    """Return torch-fidelity's network on the meta device, its weights still to be assigned."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):
        def load_state_dict(self, *arguments, **keywords):
            """Do nothing: the constructor loads a file, here an empty one."""

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    with torch.device("meta"):
        return Unloaded("inception-v3-compat", ["2048"], feature_extractor_weights_path=empty)


def _folded(module: nn.Module) -> nn.Module:
    """Return the module with each batch norm folded into the convolution before it, in double precision."""
    from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d

    if isinstance(module, BasicConv2d):
        convolution = fuse_conv_bn_eval(module.conv.double(), module.bn.double()).float()
        return nn.Sequential(convolution, nn.ReLU(inplace=True))
    for name, child in module.named_children():
        setattr(module, name, _folded(child))
    return module
