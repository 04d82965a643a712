"""A pytest plugin: where a Trainer is told no strategy and would run on one device, it runs the rule that ``LIGHTNING_FWD_RULE`` names.

    LIGHTNING_FWD_RULE=backprop pytest -p conformance.rule_as_default ...

Without the variable nothing is changed.
"""

from __future__ import annotations

import os

from lightning.pytorch.strategies import SingleDeviceStrategy, Strategy
from lightning.pytorch.trainer.connectors.accelerator_connector import _AcceleratorConnector

import lightning_fwd as lf

RULE = os.environ.get("LIGHTNING_FWD_RULE")
_choose = _AcceleratorConnector._choose_strategy


def _choose_rule(connector: _AcceleratorConnector) -> Strategy | str:
    chosen = _choose(connector)
    if type(chosen) is not SingleDeviceStrategy:
        return chosen
    return lf.ForwardOnlyStrategy(RULE or "", device=chosen.root_device)


if RULE:
    _AcceleratorConnector._choose_strategy = _choose_rule  # type: ignore[method-assign]
