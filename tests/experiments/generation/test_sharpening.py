"""Sharpening beside a temperature."""

import torch

from experiments.generation import sharpening
from helpers import MixtureConfig


def test_sharpening_is_a_temperature_and_the_measure_can_say_otherwise(monkeypatch):
    z = torch.randn(20, 99)
    sharp, cold = sharpening.two_formulas(z, MixtureConfig(top_k=7))
    assert (sharp - cold).abs().max() < 1e-12
    other = sharpening.two_formulas(z, MixtureConfig(top_k=7, alpha=1.0))[0]
    assert (sharp - other).abs().max() > 1e-3


def test_the_curve_depends_on_the_quotient_alone():
    curve = sharpening.temperature_curve(torch.randn(99))
    tops = curve.groupby(curve["T / alpha"].round(9))["top weight"]
    assert (tops.count() > 1).any() and (tops.max() - tops.min() < 1e-5).all()
