"""What can still be read of a step's uncertainty once its token is chosen (claim N4).

    greedy_texts       prompts continued greedily, with their templates and families
    positions          texts -> hidden states, and what was predicted before each token
    compare_probes     both probes, from hidden states and from each baseline
    probe_scores       their scores, to draw
    probe_gains        the parts of N4
    ridge, logistic, mean_prediction   out-of-fold predictions, families held out
    token_features     baseline: the token, the one before it, its place in the text
    middle_layer, spread_layers   which layers are read

At position t the model predicts p_t, the top token is fed, and position t+1 reads it.
The hidden state at t+1 could hold H(p_t) and the runner-up only by way of the cache,
or by working them out again from the same text. A probe says what can be read off
linearly. Templates of one family (contexts.Opening) are near copies: a probe is always
asked about a family that it was not fitted to, and intervals resample families.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from experiments.information_analysis.contexts import Opening
from experiments.scoring import equal_length_batches
from experiments.stats import Estimate, bootstrap, clustered, ratio
from helpers.batching import prompt_embeds
from helpers.decode import continue_from
from helpers.mixture import logits_entropy

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from helpers.models import LM

ALPHAS = 10.0 ** np.arange(-1, 7)  # ridge penalties to choose from
Text = tuple[list[int], int, str, str]  # ids, prompt length, template, family
Features = np.ndarray | sparse.csr_matrix  # (N,D)


def greedy_texts(lm: LM, openings: list[Opening], new_tokens: int = 7) -> list[Text]:
    """Continue every opening -> (ids, prompt length, template, family) each."""
    prompts = [opening.prompt for opening in openings]
    embeds, mask = prompt_embeds(lm, prompts)
    new = continue_from(lm, embeds, mask, max_new_tokens=new_tokens, return_ids=True)
    asked = lm.tokenizer(prompts)["input_ids"]
    return [
        (a + b, len(a), opening.template, opening.family)
        for a, b, opening in zip(asked, new, openings)
    ]


@dataclass(frozen=True, eq=False)
class Positions:
    """N positions after a greedy token. hidden: layer -> (N,D), layer 0 the embeddings.

    entropy (N,) nats of p_t; runner_up (N,) its second token; token (N,) the one fed;
    before (N,) the one before that; step (N,) its place; template (N,); family (N,).
    """

    hidden: dict[int, np.ndarray]
    entropy: np.ndarray
    runner_up: np.ndarray
    token: np.ndarray
    before: np.ndarray
    step: np.ndarray
    template: np.ndarray
    family: np.ndarray


@torch.no_grad()
def positions(
    model: PreTrainedModel, texts: list[Text], layers: Sequence[int]
) -> Positions:
    """Read `texts` and keep every generated place, shorter texts first.

    Only texts of one length share a forward pass, so that no padding can leak in.
    `layers` index the hidden states, 0 being the embeddings. Entropy is that of the
    full softmax, in nats.
    """
    hidden, rows = {layer: [] for layer in layers}, []
    texts = sorted(texts, key=lambda text: len(text[0]))
    accepted = inspect.signature(model.forward).parameters
    for batch_rows in equal_length_batches([text[0] for text in texts], size=32):
        batch = [texts[i] for i in batch_rows]
        ids = torch.tensor([text[0] for text in batch], device=model.device)
        most = max(len(text) - start for text, start, *_ in batch) + 1
        options = {"logits_to_keep": most} if "logits_to_keep" in accepted else {}
        out = model(input_ids=ids, output_hidden_states=True, **options)
        for b, (text, start, *kind) in enumerate(batch):
            logits = out.logits[b, start - len(text) - 1 : -1].float().cpu()
            entropy = logits_entropy(logits).tolist()
            second = logits.topk(2).indices[:, 1].tolist()
            for layer in layers:
                hidden[layer].append(out.hidden_states[layer][b, start:].float().cpu())
            places = range(len(text) - start)
            steps = zip(entropy, second, text[start:], text[start - 1 :], places)
            rows += [(*step, *kind) for step in steps]
    columns = [np.array(column) for column in zip(*rows)]
    return Positions({k: torch.cat(v).numpy() for k, v in hidden.items()}, *columns)


def untrained(model: PreTrainedModel, seed: int = 0) -> PreTrainedModel:
    """Build a model of the same class and size that has learned nothing."""
    torch.manual_seed(seed)
    return type(model)(model.config).to(model.device).eval()


def middle_layer(model: PreTrainedModel) -> int:
    """Index the layer half way up."""
    return max(1, model.config.num_hidden_layers // 2)


def spread_layers(model: PreTrainedModel, most: int = 6) -> list[int]:
    """Choose about `most` layers, evenly spaced, the middle one among them."""
    depth = model.config.num_hidden_layers
    chosen = {round(x) for x in np.linspace(1, depth, min(most, depth))}
    return sorted(chosen | {middle_layer(model)})


def compare_probes(
    model: PreTrainedModel,
    texts: list[Text],
    layers: Sequence[int],
    main: int,
    seed: int = 0,
) -> pd.DataFrame:
    """Fit both probes on every set of features: one row a position and set of features.

    features: "layer i", "token + template", "random init" and "shuffled labels" (these
    two at layer `main`). squared_error: of H(p_t), nats^2; mean_squared_error: that of
    the training mean; hit: whether the runner-up was named, NaN where it is none of the
    `shared_classes` and at layers other than `main`.
    """
    read = positions(model, texts, layers)
    blank = positions(untrained(model, seed), texts, [main])
    rng = np.random.default_rng(seed)
    features = {f"layer {i}": read.hidden[i] for i in layers}
    features["token + template"] = token_features(read)
    features["random init"] = blank.hidden[main]
    features["shuffled labels"] = read.hidden[main]
    kept, rows = np.flatnonzero(shared_classes(read.runner_up, read.family)), []
    for name, x in features.items():
        entropy, second = read.entropy, read.runner_up[kept]
        if name == "shuffled labels":
            entropy, second = rng.permutation(entropy), rng.permutation(second)
        hit = np.full(len(entropy), np.nan)
        if not name.startswith("layer") or name == f"layer {main}":
            hit[kept] = logistic(x[kept], second, read.family[kept]) == second
        table = pd.DataFrame({"features": name, "family": read.family, "hit": hit})
        mean = mean_prediction(entropy, read.family)
        table["squared_error"] = (entropy - ridge(x, entropy, read.family)) ** 2
        table["mean_squared_error"] = (entropy - mean) ** 2
        rows.append(table)
    return pd.concat(rows, ignore_index=True)


def probe_scores(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Score `compare_probes` -> frame (probe, features, value, low, high).

    Intervals resample whole families.
    """
    rows = []
    for name, part in table.groupby("features", sort=False):
        won = part.mean_squared_error - part.squared_error
        scores = {"H(p_t), R2": _explained(won, part, seed)}
        named = part.dropna(subset="hit")
        if len(named):
            hit = clustered(bootstrap, named.family, named.hit, seed=seed)
            scores["runner-up, accuracy"] = hit
        for probe, e in scores.items():
            row = {"probe": probe, "features": name, "value": e.value}
            rows.append(row | {"low": e.low, "high": e.high})
    return pd.DataFrame(rows)


