"""The networks of the zoo: the smallest member of each family, on the smallest input that it takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from lightning_fwd.models import MODELS, build

CLASSES = 10

#: timm's families, quick ones first; a number after the name is the side of the input, where 32 is too small or not taken
TIMM = """
lcnet_035 mobilenetv2_035 mobilenetv3_small_050 mobilenetv4_conv_small_035 tinynet_e mnasnet_small semnasnet_050 fasternet_t0 regnetx_002
regnety_002 ghostnet_050 repghostnet_050 dla46_c resnet10t resnet18 resnetv2_18 skresnet18 edgenext_xx_small convnext_zepto_rms
convnext_atto
convnextv2_atto poolformer_s12 mambaout_femto starnet_s1 ese_vovnet19b_dw hgnetv2_b0 mobilenetv1_100 tf_efficientnet_lite0 efficientnet_b0
spnasnet_100 hardcorenas_a fbnetc_100 mobilenet_edgetpu_v2_xs mixnet_s vit_tiny_patch16_224 deit_tiny_patch16_224 pit_ti_224 gmlp_ti16_224
xcit_nano_12_p16_224 pvt_v2_b0 efficientvit_b0 swiftformer_xs:64 mobilevit_xxs:64 mobilevitv2_050:64 shvit_s1:64 repvgg_a0 repvit_m0_9
resnext26ts seresnext26ts gcresnext26ts resnest14d selecsls42 mobileone_s0 fastvit_t8:64 inception_next_atto:64 regnetz_005 nf_regnet_b0
eca_nfnet_l0 densenet121 hrnet_w18_small rexnetr_200 efficientnetv2_rw_t deit_tiny_distilled_patch16_224 coatnet_pico_rw_224:64
maxvit_rmlp_pico_rw_256:64 levit_128s:224 efficientvit_m0:224 tiny_vit_5m_224:224 visformer_tiny:224
""".split()

#: those of which timm leaves the size of the image open
SIZED = ("vit", "deit", "xcit", "pit", "gmlp", "coatnet", "maxvit")

TORCHVISION = """
shufflenet_v2_x0_5 squeezenet1_1:64 mobilenet_v2 mobilenet_v3_small mnasnet0_5 efficientnet_b0 resnet18 regnet_x_400mf regnet_y_400mf
googlenet:64
""".split()

OWN = {name: {"num_classes": CLASSES} if name in ("mlp", "small_conv", "small_conv1d", "one_conv") else {} for name in MODELS}


@dataclass(frozen=True)
class Entry:
    """A network: its family's name, how it is built, and the shape of one sample."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]


def entries() -> list[Entry]:
    """All of them; needs :func:`vision.declare_torchvision_operators` before."""
    import timm
    import torchvision

    found = []
    for name, settings in OWN.items():
        net = build(name, **settings)
        found.append(Entry(f"own/{name}", lambda name=name, settings=settings: build(name, **settings), tuple(net.input_shape)))
    for word in TIMM:
        name, _, side = word.partition(":")
        size = int(side or 32)
        sized = {"img_size": size} if name.startswith(SIZED) else {}

        def of_timm(name: str = name, sized: dict = sized) -> nn.Module:
            return timm.create_model(name, num_classes=CLASSES, **sized)

        found.append(Entry(f"timm/{name}", of_timm, (3, size, size)))
    for word in TORCHVISION:
        name, _, side = word.partition(":")
        size = int(side or 32)
        more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}

        def of_torchvision(name: str = name, more: dict = more) -> nn.Module:
            return torchvision.models.get_model(name, num_classes=CLASSES, **more)

        found.append(Entry(f"torchvision/{name}", of_torchvision, (3, size, size)))
    return found
