"""Labels that a rule learns by against the user's loss: what does not fit is refused, what merely looks odd is not."""

import pytest
import torch
from method_table import NETS, Task, clusters, loader, tensors, trainer
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lightning_fwd as lf
from lightning_fwd.graph.label_check import LabelCheck


def permuted(x, y):
    p = torch.randperm(len(y))
    return x[p], lambda z: F.cross_entropy(z, y[p])


def mixed(x, y):
    p, share = torch.randperm(len(y)), 0.6
    return x, lambda z: share * F.cross_entropy(z, y) + (1 - share) * F.cross_entropy(z, y[p])


WRONG = {
    "permuted": permuted,
    "remapped": lambda x, y: (x, lambda z: F.cross_entropy(z, (y + 1) % 4)),
    "mixed": mixed,
    "permuted and smoothed": lambda x, y: (x, lambda z: F.cross_entropy(z, y.roll(1), label_smoothing=0.1)),
    "permuted, one against all": lambda x, y: (x, lambda z: F.binary_cross_entropy_with_logits(z, F.one_hot(y.roll(1), 4).float())),
}


class Own(Task):
    """A training step of one's own."""

    make = None

    def training_step(self, batch, batch_idx):
        x, loss = self.make(*batch)
        return loss(self(x))


@pytest.mark.parametrize("rule", ["local_loss", "forward_forward"])
@pytest.mark.parametrize("kind", WRONG)
def test_labels_that_the_loss_does_not_take_are_refused_before_anything_is_changed(kind, rule):
    torch.manual_seed(0)
    module = type("Wrong", (Own,), {"make": staticmethod(WRONG[kind])})(NETS["mlp"]())
    before = tensors(module)
    with pytest.raises(lf.StepError, match=r"do not fit your loss(.|\n)*target_key(.|\n)*set_labels"):
        trainer(rule).fit(module, loader())
    assert all(torch.equal(t, before[n]) for n, t in tensors(lf.unwrap(module)).items())


def with_subjects():
    x, y = clusters()
    return DataLoader(TensorDataset(x, torch.randint(0, 4, (len(y),), generator=torch.Generator().manual_seed(0)), y), 16)


class Subjects(Task):
    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self(batch[0]), batch[2])


def test_labels_at_another_place_of_the_batch():
    torch.manual_seed(0)
    with pytest.raises(lf.StepError, match="another class than their label"):
        trainer("local_loss").fit(Subjects(NETS["mlp"]()), with_subjects())
    trainer(lf.ForwardOnlyStrategy("local_loss", target_key=2)).fit(Subjects(NETS["mlp"]()), with_subjects())


def test_labels_are_handed_over_in_the_step():
    class Permuting(Task):
        def training_step(self, batch, batch_idx):
            p = torch.randperm(len(batch[1]))
            y = lf.set_labels(batch[1][p])
            loss = F.cross_entropy(self(batch[0][p]), y)
            self.losses.append(loss.detach())
            return loss

    torch.manual_seed(0)
    states = []
    for rule in ("local_loss", "auto"):  # a plain Trainer runs the same module
        module = Permuting(NETS["mlp"]())
        trainer(rule, max_epochs=6).fit(module, loader())
        states.append(module.losses)
        assert torch.stack(module.losses[-6:]).mean() < 0.9 * torch.stack(module.losses[:6]).mean()
    assert lf.set_labels(torch.zeros(3)).shape == (3,)


