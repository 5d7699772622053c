"""The names under which TensorBoard shows the tags of `metrics.jsonl`, and their descriptions.

TensorBoard sorts groups of tags by name. So each name begins with a number: metrics, losses, samples, everything else,
Lipschitz numbers, and gradient norms.
"""

from metrics.protocols import MetricProtocol, parse_protocol

GROUPS = {"metrics": 1, "loss": 2, "samples": 3, "lipschitz": 5, "gradient_norm": 6}
OTHERS = 4
LOG10 = "log10"  # of a Lipschitz number, which TensorBoard's Custom Scalars show on a linear axis
BOUNDS = ("certified", "product", "slope", "gradient_max", "gradient_mean")  # of a network, the largest first

DESCRIPTIONS = {
    "metrics/accuracy_validation": "accuracy in percent on validation images, which selects the best checkpoint",
    "metrics/accuracy_test": "accuracy in percent on test images",
    "metrics/accuracy_": "accuracy in percent on test images after an attack or with a corruption",
    "metrics_std/": "standard deviation of the metric over parts of the images, where the metric is their mean",
    "loss/D": "loss of the discriminator on the last batch, without penalties",
    "loss/G": "loss of the generator on the last batch",
    "loss/train": "loss of the classifier on the last batch",
    "accuracy/train": "accuracy in percent on the last batch",
    "logits/real_sign": "mean sign of the discriminator's output for real images, which controls `ada`",
    "logits/real": "mean output of the discriminator for real images",
    "logits/fake": "mean output of the discriminator for generated images",
    "ada/p": "probability with which `ada` augments images",
    "corruptions/": "accuracy in percent on test images with a corruption of this severity",
    "speed/images_per_s": "training images per second since the last entry, without evaluations",
    "gradient_norm/": "Euclidean norm of the gradient of all weights in the last update",
    "samples/real": "training images, evenly spaced in the data set",
    "samples": "images of the averaged generator from the same latents at every step",
    "lipschitz/G/jacobian_max": "largest singular value of the Jacobian of the averaged generator at a few latents",
    "lipschitz/G/jacobian_log_cond": "mean logarithm of the condition number of the Jacobian of the averaged generator",
}
LIPSCHITZ = {
    "layers/": "operator norm of the layer (tracked: an estimate from below that converges)",
    "product": "product of the norms of all layers (neither a lower nor an upper bound of the network)",
    "gradient_max": "largest norm of the input gradient at real, generated and mixed images (observed: a lower bound)",
    "gradient_mean": "mean norm of the input gradient at real, generated and mixed images (observed: a lower bound)",
    "slope": "steepest slope found by gradient ascent (observed: a lower bound)",
    "certified": "upper bound of the network's Lipschitz constant (certified)",
    "stable_rank/": "squared Frobenius norm of the layer over its squared operator norm",
    "spectra/": "singular values of the layer; for a large convolution, those of the circular convolution",
    f"{LOG10}/": "decimal logarithm of the number of the same name",
}


def get_name(tag: str) -> str:
    """Return the name of a tag in TensorBoard, such as `1_metrics/kid10k_train`."""
    return f"{GROUPS.get(tag.partition('/')[0], OTHERS)}_{tag}"


def describe(tag: str) -> str:
    """Return what is logged under a tag; empty for an unknown tag."""
    group, _, name = tag.partition("/")
    if group == "lipschitz" and (found := _find(LIPSCHITZ, name.partition("/")[2])):
        return found
    if found := _find(DESCRIPTIONS, tag):
        return found
    if group == "metrics":
        try:
            return _describe_metric(parse_protocol(name))
        except ValueError:  # of another version
            return ""
    return ""


def _find(descriptions: dict[str, str], tag: str) -> str:
    """Return the first description whose key is the tag, or the beginning of the tag if it ends with / or _."""
    matches = (text for key, text in descriptions.items() if tag == key or (key[-1] in "/_" and tag.startswith(key)))
    return next(matches, "")


def _describe_metric(protocol: MetricProtocol) -> str:
    text = f"{protocol.spec.description or protocol.metric}: {protocol.count:,} generated images"
    if protocol.reference is not None:
        count = "all" if protocol.reference_count is None else f"{protocol.reference_count:,}"
        text += ", real images of a file" if protocol.reference == "file" else f", {count} {protocol.reference} images"
    better = "higher" if protocol.spec.higher_is_better else "lower"
    return f"{text}, features `{protocol.features}`; {better} is better"
