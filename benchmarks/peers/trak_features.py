"""TRAK's per-sample gradients and its projector for processors (`BasicProjector`): SETTINGS as JSON.

The map stays in memory as a whole (one block), though by default TRAK draws blocks of it anew for every
batch; its fast projector needs CUDA. How many transitions make a batch is tried, and the fastest counts.
"""

import functools
import json
import sys

from worker import fastest, pin, serve

pin()
import torch  # noqa: E402
from torch_network import network, random_transitions, told  # noqa: E402
from trak.gradient_computers import FunctionalGradientComputer  # noqa: E402
from trak.modelout_functions import AbstractModelOutput  # noqa: E402
from trak.projectors import BasicProjector, ProjectionType  # noqa: E402

wanted = json.loads(sys.argv[1])


class LogProb(AbstractModelOutput):
    """The log-probability of the action."""

    def __init__(self):
        """Nothing is kept."""

    @staticmethod
    def get_output(model, weights, buffers, obs, action):
        """Of one transition."""
        logits = torch.func.functional_call(model, (weights, buffers), obs)
        return torch.log_softmax(logits, -1).gather(-1, action)[0]

    def get_out_to_loss_grad(self, *_):
        """Nobody asks for it."""
        raise NotImplementedError


model = network(wanted)
p, dim = sum(x.numel() for x in model.parameters()), wanted["dim"]
computer = FunctionalGradientComputer(model, LogProb(), p, torch.float32, torch.device("cpu"))
projector = BasicProjector(
    p, dim, 0, ProjectionType.normal, torch.device("cpu"), block_size=dim, dtype=torch.float32
)


def features(size, obs, action):
    """Features [N, d]."""
    out = []
    for batch in zip(obs.split(size), action[:, None].split(size), strict=True):
        out.append(projector.project(computer.compute_per_sample_grad(batch), 0))
    return torch.cat(out)


obs, action = random_transitions(wanted)
sizes = (32, 64, 128, 256, 512, 1024)
chosen = fastest({n: functools.partial(features, n, obs[:1024], action[:1024]) for n in sizes})
first = features(chosen, obs, action)
settings = wanted | told(model, first)
serve(settings, len(first), lambda _: features(chosen, obs, action), ["traker", "torch"], lambda _: None)
