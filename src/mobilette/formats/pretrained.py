"""Networks with published weights, downloaded if they are not cached."""

from __future__ import annotations

from mobilette.arch.arch import Arch
from mobilette.arch.catalogue import get_arch, resolve_name
from mobilette.arch.editing import adopt_details
from mobilette.arch.scale import Form, Resolution, Settings
from mobilette.arguments import checked
from mobilette.data.preprocess import PRESETS, Preprocess
from mobilette.errors import InputError
from mobilette.formats.download import cached_path, download
from mobilette.formats.fitting import check_fits, fit_weights
from mobilette.formats.imported import as_model
from mobilette.formats.published import PublishedWeights, find_published, list_published
from mobilette.formats.torch.named import import_state_dict
from mobilette.model.model import Model, Origin
from mobilette.nn.network import Network
from mobilette.progress import Advance


class ReadyNetwork(Network):
    """A `Network` with an attribute ``preprocess``: how images are prepared for it."""

    def __init__(self, arch: Arch, preprocess: Preprocess) -> None:
        super().__init__(arch)
        self.preprocess = preprocess


@checked
def create_model(
    name: str,
    *,
    num_classes: int = 1000,
    width_mult: float = 1.0,
    resolution: Resolution = 224,
    in_channels: int = 3,
    form: Form | None = None,
    pretrained: bool | str | None = None,
) -> ReadyNetwork:
    """Return the network called ``name`` with random or published weights.

    It is a `torch.nn.Module` with the additional attributes ``arch`` and ``preprocess`` (how
    images are prepared for it).

    Args:
        name: a name from `mobilette.list_models`, or its name in timm, torchvision or Keras.
        num_classes: number of logits; unless it is 1,000, the classifier of a pretrained network
            is initialised at random.
        width_mult: the width multiplier. For a narrower network than published, the weights are
            sliced: a start for training, with the wider network's batch-norm statistics.
        resolution: size of the input in pixels, a side or (height, width); up to a shorter side of
            64 the network takes its small form.
        in_channels: channels of the input.
        form: ``small`` or ``full``, regardless of the resolution.
        pretrained: ``True`` for the best published weights, or a name: ``torchvision``,
            ``torchvision/IMAGENET1K_V2`` or ``timm/mobilenetv2_100.ra_in1k`` (`mobilette weights
            list`). Padding and batch norm epsilon are then those the weights were trained with.
            ``False`` and ``None`` give random weights.

    Raises:
        InputError: the network or the weights are unknown, a value is out of range, or the weights
            cannot be downloaded.
    """
    name, width = resolve_name(name, width_mult)
    settings = Settings(
        width_mult=1.0 if width is None else width,
        resolution=resolution,
        num_classes=num_classes,
        in_channels=in_channels,
        form=form,
    )
    arch = get_arch(name, settings)
    if pretrained is None or pretrained is False:
        return ReadyNetwork(arch, _for_channels(PRESETS["torch"], in_channels))
    wanted = "auto" if pretrained is True else pretrained
    published = load_published(choose_published(wanted, model=name, width_mult=settings.width_mult))
    arch = adopt_details(arch, published.arch)
    check_fits(published.arch, arch)
    network = ReadyNetwork(arch, _for_channels(published.preprocess, in_channels))
    fitted = fit_weights(published.arch, published.weights, arch, keep_classifier=True)
    network.load_state_dict(fitted, strict=False)
    return network


def _for_channels(preprocess: Preprocess, in_channels: int) -> Preprocess:
    """Return the preprocessing for grey images if there is one input channel."""
    return preprocess.with_channels(1) if in_channels == 1 else preprocess


def choose_published(name: str, *, model: str, width_mult: float) -> PublishedWeights:
    """Return published weights of the network's width, or of the next wider one, to be sliced.

    ``name`` is one that `find_published` accepts.
    """
    wider = sorted({w.width_mult for w in list_published(model) if w.width_mult >= width_mult})
    reasons: list[InputError] = []
    for width in wider or [width_mult]:
        try:
            return find_published(name, model=model, width_mult=width)
        except InputError as error:
            reasons.append(error)
    raise reasons[0]


def load_published(
    weights: PublishedWeights, *, report: Advance | None = None, optional: bool = False
) -> Model:
    """Return published weights, from the cache or downloaded.

    Args:
        weights: from `find_published`.
        report: called with the bytes received and the expected total.
        optional: as in `download`.

    Raises:
        InputError: the weights cannot be downloaded or the file is wrong; a new file is removed.
    """
    was_there = cached_path(weights).exists()
    path = download(weights, report=report, optional=optional)
    try:
        imported = import_state_dict(
            path,
            model=weights.model,
            width_mult=weights.width_mult,
            resolution=weights.resolution,
            tensorflow=weights.padding == "tf_same",
        )
    except InputError as error:
        if was_there:
            raise InputError(f"{error}; remove the file to fetch it again") from None
        path.unlink(missing_ok=True)  # without a known checksum, download cannot tell
        raise
    epsilon = imported.arch.norm_epsilon
    if epsilon != weights.norm_epsilon:
        raise InputError(
            f"{weights.name}: batch norm epsilon {epsilon}, not {weights.norm_epsilon}"
        )
    return as_model(
        imported,
        preprocess=weights.preprocess,
        origin=Origin(name=weights.model, width_mult=weights.width_mult, source=weights.name),
    )
