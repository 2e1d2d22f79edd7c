"""Turn logits into weights and one mixed vector: pure tensor functions, no model.

    logits (B,V) -> weight rule -> probs (B,K), indices (B,K) -> mix -> concept (B,D)

`MixtureConfig` holds the settings, `sharpened` is the write-up's weight rule (others
are in `weight_rules`), `mix` computes e = sum_i p_i E[i] (write-up 3.1), `apply_norm`
gives it its norm. No function that a decoding step calls waits for the device, and
nothing is computed in float64 unless the logits already are. torch is not imported, so
that settings can be checked before it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, TypeGuard

if TYPE_CHECKING:
    from torch import Tensor

MODES = ("continuous", "discrete", "gated")
NORMS = ("none", "all", "used", "central", "original", "restore", "over_l2")


@dataclass(frozen=True)
class MixtureConfig:
    """Settings of how logits become the next input vector; defaults from write-up 3.1.

    Raises ValueError, naming the value, when a setting makes no sense.
    """

    top_k: int = 50  # tokens kept, at most V
    temperature: float = 0.8  # softmax(logits / temperature)
    alpha: float = 1.5  # sharpening: weights ** alpha, renormalised
    norm: str = "all"  # clip ||concept|| to the norms of: all rows, used ids, central
    #                    (1-99 % of the rows); original: at most 1.5 x the mean;
    #                    restore: to sum_i p_i ||E[i]||; over_l2: / ||p||_2; or none
    mode: str = "continuous"  # feed the mixture, the top token, or (gated) the mixture
    #                           only where entropy > gate_entropy
    gate_entropy: float = 1.0  # nats, mode "gated" only
    stop_entropy: float | None = None  # nats; None never stops early (Cold Stop)
    stop_run: int = 3  # stop after this many steps in a row below stop_entropy
    entropy_temperature: float = 1.0  # the entropy that is reported, gated and stopped
    #                                   on is that of softmax(logits / this)

    def __post_init__(self) -> None:
        check_positive_int("top_k", self.top_k)
        check_positive_int("stop_run", self.stop_run)
        check_real("temperature", self.temperature)
        check_real("alpha", self.alpha)
        check_choice("norm", self.norm, NORMS)
        check_choice("mode", self.mode, MODES)
        check_real("gate_entropy", self.gate_entropy, zero=True)
        check_real("entropy_temperature", self.entropy_temperature)
        if self.stop_entropy is not None:
            check_real("stop_entropy", self.stop_entropy, zero=True)

    @classmethod
    def appendix(cls, **changes: Any) -> MixtureConfig:
        """Return the Appendix snippet's settings: the same, without norm clipping."""
        return cls(**{"norm": "none", **changes})

    @classmethod
    def raw(cls, **changes: Any) -> MixtureConfig:
        """Return the model's distribution cut at top-k: T 1, alpha 1, no clipping."""
        return cls(**{"temperature": 1.0, "alpha": 1.0, "norm": "none", **changes})

    @classmethod
    def original(cls, **changes: Any) -> MixtureConfig:
        """Return the settings of the original code (original/README.md).

        Norms have an upper bound only, and a row stops after two steps in a row below
        1 nat, the entropy taken at temperature 0.8. Here the vector of the step that
        stops is kept; the original left it out.
        """
        stop = {"stop_entropy": 1.0, "stop_run": 2, "entropy_temperature": 0.8}
        return cls(**{"norm": "original", **stop, **changes})


class Weights(NamedTuple):
    """A mixture's weights: probs (B,K) sorted, indices (B,K), entropy (B,) in nats."""

    probs: Tensor
    indices: Tensor
    entropy: Tensor


WeightRule: TypeAlias = Callable[["Tensor", MixtureConfig], "tuple[Tensor, Tensor]"]
Bounds: TypeAlias = "tuple[Tensor, Tensor] | None"  # the norms allowed; None: any


