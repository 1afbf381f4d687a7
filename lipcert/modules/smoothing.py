"""Training for derandomized smoothing: every image shows one random view of itself."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from lipcert.certificates import certify_patch, l1_certificate, largest_certified_patch, predict_votes, vote_counts
from lipcert.certificates.ablations import Size, as_pair
from lipcert.data import ImageSet
from lipcert.data.loader import seeded_generator
from lipcert.errors import InputError
from lipcert.modules.classifier import Batch, Classifier, Stage, at_least_single
from lipcert.networks import SmoothedNetwork, SplittingNetwork

L1_RADII = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


class DerandomizedSmoothing(Classifier):
    r"""Trains a network on random views of its images, and validates the certified vote over all views.

    In every step each image shows one view of its own, drawn from all V,

    .. math:: \min_\theta \; \mathbb{E}_{x, y} \, \mathbb{E}_{v \sim U(V)} \; \ell(h_\theta(v(x)), y)

    Views are ablated images, or what splitting noise makes of them. The loss is that of views; what is validated,
    tested and exported is the network that votes: its accuracy, and the share of images that it gets right and
    certifies, against a patch or within an L1 radius. Validation costs V passes an image.

    **BatchNorm** follows views only, since nothing else is ever passed in training. A network that starts from weights
    that were trained on whole images (``--weights``) brings their statistics along; a momentum of 0.1 forgets them
    within a hundred steps.

    Args:
        network: h and its views, a :class:`~lipcert.networks.SmoothedNetwork` or
            :class:`~lipcert.networks.SplittingNetwork`; see there.
        loss: called with logits ``(N, K)`` of views and classes ``(N,)``; cross-entropy if None.
        patch: height and width, in pixels, for which certified accuracy is logged and the checkpoint is chosen.
        radius: the same of splitting noise: an L1 radius in units of pixels in [0, 1].
        **options: see :class:`Classifier`.

    Raises:
        InputError: a patch without pixels or a radius that is not positive; before training, views or a patch larger
            than the images, or a network that does not take the views as they are encoded.

    Source: Levine and Feizi (2020), arXiv 2002.10733; Salman et al. (2021), arXiv 2110.07719, section 2; splitting
    noise: Levine and Feizi (2021), arXiv 2103.10834.
    """

    in_progress_bar = ("accuracy", "certified_accuracy")
    monitor = "val/certified_accuracy"
    network: SmoothedNetwork | SplittingNetwork

    def __init__(
        self,
        network: SmoothedNetwork | SplittingNetwork,
        loss: nn.Module | None = None,
        *,
        patch: Size = 5,
        radius: float = 0.5,
        **options: Any,
    ) -> None:
        if not isinstance(network, SmoothedNetwork | SplittingNetwork):
            raise InputError(f"expected a SmoothedNetwork or a SplittingNetwork, got {type(network).__name__}")
        if min(as_pair(patch)) < 1:
            raise InputError(f"expected a patch of at least one pixel, got {patch}")
        if not radius > 0:
            raise InputError(f"expected a radius > 0, got {radius:g}")
        self.patch = patch
        self.radius = radius
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
        shown = "as splitting noise makes them"
        if isinstance(self.network, SmoothedNetwork):
            self.network.ablation.hits(*_size(inputs), self.patch)
            shown = f"encoded as {self.network.encoding!r}"
        network: Any = self.whole_network()
        training = network.training
        try:
            network.eval().view_logits(inputs)
        except RuntimeError as error:
            complaint = str(error).partition("\n")[0]
            raise InputError(f"expected a network that takes views {shown}: {complaint}") from error
        finally:
            network.train(training)

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
        count = len(inputs)
        first, total = self.place_in_batch(count)
        generator = seeded_generator(torch.initial_seed(), self.global_step)
        views = self.network.count_views(inputs)
        return torch.randint(views, (total,), generator=generator)[first : first + count].to(inputs.device)

    def _evaluate(self, stage: Stage, batch: Batch) -> None:
        inputs, labels = batch
        with torch.autocast(inputs.device.type, enabled=False):  # in the precision that is deployed
            votes = self._smoothed().votes(inputs)
        preds = predict_votes(vote_counts(votes, num_classes=self.num_classes))
        meters = self.meters_of(stage)
        meters["accuracy"].update(preds, labels)
        meters["certified_accuracy"].update((self._certified(votes, _size(inputs)) & (preds == labels)).float())

    def _certified(self, votes: Tensor, size: tuple[int, int]) -> Tensor:
        """Return which images withstand the patch, or the L1 radius, of the settings."""
        network = self._smoothed()
        if isinstance(network, SplittingNetwork):
            return l1_certificate(votes, network.noise, num_classes=self.num_classes).radius >= self.radius
        return certify_patch(votes, network.ablation, size, self.patch, num_classes=self.num_classes)

    def _smoothed(self) -> SmoothedNetwork | SplittingNetwork:
        assert isinstance(self.deployed, SmoothedNetwork | SplittingNetwork)
        return self.deployed

    def figures(self, deployed: nn.Module, images: ImageSet) -> dict[str, Any]:
        """Return what the deployed vote certifies on a split: of every side of a square patch, or at some L1 radii."""
        assert isinstance(deployed, SmoothedNetwork | SplittingNetwork)
        inputs, labels = images.inputs(), images.labels
        votes = deployed.votes(inputs)
        right = predict_votes(vote_counts(votes, num_classes=self.num_classes)) == labels
        if isinstance(deployed, SmoothedNetwork):
            certified = self._of_patches(deployed, votes, right, _size(inputs))
        else:
            certified = self._of_splits(deployed, votes, right)
        return {
            "clean_accuracy": right.float().mean().item(),
            "samples": len(labels),
            **certified,
            "views": votes.shape[1],
        }

    def _of_patches(
        self, deployed: SmoothedNetwork, votes: Tensor, right: Tensor, size: tuple[int, int]
    ) -> dict[str, Any]:
        classes = self.num_classes
        side = largest_certified_patch(votes, deployed.ablation, size, num_classes=classes) * right
        certified = certify_patch(votes, deployed.ablation, size, self.patch, num_classes=classes) & right
        largest = max(int(side.max()), 1)
        return {
            "norm": "patch",
            "certified_accuracy": {str(each): _share(side >= each) for each in range(1, largest + 1)},
            "average_certified_radius": round(side.double().mean().item(), 6),
            "patch": list(as_pair(self.patch)),
            "certified_accuracy_of_patch": _share(certified),
            "ablation": repr(deployed.ablation),
        }

    def _of_splits(self, deployed: SplittingNetwork, votes: Tensor, right: Tensor) -> dict[str, Any]:
        radius = l1_certificate(votes, deployed.noise, num_classes=self.num_classes).radius * right
        return {
            "norm": "l1",
            "certified_accuracy": {f"{each:g}": _share((radius >= each) & right) for each in L1_RADII},
            "average_certified_radius": round(radius.mean().item(), 6),
            "noise": repr(deployed.noise),
        }


def _share(of: Tensor) -> float:
    return round(of.double().mean().item(), 6)


def _size(inputs: Tensor) -> tuple[int, int]:
    return inputs.shape[2], inputs.shape[3]
