"""What is left of a step's uncertainty once its token has been chosen (CLAIMS.md N4).

    positions        greedy texts -> hidden states, and what was predicted before each
    ridge, logistic  out-of-fold predictions, folds never sharing a template
    r2, accuracy     scores of out-of-fold predictions
    compare, summary both probes, from hidden states and from each baseline
    token_features   baseline: the token, the one before it, its place in the text
    templates        prompts with their rare words taken out

At position t the model predicts p_t, the top token is fed, and position t+1 reads it.
The hidden state at t+1 could hold H(p_t) and the runner-up only by way of the cache,
or by working them out again from the same text. A probe says what can be read off
linearly.
"""

import re
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from experiments.scoring import equal_length_batches
from experiments.stats import bootstrap, ratio
from helpers import mixture

ALPHAS = 10.0 ** np.arange(-1, 7)


@dataclass(frozen=True, eq=False)
class Positions:
    """N positions after a greedy token. hidden: layer -> (N,D), layer 0 the embeddings.

    entropy (N,) nats of p_t; runner_up (N,) its second token; token (N,) the one fed;
    before (N,) the one before that; step (N,) its place; group (N,) its template.
    """

    hidden: dict
    entropy: np.ndarray
    runner_up: np.ndarray
    token: np.ndarray
    before: np.ndarray
    step: np.ndarray
    group: np.ndarray


@torch.no_grad()
def positions(model, texts, layers) -> Positions:
    """Read `texts`, (ids, prompt length, template) each; keep every generated place,
    shorter texts first.

    Only texts of one length share a forward pass, so that no padding can leak in.
    `layers` index the hidden states, 0 being the embeddings. Entropy is that of the
    full softmax, in nats.
    """
    hidden, rows = {layer: [] for layer in layers}, []
    texts = sorted(texts, key=lambda text: len(text[0]))
    for batch_rows in equal_length_batches([ids for ids, _, _ in texts], size=32):
        batch = [texts[i] for i in batch_rows]
        ids = torch.tensor([ids for ids, _, _ in batch], device=model.device)
        out = model(input_ids=ids, output_hidden_states=True)
        for b, (text, start, group) in enumerate(batch):
            logits = out.logits[b, start - 1 : -1].float().cpu()
            uncertainty = mixture.logits_entropy(logits).tolist()
            second = logits.topk(2).indices[:, 1].tolist()
            for layer in layers:
                hidden[layer].append(out.hidden_states[layer][b, start:].float().cpu())
            rows += [(uncertainty[j], second[j], text[start + j], text[start + j - 1],
                      j, group) for j in range(len(text) - start)]  # fmt: skip
    columns = [np.array(column) for column in zip(*rows)]
    return Positions({k: torch.cat(v).numpy() for k, v in hidden.items()}, *columns)


def untrained(model, seed=0):
    """A model of the same class and size that has learned nothing."""
    torch.manual_seed(seed)
    return type(model)(model.config).to(model.device).eval()


def compare_probes(model, texts, layers, main, seed=0) -> pd.DataFrame:
    """Both probes from every set of features: one row a position and set of features.

    features: "layer i", "token + template", "random init" and "shuffled labels" (these
    two at layer `main`). se: squared error of H(p_t) in nats^2; se_mean: that of the
    training mean; hit: whether the runner-up was named, NaN where it is not among the
    commonest (see `common`) and at layers other than `main`.
    """
    found = positions(model, texts, layers)
    blank = positions(untrained(model, seed), texts, [main])
    rng = np.random.default_rng(seed)
    sets = {f"layer {i}": found.hidden[i] for i in layers}
    sets |= {"token + template": token_features(found),
             "random init": blank.hidden[main],
             "shuffled labels": found.hidden[main]}  # fmt: skip
    kept, rows = np.flatnonzero(commonest_classes(found.runner_up)), []
    for name, x in sets.items():
        entropy, second = found.entropy, found.runner_up[kept]
        if name == "shuffled labels":
            entropy, second = rng.permutation(entropy), rng.permutation(second)
        hit = np.full(len(entropy), np.nan)
        if not name.startswith("layer") or name == f"layer {main}":
            hit[kept] = logistic(x[kept], second, found.group[kept]) == second
        guess = ridge(x, entropy, found.group)
        mean = mean_prediction(entropy, found.group)
        rows.append(pd.DataFrame({
            "features": name, "group": found.group, "hit": hit,
            "se": (entropy - guess) ** 2, "se_mean": (entropy - mean) ** 2,
        }))  # fmt: skip
    return pd.concat(rows, ignore_index=True)


