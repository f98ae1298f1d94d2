"""``mixaug train``: one run of one method; Ctrl-C or SIGTERM ends it cleanly and ``--resume`` goes on."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from mixaug._terminal import INTERRUPTED, printable, quiet, tell
from mixaug.commands._arguments import fraction, names, number_or_range
from mixaug.losses import SHAPES
from mixaug.mixing_sets.named import named_parts
from mixaug.models.activation import ACTIVATIONS, GRANULARITIES
from mixaug.train.descent import HALVE_AFTER, STOP_AFTER
from mixaug.train.schedules import SCHEDULES
from mixaug.train.settings import AMP, HYBRID_ATTACKS, METHOD_NAMES, OPTIMIZERS, TERMS, TrainSettings
from mixaug.transforms.ipmix import STRUCTURES

#: Imported before the command runs, see :func:`mixaug.cli.main`.
NEEDS = ("mixaug.train.loop", "mixaug.train.data")
_DEFAULTS = {field.name: field.default for field in fields(TrainSettings)}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds an option for each field of ``TrainSettings``, with its default."""

    def add(group: Any, name: str, text: str, **how: Any) -> None:
        default = _DEFAULTS[name]
        shown = "" if default is None or how.get("action") == "store_true" else f" (default {default})"
        group.add_argument(f"--{name.replace('_', '-')}", default=default, help=text + shown, **how)

    what = parser.add_argument_group("what is trained")
    add(what, "data", "embedded, digits, fashion-mnist, mnist, cifar10, cifar100, svhn or folder:PATH")
    add(what, "root", "folder where data sets are kept", type=Path)
    what.add_argument("--download", action="store_true", help="fetch the data set with torchvision if it is missing")
    add(what, "limit", "use this many training images, class-balanced", type=int)
    add(what, "extra_data", "folder of further pictures, in folders of the same classes, to mix with", type=Path)
    add(what, "extra_share", "share of each epoch that comes from them (default 0.7)", type=float)
    add(what, "image_size", "resize the images to this side", type=int)
    add(what, "validation", "share of the training part that chooses the best epoch", type=float)
    add(
        what,
        "model",
        "lenet5, resnet-small, resnet18-cifar, wrn-40-4, wrn-28-10, resnext29, a torchvision or timm: name",
    )
    add(what, "method", f"one of {', '.join(METHOD_NAMES)}", metavar="NAME")

    how = parser.add_argument_group("how")
    add(how, "epochs", "passes over the training images", type=int)
    add(how, "steps", "optimiser steps instead of epochs", type=int)
    add(how, "batch_size", "images a step, of all processes together", type=int)
    add(how, "optimizer", f"one of {', '.join(OPTIMIZERS)}", metavar="NAME")
    add(how, "lr", "highest learning rate (default 0.1; adam 0.001)", type=float)
    add(how, "schedule", f"of the learning rate, one of {', '.join(SCHEDULES)}", metavar="NAME")
    add(how, "lr_decay", "factor an epoch of the exponential schedule", type=float)
    add(how, "warmup", "first epochs, in which the learning rate rises to its highest", type=int)
    add(
        how,
        "plateau",
        f"halve the rate after {HALVE_AFTER} epochs without a lower validation loss, stop after {STOP_AFTER}",
        action="store_true",
    )
    add(how, "momentum", "of SGD, in Nesterov's form", type=float)
    add(how, "weight_decay", "of all but D-ReLU's caps (default 0.0005; adam 0)", type=float)
    add(how, "amp", "precision of the forward pass", choices=AMP)
    add(how, "channels_last", "memory format", action=argparse.BooleanOptionalAction)
    add(how, "flip", "horizontal flips (default: for all data but digits)", action=argparse.BooleanOptionalAction)
    add(how, "padding", "pixels of the random crop (default: an eighth of the side)", type=int)
    add(how, "seed", "of weights, order and augmentation", type=int)
    add(how, "workers", "loader processes for folders too large for memory", type=int)
    add(how, "device", "cpu, cuda, cuda:1, ... (default: a GPU where there is one)")

    drelu = parser.add_argument_group("activation, with every method")
    add(drelu, "activation", f"one of {', '.join(ACTIVATIONS)}", metavar="NAME")
    add(
        drelu,
        "placement",
        "a new layer before the output (head) or the first convolution (stem), with either activation; drelu in place "
        "of all ReLUs or those of the last-block (default: head for drelu)",
        metavar="NAME",
    )
    add(drelu, "extra_features", "of the new layer (default 256; stem 16)", type=int)
    add(drelu, "granularity", f"all, last-block: {', '.join(GRANULARITIES)} (default channel)", metavar="NAME")
    add(drelu, "drelu_init", "first value of every cap (default 100)", type=float)
    add(drelu, "drelu_quantile", "start caps at this quantile of their positive pre-activations instead", type=float)
    add(drelu, "drelu_lambda", "weight of the sum of the squared caps (default 0.1)", type=float)
    add(drelu, "drelu_m_lr", "learning rate of the caps (default: that of the weights)", type=float)

    mixing = parser.add_argument_group("mixing")
    add(mixing, "jsd", "augmix, ipmix: the Jensen-Shannon loss over the image and two views", action="store_true")
    add(mixing, "jsd_weight", "its weight", type=float)
    add(mixing, "levels", "ipmix: which of image,patch,pixel are used, with commas", type=names)
    add(mixing, "structure", f"ipmix: one of {', '.join(STRUCTURES)}", metavar="NAME")
    add(mixing, "k", "ipmix: chains", type=int)
    add(mixing, "t", "ipmix: most steps of a chain", type=int)
    add(mixing, "severity", "ipmix: upper end of the strengths (default by image size)", type=float)
    add(mixing, "all_ops", "augmix, ipmix: also operations that overlap with the corruptions", action="store_true")
    add(
        mixing,
        "mixing_set",
        "ipmix: fractals, ifs, contours, dead-leaves, spectrum, a folder of pictures, or several of these with commas "
        "in equal parts; a source's name means the source, ./ifs the folder (default: fractals)",
        metavar="NAME",
    )
    add(mixing, "alpha", "mixup, cutmix, adautomix: parameter of the Beta distribution", type=float)

    learned = parser.add_argument_group("learned mixing (adautomix)")
    add(learned, "n_mix", "images of a mixture (default 3)", type=int)
    add(learned, "feature_layer", "layer that the generator sees (default: the third stage)", metavar="NAME")
    add(learned, "mix_alpha", "weight of the plain mixture against the clean images (default 0.5)", type=float)
    add(learned, "mix_beta", "weight of the teacher's loss against the similarity (default 0.3)", type=float)
    add(learned, "share_weight", "weight of the gap between a mask's share and its ratio (default 0)", type=float)
    add(learned, "cooperative", "the generator helps the classifier, as in AutoMix", action="store_true")
    add(learned, "without", f"terms to leave out, with commas: {','.join(TERMS)}", type=names)
    add(learned, "per_image", "ratios for each image in place of each batch", action="store_true")
    add(learned, "generator_lr", "highest learning rate of the generator (default 0.1)", type=float)
    add(learned, "generator_every", "the generator plays every so many steps (default 1)", type=int)
    add(learned, "generator_share", "share of the batch that it plays with (default 1)", type=float)
    add(learned, "terms_share", "share of the batch of the clean and the plain term (default 1)", type=float)
    add(learned, "shared_draws", "one draw and one pass of the classifier for both", action="store_true")
    add(learned, "teacher_momentum", "of the moving average at the start (default 0.999)", type=float)
    add(learned, "picture_every", "steps between two pictures of mixtures, 0: none (default 500)", type=int)

    attack = parser.add_argument_group("attacks (dynamic-mixcut, pgd, trades, feature-scatter, hybrid)")
    add(attack, "adversarial", "mixup, cutmix, augmix, ipmix: attack the augmented batch", action="store_true")
    add(attack, "eps", "radius in pixels of [0, 1]: 8/255 or 0.03 (default 8/255; hybrid 0.03)", type=fraction)
    add(attack, "step_size", "of the attack (default eps/4)", type=fraction)
    add(attack, "attack_steps", "of the attack (default 10)", type=int)
    add(
        attack,
        "targeted",
        "towards a random other class (default: for dynamic-mixcut)",
        action=argparse.BooleanOptionalAction,
    )
    shapes = ", ".join(SHAPES)
    add(attack, "eps_schedule", f"radius over the epochs: {shapes} (default constant; hybrid linear)", metavar="NAME")
    add(attack, "hybrid_attack", f"hybrid: one of {', '.join(HYBRID_ATTACKS)} (default fgsm)", metavar="NAME")
    add(attack, "trades_beta", "trades: weight of the divergence (default 6)", type=float)
    add(
        attack,
        "boxes",
        "dynamic-mixcut: boxes an image, or their range with a comma: 1,3 (default 2)",
        type=number_or_range,
    )
    add(attack, "smoothing", "of labels (default: dynamic-mixcut 0.1, feature-scatter 0.5, pgd 0)", type=float)
    add(attack, "robust_images", "validation images attacked after each epoch to choose the best one", type=int)

    run = parser.add_argument_group("the run")
    add(run, "out", "folder of the run (default runs/DATA-MODEL-METHOD-SEED)", type=Path)
    run.add_argument("--resume", action="store_true", help="go on where the run in that folder stopped")
    run.add_argument("--quiet", action="store_true", help="no progress")


