"""Features and logits of the Inception network that defines FID, KID and IS.

The weights come from a file published by torch-fidelity. pytorch-fid publishes the same weights. The two packages only
differ in how they resize images.
"""

import hashlib
import io
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from metrics.extractors.base import Features, compute_fingerprint, to_rgb
from metrics.precision import single_precision

PUBLISHED_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
PUBLISHED_FILE_NAMES = (  # of torch-fidelity and of pytorch-fid, in the checkpoint folder of torch.hub
    f"weights-inception-2015-12-05-{PUBLISHED_SHA256[:8]}.pth",
    f"pt_inception-2015-12-05-{PUBLISHED_SHA256[:8]}.pth",
)
LAST_STAGE = {"64": "MaxPool_1", "192": "MaxPool_2", "768": "Mixed_6e", "2048": "Mixed_7c"}
SIZE = 299

Preprocessing = Literal["torch_fidelity", "pytorch_fid"]


class InceptionExtractor:
    """Spatially averaged features of one layer of the Inception network.

    Layer "2048" also returns 1008 logits without bias, which the Inception score uses. The earlier layers "64", "192"
    and "768" are faster and return no logits. Results equal those of torch-fidelity up to rounding in single precision,
    regardless of TF32 and autocast settings. `preprocessing` selects the package whose resizing to 299 x 299 is used.
    Grayscale images are converted to RGB. Raises ValueError for an unknown layer or preprocessing.
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
        self.fingerprint = compute_fingerprint(state_dict, "inception-v3-compat", layer, preprocessing)
        self.origin = {
            "extractor": "inception-v3-compat",
            "layer": layer,
            "preprocessing": preprocessing,
            "weights": compute_fingerprint(state_dict),
        }
        network = _build_network()
        nn.Module.load_state_dict(network, state_dict, assign=True)
        stages = []
        for name, stage in network.named_children():
            stages.append(stage)
            if name == LAST_STAGE[layer]:
                break
        self.stages = nn.Sequential(*map(_fold_batch_norms, stages)).requires_grad_(False).to(self.device)
        if self.device.type == "cpu":
            self.stages.to(memory_format=torch.channels_last)  # 1/3 less time
        self.head = network.get_parameter("fc.weight").detach().to(self.device) if layer == "2048" else None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """Map uint8 images (B, 1 or 3, H, W) to features (B, d) and, at layer 2048, logits (B, 1008)."""
        with single_precision(self.device):
            x = self.preprocess(to_rgb(images).to(self.device))
            features = self.stages(x).mean(dim=(2, 3))
            return Features(features, None if self.head is None else features @ self.head.T)


def resize_like_torch_fidelity(images: Tensor) -> Tensor:
    """Resize uint8 (B, 3, H, W) to (B, 3, 299, 299) in [-1, 1) with the bilinear interpolation of TensorFlow 1.

    The interpolation is separable, so it is a multiplication with one matrix for the rows and one for the columns.
    """
    rows, columns = (_make_interpolation_matrix(size, images.device) for size in images.shape[2:])
    return (rows @ images.float() @ columns.T - 128) / 128


def resize_like_pytorch_fid(images: Tensor) -> Tensor:
    """Resize uint8 (B, 3, H, W) to (B, 3, 299, 299) in [-1, 1] with PyTorch's bilinear interpolation."""
    x = F.interpolate(images.float() / 255, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return 2 * x - 1


@lru_cache(maxsize=8)
def _make_interpolation_matrix(size: int, device: torch.device) -> Tensor:
    """Return the matrix (299, size) whose row i interpolates linearly at the position i * size / 299."""
    position = torch.arange(SIZE) * torch.tensor(size / SIZE)  # in single precision, as in torch-fidelity
    lower = position.long()
    upper = (lower + 1).clamp(max=size - 1)
    weight = (position - lower)[:, None]
    return ((1 - weight) * F.one_hot(lower, size) + weight * F.one_hot(upper, size)).to(device)


def load_inception_weights(path: str | Path) -> tuple[dict[str, Tensor], str]:
    """Load a state dict of the Inception network and return it with the SHA-256 of the file.

    Raises ValueError if the file cannot be read or holds other weights. It is the published file if this is
    `PUBLISHED_SHA256`. This function does not check that.
    """
    try:
        content = Path(path).read_bytes()
        state_dict = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except OSError as error:
        raise ValueError(f"cannot read the Inception weights {path}: {error.strerror}") from None
    except Exception:  # torch.load raises exceptions of many types
        raise ValueError(f"{path} is not a file of weights, or it is truncated") from None
    if not isinstance(state_dict, Mapping):
        raise ValueError(f"{path} must contain a state dict, not a {type(state_dict).__name__}")
    expected = {name: tensor.shape for name, tensor in _build_network().state_dict().items()}
    required = {name for name in expected if not name.endswith("num_batches_tracked")}
    faults = {
        "missing": sorted(required - state_dict.keys()),
        "unexpected": sorted(map(str, state_dict.keys() - expected.keys())),
        "with a wrong shape": sorted(
            name for name in required & state_dict.keys() if getattr(state_dict[name], "shape", None) != expected[name]
        ),
    }
    found = [f"{len(names)} {fault} ({', '.join(names[:3])}, ...)" for fault, names in faults.items() if names]
    if found:
        raise ValueError(f"{path} does not contain the weights of the Inception network of FID: {'; '.join(found)}")
    return dict(state_dict), hashlib.sha256(content).hexdigest()


def published_weights_path() -> Path | None:
    """Return the path of the published file if torch-fidelity or pytorch-fid has downloaded it, otherwise None."""
    paths = (get_hub_folder() / name for name in PUBLISHED_FILE_NAMES)
    return next((path for path in paths if path.is_file()), None)


def download_weights() -> Path:
    """Download the published file to the path that torch-fidelity uses, and return the path.

    Raises ValueError, without leaving a file, if the download fails or the file has another hash.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = get_hub_folder() / PUBLISHED_FILE_NAMES[0]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=PUBLISHED_SHA256)
    except (OSError, RuntimeError) as error:  # no network, no disk space, another hash
        raise ValueError(f"cannot download the Inception weights from {URL_INCEPTION_V3}: {error}") from None
    return path


def get_hub_folder() -> Path:
    """Return the folder to which torch.hub downloads weights."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _build_network() -> nn.Module:
    """Return torch-fidelity's network on the meta device, without weights."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class WithoutWeights(FeatureExtractorInceptionV3):
        def load_state_dict(self, *args, **kwargs):
            """Ignore the weights, because the constructor always loads a file."""

    empty_file = io.BytesIO()
    torch.save({}, empty_file)
    empty_file.seek(0)
    with torch.device("meta"):
        return WithoutWeights("inception-v3-compat", ["2048"], feature_extractor_weights_path=empty_file)


def _fold_batch_norms(module: nn.Module) -> nn.Module:
    """Fold each batch norm into the preceding convolution, in double precision. Returns the module."""
    from torch_fidelity.feature_extractor_inceptionv3 import BasicConv2d

    if isinstance(module, BasicConv2d):
        convolution = fuse_conv_bn_eval(module.conv.double(), module.bn.double()).float()
        return nn.Sequential(convolution, nn.ReLU(inplace=True))
    for name, child in module.named_children():
        setattr(module, name, _fold_batch_norms(child))
    return module
