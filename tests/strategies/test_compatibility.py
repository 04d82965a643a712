"""The README's table of what goes together: every rule by name, in every precision, priced at every width, in every row of the table of
methods."""

import copy

import pytest
import torch
from method_table import NETS, ROWS, Task, clusters, loader, named_rows, tensors, trainer

import lightning_fwd as lf


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
@pytest.mark.parametrize("name", lf.METHODS)
def test_every_rule_in_every_precision(name, precision):
    torch.manual_seed(1)
    row = named_rows()[name]
    module = Task(NETS["conv"](), row.lr)
    before = tensors(module.network)
    trainer(name, precision=precision, max_epochs=2).fit(module, loader(module.network))
    after = tensors(lf.unwrap(module).network)
    assert all(value.isfinite().all() for value in after.values())
    assert any(not torch.equal(value.to(before[key].dtype), before[key]) for key, value in after.items())
    assert torch.stack(module.losses).isfinite().all()


NAMED = list(named_rows().values())
PRICED = [pytest.param(row, "conv" if "conv" in row.nets else row.nets[-1], marks=() if row in NAMED else pytest.mark.slow) for row in ROWS]


@pytest.mark.parametrize(("row", "kind"), PRICED, ids=[row.name for row in ROWS])
def test_every_row_is_priced(row, kind):
    torch.manual_seed(1)
    net = NETS[kind]()
    x, y = clusters(net, 2)
    before = copy.deepcopy(net.state_dict())
    report = lf.step_cost(lf.rewrite(net, row.method(), x), (x, y), width="fp32")
    assert report.total_macs > 0 and report.peak_ram_bytes > 0
    assert all(torch.equal(value, before[key]) for key, value in lf.unwrap(net).state_dict().items()) or not row.exact
