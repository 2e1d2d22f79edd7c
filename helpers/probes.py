"""What is left of a step's uncertainty once its token has been chosen (CLAIMS.md N4).

    positions        greedy texts -> hidden states, and what was predicted before each
    ridge, logistic  out-of-fold predictions, folds never sharing a template
    r2, accuracy     scores of out-of-fold predictions
    token_features   baseline: the token itself, the one before it, the place in the text

At position t the model predicts p_t, the top token is fed, and position t+1 reads it.
The hidden state at t+1 could hold H(p_t) and the runner-up only by way of the cache, or
by working them out again from the same text. A probe says what can be read off, linearly.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

ALPHAS = 10.0 ** np.arange(-1, 7)


@dataclass(frozen=True, eq=False)
class Positions:
    """N positions after a greedy token. hidden: layer -> (N,D), layer 0 the embeddings.

    entropy (N,) nats of p_t; runner_up (N,) its second token; token (N,) the token fed;
    before (N,) the one before that; step (N,) its place in the text; group (N,) template.
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
    """Read `texts`, (ids, prompt length, template) each, and keep every generated place.

    One text a forward pass, so that no padding can leak in. `layers` index the hidden
    states, 0 being the embeddings. Entropy is that of the full softmax, in nats.
    """
    hidden, rows = {layer: [] for layer in layers}, []
    for ids, start, group in texts:
        ids = torch.as_tensor(ids, device=model.device)
        out = model(input_ids=ids[None], output_hidden_states=True)
        log_p = out.logits[0, start - 1 : -1].float().log_softmax(-1).cpu()
        entropy = -(log_p.exp() * log_p.clamp_min(-1e30)).sum(-1)
        second = log_p.topk(2).indices[:, 1]
        for layer in layers:
            hidden[layer].append(out.hidden_states[layer][0, start:].float().cpu())
        here = ids.cpu()
        rows += [(float(entropy[j]), int(second[j]), int(here[start + j]),
                  int(here[start + j - 1]), j, group)
                 for j in range(len(here) - start)]  # fmt: skip
    columns = [np.array(column) for column in zip(*rows)]
    return Positions({k: torch.cat(v).numpy() for k, v in hidden.items()}, *columns)


def token_features(found: Positions) -> sparse.csr_matrix:
    """One-hot token, token before it, place and template: what needs no hidden state."""
    columns = [found.token, found.before, found.step, found.group]
    columns = np.stack([np.asarray(c).astype(str) for c in columns], 1)
    return OneHotEncoder(dtype=np.float64).fit_transform(columns).tocsr()


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
    """Out-of-fold predicted classes (N,) of a multinomial logistic regression."""
    return _out_of_fold(LogisticRegression(C=c, max_iter=200), features, target, group, n)


def mean_prediction(target, group, n=5) -> np.ndarray:
    """Out-of-fold mean of the training part: the prediction R2 is measured against."""
    predicted = np.empty(len(target))
    for train, test in folds(group, n):
        predicted[test] = target[train].mean()
    return predicted


def r2(target, predicted, reference) -> float:
    """1 - SSE / SSE of `reference`: 0 for the training mean, negative if worse."""
    return float(1 - ((target - predicted) ** 2).sum() / ((target - reference) ** 2).sum())


def accuracy(target, predicted) -> float:
    """Share of classes predicted right."""
    return float((np.asarray(target) == np.asarray(predicted)).mean())


def common(classes, most=12) -> np.ndarray:
    """Mask (N,) of the `most` commonest classes: those a probe has examples to learn."""
    values, counts = np.unique(classes, return_counts=True)
    return np.isin(classes, values[np.argsort(-counts, kind="stable")][:most])


def _out_of_fold(estimator, features, target, group, n):
    target = np.asarray(target)
    predicted = np.empty(len(target), dtype=target.dtype)
    scaler = StandardScaler(with_mean=not sparse.issparse(features))
    model = make_pipeline(scaler, estimator)
    for train, test in folds(group, n):
        predicted[test] = model.fit(features[train], target[train]).predict(features[test])
    return predicted
