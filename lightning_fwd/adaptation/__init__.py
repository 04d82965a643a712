"""What a device does after drift: stages in order on one model, each held against doing nothing."""

from .adapt import Adaptation, StageResult, adapt
from .price import AdaptationCost, StageCost, adaptation_cost
from .stage import Stage, as_stages

__all__ = ["Adaptation", "AdaptationCost", "Stage", "StageCost", "StageResult", "adapt", "adaptation_cost", "as_stages"]
