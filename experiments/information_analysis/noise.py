"""Is a concept token a strange input? Noise on it and on a discrete token (N5).

noise_rows      the next token's NLL under noise, input by input
noise_parts     the numbers of claim N5, as estimates
noise_curves    means over prompts, to draw
"""

import pandas as pd
import torch
from torch import Tensor

from experiments.information_analysis.bits import next_probs, normalise, perturb
from experiments.stats import bootstrap, paired_difference


def noise_rows(lm, found, sigmas, draws=2, seed=0) -> pd.DataFrame:
    """N5: the mixture m and its top token under noise of `sigma` times E's RMS entry.

    nll: cross-entropy in nats of the next token, which is drawn as the input means it:
    from q = sum_i w_i P_i for the mixture, from P_top for the token. flip: the top next
    token is not the undisturbed one. With the norm restored or not; several draws are
    averaged. nll_q is always against q, so that the two inputs can be compared. Kind
    "matched" is the token moved in a random direction exactly as far as m is from it.
    """
    generator = torch.Generator().manual_seed(seed)
    rms = lm.embed.float().square().mean().sqrt().cpu()
    size = lm.embed.shape[1] ** 0.5
    rows = []
    for c in found:
        token = lm.embed[c.indices[0]]
        far = (c.concept - token).float().norm().cpu()
        plans = [(kind, base, float(sigma), sigma * rms * size, restored)
                 for kind, base in (("mixture", c.concept), ("token", token))
                 for sigma in sigmas for restored in (False, True)]  # fmt: skip
        plans.append(("matched", token, float(far / rms / size), far, False))
        fed = [perturb(base, step, generator, keep)
               for _, base, _, step, keep in plans for _ in range(draws)]  # fmt: skip
        fed = torch.stack([c.concept, *fed])
        p = next_probs(lm, c.prefix, torch.cat([fed, lm.embed[c.indices]]))
        clean, noisy, members = p[0], p[1 : len(fed)], p[len(fed) :]
        q = normalise(c.probs) @ members
        facts = {"prompt": c.prompt, "step": c.step, "p_max": float(c.probs[0])}
        for n, (kind, _, sigma, _, restored) in enumerate(plans):
            read = noisy[n * draws : (n + 1) * draws]
            meant, still = (q, clean) if kind == "mixture" else (members[0], members[0])
            rows.append(
                facts
                | {
                    "kind": kind,
                    "sigma": sigma,
                    "restored": restored,
                    "nll": float(cross_entropy(meant, read).mean()),
                    "nll_q": float(cross_entropy(q, read).mean()),
                    "flip": float((read.argmax(-1) != still.argmax()).double().mean()),
                }
            )
    return pd.DataFrame(rows)


def noise_parts(rows, seed=0) -> dict:
    """Of one model's `noise_rows`: nll@sigma, nll_cost, fragility, Estimates in nats.

    nll_cost: NLL of q after m minus after the top token, no noise. fragility: the rise
    at sigma 0.5 of m minus that of the top token, each on what it stands for.
    """
    rows = rows[~rows.restored]
    nll = {key: part.nll.to_numpy() for key, part in rows.groupby(["kind", "sigma"])}
    still = {kind: part.nll_q.to_numpy()
             for kind, part in rows[rows.sigma == 0].groupby("kind")}  # fmt: skip
    rise = [nll[kind, 0.5] - nll[kind, 0.0] for kind in ("mixture", "token")]
    doses = sorted(sigma for kind, sigma in nll if kind == "mixture")
    parts = {f"nll@{x:g}": bootstrap(nll["mixture", x], seed=seed) for x in doses}
    return parts | {
        "nll_cost": paired_difference(still["mixture"], still["token"], seed=seed),
        "fragility": paired_difference(*rise, seed=seed),
    }


def noise_curves(rows) -> pd.DataFrame:
    """Means of `noise_rows` (with a column model) to draw: panel, input, sigma, value.

    Two panels a model: the rise in nll over no noise, and the share of changed tokens.
    """
    kept = rows[rows.kind != "matched"]
    name = kept.kind + kept.restored.map({True: ", norm restored", False: ""})
    mean = kept.assign(input=name).groupby(["model", "input", "sigma"])[["nll", "flip"]]
    mean = mean.mean().reset_index()
    mean["nll"] -= mean.groupby(["model", "input"]).nll.transform("first")
    titles = {"nll": "rise in NLL (nats)", "flip": "top token changed (share)"}
    long = mean.melt(["model", "input", "sigma"], list(titles))
    return long.assign(panel=long.model + ": " + long.variable.map(titles))


def cross_entropy(p, q) -> Tensor:
    """-sum p log q in nats over the last dim."""
    return -torch.xlogy(p, q.clamp_min(1e-300)).sum(-1)