def logits_entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute the entropy of softmax(logits / temperature): (...,V) -> (...).

    In nats; 0 log 0 is 0.
    """
    logits = at_least_float32(logits)
    if temperature != 1:
        largest = logits.amax(-1, keepdim=True)
        logits = (logits - largest) * _in_range(1 / temperature)
    log_p = logits.log_softmax(-1)
    return -(log_p.exp() * log_p.clamp_min(-1e30)).sum(-1)


def sharpened(logits: Tensor, config: MixtureConfig) -> tuple[Tensor, Tensor]:
    """Apply the write-up's rule: softmax(z/T) -> top-k -> p^alpha -> renormalise.

    logits (B,V) -> probs (B,K), indices (B,K), K = min(top_k, V), largest first.
    The softmax runs over the kept tokens: the full one's denominator cancels.
    """
    kept = min(config.top_k, logits.shape[-1])
    top, indices = at_least_float32(logits).topk(kept, dim=-1)
    probs = ((top - top[..., :1]) * _in_range(1 / config.temperature)).softmax(-1)
    probs = (probs / probs[..., :1]) ** _in_range(config.alpha)  # the largest stays 1
    return probs / probs.sum(-1, keepdim=True), indices


def _mixture_weights(
    logits: Tensor, config: MixtureConfig, rule: WeightRule
) -> Weights:
    """Compute `mixture_weights` without its checks, as the decoding loop does."""
    entropy = logits_entropy(logits, config.entropy_temperature)
    probs, indices = rule(logits, config)
    if (
        not is_float_tensor(probs, meta=True)
        or not is_int_tensor(indices)
        or not (
            probs.shape == indices.shape == (len(logits), *indices.shape[-1:])
            and indices.shape[-1]
        )
    ):
        raise ValueError(
            f"the weight rule must give float probs and whole indices ({len(logits)},K)"
            f", not {describe(probs)} and {describe(indices)}"
        )
    return Weights(probs, indices.long(), entropy)


def unfit_weights(probs: Tensor, indices: Tensor) -> Tensor:
    """Tell where weights (...,K) are no distribution, or indices are below 0: (...)."""
    summed = (probs.sum(-1) - 1).abs() <= (1e-3 if probs.dtype.itemsize > 2 else 0.1)
    return ~(summed & (probs >= 0).all(-1) & (indices >= 0).all(-1))


def mixture_weights(
    logits: Tensor,
    config: MixtureConfig | None = None,
    weight_rule: WeightRule = sharpened,
) -> Weights:
    """Compute the mixture's weights for logits (B,V) or (V,).

    Returns probs (B,K), indices (B,K) and the entropy (B,) in nats of the full softmax
    at config.entropy_temperature, before top-k. Raises ValueError for an empty
    vocabulary and for a row with NaN, +inf or nothing finite.
    """
    config = resolve_config(config, weight_rule)
    shaped = is_float_tensor(logits) and logits.ndim in (1, 2) and logits.shape[-1]
    if not shaped:
        raise ValueError(f"logits must be floats (B,V) or (V,), not {describe(logits)}")
    if not bool(logits.amax(-1).isfinite().all()):
        raise ValueError(
            "logits hold NaN, +inf or a row of -inf only: no distribution to mix; "
            "check the model's weights and dtype"
        )
    rows = logits if logits.ndim == 2 else logits[None]
    weights = _mixture_weights(rows, config, weight_rule)
    beyond = (weights.indices >= rows.shape[-1]).any(-1)
    if bool((beyond | unfit_weights(*weights[:2])).any()):
        raise ValueError(
            "the weight rule must give probs >= 0 that sum to 1, and indices from 0 to "
            f"{rows.shape[-1] - 1}"
        )
    return weights if logits.ndim == 2 else Weights(*(x[0] for x in weights))


def mix(probs: Tensor, indices: Tensor, embed: Tensor) -> Tensor:
    """Mix embeddings: e = sum_i p_i E[i] (write-up 3.1).

    probs, indices (...,K), embed (V,D) -> (...,D), summed in float32 at least, in
    embed's dtype. Raises ValueError when the shapes do not fit, or an index names no
    row.
    """
    floats = is_float_tensor(probs) and is_float_tensor(embed) and embed.ndim == 2
    whole = floats and is_int_tensor(indices) and probs.shape == indices.shape != ()
    if not (whole and indices.shape[-1]):
        raise ValueError(
            "mix needs float probs and whole indices of one shape (...,K), K above 0, "
            f"and float embed (V,D), not {describe(probs)}, {describe(indices)}, "
            f"{describe(embed)}"
        )
    indices, last = indices.long(), embed.shape[0] - 1
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) <= last:
        raise ValueError(
            f"indices must be from 0 to {last}, the rows of embed, not "
            f"{int(indices.min())} to {int(indices.max())}"
        )
    return _mix(probs, indices, embed)


def _mix(probs: Tensor, indices: Tensor, embed: Tensor) -> Tensor:
    """Compute `mix` without its checks, as the decoding loop does."""
    if embed.dtype.itemsize > 2 and probs.dtype == embed.dtype:
        from torch.nn.functional import embedding_bag  # gathers and sums in one pass

        kept = probs.shape[-1]
        bags, weights = indices.reshape(-1, kept), probs.reshape(-1, kept)
        mixed = embedding_bag(bags, embed, per_sample_weights=weights, mode="sum")
        return mixed.view(*probs.shape[:-1], embed.shape[1])
    rows = at_least_float32(embed[indices])
    return (probs.to(rows.dtype)[..., None, :] @ rows).squeeze(-2).to(embed.dtype)


def norm_bounds(embed: Tensor, norm: str, used: int | None = None) -> Bounds:
    """Compute the smallest and largest norm allowed: two scalars; None for "none".

    "all": every row of embed (V,D). "used": the first `used` rows, those the tokenizer
    can name (models pad their vocabulary). "central": 1st and 99th percentile of all.
    "original": 0 and 1.5 times the mean of all, as the original code has it.
    "restore": each row's own (V,), twice, for `apply_norm`. ValueError names a row that
    is not finite.
    """
    if norm in ("none", "over_l2"):
        return None
    norms = at_least_float32(embed).norm(dim=-1)
    if norm == "used":
        norms = norms[:used]
    if not norms.is_meta and not bool(norms.isfinite().all()):
        row = int((~norms.isfinite()).nonzero()[0])
        raise ValueError(
            f"row {row} of the embeddings is not finite: no norm to clip to"
        )
    if norm == "restore":
        return norms, norms
    if norm == "original":
        return norms.new_zeros(()), 1.5 * norms.mean()
    if norm == "central":
        norms = norms.sort().values
        last = len(norms) - 1
        return norms[round(0.01 * last)], norms[round(0.99 * last)]
    return norms.min(), norms.max()


def apply_norm(
    concept: Tensor, probs: Tensor, indices: Tensor, bounds: Bounds, norm: str
) -> Tensor:
    """Give concept (...,D), the mixture of probs and indices (...,K), its final norm.

    bounds: of `norm_bounds`. "restore" scales it to the mean norm of what is mixed,
    sum_i p_i ||E[i]||; "over_l2" divides it by ||p||_2, which gives the norm of a row
    back where rows are orthogonal, and overshoots where they share a direction (HRPO,
    2505.18454). The other norms clip.
    """
    if norm == "over_l2":
        return concept / probs.norm(dim=-1, keepdim=True).to(concept.dtype)
    if norm == "restore" and bounds is not None:
        target = (bounds[0][indices] * probs).sum(-1, keepdim=True)
        bounds = target, target
    return clip_norm(concept, bounds)


def clip_norm(concept: Tensor, bounds: Bounds) -> Tensor:
    """Scale concept (...,D) so that its norm lies within bounds (write-up 3.1).

    A vector inside them, to one part in a million, is returned bit for bit.
    """
    if bounds is None:
        return concept
    norm = at_least_float32(concept).norm(dim=-1, keepdim=True)
    target = norm.clamp(*bounds)
    outside = (target - norm).abs() > 1e-6 * norm
    scaled = concept * (target / norm.clamp_min(1e-30)).to(concept.dtype)
    return scaled.where(outside, concept)


def resolve_config(config: object, weight_rule: object) -> MixtureConfig:
    """Return the config to use, None being the default; ValueError for anything else.

    weight_rule, which comes with it, must be callable.
    """
    if config is not None and not isinstance(config, MixtureConfig):
        raise ValueError(f"config must be a MixtureConfig, not {describe(config)}")
    if not callable(weight_rule):
        raise ValueError(
            f"weight_rule must be a function of logits and config, not "
            f"{describe(weight_rule)}"
        )
    return config or MixtureConfig()


def at_least_float32(x: Tensor) -> Tensor:
    """Return x, half-precision numbers as float32."""
    return x if x.dtype.itemsize > 2 else x.float()


def is_float_tensor(x: object, meta: bool = False) -> TypeGuard[Tensor]:
    """Tell whether x is a dense tensor of floats of at least 16 bits, with data.

    meta: the data may be absent.
    """
    import torch

    if not isinstance(x, torch.Tensor) or not x.is_floating_point():
        return False
    dense = x.layout == torch.strided and x.dtype.itemsize > 1
    return dense and (meta or not x.is_meta)


def is_int_tensor(x: object) -> TypeGuard[Tensor]:
    """Tell whether x is a tensor of whole numbers; True and False are none."""
    import torch

    if not isinstance(x, torch.Tensor) or x.is_floating_point() or x.is_complex():
        return False
    return x.dtype != torch.bool


def describe(x: object) -> str:
    """Describe an argument in the few words that fit an error's one line."""
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{tuple(x.shape)} of {x.dtype}"
    shown = ascii(x) if isinstance(x, (str, int, float, type(None))) else ""
    return shown if 0 < len(shown) < 60 else f"a {type(x).__name__}"


def check_positive_int(name: str, value: object) -> None:
    """Raise ValueError, naming the value, unless it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Raise ValueError, naming the value, unless it is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")


def check_real(name: str, value: Any, zero: bool = False) -> None:
    """Raise ValueError unless value is finite and above 0, or `zero` allows 0."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf or not (value or zero):
        expected = "number of at least 0" if zero else "number above 0"
        raise ValueError(f"{name} must be a finite {expected}, not {value!r}")


def check_share(name: str, value: float, zero: bool = False) -> None:
    """Raise ValueError unless value is above 0, or 0 where allowed, and at most 1."""
    check_real(name, value, zero)
    if value > 1:
        raise ValueError(f"{name} must be at most 1, not {value!r}")


def _in_range(x: float) -> float:
    """Keep x off 0 and infinity in float32: 0 * inf is NaN there, and 0 ** 0 is 1."""
    return min(max(x, 1e-30), 1e30)
