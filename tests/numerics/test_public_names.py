"""The public modules export only names of rlkl."""

import importlib

import pytest

from rlkl import divergences
from rlkl.numerics import divergence_estimates, divergence_formulas
from rlkl.numerics import divergences as exact

MODULES = [
    "distributions",
    "divergence_formulas",
    "divergences",
    "improvement_bound",
    "statistics",
    "tasks",
]


@pytest.mark.parametrize("name", MODULES)
def test_public_module_exports_no_imports(name: str) -> None:
    public = {k: v for k, v in vars(importlib.import_module(f"rlkl.{name}")).items() if k[0] != "_"}
    assert public
    for key, value in public.items():
        assert getattr(value, "__module__", "rlkl").split(".")[0] in ("rlkl", "collections"), key
        assert type(value).__name__ != "module", key


def test_divergences_export_formulas_and_estimates() -> None:
    for module in (exact, divergence_estimates, divergence_formulas):
        assert set(module.__all__) <= set(vars(divergences))
