"""``lightning-fwd adapt``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console

from ..plain_files import naming, write_whole
from .options import NAMES


def add_options(parser: argparse.ArgumentParser) -> None:
    from ..adaptation import Firmware, Stage
    from ..recipes.adaptation import AdaptationRecipe
    from .names import documentation

    keys = ((AdaptationRecipe, "Keys of an adaptation"), (Stage, "Keys of each of its stages"), (Firmware, "Keys of firmware"))
    parser.epilog = "\n\n".join([*(documentation(of, heading) for of, heading in keys), NAMES])
    parser.add_argument("-c", "--config", required=True, help="recipe, e.g. recipes/adapt_resnet8.yaml")
    parser.add_argument("--out", required=True, type=Path, help="folder for adapted.safetensors, report.txt and the source's moments")
    parser.add_argument("--seed", type=int, help="in place of the recipe's")
    parser.add_argument("--device", help="in place of the recipe's")
    parser.add_argument("--width", choices=("fp32", "int8", "mixed"), help="in place of the recipe's")


def run(options: argparse.Namespace) -> int:
    """Adapt a trained network to drift in guarded stages: what each did, what it costs, the accuracy before and after."""
    from ..adaptation import adapt, adaptation_cost
    from ..recipes import quiet, require_data, require_fit, require_trained, starting_network
    from ..recipes.accuracy import accuracy
    from ..recipes.adaptation import load_adaptation
    from ..recipes.start import store_weights

    overrides = {key: value for key in ("seed", "device", "width") if (value := getattr(options, key)) is not None}
    recipe, console = load_adaptation(options.config, overrides), Console()
    stages, network = recipe.built_stages(), starting_network(recipe).eval()
    source, target = recipe.data_module("source"), recipe.data_module("target")
    for data in (source, target):
        require_data(data, "labelled + unlabelled")
    require_fit(network, source)
    require_trained(recipe, network, source, "test", may_pretrain=False)
    with naming(options.out, "choose another --out"):
        options.out.mkdir(parents=True, exist_ok=True)
    quiet(recipe.seed)
    stages = [stage.prepared(network, source, options.out / "source") for stage in stages]
    x, y = target.tensors("train")
    more = x[recipe.labelled :] if recipe.unlabelled else None
    labelled = x[: recipe.labelled], y[: recipe.labelled]
    firmware = recipe.built_firmware() or False
    more_of = {"firmware": firmware, "source": source.tensors("train")[0]} if firmware else {}
    done = adapt(network, stages, labelled, unlabelled=more, held_back=recipe.held_back, seed=recipe.seed, **more_of)
    cost = adaptation_cost(
        network, stages, x[:1], recipe.labelled, recipe.unlabelled, recipe.held_back, device=recipe.device, width=recipe.width
    )
    before, after = (accuracy(net, *target.tensors("test")) for net in (done.device_before or network, done.device_after or done.network))
    said = [
        f"{recipe.model} on {target.title}: {before:.1f} % before, {after:.1f} % adapted by {recipe.labelled} labelled samples",
        *map(str, done.stages),
        *([f"each input: {sound / 1e6:.2f} MMAC from sound to features, beside that"] if (sound := _front_end(source)) else []),
        f"{cost}, {recipe.width}",
    ]
    console.print("\n".join(said), highlight=False, markup=False, soft_wrap=True)
    write_whole(options.out / "report.txt", "\n".join(said) + "\n")
    store_weights(done.network, options.out / "adapted.safetensors")
    console.print(f"wrote {options.out}/adapted.safetensors, report.txt", highlight=False)
    return 0


def _front_end(source: Any) -> int:
    """MAC that make one input of what a sensor gives; 0 where it is not known, or no more than scaled."""
    return source.input_form().macs if hasattr(source, "input_form") else 0
