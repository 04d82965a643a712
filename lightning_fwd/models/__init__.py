"""The MLCommons-Tiny reference networks, small nets for recipes, and `build`, which makes either from a name.

Each class tells `input_shape` (without the batch) and `num_classes` (None for the autoencoder). The MLCommons-Tiny
networks take `weights=`, the path of their official weights.
"""

import difflib
from collections.abc import Callable

from torch import nn

from ..errors import LightningFwdError
from ..import_path import named
from ..settings import arguments
from .keras_weights import load_keras_weights
from .layers import SamePad2d
from .mlperf_tiny import DSCNN, FCAutoencoder, MobileNetV1, ResNet8, StreamingWakeWord
from .small import MLP, OneConv, SmallConv, SmallConv1d
from .weights import load_weights

MODELS: dict[str, type[nn.Module]] = {
    "resnet8": ResNet8,
    "ds_cnn": DSCNN,
    "mobilenet_v1_025": MobileNetV1,
    "fc_autoencoder": FCAutoencoder,
    "streaming_wake_word": StreamingWakeWord,
    "mlp": MLP,
    "one_conv": OneConv,
    "small_conv": SmallConv,
    "small_conv1d": SmallConv1d,
}
_KNOWN = f"known are {', '.join(MODELS)}; or give an import path package.module.Class"


def build(name: str, /, **kwargs: object) -> nn.Module:
    """Make a network from its name in `MODELS` or an import path `package.module.Class`, with `kwargs` as arguments.

    The import path may name a class derived from nn.Module, or a function annotated to return one; anything else is refused before it is
    called. Importing it runs the code of that module.

    Raises:
        LightningFwdError: the name is unknown, the class cannot be made with these arguments, or the import path names no class of
            networks.
        ImportError: the module of an import path cannot be imported, whatever its code raised, or lacks the attribute.
    """
    factory = _factory(name)
    try:
        model = factory(**kwargs)
    except LightningFwdError:
        raise
    except Exception as error:  # whatever the class makes of arguments that do not fit: sizes below 0, more memory than there is
        given = ", ".join(f"{key}={value!r}" for key, value in kwargs.items())
        said = str(error) if isinstance(error, TypeError) else f"{type(error).__name__}: {error}".partition("\nException raised from")[0]
        what, mend = f"model {name!r} cannot be made: {said}", f"its arguments: {arguments(factory)}"
        raise LightningFwdError(what, f"model_args: {given or 'none'}", mend) from error
    if not isinstance(model, nn.Module):
        raise LightningFwdError(f"model {name!r} gave a {type(model).__name__}, not a torch.nn.Module", "", "name a class of networks")
    return model


def _factory(name: str) -> Callable:
    if not isinstance(name, str):
        raise LightningFwdError(f"model {name!r} is no name", "", _KNOWN)
    if name in MODELS:
        return MODELS[name]
    module_name, _, attribute = name.rpartition(".")
    if not module_name:
        near = difflib.get_close_matches(name, MODELS, n=1)
        raise LightningFwdError(f"unknown model {name!r}", f"did you mean {near[0]!r}?" if near else "", _KNOWN)
    return named(name, nn.Module, "model")


__all__ = [
    "DSCNN",
    "MLP",
    "OneConv",
    "MODELS",
    "FCAutoencoder",
    "MobileNetV1",
    "ResNet8",
    "SamePad2d",
    "SmallConv",
    "SmallConv1d",
    "StreamingWakeWord",
    "build",
    "load_keras_weights",
    "load_weights",
]
