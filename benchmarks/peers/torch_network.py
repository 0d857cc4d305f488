"""The features' network and transitions in PyTorch."""

import torch

torch.set_num_threads(1)


def network(wanted):
    """Two equal hidden layers of tanh."""
    layers = []
    for inputs, outputs in wanted["layers"]:
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


def random_transitions(wanted):
    """Observations [N, inputs] and actions [N]."""
    torch.manual_seed(0)
    inputs, outputs = wanted["layers"][0][0], wanted["layers"][-1][1]
    obs = torch.randn(wanted["transitions"], inputs)
    return obs, torch.randint(outputs, (wanted["transitions"],))


def told(model, features):
    """Settings that were built."""
    linear = [layer for layer in model if isinstance(layer, torch.nn.Linear)]
    return {
        "p": sum(x.numel() for x in model.parameters()),
        "layers": [[layer.in_features, layer.out_features] for layer in linear],
        "transitions": features.shape[0],
        "dim": features.shape[1],
    }
