"""ONNX: the certified network as a file for other runtimes, with the constants of its certificate in the metadata."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from lipcert._version import __version__
from lipcert.certificates import logit_errors, pair_upper_bounds_by_rule
from lipcert.certificates.margin import ASSUMPTIONS
from lipcert.deployment import export as exported
from lipcert.deployment import tensors_sha256
from lipcert.errors import InputError
from lipcert.files import write_atomically
from lipcert.runs import load_run

KEY = "lipcert.certificate"
INPUT, OUTPUT = "inputs", "logits"
PROBES = 4
_CLOSE = 1e-4  # of the largest logit, for a network whose rounding has no known bound

STATEMENT = (
    "The constants bound the real-valued network with these weights: whoever computes its logits exactly may divide "
    "their gaps by them. The float32-sound radii that lipcert computes hold for the network as PyTorch executes it, "
    "where they were analysed. For another runtime they hold only if it adds up the same products, in any order but in "
    "the same blocks, and keeps to the assumptions: not if it fuses operations into others, multiplies in lower "
    "precision, or convolves by Winograd's or Fourier's transform."
)


@dataclass(frozen=True)
class OnnxCertificate:
    """What an exported file says about its certificate.

    Attributes:
        lipschitz_upper_bound: sound bound of the network's L2 Lipschitz constant.
        pair_upper_bounds: ``(K, K)`` float64: a radius is the least of (f_y - f_j) over entry (y, j).
        weights_sha256: of the weights, see :func:`lipcert.deployment.tensors_sha256`.
        input_shape: ``(C, H, W)`` of images in [0, 1].
        assumptions: what has to hold beside the mathematics, one sentence each.
        statement: for which execution radii hold.
        lipcert_version: that wrote the file.
    """

    lipschitz_upper_bound: float
    pair_upper_bounds: Tensor
    weights_sha256: str
    input_shape: tuple[int, ...]
    assumptions: tuple[str, ...]
    statement: str
    lipcert_version: str


def export(
    run_or_network: str | Path | nn.Module, path: str | Path, *, input_shape: Sequence[int] | None = None
) -> Path:
    r"""Write a certified network as an ONNX file whose logits agree, with its certificate's constants as metadata.

    The file is written in one step, after ONNX's own reference evaluation of it was compared with the network on random
    images: each logit gap may differ by what the rounding of both executions can explain,

    .. math:: |(\hat f_i - \hat f_j)(x) - (\tilde f_i - \tilde f_j)(x)| \le 2 (E^0_{ij} + E^1_{ij} \|x\|),

    see :class:`~lipcert.certificates.LogitErrors`; by 1e-4 of the largest logit if that has no known bound. Needs the
    packages of ``lipcert[onnx]``.

    Args:
        run_or_network: run directory, or a network; constraints are exported.
        path: destination, replaced if it is there.
        input_shape: ``(C, H, W)``; of a run it is that of its data.

    Returns:
        The path.

    Raises:
        InputError: no such run, no input shape, missing packages, a network that cannot be bounded or translated, or
            one whose translation gives other logits.
    """
    path = Path(path)
    network, shape = _network_and_shape(run_or_network, input_shape)
    onnx = _package("onnx")
    _package("onnxscript")
    bounds, proof = pair_upper_bounds_by_rule(network, shape)
    said = {
        "lipschitz_upper_bound": proof.value,
        "pair_upper_bounds": bounds["best"].tolist(),
        "weights_sha256": tensors_sha256(network),
        "input_shape": list(shape),
        "assumptions": list(ASSUMPTIONS["float32"]),
        "statement": STATEMENT,
        "lipcert_version": __version__,
    }
    model = _translated(network, shape)
    onnx.helper.set_model_props(model, {KEY: json.dumps(said, allow_nan=False)})
    _check_logits(onnx, model, network, shape)
    write_atomically(path, model.SerializeToString(), check=lambda written: onnx.checker.check_model(str(written)))
    return path


def read_certificate(path: str | Path) -> OnnxCertificate:
    """Return the constants that :func:`export` wrote into a file.

    Args:
        path: an ``.onnx`` file.

    Raises:
        InputError: no such file, none of ONNX, or one without them.
    """
    onnx = _package("onnx")
    path = Path(path)
    if not path.is_file():
        raise InputError(f"expected an ONNX file, found none at {path}")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
        found = {entry.key: entry.value for entry in model.metadata_props}
    except Exception as error:  # what a damaged file makes a parser raise is not limited to a few types
        raise InputError(f"expected an ONNX file at {path}: {' '.join(str(error).split())}") from None
    if KEY not in found:
        raise InputError(f"expected the metadata {KEY} in {path}, got {', '.join(found) or 'none'}")
    try:
        said = json.loads(found[KEY])
        bounds = torch.tensor(said["pair_upper_bounds"], dtype=torch.float64)
        if bounds.ndim != 2 or bounds.shape[0] != bounds.shape[1] or not bool((bounds >= 0).all()):
            raise ValueError(f"pair_upper_bounds of shape {tuple(bounds.shape)}")
        return OnnxCertificate(
            float(said["lipschitz_upper_bound"]),
            bounds,
            str(said["weights_sha256"]),
            tuple(map(int, said["input_shape"])),
            tuple(map(str, said["assumptions"])),
            str(said["statement"]),
            str(said["lipcert_version"]),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"expected the constants of a certificate in {path}, got {error!r}") from error


def _network_and_shape(
    run_or_network: str | Path | nn.Module, input_shape: Sequence[int] | None
) -> tuple[nn.Module, tuple[int, ...]]:
    if isinstance(run_or_network, nn.Module):
        if input_shape is None:
            raise InputError("expected input_shape=(C, H, W) of the network")
        return exported(run_or_network).cpu().requires_grad_(False), tuple(map(int, input_shape))
    if not isinstance(run_or_network, str | Path):
        raise InputError(f"expected a run directory or a network, got {type(run_or_network).__name__}")
    run = load_run(run_or_network)
    return run.network, tuple(input_shape or run.data.input_shape)


def _translated(network: nn.Module, shape: tuple[int, ...]) -> Any:
    """Return the ONNX model, for batches of any size."""
    example = torch.zeros(2, *shape)
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # the exporter tells of operators of packages that are not there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=[INPUT],
                output_names=[OUTPUT],
                optimize=False,
                verbose=False,
            )
    except Exception as error:  # whatever the exporter meets in a network
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"expected a network that torch.onnx translates, got {type(error).__name__}: {reason}"
        ) from error
    finally:
        logging.disable(level)
    assert program is not None
    return program.model_proto


def _check_logits(onnx: Any, model: Any, network: nn.Module, shape: tuple[int, ...]) -> None:
    inputs = torch.rand(PROBES, *shape, generator=torch.Generator().manual_seed(0))
    evaluator = import_module("onnx.reference").ReferenceEvaluator(model)
    with torch.no_grad():
        ours = network(inputs).double()
    theirs = torch.from_numpy(evaluator.run(None, {INPUT: inputs.numpy()})[0]).double()
    if theirs.shape != ours.shape:
        raise InputError(f"expected logits {tuple(ours.shape)} of the translation, got {tuple(theirs.shape)}")
    gaps = (_gaps(theirs) - _gaps(ours)).abs()
    if not bool((gaps <= _allowance(network, inputs, ours)).all()):
        raise InputError(f"expected a translation that gives the network's logits, gaps differ by {gaps.max():g}")


def _gaps(logits: Tensor) -> Tensor:
    return logits[:, :, None] - logits[:, None]


def _allowance(network: nn.Module, inputs: Tensor, logits: Tensor) -> Tensor:
    """Return how far the gaps ``(N, K, K)`` of two executions may lie apart."""
    try:
        errors = logit_errors(network, inputs.shape[1:])
    except InputError:
        return _CLOSE * logits.abs().max() * torch.ones_like(_gaps(logits))
    norms = inputs.double().flatten(1).norm(dim=1)[:, None, None] * (1 + 1e-9)
    allowance: Tensor = 2 * (errors.constant + errors.coefficient * norms)
    return allowance


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise InputError(f"expected the package {name}, which is not installed; pip install 'lipcert[onnx]'") from None
