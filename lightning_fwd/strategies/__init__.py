"""Lightning strategies that run a learning rule; each rule is registered under its own name: ``Trainer(strategy="pepita")``."""

from lightning.pytorch.strategies import StrategyRegistry

from ..errors import LightningFwdError
from ..methods import METHODS
from .forward_only import ForwardOnlyStrategy
from .install import install, installed, unwrap

for _name, _method in METHODS.items():
    if _name not in StrategyRegistry:
        StrategyRegistry.register(_name, ForwardOnlyStrategy, description=(_method.__doc__ or "").splitlines()[0], method=_name)
    elif StrategyRegistry[_name]["strategy"] is not ForwardOnlyStrategy:
        _other = StrategyRegistry[_name]["strategy"]
        raise LightningFwdError(
            f"the strategy name {_name!r} is taken by {_other.__module__}.{_other.__qualname__}",
            f'Trainer(strategy="{_name}") would run that, not the learning rule',
            "import lightning_fwd first, or have the other package use another name",
        )

__all__ = ["ForwardOnlyStrategy", "install", "installed", "unwrap"]