def probe_gains(table: pd.DataFrame, main: int, seed: int = 0) -> dict[str, Estimate]:
    """Estimate the parts of N4: what layer `main` gives beyond the best baseline.

    entropy_gain and shuffled_r2 are shares of the squared error of the training mean,
    runner_up_gain a difference of accuracies, left out where no runner-up is shared;
    n is positions, and intervals resample whole families.
    """
    sets = {
        name: part.reset_index(drop=True)
        for name, part in table.groupby("features", sort=False)
    }
    own, shuffled = sets[f"layer {main}"], sets["shuffled labels"]
    blind = [part for name, part in sets.items() if not name.startswith("layer")]
    best = min(blind, key=lambda p: p.squared_error.sum() / p.mean_squared_error.sum())
    hit = max((part.hit for part in blind), key=lambda hit: hit.mean())
    named = own.hit.notna()
    won = shuffled.mean_squared_error - shuffled.squared_error
    gains = {
        "entropy_gain": _explained(best.squared_error - own.squared_error, own, seed),
        "shuffled_r2": _explained(won, shuffled, seed),
    }
    if named.any():
        columns = own.family[named], (own.hit - hit)[named]
        gains["runner_up_gain"] = clustered(bootstrap, *columns, seed=seed)
    return gains


def _explained(won: pd.Series, part: pd.DataFrame, seed: int) -> Estimate:
    error = part.mean_squared_error
    return clustered(ratio, part.family, won, error, seed=seed)


def token_features(read: Positions) -> sparse.csr_matrix:
    """Encode token, token before it, place, template: what needs no hidden state.

    The template of a held-out family was never seen, so there it says nothing.
    """
    columns = [read.token, read.before, read.step, read.template]
    columns = np.stack([np.asarray(c).astype(str) for c in columns], 1)
    return OneHotEncoder(dtype=np.float64).fit_transform(columns).tocsr()


def shared_classes(
    classes: np.ndarray, family: np.ndarray, most: int = 12
) -> np.ndarray:
    """Mask (N,) the `most` commonest classes of those in two families or more.

    A class of one family only can be named by no probe that never saw the family.
    """
    seen = pd.DataFrame({"kind": classes, "family": family}).groupby("kind")
    shared = seen.family.agg(["nunique", "size"]).query("nunique > 1")
    common = shared["size"].sort_values(ascending=False, kind="stable").index[:most]
    return np.isin(classes, common)


def folds(family: Sequence, n: int = 5) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split into (train, test) index pairs, no family on both sides.

    ValueError for fewer than two families.
    """
    kinds = len(set(np.asarray(family).tolist()))
    if kinds < 2:
        raise ValueError(f"{kinds} family: held-out families need at least 2")
    return list(GroupKFold(min(n, kinds)).split(np.zeros(len(family)), groups=family))


def ridge(features: Features, target: np.ndarray, family: Sequence) -> np.ndarray:
    """Predict out of fold (N,) by ridge; the penalty is chosen inside each fold."""
    return _out_of_fold(RidgeCV(ALPHAS), features, target, family)


def logistic(
    features: Features, target: np.ndarray, family: Sequence, c: float = 0.1
) -> np.ndarray:
    """Predict classes out of fold (N,) by multinomial logistic regression.

    Solved to the end: stopped early, what is predicted depends on the last bits of the
    features, and so on the processor.
    """
    model = LogisticRegression(C=c, tol=1e-8, max_iter=10_000)
    return _out_of_fold(model, features, target, family)


def mean_prediction(target: np.ndarray, family: Sequence) -> np.ndarray:
    """Predict the mean of the training part: the prediction R2 is measured against."""
    predicted = np.empty(len(target))
    for train, test in folds(family):
        predicted[test] = target[train].mean()
    return predicted


def _out_of_fold(estimator, features: Features, target, family) -> np.ndarray:
    target, features = np.asarray(target), features.astype(np.float64)
    predicted = np.empty(len(target), dtype=target.dtype)
    scaler = StandardScaler(with_mean=not sparse.issparse(features))
    model = make_pipeline(scaler, estimator)
    for train, test in folds(family):
        model.fit(features[train], target[train])
        predicted[test] = model.predict(features[test])
    return predicted
