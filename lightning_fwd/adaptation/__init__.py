"""What a device does after drift: stages in order on one model, each held against doing nothing."""

from .adapt import adapt
from .correction_bank import CorrectionBank
from .domain_change import DomainChange
from .firmware import Firmware
from .price import AdaptationCost, StageCost, adaptation_cost
from .result import Adaptation, StageResult
from .stage import Stage, as_stages

__all__ = [
    "Adaptation",
    "AdaptationCost",
    "CorrectionBank",
    "DomainChange",
    "Firmware",
    "Stage",
    "StageCost",
    "StageResult",
    "adapt",
    "adaptation_cost",
    "as_stages",
]
