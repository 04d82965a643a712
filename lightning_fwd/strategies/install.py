"""Put a rewritten network into a LightningModule, and take it out again."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torchmetrics import Metric

from ..errors import RewriteError
from ..graph.constants import INSERTED, is_inserted
from ..graph.lazy import materialise
from ..graph.modes import kept_modes
from ..graph.module_state import ModuleState
from ..graph.rewritten import RewrittenModel
from ..methods import LearningMethod, rewrite
from ..passes.fold_batch_norm import FoldedLayer

WHOLE = f"{INSERTED}_model"  #: name of the rewritten model where the LightningModule itself is the network


def find_network(module: LightningModule, name: str | None = None) -> str | None:
    """Name of the child that is the network: the only one that holds all parameters. None: the LightningModule itself.

    Raises:
        RewriteError: ``name`` is given and is not a child.
    """
    if name is not None:
        if not isinstance(getattr(module, name, None), nn.Module):
            raise RewriteError(
                f"{type(module).__name__} has no submodule {name!r}",
                "",
                f"its children: {', '.join(n for n, _ in module.named_children())}",
            )
        return name
    every = {id(p) for p in module.parameters()}
    for child_name, child in module.named_children():
        if child_name != WHOLE and not isinstance(child, Metric) and {id(p) for p in child.parameters()} == every and every:
            return child_name
    return None


def _fitting(x: Tensor, module: nn.Module) -> Tensor:
    """The example on the module's device, in its precision (after a fit in bf16-true, say)."""
    for parameter in module.parameters():
        return x.to(parameter.device, parameter.dtype if x.is_floating_point() else x.dtype)
    return x


def network_of(module: LightningModule, name: str | None = None) -> nn.Module:
    """The network inside a LightningModule, which may be the module itself.

    Raises:
        RewriteError: ``name`` is no submodule, or without it none can be told.
    """
    name = find_network(module, name)
    if name is None and type(module).forward is LightningModule.forward:
        children = [n for n, child in module.named_children() if any(True for _ in child.parameters())]
        raise RewriteError(
            f"{type(module).__name__} has no forward, and none of its children holds all parameters ({', '.join(children)})",
            "which of them is the network that a learning rule trains cannot be told",
            f"name it: ForwardOnlyStrategy(method, module={children[0]!r}), or define forward",
        )
    network = module if name is None else getattr(module, name)
    assert isinstance(network, nn.Module)
    return network


def install(module: LightningModule, method: LearningMethod, x: Tensor, name: str | None = None, direct: bool = False) -> RewrittenModel:
    """Rewrite the network inside a LightningModule; a second call with an equal method changes nothing, unless a module was replaced.

    Args:
        x: an input of the LightningModule's forward, ``(B, ...)``; with ``direct`` of the network itself.
        name: the attribute that holds the network; found if None.
    """
    current = installed(module)
    if current is not None:
        if repr(current.method) == repr(method) and not current.is_stale():
            return current
        if current.is_stale():
            rank_zero_warn("a module of the rewritten network was replaced: it is rewritten anew, and what its rule inserted starts anew")
        unwrap(module)
    network, name, x = network_of(module, name), find_network(module, name), _fitting(x, module)
    if name is None:
        model = rewrite(module, method, x)
        module._modules[WHOLE] = model
        object.__setattr__(module, "forward", model.forward)
        hooks = [
            module.register_state_dict_post_hook(_read_from_view),
            module.register_load_state_dict_pre_hook(_write_to_view),
        ]
    else:
        model = rewrite(network, method, x if direct else _input_of_child(module, network, x))
        setattr(module, name, model)
        hooks = []
    hooks.append(module.register_state_dict_post_hook(_drop_inserted))
    for hook in hooks:
        model.on_undo(hook.remove)
    return model


def inserted_state(module: LightningModule) -> dict[str, Any]:
    """What a rule inserted into a LightningModule, by the keys under which it loads."""
    return {
        f"{name}.{key}": value
        for name, child in module.named_children()
        if isinstance(child, RewrittenModel)
        for key, value in child.state_dict().items()
        if is_inserted(key)
    }


