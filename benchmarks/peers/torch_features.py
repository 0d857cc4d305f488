"""Gradients by torch.func's vmap(grad), times a Gaussian map that is drawn once and kept: SETTINGS as JSON.

How many transitions at a time, and whether every layer's gradients are multiplied by their rows of the
map or all at once, is tried, and the fastest counts.
"""

import functools
import itertools
import json
import sys

from worker import fastest, pin, serve

pin()
import torch  # noqa: E402
from torch_network import network, random_transitions, told  # noqa: E402

wanted = json.loads(sys.argv[1])
model = network(wanted)
params = {name: value.detach() for name, value in model.named_parameters()}
sizes = [value.numel() for value in params.values()]
whole = torch.randn(sum(sizes), wanted["dim"])
rows = whole.split(sizes)


def log_prob(params, obs, action):
    """Of one transition."""
    return torch.log_softmax(torch.func.functional_call(model, params, obs), -1).gather(-1, action)[0]


gradients = torch.func.vmap(torch.func.grad(log_prob), (None, 0, 0))


def at_once(found, out):
    """All gradients side by side, times the map."""
    torch.mm(torch.cat([x.flatten(1) for x in found.values()], 1), whole, out=out)


def by_layer(found, out):
    """The sum of every layer's product."""
    for x, part in zip(found.values(), rows, strict=True):
        out.addmm_(x.flatten(1), part)


def features(project, chunk, obs, action):
    """Features [N, d]."""
    out = torch.zeros(len(obs), wanted["dim"])
    for o, a, to in zip(obs.split(chunk), action.split(chunk), out.split(chunk), strict=True):
        project(gradients(params, o, a[:, None]), to)
    return out


obs, action = random_transitions(wanted)
some = obs[:1024], action[:1024]
chosen = fastest(
    {
        way: functools.partial(features, *way, *some)
        for way in itertools.product((at_once, by_layer), (32, 64, 128, 256, 512, 1024))
    }
)
first = features(*chosen, obs, action)
settings = wanted | told(model, first)
serve(settings, len(first), lambda _: features(*chosen, obs, action), ["torch"], lambda _: None)
