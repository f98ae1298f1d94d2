"""The settings that the method adautomix alone has: their defaults and rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mixaug._checks import ABOVE_ZERO, MAX_COUNT, check_choice, check_field, check_flag, check_int, check_number

if TYPE_CHECKING:
    from mixaug.train.settings import TrainSettings

__all__ = ["LEARNED", "TERMS", "check_learned_mixing"]

METHOD = "adautomix"
#: Terms of the losses that ``without`` leaves out: two of the classifier's, two of the generator's.
TERMS = ("clean", "plain", "teacher", "similarity")
#: Setting to its default; for every other method it is None.
LEARNED: dict[str, Any] = {
    "n_mix": 3, "feature_layer": None, "mix_alpha": 0.5, "mix_beta": 0.3, "share_weight": 0.0, "cooperative": False,
    "without": (), "per_image": False, "generator_lr": 0.1, "generator_every": 1, "generator_share": 1.0,
    "terms_share": 1.0, "shared_draws": False, "teacher_momentum": 0.999, "picture_every": 500,
}  # fmt: skip


def check_learned_mixing(settings: TrainSettings) -> None:
    """Raises unless the settings of the generator fit the method; decides their defaults.

    Args:
        settings: while they are made.
    """
    own = settings.method == METHOD
    for name, default in LEARNED.items():
        value = getattr(settings, name)
        if not own and value is not None:
            raise ValueError(f"{name} must be used with the method {METHOD}, got the method {settings.method!r}")
        if own and value is None:
            object.__setattr__(settings, name, default)
    if not own:
        return
    values = vars(settings)
    if isinstance(values["without"], list):
        object.__setattr__(settings, "without", tuple(values["without"]))
    for term in values["without"]:
        check_choice("without", term, TERMS)
    check_field(settings, "n_mix", check_int, 2)
    if values["n_mix"] > settings.batch_size:
        raise ValueError(f"n_mix must be at most batch_size, {settings.batch_size}, got {values['n_mix']}")
    check_field(settings, "generator_every", check_int, 1, MAX_COUNT)
    check_field(settings, "picture_every", check_int, 0, MAX_COUNT)
    for name in ("mix_alpha", "mix_beta", "teacher_momentum"):
        check_field(settings, name, check_number, 0.0, 1.0)
    for name in ("generator_share", "terms_share"):
        check_field(settings, name, check_number, ABOVE_ZERO, 1.0)
    check_field(settings, "share_weight", check_number, 0.0, 1e6)
    check_field(settings, "generator_lr", check_number, 0.0)
    for name in ("cooperative", "per_image", "shared_draws"):
        check_field(settings, name, check_flag)
    if values["shared_draws"] and values["generator_share"] < 1:
        raise ValueError(
            f"generator_share must be 1 with shared_draws, whose one pass both players have, got "
            f"{values['generator_share']}"
        )