def run(options: argparse.Namespace) -> int:
    """Trains, and says where the checkpoints are."""
    from mixaug.train.loop import train
    from mixaug.train.processes import keep_freed_memory, this_process

    keep_freed_memory()
    settings = TrainSettings(**{name: getattr(options, name) for name in _DEFAULTS})
    if settings.mixing_set is not None:
        if settings.method != "ipmix":
            raise ValueError(f"mixing_set must be used with the method ipmix, got the method {settings.method!r}")
        named_parts(settings.mixing_set)  # now, and not after the data are loaded
    result = train(settings, resume=options.resume, progress=not options.quiet, download=options.download)
    processes = this_process()
    if result.interrupted:
        again = " ".join([*_without_resume(sys.argv[1:]), "--resume"])
        command = "mixaug" if processes.count == 1 else "torchrun (as before) -m mixaug"
        if processes.leads:
            tell(printable(f"Stopped; everything is saved in {result.folder}. Go on with: {command} {again}") + "\n")
        return INTERRUPTED
    if not processes.leads:
        return 0
    best = printable(str(result.best))
    stream = quiet(sys.stdout)  # the run is done and saved, whoever reads that
    stream.write(f"{best}\nEvaluate with: mixaug evaluate {best}\n")
    stream.flush()
    return 0


def _without_resume(words: list[str]) -> list[str]:
    return [word for word in words if word != "--resume"]
