"""Swaps the ReLUs of every torchvision classifier and of timm models of many families, and writes what came out.

    python benchmarks/sweep_relu.py [--models resnet18 timm:dla34 ...] [--state runs/sweep_relu.jsonl]

For each model with random weights: do outputs stay bit-identical with caps out of the way, in evaluation and in
training mode (heads and running statistics too)? And with each cap at the median of its positive pre-activations, does
one training step move the caps of every site that was reached? One JSON line for each finished model: a second run goes
on where the first stopped. It takes about half an hour on one core, and 12 GB for the largest RegNet.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import platform
import random
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from mixaug.nn import DReLU, ReLUReport, caps, replace_relu

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "results" / "relu_sweep.md"
SIDES = (64, 96, 128, 192, 224, 256, 299, 331)
HUGE = 1e30

#: One or two of each family of timm that has ReLU or ReLU6, the smallest of its kind.
TIMM = """
    bat_resnext26ts botnet26t_256 cspresnet50 densenet121 dla34 dla60_res2net dpn48b ecaresnet26t
    efficientnet_lite0 efficientvit_b0 efficientvit_m0 ese_vovnet19b_slim fastvit_t8 fbnetc_100 gernet_s
    ghostnet_050 halonet26t hardcorenas_a hgnet_tiny hgnetv2_b0 hrnet_w18_small inception_resnet_v2 inception_v3
    inception_v4 lambda_resnet26t lcnet_050 legacy_seresnet18 mobilenetv2_100 mobilenetv3_small_050
    mobilenetv4_conv_small mobileone_s0 mobilevitv2_050 mnasnet_small nasnetalarge nfnet_f0 nf_regnet_b0
    nf_resnet26 pnasnet5large poolformerv2_s12 pvt_v2_b2_li regnetx_002 regnety_002 repghostnet_050 repvgg_a0
    res2net50_26w_4s resnest14d resnet18 resnetblur18 resnetv2_50 rexnet_100 selecsls42 semnasnet_075 skresnet18
    spnasnet_100 starnet_s1 tf_efficientnet_lite0 tf_mobilenetv3_small_minimal_100 tiny_vit_5m_224 tresnet_m
    vgg11_bn vovnet39a xception xception41 xcit_nano_12_p16_224
"""


def build(name: str) -> nn.Module:
    """A model with random weights, with the auxiliary heads that it has."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name.startswith("timm:"):
            import timm

            return timm.create_model(name.removeprefix("timm:"), pretrained=False)
        more = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        return torchvision.models.get_model(name, weights=None, **more)


def outputs(model: nn.Module, images: Tensor, training: bool) -> list[Tensor]:
    """The output and those of auxiliary heads; the same random numbers each time."""
    model.train(training)
    torch.manual_seed(1)
    random.seed(1)
    with torch.no_grad():
        out = model(images)
    return [out] if isinstance(out, Tensor) else [value for value in out if value is not None]


def takes(model: nn.Module) -> Tensor:
    """Two images of the smallest size that the model takes in both modes."""
    state = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for side in SIDES:
        images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2))
        try:
            outputs(model, images, False)
            outputs(model, images, True)
        except (RuntimeError, ValueError, AssertionError):
            continue
        finally:
            restore(model, state)
        return images
    raise ValueError(f"no size of {SIDES} fits")


