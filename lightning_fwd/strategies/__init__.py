"""Lightning strategies that run a learning rule; each rule is registered under its own name: ``Trainer(strategy="pepita")``."""

from lightning.pytorch.strategies import StrategyRegistry

from ..methods import METHODS
from .forward_only import ForwardOnlyStrategy
from .install import install, installed, unwrap

for _name, _method in METHODS.items():
    if _name not in StrategyRegistry.available_strategies():
        StrategyRegistry.register(_name, ForwardOnlyStrategy, description=_method.__doc__.splitlines()[0], method=_name)

__all__ = ["ForwardOnlyStrategy", "install", "installed", "unwrap"]
