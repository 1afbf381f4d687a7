"""HEART's guide to white-box attacks with its imports changed; what it loads is handed in."""

import numpy as np
import torch

from lipcert.interop.heart import (
    AccuracyPerturbationMetric,
    HeartAccuracyMetric,
    JaticAttack,
    JaticPyTorchClassifier,
    ProjectedGradientDescentPyTorch,
)


def main(model, data, sample_data, classes, shape):
    jptc = JaticPyTorchClassifier(
        model=model, loss=torch.nn.CrossEntropyLoss(), input_shape=shape, nb_classes=len(classes), clip_values=(0, 1)
    )
    pred_batch = jptc(sample_data)
    first = classes[np.argmax(np.stack(pred_batch[0]))]

    pgd_attack = ProjectedGradientDescentPyTorch(estimator=jptc, max_iter=100, eps=0.1, eps_step=0.1, targeted=False)
    jattack = JaticAttack(pgd_attack, norm=2)
    x_adv, y, metadata = jattack(data=sample_data)

    groundtruth_target_batch = data["label"][0:10]
    benign_preds_batch = jptc(sample_data)
    adversarial_preds_batch = jptc(x_adv)

    metric = AccuracyPerturbationMetric(benign_preds_batch, metadata)
    metric.update(adversarial_preds_batch, groundtruth_target_batch)

    accuracy = HeartAccuracyMetric(task="multiclass", num_classes=len(classes), average="micro")
    accuracy.update(adversarial_preds_batch, y)
    return first, x_adv, metadata, metric.compute(), accuracy.compute()