def summarise_probes(table, main, seed=0):
    """Scores of `compare`, and what layer `main` gives beyond the best baseline.

    -> frame (probe, features, value, low, high), and Estimates entropy_gain,
    runner_up_gain and shuffled_r2. Intervals resample whole templates; n is positions.
    """
    sets = {name: part for name, part in table.groupby("features", sort=False)}
    rows = []
    for name, part in sets.items():
        found = {"H(p_t), R2": _explained(part.se_mean - part.se, part, seed)}
        if part.hit.notna().any():
            kept = part.dropna(subset="hit")
            found["runner-up, accuracy"] = _grouped(bootstrap, kept.hit, kept, seed)
        rows += [{"probe": probe, "features": name, "value": e.value, "low": e.low,
                  "high": e.high} for probe, e in found.items()]  # fmt: skip
    own = sets[f"layer {main}"].reset_index(drop=True)
    blind = [part.reset_index(drop=True) for name, part in sets.items()
             if not name.startswith("layer")]  # fmt: skip
    error = min(blind, key=lambda p: p.se.sum() / p.se_mean.sum()).se
    hit = max(blind, key=lambda p: p.hit.mean()).hit
    kept = own.hit.notna()
    shuffled = sets["shuffled labels"]
    gains = {
        "entropy_gain": _explained(error - own.se, own, seed),
        "runner_up_gain": _grouped(bootstrap, (own.hit - hit)[kept], own[kept], seed),
        "shuffled_r2": _explained(shuffled.se_mean - shuffled.se, shuffled, seed),
    }
    return pd.DataFrame(rows), gains


def _explained(won, part, seed):
    return _grouped(ratio, won, part, seed, part.se_mean)


def _grouped(estimate, values, part, seed, *more):
    found = estimate(values, *more, resamples=1000, groups=part.group, seed=seed)
    return replace(found, n=len(part))


def spread_layers(model, most=6) -> list[int]:
    """About `most` layers, evenly spaced, the middle one among them."""
    depth = model.config.num_hidden_layers
    chosen = {round(x) for x in np.linspace(1, depth, min(most, depth))}
    return sorted(chosen | {max(1, depth // 2)})


def token_features(found: Positions) -> sparse.csr_matrix:
    """One-hot token, token before it, place, template: what needs no hidden state."""
    columns = [found.token, found.before, found.step, found.group]
    columns = np.stack([np.asarray(c).astype(str) for c in columns], 1)
    return OneHotEncoder(dtype=np.float64).fit_transform(columns).tocsr()


def templates(prompts, share=0.1) -> list[str]:
    """Each prompt's template: numbers, and words used by few of them, become _."""
    words = [re.findall(r"[^\W\d]+|\d+|[^\w\s]", prompt) for prompt in prompts]
    seen = Counter(w for row in words for w in set(row) if not w.isdigit())
    kept = {word for word, count in seen.items() if count >= share * len(prompts)}
    return [" ".join(w if w in kept else "_" for w in row) for row in words]


def folds(group, n=5) -> list:
    """(train, test) index pairs: no template on both sides. At least two templates."""
    kinds = len(set(np.asarray(group).tolist()))
    if kinds < 2:
        raise ValueError(f"{kinds} template: held-out templates need at least 2")
    return list(GroupKFold(min(n, kinds)).split(np.zeros(len(group)), groups=group))


def ridge(features, target, group, n=5) -> np.ndarray:
    """Out-of-fold ridge predictions (N,); the penalty is chosen inside each fold."""
    return _out_of_fold(RidgeCV(ALPHAS), features, target, group, n)


def logistic(features, target, group, n=5, c=0.1) -> np.ndarray:
    """Out-of-fold predicted classes (N,) of a multinomial logistic regression.

    Solved to the end: stopped early, what is predicted depends on the last bits of the
    features, and so on the processor.
    """
    model = LogisticRegression(C=c, tol=1e-8, max_iter=10_000)
    return _out_of_fold(model, features, target, group, n)


def mean_prediction(target, group, n=5) -> np.ndarray:
    """Out-of-fold mean of the training part: the prediction R2 is measured against."""
    predicted = np.empty(len(target))
    for train, test in folds(group, n):
        predicted[test] = target[train].mean()
    return predicted


def r2(target, predicted, reference) -> float:
    """1 - SSE / SSE of `reference`: 0 for the training mean, negative if worse."""
    error, blind = target - predicted, target - reference
    return float(1 - (error @ error) / (blind @ blind))


def accuracy(target, predicted) -> float:
    """Share of classes predicted right."""
    return float((np.asarray(target) == np.asarray(predicted)).mean())


def commonest_classes(classes, most=12) -> np.ndarray:
    """Mask (N,) of the `most` commonest classes: those with examples to learn from."""
    values, counts = np.unique(classes, return_counts=True)
    return np.isin(classes, values[np.argsort(-counts, kind="stable")][:most])


def _out_of_fold(estimator, features, target, group, n):
    target, features = np.asarray(target), features.astype(np.float64)
    predicted = np.empty(len(target), dtype=target.dtype)
    scaler = StandardScaler(with_mean=not sparse.issparse(features))
    model = make_pipeline(scaler, estimator)
    for train, test in folds(group, n):
        model.fit(features[train], target[train])
        predicted[test] = model.predict(features[test])
    return predicted
