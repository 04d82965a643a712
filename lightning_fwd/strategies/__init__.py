"""Lightning strategies that run a learning rule; each rule is registered under its own name: ``Trainer(strategy="pepita")``."""

from collections.abc import Callable
from typing import Any

from lightning.pytorch.strategies import StrategyRegistry

from ..errors import LightningFwdError
from ..methods import METHODS
from .distributed import ForwardOnlyDDPStrategy, refuse_sharding
from .forward_only import TrainsByRule
from .install import install, installed, unwrap
from .single_device import ForwardOnlyStrategy

for _rule, _method in METHODS.items():
    _text = (_method.__doc__ or "").splitlines()[0]
    _entries: dict[str, tuple[Callable, str, dict[str, Any]]] = {
        _rule: (ForwardOnlyStrategy, _text, {"method": _rule}),
        f"{_rule}_ddp": (ForwardOnlyDDPStrategy, f"{_text} On several devices.", {"method": _rule}),
        f"{_rule}_ddp_spawn": (ForwardOnlyDDPStrategy, f"{_text} On several devices.", {"method": _rule, "start_method": "spawn"}),
        **{
            f"{_rule}_{kind}": (refuse_sharding, "Refused, with the reason.", {"asked": f"{_rule}_{kind}"})
            for kind in ("fsdp", "deepspeed")
        },
    }
    for _name, (_strategy, _text, _settings) in _entries.items():
        if _name not in StrategyRegistry:
            StrategyRegistry.register(_name, _strategy, description=_text, **_settings)
        elif StrategyRegistry[_name]["strategy"] is not _strategy:
            _other = StrategyRegistry[_name]["strategy"]
            raise LightningFwdError(
                f"the strategy name {_name!r} is taken by {_other.__module__}.{_other.__qualname__}",
                f'Trainer(strategy="{_name}") would run that, not the learning rule',
                "import lightning_fwd first, or have the other package use another name",
            )

__all__ = ["ForwardOnlyDDPStrategy", "ForwardOnlyStrategy", "TrainsByRule", "install", "installed", "unwrap"]