RIGHT = {
    "plain": lambda z, y: F.cross_entropy(z, y),
    "smoothed": lambda z, y: F.cross_entropy(z, y, label_smoothing=0.2),
    "class weights": lambda z, y: F.cross_entropy(z, y, weight=(1 + torch.arange(z.shape[1])) / 2),
    "summed": lambda z, y: F.cross_entropy(z, y, reduction="sum"),
    "scaled": lambda z, y: 1e-4 * F.cross_entropy(z, y),
    "temperature": lambda z, y: F.cross_entropy(z / 3, y),
    "focal": lambda z, y: ((1 - z.softmax(1).gather(1, y[:, None])) ** 2 * F.cross_entropy(z, y, reduction="none")[:, None]).mean(),
    "squared": lambda z, y: F.mse_loss(z, F.one_hot(y, z.shape[1]).float()),
    "squared probabilities": lambda z, y: F.mse_loss(z.softmax(1), F.one_hot(y, z.shape[1]).float()),
    "one against all": lambda z, y: F.binary_cross_entropy_with_logits(z, F.one_hot(y, z.shape[1]).float()),
    "hinge": lambda z, y: F.multi_margin_loss(z, y),
    "several": lambda z, y: F.cross_entropy(z, y) + 0.3 * F.cross_entropy(z, y, label_smoothing=0.3) + 1e-2 * z.square().mean(),
    "confidence penalty": lambda z, y: F.cross_entropy(z, y) + 0.1 * (z.softmax(1) * z.log_softmax(1)).sum(1).mean(),
    "one noisy label in ten": lambda z, y: F.cross_entropy(z, torch.where(torch.arange(len(y)) % 10 == 5, (y + 1) % z.shape[1], y)),
}


def check(loss, classes, batch, scale, dtype=torch.float32, steps=20, fits=0.7, labels=None, handed_over=False):
    """Many batches of a model that predicts ``fits`` of the labels, its logits about ``scale`` apart."""
    torch.manual_seed(classes + batch)
    seen = LabelCheck()
    for _ in range(steps):
        y = torch.randint(0, classes, (batch,))
        z = torch.randn(batch, classes)
        z[torch.arange(batch), torch.where(torch.rand(batch) < fits, y, torch.randint(0, classes, (batch,)))] += 2
        z = (z * scale).to(dtype).requires_grad_()
        (error,) = torch.autograd.grad(loss(z.float(), y), z)
        seen.see("Rule", z.detach(), y if labels is None else labels(y), error, handed_over)


@pytest.mark.parametrize(("smoothing", "scale"), [(0.1, 0.1), (0.4, 1.0)])
def test_smoothing_that_outweighs_rare_labels_fits_labels_that_were_handed_over(smoothing, scale):
    def loss(z, y):
        return F.cross_entropy(z, y, weight=torch.tensor([0.1, 1.0, 3.0, 10.0]), label_smoothing=smoothing)

    with pytest.raises(lf.StepError, match="do not fit your loss(.|\n)*set_labels"):
        check(loss, 4, 32, scale)
    check(loss, 4, 32, scale, handed_over=True)
    with pytest.raises(lf.StepError, match="another class than their label"):  # handed over, and of other samples
        check(lambda z, y: F.cross_entropy(z, y.roll(1)), 4, 32, scale, handed_over=True)


@pytest.mark.parametrize("kind", RIGHT)
@pytest.mark.parametrize("classes", [2, pytest.param(3, marks=pytest.mark.slow), 10])
def test_no_false_alarm(kind, classes):
    for scale, fits in ((0.1, 0.0), (1.0, 0.7), (10.0, 0.7), (10.0, 0.0), (3.0, 1.0)):
        for batch in (1, 32):
            check(RIGHT[kind], classes, batch, scale, fits=fits)
    check(RIGHT[kind], classes, 16, 1.0, dtype=torch.bfloat16)


def shares(y, classes, share, labels=2):
    """One-hot labels mixed with those of other samples."""
    hot = F.one_hot(y, classes).float()
    return share * hot + sum((1 - share) / (labels - 1) * hot.roll(i, 0) for i in range(1, labels))


