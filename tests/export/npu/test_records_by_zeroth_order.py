"""Forward passes alone: the slope they find is the gradient's, along the direction that was drawn, and a network learns by it."""

import numpy as np
import pytest
from lightning_fwd_export.npu.learn import ZerothOrder
from lightning_fwd_export.npu.learn.head import softmax


def loss(npu, head, images, labels) -> float:
    return -float(np.log(softmax(head.logits(npu.features(images)))[np.arange(len(labels)), labels]).mean())


def draw(seed: int, count: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(-100, 100, (count, 8, 8, 3)).astype(np.int8)


@pytest.mark.slow
def test_the_slope_is_that_of_the_way_back(trainer):
    x, labels = draw(0, 32), np.random.default_rng(0).integers(0, 5, 32)
    head = trainer.head(lr=0, momentum=0, batch=32, steps=20)
    error = softmax(head.logits(trainer.features(x)))
    error[np.arange(32), labels] -= 1
    sums = trainer.sums(x, error @ head.weight)
    zeroth_order = ZerothOrder(trainer, lr=0, spread=0.1, steps=20)
    signs, slopes, expected = ZerothOrder(trainer, lr=0, spread=0.1, steps=20)._random, [], []
    for _ in range(20):
        slopes.append(zeroth_order.step(head, x, labels))
        along = 0.0
        for layer, norm in zeroth_order.norms.items():
            of_shift, of_scale = signs.signs(norm.shift.size), signs.signs(norm.shift.size)
            bias, scale = (s.mean(0) * factor for s, factor in zip(sums[layer], trainer.factors[layer], strict=True))
            along += (of_shift * norm.scale * bias).sum() + (of_scale * (scale - norm.shift * bias)).sum()
        expected.append(along)
    assert np.corrcoef(slopes, expected)[0, 1] > 0.9
    assert np.std(slopes) == pytest.approx(np.std(expected), rel=0.3)


def test_it_learns_labels_and_the_seed_says_all(learner):
    npu, _ = learner
    x = draw(1, 64)
    labels = (npu.run(x)[0].argmax(1) + 1) % 5  # another order of the classes
    start, compiled = npu.state(), bytes(npu.table)

    def train(seed: int, steps: int):
        npu.restore(start)
        head = npu.head(lr=0, momentum=0, batch=64, steps=steps)  # the head stays: what learns are the records
        norms = ZerothOrder(npu, lr=0.05, spread=0.1, steps=steps, seed=seed)
        before = loss(npu, head, x, labels)
        for _ in range(steps):
            norms.step(head, x, labels)
        return before, loss(npu, head, x, labels), bytes(npu.table)

    before, after, table = train(1, 60)
    assert after < 0.9 * before and table != compiled
    assert train(1, 3)[2] == train(1, 3)[2] != train(2, 3)[2]
    with pytest.raises(ValueError, match="seed"):
        ZerothOrder(npu, 0.1, 0.1, 1, seed=0)
    with pytest.raises(ValueError, match="divided by the spread"):
        ZerothOrder(npu, 0.1, 0.0, 1)
