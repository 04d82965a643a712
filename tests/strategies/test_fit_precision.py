"""Precisions of Lightning under every rule."""

import pytest
import torch
from method_table import loader, tensors, trainer
from rules_in_lightning import RULES, every_rule, moved, task

import lightning_fwd as lf


@every_rule
@pytest.mark.parametrize("kind", ["mlp", "residual"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions(rule, kind, precision):
    module = task(kind)
    before = tensors(module)
    run = trainer(RULES[rule](), precision=precision, max_epochs=2)
    data = loader(module.network)
    run.fit(module, data, data)
    assert torch.stack(module.losses).isfinite().all()
    module = lf.unwrap(module)
    expected = {"bf16-mixed": torch.float32, "bf16-true": torch.bfloat16, "64-true": torch.float64}[precision]
    assert {p.dtype for p in module.parameters()} == {expected}
    assert moved(module.float(), before)
    trainer("local_loss", precision=precision).fit(module, data)  # another rule, on a model already converted


def test_mixed_precision_follows_full_precision():
    losses = []
    for precision in ("32-true", "bf16-mixed"):
        module = task()
        trainer(lf.Pepita(recompute=True), precision=precision, max_epochs=3).fit(module, loader())
        losses.append(torch.stack(module.losses).float())
    assert torch.allclose(*losses, atol=0.05) and not torch.equal(*losses)
