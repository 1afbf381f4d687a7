"""Training for derandomized smoothing: every image shows one random view of itself."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from lipcert.certificates import certify_patch, largest_certified_patch, predict_votes, vote_counts
from lipcert.certificates.ablations import Size, as_pair
from lipcert.data import ImageSet
from lipcert.data.loader import seeded_generator
from lipcert.errors import InputError
from lipcert.modules.classifier import Batch, Classifier, Stage, at_least_single
from lipcert.networks import SmoothedNetwork

CHUNK = 1000


class DerandomizedSmoothing(Classifier):
    r"""Trains a network on random ablated views of its images, and validates the certified vote over all views.

    In every step each image shows one view of its own, drawn from all V,

    .. math:: \min_\theta \; \mathbb{E}_{x, y} \, \mathbb{E}_{v \sim U(V)} \; \ell(h_\theta(x \odot m_v), y)

    The loss is that of views; what is validated, tested and exported is the :class:`~lipcert.networks.SmoothedNetwork`:
    its accuracy, and the share of images that it gets right and certifies against a patch. Validation costs V passes
    an image.

    **BatchNorm** follows views only, since nothing else is ever passed in training. A network that starts from weights
    that were trained on whole images (``--weights``) brings their statistics along; a momentum of 0.1 forgets them
    within a hundred steps.

    Args:
        network: h and its ablation; see there.
        loss: called with logits ``(N, K)`` of views and classes ``(N,)``; cross-entropy if None.
        patch: height and width, in pixels, for which certified accuracy is logged and the checkpoint is chosen.
        **options: see :class:`Classifier`.

    Raises:
        InputError: a patch without pixels; before training, views or a patch larger than the images, or a network that
            does not take the views as they are encoded.

    Source: Levine and Feizi (2020), arXiv 2002.10733; Salman et al. (2021), arXiv 2110.07719, section 2.
    """

    in_progress_bar = ("accuracy", "certified_accuracy")
    monitor = "val/certified_accuracy"
    network: SmoothedNetwork

    def __init__(
        self, network: SmoothedNetwork, loss: nn.Module | None = None, *, patch: Size = 5, **options: Any
    ) -> None:
        if not isinstance(network, SmoothedNetwork):
            raise InputError(f"expected a SmoothedNetwork, got {type(network).__name__}")
        if min(as_pair(patch)) < 1:
            raise InputError(f"expected a patch of at least one pixel, got {patch}")
        self.patch = patch
        classes = network.num_classes
        super().__init__(network, loss or nn.CrossEntropyLoss(), num_classes=classes, one_hot=False, **options)

    def make_meters(self) -> dict[str, Metric]:
        """Return the metrics of one stage by name."""
        return super().make_meters() | {
            "view_accuracy": MulticlassAccuracy(self.num_classes, average="micro", validate_args=False),
            "certified_accuracy": MeanMetric(),
        }

    def report(self, stage: Stage) -> dict[str, Tensor]:
        """Return the scalars that are logged at the end of an epoch, by name; what was not measured is left out."""
        return {name: meter.compute() for name, meter in self.meters_of(stage).items() if meter.update_called}

    def on_fit_start(self) -> None:
        """Refuse what cannot work before any work is done."""
        shape = getattr(self.trainer.datamodule, "input_shape", None)  # type: ignore[attr-defined]
        if shape is not None:
            self._check(torch.zeros(1, *shape, device=self.device))

    def _check(self, inputs: Tensor) -> None:
        self.network.ablation.hits(*_size(inputs), self.patch)
        training = self.network.training
        try:
            self.network.eval().view_logits(inputs)
        except RuntimeError as error:
            complaint = str(error).partition("\n")[0]
            encoding = self.network.encoding
            raise InputError(f"expected a network that takes views encoded as {encoding!r}: {complaint}") from error
        finally:
            self.network.train(training)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one random view of each image."""
        inputs, labels = batch
        logits = at_least_single(self.network.one_view_logits(inputs, self._drawn_views(inputs)))
        loss = self.loss_of(logits, labels)
        meters = self.meters_of("train")
        meters["loss"].update(loss.detach(), len(labels))
        meters["view_accuracy"].update(logits.detach(), labels)
        return loss

    def _drawn_views(self, inputs: Tensor) -> Tensor:
        """Return the view that each image shows, ``(N,)``; several processes draw what a single one would."""
        count, first, total = len(inputs), 0, len(inputs)
        if self.trainer.world_size > 1:
            sizes = self.all_gather(torch.tensor(count, device=self.device)).flatten()  # type: ignore[union-attr]
            first, total = int(sizes[: self.global_rank].sum()), int(sizes.sum())
        generator = seeded_generator(torch.initial_seed(), self.global_step)
        views = len(self.network.ablation.windows(*inputs.shape[2:]))
        return torch.randint(views, (total,), generator=generator)[first : first + count].to(inputs.device)

    def _evaluate(self, stage: Stage, batch: Batch) -> None:
        inputs, labels = batch
        with torch.autocast(inputs.device.type, enabled=False):  # in the precision that is deployed
            votes = self._smoothed().votes(inputs)
        certified = certify_patch(votes, self.network.ablation, _size(inputs), self.patch, num_classes=self.num_classes)
        preds = predict_votes(vote_counts(votes, num_classes=self.num_classes))
        meters = self.meters_of(stage)
        meters["accuracy"].update(preds, labels)
        meters["certified_accuracy"].update((certified & (preds == labels)).float())

    def _smoothed(self) -> SmoothedNetwork:
        assert isinstance(self.deployed, SmoothedNetwork)
        return self.deployed

    def figures(self, deployed: nn.Module, images: ImageSet) -> dict[str, Any]:
        """Return what the deployed vote certifies on a split: of every side of a square patch, and of the patch."""
        assert isinstance(deployed, SmoothedNetwork)
        inputs, labels = images.inputs(), images.labels
        votes = torch.cat([deployed.votes(chunk) for chunk in inputs.split(CHUNK)])
        size, classes = _size(inputs), self.num_classes
        right = predict_votes(vote_counts(votes, num_classes=classes)) == labels
        side = largest_certified_patch(votes, deployed.ablation, size, num_classes=classes) * right
        certified = certify_patch(votes, deployed.ablation, size, self.patch, num_classes=classes) & right
        largest = max(int(side.max()), 1)
        return {
            "clean_accuracy": right.float().mean().item(),
            "samples": len(labels),
            "norm": "patch",
            "certified_accuracy": {
                str(each): round((side >= each).double().mean().item(), 6) for each in range(1, largest + 1)
            },
            "average_certified_radius": round(side.double().mean().item(), 6),
            "patch": list(as_pair(self.patch)),
            "certified_accuracy_of_patch": round(certified.double().mean().item(), 6),
            "ablation": repr(deployed.ablation),
            "views": votes.shape[1],
        }


def _size(inputs: Tensor) -> tuple[int, int]:
    return inputs.shape[2], inputs.shape[3]
