"""The playground: its command, and a page with correct numbers on any screen."""

import math
import subprocess
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from browsing import Pages
from numpy.typing import NDArray
from scipy.spatial.distance import cityblock
from scipy.stats import entropy, kstest, norm, power_divergence
from torch import Tensor
from torch.distributions import Bernoulli, kl_divergence

from rlkl.cli import main
from rlkl.cli.playground import PAGE
from rlkl.numerics.divergence_formulas import (
    categorical_jensen_shannon,
    categorical_kl,
    categorical_renyi,
    diagonal_gaussian_kl,
    kl_estimates,
)
from rlkl.numerics.losses import clipped_surrogate

if TYPE_CHECKING:
    from playwright.sync_api import Page

LN2 = math.log(2)

# ---- The command


def playground(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["playground", *arguments])
    assert isinstance(end.value.code, int)
    return end.value.code


def test_command_opens_the_page_and_prints_its_path(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    assert playground() == 0
    printed = capsys.readouterr()
    assert Path(printed.out.strip()).as_uri() == opened[0]
    assert Path(printed.out.strip()).read_text("utf-8").startswith("<!doctype html>")
    assert printed.err == ""


@pytest.mark.slow
def test_command_prints_the_path_without_a_browser() -> None:
    environment = {"PYTHONPATH": str(PAGE.parents[3]), "PATH": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-m", "rlkl", "playground"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.strip() == str(PAGE)
    assert "no browser" in done.stderr


def test_output_writes_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda url: pytest.fail(f"opened {url}"))
    copy = tmp_path / "copy.html"
    assert playground("--output", str(copy)) == 0
    assert capsys.readouterr().out.strip() == str(copy)
    assert copy.read_bytes() == PAGE.read_bytes()


def test_existing_file_is_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.html"
    kept.write_text("kept")
    assert playground("--output", str(kept)) == 2
    assert "exists already; name another" in capsys.readouterr().err
    assert kept.read_text() == "kept"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output"], "expected a file"),
        (["--output", "missing/page.html"], "No such file or directory"),
        (["--ouput", "page.html"], "expected nothing or --output FILE"),
        (["page.html"], "expected nothing or --output FILE"),
    ],
)
def test_invalid_arguments_print_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert playground(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_playground_help_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert playground("--help") == 0
    assert "usage: rlkl playground [--output FILE]" in capsys.readouterr().out


def test_page_contains_no_urls() -> None:
    text = PAGE.read_text("utf-8")
    assert "://" not in text
    assert "@import" not in text


# ---- The page


@pytest.fixture
def page(pages: Pages, tmp_path: Path) -> "Page":
    """The page, opened from a copy, without a network."""
    copy = tmp_path / "page.html"
    assert playground("--output", str(copy)) == 0
    return pages.open(copy.as_uri(), offline=True)


def move(page: "Page", **sliders: float) -> None:
    """Move sliders, one after the other."""
    values = {name.replace("_", "-"): str(value) for name, value in sliders.items()}
    page.evaluate(
        """values => {
            for (const [id, value] of Object.entries(values)) {
                const slider = document.getElementById(id);
                slider.value = value;
                slider.dispatchEvent(new Event("input", { bubbles: true }));
            }
        }""",
        values,
    )


def shown(page: "Page", panel: str) -> dict[str, float]:
    """Return the numbers of a panel; check that their text is the rounded number."""
    places = page.locator(f"#{panel} [data-key]").evaluate_all(
        "all => all.map(one => [one.dataset.key, one.firstChild.value, one.innerText])"
    )
    numbers = {}
    for key, value, text in places:
        readable = text.replace("−", "-").replace("+∞", "inf").replace("none", "nan")
        numbers[key] = float(value.replace("Infinity", "inf"))
        assert float(readable) == pytest.approx(numbers[key], abs=5.001e-5, nan_ok=True)
    return numbers


def scalar(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64)


def set_weights(page: "Page", p: list[float], q: list[float], alpha: float) -> None:
    sliders = {f"p{a}": weight for a, weight in enumerate(p, 1)}
    sliders |= {f"q{a}": weight for a, weight in enumerate(q, 1)}
    move(page, actions=len(p), c_alpha=alpha, **sliders)


@pytest.mark.browser
@pytest.mark.parametrize(
    ("p", "q", "alpha"),
    [
        ([0.9, 0.1], [0.5, 0.5], 0.05),
        ([0.99, 0.01], [0.5, 0.5], 1),
        ([0.2, 0.5, 0.3], [0.3, 0.3, 0.4], 0.5),
        ([1, 0.2, 0.07, 0.55, 0.3, 0.9], [0.01, 1, 0.4, 0.15, 0.33, 0.6], 2.7),
    ],
)
def test_numbers_of_two_categoricals(
    p: list[float], q: list[float], alpha: float, page: "Page"
) -> None:
    set_weights(page, p, q, alpha)
    p, q = [weight / sum(p) for weight in p], [weight / sum(q) for weight in q]
    log_p = torch.tensor(p, dtype=torch.float64).log()
    log_q = torch.tensor(q, dtype=torch.float64).log()
    kl, reverse = categorical_kl(log_p, log_q).item(), categorical_kl(log_q, log_p).item()
    js = categorical_jensen_shannon(log_p, log_q).item()
    if alpha == 1:
        renyi = cressie_read = kl
    else:
        renyi = categorical_renyi(log_p, log_q, alpha).item()
        cressie_read = power_divergence(p, q, lambda_=alpha - 1).statistic / 2
    expected = {
        "forward": kl,
        "reverse": reverse,
        "jeffreys": kl + reverse,
        "js": js,
        "root-js": math.sqrt(js),
        "renyi": renyi,
        "alpha": cressie_read,
        "tv": cityblock(p, q) / 2,
        "entropy-p": entropy(p),
        "entropy-q": entropy(q),
        "cross-entropy": float(-(log_p.exp() * log_q).sum()),
        "cross-entropy-reverse": float(-(log_q.exp() * log_p).sum()),
    }
    assert shown(page, "categorical") == pytest.approx(expected, rel=1e-9, abs=1e-12)


KEYS = [
    "forward", "reverse", "jeffreys", "js", "root-js", "renyi", "alpha", "tv", "entropy-p",
    "entropy-q", "cross-entropy", "cross-entropy-reverse",
]  # fmt: skip
INF = math.inf
# Numbers with probabilities of 0, computed manually.
ZEROS = {
    # q of the second action is 0. m = (.75, .25).
    "support lost": (
        ([0.5, 0.5], [1, 0], 0.5),
        [INF, LN2, INF, 0.21576156, 0.46450140, LN2, 1.17157288, 0.5, LN2, 0, INF, LN2],
    ),
    "support lost, order 2": (
        ([0.5, 0.5], [1, 0], 2),
        [INF, LN2, INF, 0.21576156, 0.46450140, INF, INF, 0.5, LN2, 0, INF, LN2],
    ),
    # Σ p² / q = 1 / .5, so Rényi is ln 2 and the alpha divergence (2 - 1) / 2.
    "support gained, order 2": (
        ([1, 0], [0.5, 0.5], 2),
        [LN2, INF, INF, 0.21576156, 0.46450140, LN2, 0.5, 0.5, 0, LN2, LN2, INF],
    ),
    "nothing in common": (
        ([1, 0], [0, 1], 0.5),
        [INF, INF, INF, LN2, math.sqrt(LN2), INF, 4, 1, 0, 0, INF, INF],
    ),
    "masked in both, else equal": (
        ([0.5, 0.5, 0], [0.5, 0.5, 0], 0.5),
        [0, 0, 0, 0, 0, 0, 0, 0, LN2, LN2, LN2, LN2],
    ),
    "masked in both, order 2": (
        ([0.5, 0.5, 0], [0.5, 0.5, 0], 2),
        [0, 0, 0, 0, 0, 0, 0, 0, LN2, LN2, LN2, LN2],
    ),
}


@pytest.mark.browser
def test_lost_support_gives_infinite_kl_and_finite_js(page: "Page") -> None:
    for name, (setting, numbers) in ZEROS.items():
        set_weights(page, *setting)
        expected = dict(zip(KEYS, numbers, strict=True))
        assert shown(page, "categorical") == pytest.approx(expected, abs=1e-8), name
        verdict = page.locator("#categorical .verdict").inner_text()
        assert ("KL(p ‖ q) is +∞" in verdict) == math.isinf(expected["forward"])
        assert ("KL(q ‖ p) is +∞" in verdict) == math.isinf(expected["reverse"])


# Wide and fine enough for every Gaussian of the sliders.
AXIS = np.linspace(-45, 45, 900_001)


def integral(values: NDArray[np.float64]) -> float:
    """∫ of a function from its values on AXIS."""
    return float(np.trapezoid(values, AXIS))


@pytest.mark.browser
@pytest.mark.parametrize(
    ("p", "q", "alpha"),
    [
        ((0, 1), (1, 1), 0.5),
        ((0, 1), (0.1, 1.05), 1),
        ((-2.5, 0.2), (2, 0.2), 0.3),
        ((0.35, 0.2), (-0.4, 3), 2.5),
        ((0.5, 1.5), (-1, 1.3), 1.5),
        ((1, 2), (1, 0.8), 0.8),
    ],
)
def test_numbers_of_two_gaussians(
    p: tuple[float, float], q: tuple[float, float], alpha: float, page: "Page"
) -> None:
    move(page, mu_p=p[0], sigma_p=p[1], mu_q=q[0], sigma_q=q[1], g_alpha=alpha)
    p_parts = scalar(p[0]), scalar(p[1]).log()
    q_parts = scalar(q[0]), scalar(q[1]).log()
    kl = diagonal_gaussian_kl(*p_parts, *q_parts).item()
    reverse = diagonal_gaussian_kl(*q_parts, *p_parts).item()
    log_p, log_q = norm.logpdf(AXIS, *p), norm.logpdf(AXIS, *q)
    at_p, at_q = np.exp(log_p), np.exp(log_q)
    log_middle = np.logaddexp(log_p, log_q) - LN2
    js = integral(at_p * (log_p - log_middle) + at_q * (log_q - log_middle)) / 2
    renyi = divergence = kl
    if alpha != 1:
        overlap = integral(np.exp(alpha * log_p + (1 - alpha) * log_q))
        renyi = math.log(overlap) / (alpha - 1)
        divergence = (1 - overlap) / (alpha * (1 - alpha))
    expected = {
        "forward": kl,
        "reverse": reverse,
        "jeffreys": kl + reverse,
        "js": js,
        "root-js": math.sqrt(js),
        "renyi": renyi,
        "alpha": divergence,
        "tv": integral(abs(at_p - at_q)) / 2,
        "entropy-p": norm(*p).entropy(),
        "entropy-q": norm(*q).entropy(),
        "cross-entropy": -integral(at_p * log_q),
        "cross-entropy-reverse": -integral(at_q * log_p),
        "exact": kl,
    }
    numbers = shown(page, "gaussian")
    numbers = {key: number for key, number in numbers.items() if not key.startswith("k")}
    assert numbers == pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.browser
def test_renyi_is_infinite_if_the_integral_diverges(page: "Page") -> None:
    # α σ_q² + (1 - α) σ_p² is negative, then 0, then positive.
    for order, finite in ((2, False), (1.5, False), (1.45, True)):
        move(page, mu_p=0, sigma_p=1.5, mu_q=0, sigma_q=1.5 / math.sqrt(3), g_alpha=order)
        # The slider rounds σ_q to 0.85, so the limit of α is 1.473.
        numbers = shown(page, "gaussian")
        assert math.isfinite(numbers["renyi"]) == finite
        assert math.isfinite(numbers["alpha"]) == finite
        verdict = page.locator("#gaussian .verdict").inner_text()
        assert ("D_α(p ‖ q) is +∞" in verdict) != finite


@pytest.mark.browser
def test_estimates_match_the_samples(page: "Page") -> None:
    p, q = (0.5, 0.8), (-0.2, 1.0)
    move(page, mu_p=p[0], sigma_p=p[1], mu_q=q[0], sigma_q=q[1])
    seen = []
    for _ in range(3):
        samples = torch.tensor(page.evaluate("playground.samples"), dtype=torch.float64)
        seen.append(samples)
        assert kstest(samples.numpy(), norm(*p).cdf).pvalue > 0.01
        log_ratio = torch.distributions.Normal(*q).log_prob(samples)
        log_ratio -= torch.distributions.Normal(*p).log_prob(samples)
        numbers = shown(page, "gaussian")
        for name, values in zip(("k1", "k2", "k3"), kl_estimates(log_ratio), strict=True):
            assert numbers[name] == pytest.approx(values.mean().item(), rel=1e-6)
            error = (values.std() / math.sqrt(len(samples))).item()
            assert numbers[f"{name}-error"] == pytest.approx(error, rel=1e-6)
        assert abs(numbers["k1"] - numbers["exact"]) < 4 * numbers["k1-error"]
        assert abs(numbers["k3"] - numbers["exact"]) < 4 * numbers["k3-error"]
        page.get_by_role("button", name="Draw new samples").click()
    assert len(seen[0]) == 500
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


@pytest.mark.browser
def test_page_warns_of_infinite_variance_of_k3(page: "Page") -> None:
    # The mean of r² under p is finite only if σ_q < √2 σ_p.
    for sigma_q, infinite in ((1.4, False), (1.45, True)):
        move(page, mu_p=0, sigma_p=1, mu_q=0, sigma_q=sigma_q)
        verdict = page.locator("#gaussian .verdict").inner_text()
        assert ("k3 has infinite variance" in verdict) == infinite


# (advantage, ratio): plain, its derivative, clipped, its derivative; ε = 0.2.
CLIPPED = {
    (0.5, 1.6): (0.8, 0.5, 0.6, 0),
    (0.5, 1.1): (0.55, 0.5, 0.55, 0.5),
    (0.5, 0.4): (0.2, 0.5, 0.2, 0.5),
    (-0.5, 0.4): (-0.2, -0.5, -0.4, 0),
    (-0.5, 0.9): (-0.45, -0.5, -0.45, -0.5),
    (-0.5, 1.7): (-0.85, -0.5, -0.85, -0.5),
}


@pytest.mark.browser
def test_clip_removes_the_gradient_on_one_side(page: "Page") -> None:
    for (advantage, ratio), expected in CLIPPED.items():
        move(page, advantage=advantage, ratio=ratio, clip=0.2)
        numbers = shown(page, "objectives")
        keys = ("plain", "plain-derivative", "clipped", "clipped-derivative")
        assert [numbers[key] for key in keys] == pytest.approx(expected)
        objective, _ = clipped_surrogate(torch, scalar(ratio), scalar(advantage), 0.8, 1.2)
        assert numbers["clipped"] == pytest.approx(objective.item())
        verdict = page.locator("#objectives .verdict").inner_text()
        assert ("removes the gradient" in verdict) == (numbers["clipped-derivative"] == 0)


@pytest.mark.browser
@pytest.mark.parametrize("direction", ["KL(old ‖ new)", "KL(new ‖ old)"])
@pytest.mark.parametrize(
    ("old", "ratio", "advantage", "beta"), [(0.5, 1.6, 0.5, 1), (0.3, 0.4, -1.2, 2.5)]
)
def test_penalised_objective_and_its_derivative(
    old: float, ratio: float, advantage: float, beta: float, direction: str, page: "Page"
) -> None:
    page.get_by_role("radio", name=direction).check()
    move(page, old=old, advantage=advantage, beta=beta)

    def at(ratio: float) -> dict[str, float]:
        move(page, ratio=ratio)
        return shown(page, "objectives")

    numbers = at(ratio)
    before, after = Bernoulli(scalar(old)), Bernoulli(scalar(old * ratio))
    forward, reverse = kl_divergence(before, after).item(), kl_divergence(after, before).item()
    assert numbers["forward"] == pytest.approx(forward, rel=1e-6)
    assert numbers["reverse"] == pytest.approx(reverse, rel=1e-6)
    assert numbers["new"] == pytest.approx(old * ratio)
    penalty = forward if direction == "KL(old ‖ new)" else reverse
    assert numbers["penalised"] == pytest.approx(ratio * advantage - beta * penalty, rel=1e-6)
    difference = at(ratio + 0.01)["penalised"] - at(ratio - 0.01)["penalised"]
    assert numbers["penalised-derivative"] == pytest.approx(difference / 0.02, abs=5e-3)


@pytest.mark.browser
def test_peak_depends_on_the_direction_of_kl(page: "Page") -> None:
    move(page, old=0.5, advantage=0.5, beta=1, ratio=1.6)
    page.get_by_role("radio", name="KL(old ‖ new)").check()
    numbers = shown(page, "objectives")
    assert numbers["peak"] == pytest.approx(math.sqrt(2))
    assert numbers["peak-new"] == pytest.approx(math.sqrt(0.5))
    # KL((.5, .5) ‖ (√½, 1 - √½)).
    assert numbers["peak-kl"] == pytest.approx(0.094113, abs=1e-6)
    assert numbers["penalised-derivative"] == pytest.approx(-0.4375)
    assert "pulls r back" in page.locator("#objectives .verdict").inner_text()
    page.get_by_role("radio", name="KL(new ‖ old)").check()
    assert shown(page, "objectives")["peak-new"] == pytest.approx(1 / (1 + math.exp(-1)))
    move(page, ratio=1.2)
    assert "lets r move further" in page.locator("#objectives .verdict").inner_text()
    move(page, beta=0)
    assert math.isnan(shown(page, "objectives")["peak"])


@pytest.mark.browser
def test_ratio_keeps_probabilities_below_one(page: "Page") -> None:
    move(page, old=0.9, ratio=1.05)
    assert page.locator("#ratio").get_attribute("max") == "1.1"
    page.locator("#ratio").press("End")
    assert shown(page, "objectives")["new"] == pytest.approx(0.99)
    # A preset can set a ratio that only its own π_old allows.
    page.get_by_role("button", name="Good action, gone too far").click()
    assert shown(page, "objectives")["ratio"] == 1.7


# ---- Behaviour of the page


@pytest.mark.browser
def test_sliders_have_labels_and_work_by_keyboard(page: "Page") -> None:
    sliders = page.locator("input[type=range]:visible")
    names = sliders.evaluate_all("all => all.map(one => one.labels[0].textContent)")
    assert len(names) == 2 + 2 * 3 + 5 + 5
    assert all(names)
    results, markup = page.locator("svg, dd, td"), "all => all.map(one => one.innerHTML)"
    for slider in sliders.all():
        words = slider.get_attribute("aria-valuetext")
        before = results.evaluate_all(markup)
        slider.press("ArrowRight")
        assert results.evaluate_all(markup) != before
        assert slider.get_attribute("aria-valuetext") != words


@pytest.mark.browser
def test_charts_follow_sliders_and_have_descriptions(page: "Page") -> None:
    moves = {
        "bars": {"p1": 0.2}, "shares": {"q1": 0.9}, "densities": {"mu_p": 1},
        "log-ratio": {"sigma_q": 2}, "estimates": {"mu_q": -2}, "objectives": {"advantage": -1},
        "divergences": {"old": 0.2},
    }  # fmt: skip
    assert page.locator("svg[role=img]").count() == len(moves)
    for name, sliders in moves.items():
        drawing = page.locator(f"[data-chart={name}]")
        before, words = drawing.inner_html(), drawing.get_attribute("aria-label")
        move(page, **sliders)
        assert drawing.inner_html() != before
        assert drawing.get_attribute("aria-label") not in (words, "", None)
        assert "NaN" not in drawing.inner_html()


@pytest.mark.browser
def test_presets_set_their_panels(page: "Page") -> None:
    buttons = page.locator(".presets button").all()
    assert len(buttons) == 17
    numbers = {}
    for button in buttons:
        button.click()
        panel = button.evaluate("one => one.closest('section').id")
        numbers[button.inner_text()] = shown(page, panel)
        drawn = page.locator(f"#{panel} svg").evaluate_all("all => all.map(one => one.innerHTML)")
        assert "NaN" not in "".join(drawn)
        assert "Infinity" not in "".join(drawn)
    assert numbers["Confident p, uniform q"]["forward"] == pytest.approx(0.3681, abs=5e-5)
    assert numbers["Confident p, uniform q"]["reverse"] == pytest.approx(0.5108, abs=5e-5)
    assert numbers["More confident p"]["reverse"] == pytest.approx(1.6145, abs=5e-5)
    assert numbers["Swapped: equal KL"]["forward"] == pytest.approx(1.7578, abs=5e-5)
    assert numbers["Support lost"]["forward"] == math.inf
    assert math.isfinite(numbers["Masked in both"]["jeffreys"])
    assert numbers["Disjoint supports"]["js"] == pytest.approx(LN2)
    assert numbers["Shifted by σ"]["forward"] == pytest.approx(0.5)
    assert numbers["Rényi infinite"]["renyi"] == math.inf
    assert set(numbers["Equal"].values()) <= {0, norm.entropy()}
    assert numbers["Good action, gone too far"]["clipped-derivative"] == 0
    assert numbers["Rare action"]["ratio"] == 1.7


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_page_fits_the_screen(width: int, scheme: str, pages: Pages) -> None:
    page = pages.open(PAGE.as_uri(), width, color_scheme=scheme)
    move(page, actions=6)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    drawings = page.locator("svg").evaluate_all("all => all.map(one => one.viewBox.baseVal.width)")
    assert all(200 < drawn < width for drawn in drawings)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(20, 23, 27)") == (scheme == "dark")
