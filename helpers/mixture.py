"""Logits to weights to one mixed vector: pure tensor functions, no loop, no model.

    logits (B,V) -> weight rule -> probs (B,K), indices (B,K) -> mix -> concept (B,D)

`MixtureConfig` holds the settings, `sharpened` is the write-up's weight rule (its
controls are in `rules`), `mix` is e = sum_i p_i E[i] (write-up 3.1), `clip_norm` its
norm rule. Nothing here waits for the device, and nothing is computed in float64 unless
the logits already are. torch is not imported, so settings can be checked before it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

MODES = ("continuous", "discrete", "gated")
NORMS = ("none", "all", "used", "central")


@dataclass(frozen=True)
class MixtureConfig:
    """How logits become the next input vector. The default is the write-up's 3.1.

    Raises ValueError, naming the value, when a setting makes no sense.
    """

    top_k: int = 50  # tokens kept, at most V
    temperature: float = 0.8  # softmax(logits / temperature)
    alpha: float = 1.5  # sharpening: weights ** alpha, renormalised
    norm: str = "all"  # clip ||concept|| to the norms of: all rows, used ids,
    #                    central (1-99 % of the rows); or none
    mode: str = "continuous"  # feed the mixture, the top token, or (gated) the mixture
    #                           only where entropy > gate_entropy
    gate_entropy: float = 1.0  # nats, mode "gated" only
    stop_entropy: float | None = None  # nats; None never stops early (Cold Stop)
    stop_run: int = 3  # stop after this many steps in a row below stop_entropy

    def __post_init__(self):
        check_positive_int("top_k", self.top_k)
        check_positive_int("stop_run", self.stop_run)
        _positive("temperature", self.temperature)
        _positive("alpha", self.alpha)
        _one_of("norm", self.norm, NORMS)
        _one_of("mode", self.mode, MODES)
        _nats("gate_entropy", self.gate_entropy)
        if self.stop_entropy is not None:
            _nats("stop_entropy", self.stop_entropy)

    @classmethod
    def methods(cls, **changes) -> MixtureConfig:
        """Write-up 3.1, the default: top-k 50, p^1.5, norm clipping; T 0.8."""
        return cls(**changes)

    @classmethod
    def appendix(cls, **changes) -> MixtureConfig:
        """The write-up's Appendix snippet: the same weights, no clipping, no stop."""
        return cls(**{"norm": "none", "stop_entropy": None, **changes})

    @classmethod
    def raw(cls, **changes) -> MixtureConfig:
        """The model's own distribution cut at top-k: T 1, alpha 1, no clipping."""
        return cls(**{"temperature": 1.0, "alpha": 1.0, "norm": "none", **changes})


class Weights(NamedTuple):
    """A mixture's weights: probs (B,K) sorted, indices (B,K), entropy (B,) in nats."""

    probs: Tensor
    indices: Tensor
    entropy: Tensor


WeightRule = Callable[["Tensor", MixtureConfig], "tuple[Tensor, Tensor]"]


def logits_entropy(logits: Tensor) -> Tensor:
    """Entropy of softmax(logits) in nats, (...,V) -> (...); 0 log 0 is 0."""
    log_p = _float(logits).log_softmax(-1)
    return -(log_p.exp() * log_p.clamp_min(-1e30)).sum(-1)


def sharpened(logits: Tensor, config: MixtureConfig) -> tuple[Tensor, Tensor]:
    """The write-up's rule: softmax(z/T) -> top-k -> p^alpha -> renormalise.

    logits (B,V) -> probs (B,K), indices (B,K), K = min(top_k, V), largest first.
    The softmax runs over the kept tokens: the full one's denominator cancels.
    """
    top, indices = _float(logits).topk(min(config.top_k, logits.shape[-1]), dim=-1)
    probs = ((top - top[..., :1]) * _in_range(1 / config.temperature)).softmax(-1)
    probs = (probs / probs[..., :1]) ** _in_range(config.alpha)  # the largest stays 1
    return probs / probs.sum(-1, keepdim=True), indices


def _mixture_weights(
    logits: Tensor, config: MixtureConfig, rule: WeightRule
) -> Weights:
    """`mixture_weights` without its checks: what the decoding loop calls every step."""
    probs, indices = rule(logits, config)
    return Weights(probs, indices, logits_entropy(logits))


def mixture_weights(
    logits: Tensor,
    config: MixtureConfig | None = None,
    weight_rule: WeightRule = sharpened,
) -> Weights:
    """Weights of the mixture for logits (B,V) or (V,): probs, indices, entropy in nats.

    The entropy is that of the full softmax at temperature 1, before top-k. Raises
    ValueError for an empty vocabulary and for a row with NaN, +inf or nothing finite.
    """
    config = resolve_config(config, weight_rule)
    if (
        not is_float_tensor(logits)
        or logits.ndim not in (1, 2)
        or logits.shape[-1] == 0
    ):
        raise ValueError(f"logits must be floats (B,V) or (V,), not {describe(logits)}")
    if not bool(logits.amax(-1).isfinite().all()):
        raise ValueError(
            "logits hold NaN, +inf or a row of -inf only: no distribution to mix; "
            "check the model's weights and dtype"
        )
    rows = logits if logits.ndim == 2 else logits[None]
    weights = _mixture_weights(rows, config, weight_rule)
    return weights if logits.ndim == 2 else Weights(*(x[0] for x in weights))