def restore(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Sets the buffers again."""
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name in state:
                buffer.copy_(state[name])


def one(name: str) -> dict[str, Any]:
    """What is to be seen of one model."""
    model = build(name)
    kind = type(model)
    images = takes(model)
    state = {key: buffer.clone() for key, buffer in model.named_buffers()}
    keys = list(model.state_dict())
    plain = [outputs(model, images, False), outputs(model, images, True)]
    running = {key: buffer.clone() for key, buffer in model.named_buffers()}
    restore(model, state)
    start = time.perf_counter()
    try:
        replace_relu(model, DReLU, init=HUGE, example_input=images)
    except ValueError as error:
        if "must have a ReLU" in str(error):
            return {"model": name, "sites": 0}
        raise
    seconds = time.perf_counter() - start
    report = model.relu_report
    assert isinstance(report, ReLUReport)
    equal = []
    for training, wanted in zip((False, True), plain, strict=True):
        found = outputs(model, images, training)
        equal.append(len(found) == len(wanted) and all(map(torch.equal, found, wanted)))
    equal[1] &= all(torch.equal(buffer, running[key]) for key, buffer in model.named_buffers() if key in running)
    restore(model, state)
    still, reached = step(model, images)
    return {
        "model": name,
        "side": images.shape[-1],
        "sites": len(report.swapped),
        "kinds": sorted({site.kind for site in report.swapped}),
        "left": [[site.name, reason] for site, reason in report.left],
        "eval": equal[0],
        "train": equal[1],
        "heads": len(plain[1]),
        "kept": isinstance(model, kind) and set(keys) <= set(model.state_dict()),
        "moved": reached - len(still),
        "reached": reached,
        "still": still,
        "seconds": round(seconds, 2),
    }


def step(model: nn.Module, images: Tensor) -> tuple[list[str], int]:
    """Sites whose caps one step of SGD leaves, and the number that was reached, with the caps of each at its median.

    The medians are those of the training pass, since auxiliary heads run in no other; ReLU6 starts without its 6.
    Layers that drop are off and weights of branches that begin at 0 are not, so that gradients come to all sites.
    """
    model.train()
    for module in model.modules():
        if "drop" in type(module).__name__.lower() or "StochasticDepth" in type(module).__name__:
            module.eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():  # branches that begin as zero would get no gradient
            if not key.endswith("bias") and not parameter.any():
                parameter.normal_(1, 0.1)
    layers = dict(caps(model))

    def note(layer: DReLU, args: tuple[Tensor, ...], name: str) -> None:
        # One median a site: of two images, each unit's own median would cap all of it and let no gradient through.
        positive = args[0].detach()[args[0] > 0]
        if len(positive):
            reached.add(name)
            layer.max_value.data.fill_(positive.median())

    # Each cap is set before its layer runs: the layers after it see what they will see in the step.
    reached: set[str] = set()
    hooks = [
        layer.register_forward_pre_hook(lambda layer, args, name=name: note(layer, args, name))
        for name, layer in layers.items()
    ]
    torch.manual_seed(3)
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    before = {name: layer.max_value.detach().clone() for name, layer in layers.items()}
    for layer in layers.values():  # a step that rounding cannot hide, whatever the size of the cap
        layer.max_value.register_hook(lambda grad: grad.sign() * 1e3)
    torch.manual_seed(3)
    out = model(images)
    outs = [out] if isinstance(out, Tensor) else [value for value in out if value is not None]
    loss = sum((nn.functional.cross_entropy(value, torch.tensor([0, 1])) for value in outs), torch.zeros(()))
    loss.backward()
    optimiser.step()
    still = [name for name in reached if torch.equal(before[name], layers[name].max_value.detach())]
    return still, len(reached)


def page(rows: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    with_relu = [row for row in rows if row.get("sites") or row.get("left")]
    timm_rows = [row for row in with_relu if row["model"].startswith("timm:")]
    good = [row for row in with_relu if row["eval"] and row["train"] and row["kept"]]
    still = [row for row in with_relu if row["moved"] < row["reached"]]
    versions = [f"torch {torch.__version__}", f"torchvision {torchvision.__version__}"]
    try:
        import timm

        versions.append(f"timm {timm.__version__}")
    except ImportError:
        pass
    without = [row["model"] for row in rows if not row.get("sites") and not row.get("left") and "error" not in row]
    failed = [row for row in rows if "error" in row]
    lines = [
        "# The swap of ReLU over torchvision and timm",
        "",
        f"{datetime.date.today()}, Python {platform.python_version()}, {', '.join(versions)}, CPU, one thread, made by"
        " `python benchmarks/sweep_relu.py`. Random weights; two images of the smallest side of"
        f" {', '.join(map(str, SIDES))} that the model takes.",
        "",
        f"`replace_relu(model, DReLU, init=1e30)` on {len(with_relu) - len(timm_rows)} torchvision classifiers, all"
        f" that have a ReLU, and {len(timm_rows)} timm models. Outputs in evaluation and training mode, auxiliary"
        f" heads and running statistics are bit-identical, the class and all `state_dict` keys kept, in {len(good)} of"
        f" {len(with_relu)}; of {sum(row['sites'] for row in with_relu)} call sites"
        f" {sum(len(row['left']) for row in with_relu)} are left.",
        "",
        "The last column is another run: penalty 0, all caps of a site at the median of its positive pre-activations,"
        " one training step (layers that drop switched off, branches that begin at weight 0 switched on). "
        f"It moves caps at every site that was reached in {len(with_relu) - len(still)} of"
        f" {len(with_relu)} models.",
        "",
        "| model | side | sites | kinds | left | eval identical | train identical | moved / reached |",
        "|---|---:|---:|---|---:|---|---|---:|",
    ]
    for row in with_relu:
        heads = f" ({row['heads']} heads)" if row["heads"] > 1 else ""
        lines.append(
            f"| {row['model']} | {row['side']} | {row['sites']} | {', '.join(row['kinds'])} | {len(row['left'])} "
            f"| {'yes' if row['eval'] else '**no**'} | {'yes' if row['train'] else '**no**'}{heads} "
            f"| {row['moved']} / {row['reached']} |"
        )
    reasons: dict[str, list[str]] = {}
    for row in with_relu:
        for site, reason in row["left"]:
            reasons.setdefault(reason, []).append(f"{row['model']} {site}")
    if reasons:
        lines += ["", "## Sites that are left", ""]
        lines += [f"- {reason}: {len(sites)}, such as {sites[0]}" for reason, sites in sorted(reasons.items())]
    if failed:
        lines += ["", "## Failed", "", *(f"- {row['model']}: {row['error']}" for row in failed)]
    lines += ["", f"Without any ReLU, an error says so ({len(without)}): {', '.join(without)}.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--models", nargs="*", help="names; of timm's with timm: (default: all)")
    parser.add_argument("--state", type=Path, default=ROOT / "runs" / "sweep_relu.jsonl")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.models or [
        *torchvision.models.list_models(module=torchvision.models),
        *(f"timm:{name}" for name in TIMM.split()),
    ]
    options.state.parent.mkdir(parents=True, exist_ok=True)
    done = {row["model"]: row for row in map(json.loads, lines(options.state))}
    for number, name in enumerate(names, 1):
        if name not in done or "error" in done[name]:
            try:
                done[name] = one(name)
            except Exception as error:  # the page names it, the others go on
                done[name] = {"model": name, "error": f"{type(error).__name__}: {error}"[:300]}
            with options.state.open("a") as file:
                file.write(json.dumps(done[name]) + "\n")
            gc.collect()
        print(f"[{number}/{len(names)}] {json.dumps(done[name])[:400]}", flush=True)
    options.page.write_text(page([done[name] for name in names]))
    print(options.page)


def lines(path: Path) -> list[str]:
    """The whole lines of a file: a run that was stopped may leave a part of one."""
    text = path.read_text() if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole)
    return whole.splitlines()


if __name__ == "__main__":
    main()