@pytest.mark.parametrize(
    "loss", [F.cross_entropy, F.binary_cross_entropy_with_logits, lambda z, t: F.mse_loss(z, t)], ids=["ce", "bce", "squared"]
)
@pytest.mark.parametrize(("share", "labels", "of"), [(0.2, 2, 1.0), (0.6, 2, 1.0), (0.5, 3, 1.0), (0.8, 2, 0.35)])
def test_mixed_labels_are_found_under_every_loss(loss, share, labels, of):
    def mixed(z, y):
        soft, few = shares(y, z.shape[1], share, labels), int(of * len(y))
        return loss(z, torch.cat([soft[:few], F.one_hot(y[few:], z.shape[1]).float()]))

    for scale, fits in ((0.1, 0.0), (1.0, 0.7), (3.0, 0.7)):
        with pytest.raises(lf.StepError, match="several classes each, as mixing them does|to another class than their label"):
            check(mixed, 10, 32, scale, fits=fits)
        if share >= 0.5:  # else the labels handed over are those of the smaller share
            check(mixed, 10, 32, scale, fits=fits, handed_over=True)


LEFT_OUT = {
    "ignored": lambda z, y: F.cross_entropy(z, y, ignore_index=1),
    "masked": lambda z, y: F.cross_entropy(z[::4], y[::4]),
    "hinge, masked": lambda z, y: F.multi_margin_loss(z[:4], y[:4]),
}


def distilled(z, y):
    teacher = torch.randn(z.shape, generator=torch.Generator().manual_seed(1)) + 3 * F.one_hot(y, z.shape[1])
    return 0.5 * F.cross_entropy(z, y) + 0.5 * F.kl_div(z.log_softmax(1), teacher.softmax(1), reduction="batchmean")


CHOSEN = {
    "distilled": distilled,
    "hardest": lambda z, y: F.cross_entropy(z, y, reduction="none").topk(max(1, len(y) // 2)).values.mean(),
    "easiest": lambda z, y: F.cross_entropy(z, y, reduction="none").topk(max(1, len(y) // 2), largest=False).values.mean(),
    "cut off": lambda z, y: F.cross_entropy(z, y, reduction="none").clamp(max=2.0).mean(),
}


@pytest.mark.parametrize("kind", CHOSEN)
@pytest.mark.parametrize("classes", [4, 10])
def test_a_teacher_and_samples_chosen_by_their_loss_are_no_alarm(kind, classes):
    for scale, fits in ((0.1, 0.0), (1.0, 0.7), (3.0, 1.0), (3.0, 0.4)):
        check(CHOSEN[kind], classes, 32, scale, fits=fits)


def test_a_batch_that_counts_for_nothing_is_told():
    with pytest.warns(UserWarning, match="zero times(.|\n)*return None"):
        check(lambda z, y: 0 * F.cross_entropy(z, y), 4, 16, 1.0)


@pytest.mark.parametrize("kind", LEFT_OUT)
@pytest.mark.parametrize("handed_over", [False, True])
def test_samples_that_the_loss_leaves_out_are_refused(kind, handed_over):
    """Labels that were handed over are learned from as well."""
    with pytest.raises(lf.StepError, match="leaves out .* of the samples(.|\n)*before the network"):
        check(LEFT_OUT[kind], 4, 16, 1.0, fits=0.5, handed_over=handed_over)


@pytest.mark.parametrize("kind", ["plain", "one against all", "squared", "summed"])
def test_one_class_counted_as_another_is_found(kind):
    for scale, fits in ((0.1, 0.0), (1.0, 0.7)):
        with pytest.raises(lf.StepError, match="samples of class 9 to another"):
            check(lambda z, y: RIGHT[kind](z, y.clamp(max=8)), 10, 16, scale, fits=fits)


@pytest.mark.parametrize("kind", [k for k in RIGHT if "squared" not in k and "noisy" not in k and "hinge" not in k])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("batch", [4, 16])
def test_permuted_labels_are_found_under_every_loss(kind, classes, batch):
    for scale, fits in ((0.1, 0.0), (1.0, 0.7)):
        with pytest.raises(lf.StepError, match="do not fit"):
            check(RIGHT[kind], classes, batch, scale, steps=80, fits=fits, labels=lambda y: torch.randint(0, classes, y.shape))