def mix(probs: Tensor, indices: Tensor, embed: Tensor) -> Tensor:
    """e = sum_i p_i E[i] (write-up 3.1): probs, indices (...,K), embed (V,D) -> (...,D)

    Summed in float32 at least, returned in embed's dtype. Raises ValueError when the
    shapes do not fit, or an index names no row.
    """
    ids = hasattr(indices, "dtype") and not is_float_tensor(indices)
    if not (
        (is_float_tensor(probs) and ids and is_float_tensor(embed) and embed.ndim == 2)
        and probs.shape == indices.shape
        and indices.ndim
    ):
        raise ValueError(
            "mix needs float probs and whole indices of one shape (...,K) and float "
            f"embed (V,D), not {describe(probs)}, {describe(indices)}, "
            f"{describe(embed)}"
        )
    rows = embed.shape[0]
    if indices.numel() and not 0 <= int(indices.min()) <= int(indices.max()) < rows:
        raise ValueError(
            f"indices must be from 0 to {rows - 1}, the rows of embed, not "
            f"{int(indices.min())} to {int(indices.max())}"
        )
    return _mix(probs, indices, embed)


def _mix(probs: Tensor, indices: Tensor, embed: Tensor) -> Tensor:
    """`mix` without its checks: what the decoding loop calls every step."""
    if embed.dtype.itemsize > 2 and probs.dtype == embed.dtype:
        from torch.nn.functional import embedding_bag  # gathers and sums in one pass

        kept = probs.shape[-1]
        bags, weights = indices.reshape(-1, kept), probs.reshape(-1, kept)
        mixed = embedding_bag(bags, embed, per_sample_weights=weights, mode="sum")
        return mixed.view(*probs.shape[:-1], -1)
    rows = _float(embed[indices])
    return (probs.to(rows.dtype)[..., None, :] @ rows).squeeze(-2).to(embed.dtype)


def norm_bounds(embed: Tensor, norm: str, used: int | None = None) -> tuple | None:
    """Smallest and largest norm allowed, two scalar tensors; None for norm "none".

    "all": every row of embed (V,D). "used": the first `used` rows, those the tokenizer
    can name (models pad their vocabulary). "central": 1st and 99th percentile of all.
    """
    if norm == "none":
        return None
    norms = _float(embed).norm(dim=-1)
    if norm == "used":
        norms = norms[:used]
    if norm == "central":
        norms = norms.sort().values
        last = len(norms) - 1
        return norms[round(0.01 * last)], norms[round(0.99 * last)]
    return norms.min(), norms.max()


def clip_norm(concept: Tensor, bounds: tuple | None) -> Tensor:
    """Scale concept (...,D) so that its norm lies within bounds (write-up 3.1).

    A vector inside them, to one part in a million, is returned bit for bit.
    """
    if bounds is None:
        return concept
    low, high = bounds
    norm = _float(concept).norm(dim=-1, keepdim=True)
    target = norm.clamp(low, high)
    outside = (target - norm).abs() > 1e-6 * norm
    scaled = concept * (target / norm.clamp_min(1e-30)).to(concept.dtype)
    return scaled.where(outside, concept)


def resolve_config(config, weight_rule) -> MixtureConfig:
    """The config to use, None being the default; ValueError for anything else."""
    if config is not None and not isinstance(config, MixtureConfig):
        raise ValueError(f"config must be a MixtureConfig, not {describe(config)}")
    if not callable(weight_rule):
        raise ValueError(
            f"weight_rule must be a function of logits and config, not "
            f"{describe(weight_rule)}"
        )
    return config or MixtureConfig()


def is_float_tensor(x) -> bool:
    """Whether x is a tensor of floating-point numbers."""
    return hasattr(x, "is_floating_point") and x.is_floating_point()


def describe(x) -> str:
    """What an argument was, short enough for an error's one line."""
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return f"{tuple(x.shape)} of {x.dtype}"
    shown = ascii(x) if isinstance(x, (str, int, float, type(None))) else ""
    return shown if 0 < len(shown) < 60 else f"a {type(x).__name__}"


def _in_range(x: float) -> float:
    """Neither 0 nor infinite in float32: 0 * inf would be NaN, 0 ** 0 would be 1."""
    return min(max(x, 1e-30), 1e30)


def _float(x: Tensor) -> Tensor:
    return x if x.dtype.itemsize > 2 else x.float()


def check_positive_int(name, value):
    """Raise ValueError, naming the value, unless it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")


def _real(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _positive(name, value):
    if not _real(value) or not 0 < value < math.inf:
        raise ValueError(f"{name} must be a finite number above 0, not {value!r}")


def _nats(name, value):
    if not _real(value) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a finite entropy in nats >= 0, not {value!r}")


def _one_of(name, value, known):
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, not {value!r}")