def folded_state(module: LightningModule) -> dict[str, Tensor]:
    """Folded weights and biases as they are in memory, by the keys under which the plain ones are saved: unfolding rounds."""
    return {
        f"{'' if name == WHOLE else f'{name}.'}{use}": child.get_parameter(use).detach().clone()
        for name, child in module.named_children()
        if isinstance(child, RewrittenModel)
        for fold in child.inserted.modules()
        if isinstance(fold, FoldedLayer)
        for use in fold.uses
    }


@torch.no_grad()
def load_folded_state(module: LightningModule, folded: dict[str, Tensor], plain: dict[str, Tensor]) -> None:
    """Take what :func:`folded_state` gave where it is the ``plain`` state that was loaded, which a callback may have exchanged for
    another."""
    parameters, now = dict(module.named_parameters(remove_duplicate=False)), folded_state(module)
    if now.keys() != folded.keys():
        return
    for name, value in folded.items():
        parameters[name].copy_(value)
    state = module.state_dict()
    if not all(name in plain and torch.equal(state[name], plain[name].to(state[name])) for name in folded):
        for name, value in now.items():
            parameters[name].copy_(value)


def _drop_inserted(_module: nn.Module, state: dict[str, Any], prefix: str, _meta: dict) -> None:
    """The module's own state_dict is the plain one's; a copy inside another module (averaged weights) keeps all, to resume from."""
    if not prefix:
        for key in [k for k in state if is_inserted(k)]:
            del state[key]


def _read_from_view(module: nn.Module, state: dict[str, Any], prefix: str, _meta: dict) -> None:
    """Every tensor stands there twice, by its own name and through the rewritten model, which knows what is folded or masked."""
    view = f"{prefix}{WHOLE}."
    for key in [k for k in state if k.startswith(view)]:
        own = prefix + key.removeprefix(view)
        if own in state:
            state[own] = state.pop(key)


def _write_to_view(module: nn.Module, state: dict[str, Any], prefix: str, *_args: Any) -> None:
    own = [k for k in state if k.startswith(prefix) and not k.startswith(f"{prefix}{INSERTED}")]
    state.update({f"{prefix}{WHOLE}.{key.removeprefix(prefix)}": state[key] for key in own})


def split_state(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A LightningModule's state as ``(plain, inserted)``: the plain module's own keys, and those of state that a rule inserted."""
    inserted = {key: value for key, value in state.items() if is_inserted(key)}
    return {key: value for key, value in state.items() if key not in inserted}, inserted


def installed(module: nn.Module) -> RewrittenModel | None:
    """The rewritten network inside a module, if there is one."""
    for child in module._modules.values():  # asked several times a step
        if isinstance(child, RewrittenModel):
            return child
    return None


def unwrap(module: nn.Module) -> nn.Module:
    """Give the original back: its class, keys and flags, with the weights as trained.

    Args:
        module: a rewritten model, or a LightningModule that holds one.
    """
    if isinstance(module, RewrittenModel):
        return module.undo()
    for name, child in list(module.named_children()):
        if isinstance(child, RewrittenModel):
            if name == WHOLE:
                del module._modules[name]
                module.__dict__.pop("forward", None)
                child.undo()
            else:
                setattr(module, name, child.undo())
    return module


def _input_of_child(module: nn.Module, child: nn.Module, x: Tensor) -> Tensor:
    """What the LightningModule's forward feeds its network (it may reshape or normalise); ``x`` itself if forward cannot tell."""
    if isinstance(child, torch.jit.ScriptModule):  # takes no hooks, and is refused
        return x
    materialise(module, x)
    seen: list[Tensor] = []
    hook = child.register_forward_pre_hook(lambda _m, args, named: seen.extend([*args, *named.values()][:1]), with_kwargs=True)
    state = ModuleState(module)
    try:
        with kept_modes(module), torch.no_grad(), torch.random.fork_rng(devices=[]):
            module.eval()
            module(x)
    except Exception:  # no forward of its own, or one that needs a trainer: then training_step feeds the network directly
        pass
    finally:
        hook.remove()
        state.restore()
    return seen[0] if seen and isinstance(seen[0], Tensor) else x
