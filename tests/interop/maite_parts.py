"""MAITE components that lipcert knows nothing of."""

import numpy as np
import torch
from torch import nn


class Dataset:
    """Images with one-hot targets and metadata of its own."""

    def __init__(self, images, labels, classes, *, id="strangers", names=()):
        self.images, self.targets = list(images), list(np.eye(classes, dtype=np.float32)[np.asarray(labels)])
        self.entries = [{"id": f"image-{number}", "hour": 12} for number in range(len(self.images))]
        self.metadata = {"id": id, **({"index2label": dict(enumerate(names))} if names else {})}

    def __len__(self):
        return len(self.images)

    def __getitem__(self, ind):
        return self.images[ind], self.targets[ind], self.entries[ind]


class NumpyModel:
    """A model without a network inside."""

    def __init__(self, weight, bias):
        self.metadata = {"id": "numpy"}
        self.weight, self.bias = weight, bias

    def __call__(self, batch):
        rows = np.stack([np.asarray(image).ravel() for image in batch])
        return list(rows @ self.weight.T + self.bias)


class TorchModel:
    """A model around a network, with probabilities as scores."""

    def __init__(self, network):
        self.metadata = {"id": "torch"}
        self.model = network

    def __call__(self, batch):
        with torch.no_grad():
            inputs = torch.stack([torch.as_tensor(np.asarray(image)) for image in batch])
            return list(self.model.eval()(inputs).softmax(1).numpy())


class ModuleModel(nn.Module):
    """A model that is a network."""

    def __init__(self, network):
        super().__init__()
        self.metadata = {"id": "module"}
        self.layers = network

    def forward(self, batch):
        inputs = batch if isinstance(batch, torch.Tensor) else torch.stack([torch.as_tensor(image) for image in batch])
        return self.layers(inputs)


class Brightness:
    """An augmentation of someone else's."""

    metadata = {"id": "brightness"}  # noqa: RUF012

    def __call__(self, batch):
        images, targets, metadata = batch
        return [np.clip(np.asarray(image) * 0.9, 0, 1) for image in images], targets, metadata
