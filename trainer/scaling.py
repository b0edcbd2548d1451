"""Scaling laws: what loss a model of N parameters has after D tokens, and how to split a budget of operations C between them.

Two ways of Hoffmann et al. 2022 (Chinchilla, arXiv:2203.15556). isoFLOP, their second: at each of some budgets the loss is
a parabola in log N, and its minima follow power laws. Parametric, their third: L = E + A / N^alpha + B / D^beta, fitted to
all runs at once. Intervals are of 95 %, from refits with a seed: of parabolas to their residuals drawn anew, of the law to
runs drawn anew.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

from pipeline.errors import UsageError
from trainer.quantities import short
from trainer.scaling_runs import OPERATIONS, Runs

LEAST_SIZES = 3
"""Through fewer goes no parabola."""
LEAST_RUNS = 6
"""One more than there are constants in the parametric law."""
WITHIN = 0.1
"""Runs whose operations differ by no more than this share are of one budget."""
DELTA = 1e-3
"""Of the Huber loss on log L, as Hoffmann et al. have it."""
STEPS = 3000
BEYOND = 10.0
"""So many times beyond the runs, a law is a guess and is said to be."""

Interval = tuple[float, float]


class TooLittleError(UsageError):
    """The runs cannot say what is asked; the message says what is missing."""


class Budget(NamedTuple):
    """One budget of operations and the parabola through its runs: loss = c[0] log(N)^2 + c[1] log N + c[2]."""

    flops: float
    n: float
    d: float
    loss: float
    c: np.ndarray
    runs: np.ndarray


class Refused(NamedTuple):
    """A budget that has no minimum to speak of, and why."""

    flops: float
    why: str


@dataclass(frozen=True)
class PowerLaw:
    """y = exp(intercept) C^exponent. `draws` (k, 2): the same, refitted; empty where runs are too few to tell."""

    intercept: float
    exponent: float
    interval: Interval | None
    draws: np.ndarray

    def at(self, flops: float) -> float:
        """Its value at a budget."""
        return math.exp(self.intercept + self.exponent * math.log(flops))

    def band(self, flops: float) -> Interval | None:
        """Interval of its value at a budget."""
        if not len(self.draws):
            return None
        low, high = np.quantile(self.draws @ [1.0, math.log(flops)], [0.025, 0.975])
        return math.exp(low), math.exp(high)


@dataclass(frozen=True)
class IsoFlop:
    """Minima by budget, and how they grow."""

    budgets: tuple[Budget, ...]
    refused: tuple[Refused, ...]
    n: PowerLaw
    d: PowerLaw


class Law(NamedTuple):
    """L = E + A / N^alpha + B / D^beta, in nats a token."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, n: float, d: float) -> float:
        """Loss of n parameters after d tokens."""
        return self.E + self.A / n**self.alpha + self.B / d**self.beta

    def optimum(self, flops: float, operations: float = OPERATIONS) -> tuple[float, float]:
        """Parameters and tokens of least loss where operations x parameters x tokens = flops."""
        product = flops / operations
        both = self.alpha + self.beta
        n = (self.alpha * self.A / (self.beta * self.B)) ** (1 / both) * product ** (self.beta / both)
        return n, product / n

    def tokens_for(self, loss: float, n: float) -> float:
        """Tokens after which n parameters have a loss; infinite where they never have it."""
        left = loss - self.E - self.A / n**self.alpha
        return (self.B / left) ** (1 / self.beta) if left > 0 else math.inf

    def for_inference(self, loss: float, inference: float) -> tuple[float, float]:
        """Parameters and tokens that reach a loss with the fewest operations in training (6 N D) and over `inference`
        tokens in use (2 N each) together: Sardana et al. 2023 (arXiv:2401.00448), equation 3."""

        def log_cost(log_n: float) -> float:
            n = math.exp(log_n)
            d = self.tokens_for(loss, n)
            return math.log(n) + math.log(OPERATIONS * d + 2 * inference) if math.isfinite(d) else math.inf

        if not loss > self.E:
            raise TooLittleError(f"no model of this law has a loss of {loss:.4f}: {self.E:.4f} cannot be gone below")
        # The smallest model that ever has the loss, and one so large that hardly a token is needed.
        least = math.log(self.A / (loss - self.E)) / self.alpha
        found = optimize.minimize_scalar(log_cost, bounds=(least + 1e-6, least + 20), method="bounded")
        n = math.exp(found.x)
        return n, self.tokens_for(loss, n)


@dataclass(frozen=True)
class Fit:
    """The parametric law of some runs. `draws` (k, 5) are refits, in the order of `Law`."""

    law: Law
    intervals: dict[str, Interval]
    draws: np.ndarray
    warnings: tuple[str, ...]
    """Why constants are not to be trusted: not converged, not identified. Empty where they are."""
    error: float
    """Typical error: the median of |log L - log of the law's L| over the runs."""
    operations: float
    """Of a parameter and token, in these runs."""
    n: Interval
    """Least and most parameters of the runs."""
    d: Interval

    def optimum(self, flops: float) -> tuple[float, float]:
        """Parameters and tokens of least loss for a budget, at what an operation of these runs did."""
        return self.law.optimum(flops, self.operations)

    def optimum_band(self, flops: float) -> tuple[Interval, Interval, Interval]:
        """Intervals of parameters, tokens, and tokens a parameter of the optimum."""
        log_product = math.log(flops / self.operations)
        _, a, b, alpha, beta = self.draws.T
        log_n = (np.log(alpha * a / (beta * b)) + beta * log_product) / (alpha + beta)
        found = [np.exp(np.quantile(x, [0.025, 0.975])) for x in (log_n, log_product - log_n, log_product - 2 * log_n)]
        (n0, n1), (d0, d1), (r0, r1) = (map(float, pair) for pair in found)
        return (n0, n1), (d0, d1), (r0, r1)


# isoFLOP


def isoflop(runs: Runs, draws: int = 1000, seed: int = 0, within: float = WITHIN) -> IsoFlop:
    """Fits parabolas and power laws. Raises TooLittleError, naming each budget and what it lacks, where fewer than two
    budgets have a minimum."""
    budgets: list[Budget] = []
    refused: list[Refused] = []
    for members in _by_budget(runs.flops, within):
        found = _parabola(runs, members)
        if isinstance(found, Budget):
            budgets.append(found)
        else:
            refused.append(found)
    if len(budgets) < 2:
        why = "; ".join(f"{one.flops:.3g}: {one.why}" for one in refused[:6])
        more = f"; and {len(refused) - 6} more" if len(refused) > 6 else ""
        raise TooLittleError(
            f"isoFLOP needs two budgets of operations with a minimum, and there {'is one' if budgets else 'is none'}. "
            f"{why}{more}"
        )
    log_c = np.log([one.flops for one in budgets])
    minima = {"n": np.log([one.n for one in budgets]), "d": np.log([one.d for one in budgets])}
    drawn = _drawn_minima(runs, budgets, draws, np.random.default_rng(seed))
    laws = {}
    for name, log_y in minima.items():
        exponent, intercept = np.polyfit(log_c, log_y, 1)
        lines = _lines(log_c, drawn, log_y if name == "n" else None) if drawn is not None else np.empty((0, 2))
        laws[name] = PowerLaw(float(intercept), float(exponent), None, lines)
    laws["n"], laws["d"] = _with_intervals(laws, log_c, minima, drawn)
    return IsoFlop(tuple(budgets), tuple(refused), laws["n"], laws["d"])


def _by_budget(flops: np.ndarray, within: float) -> list[np.ndarray]:
    order = np.argsort(flops, kind="stable")
    groups: list[list[int]] = []
    for i in order.tolist():
        if groups and flops[i] <= flops[groups[-1][0]] * (1 + within):
            groups[-1].append(i)
        else:
            groups.append([i])
    return [np.array(group) for group in groups]


def _parabola(runs: Runs, members: np.ndarray) -> Budget | Refused:
    flops = float(np.exp(np.log(runs.flops[members]).mean()))
    x, loss = np.log(runs.n[members]), runs.loss[members]
    sizes = 1 + int((np.diff(np.sort(x)) > 0.01).sum())
    if sizes < LEAST_SIZES:
        return Refused(flops, f"{sizes} size{'s' * (sizes > 1)} of model, {LEAST_SIZES} are needed")
    # About the middle, since squares of logarithms of billions leave few digits.
    middle = x.mean()
    c2, c1, c0 = np.polyfit(x - middle, loss, 2)
    low, high = short(math.exp(x.min())), short(math.exp(x.max()))
    if c2 <= 0:
        return Refused(flops, f"its losses have no minimum between {low} and {high} parameters; train more sizes")
    vertex = middle - c1 / (2 * c2)
    if not x.min() <= vertex <= x.max():
        smaller = vertex < x.min()
        return Refused(
            flops,
            f"its minimum lies outside of the sizes trained, {'below ' + low if smaller else 'above ' + high}; train "
            f"{'smaller' if smaller else 'larger'} models at this budget",
        )
    order = np.argsort(x, kind="stable")
    log_d = np.interp(vertex, x[order], np.log(runs.d[members])[order])
    curve = np.array([c2, c1 - 2 * c2 * middle, c0 - c1 * middle + c2 * middle**2])
    return Budget(flops, math.exp(vertex), math.exp(log_d), float(c0 - c1**2 / (4 * c2)), curve, members)


def _drawn_minima(runs: Runs, budgets: list[Budget], draws: int, generator: np.random.Generator) -> np.ndarray | None:
    """log N of the minima (draws, budgets) where losses are parabolas and residuals of all budgets drawn anew; NaN where a
    drawn curve has no minimum. None where the parabolas leave too few residuals."""
    pool, parts = [], []
    for one in budgets:
        x, loss = np.log(runs.n[one.runs]), runs.loss[one.runs]
        u = x - x.mean()
        design = np.stack([u**2, u, np.ones_like(u)], 1)
        solve = np.linalg.pinv(design)
        fitted = design @ (solve @ loss)
        if len(u) > LEAST_SIZES:
            # What a fit of three constants leaves of the scatter is too small by as much.
            pool.append((loss - fitted) / fitted * math.sqrt(len(u) / (len(u) - 3)))
        parts.append((solve, fitted, x.mean()))
    residuals = np.concatenate(pool) if pool else np.empty(0)
    if len(residuals) - 3 * len(pool) < 3:
        return None
    residuals -= residuals.mean()
    minima = np.empty((draws, len(budgets)))
    for column, (solve, fitted, middle) in enumerate(parts):
        drawn = fitted * (1 + generator.choice(residuals, (draws, len(fitted))))
        c2, c1, _ = solve @ drawn.T
        with np.errstate(divide="ignore", invalid="ignore"):
            minima[:, column] = np.where(c2 > 0, middle - c1 / (2 * c2), np.nan)
    return minima


def _lines(log_c: np.ndarray, minima: np.ndarray, log_y: np.ndarray | None) -> np.ndarray:
    """Intercept and exponent (k, 2) of straight lines through drawn minima, those without a NaN."""
    whole = minima[~np.isnan(minima).any(1)]
    if log_y is None or len(whole) < len(minima) // 2:
        return np.empty((0, 2))
    exponent, intercept = np.polyfit(log_c, whole.T, 1)
    return np.stack([intercept, exponent], 1)


def _with_intervals(
    laws: dict[str, PowerLaw], log_c: np.ndarray, minima: dict[str, np.ndarray], drawn: np.ndarray | None
) -> tuple[PowerLaw, PowerLaw]:
    """Both laws with what is known of their exponents. Tokens are what a budget leaves to parameters, so their draws are
    those of the parameters turned round."""
    n, d = laws["n"], laws["d"]
    if drawn is not None and len(n.draws):
        mirrored = np.array([d.intercept + n.intercept, d.exponent + n.exponent]) - n.draws
        pairs = [(n, n.draws), (d, mirrored)]
        done = []
        for law, draws in pairs:
            low, high = np.quantile(draws[:, 1], [0.025, 0.975])
            done.append(PowerLaw(law.intercept, law.exponent, (float(low), float(high)), draws))
        return done[0], done[1]
    if len(log_c) < 3:
        return n, d
    done = []
    for law, log_y in ((n, minima["n"]), (d, minima["d"])):
        # Too few residuals of losses: the scatter of the minima about the line, then.
        error = stats.linregress(log_c, log_y).stderr * stats.t.ppf(0.975, len(log_c) - 2)
        done.append(PowerLaw(law.intercept, law.exponent, (law.exponent - error, law.exponent + error), law.draws))
    return done[0], done[1]


# Parametric


class _Centred(NamedTuple):
    """Data of the fit: logarithms of N and D about their means, which takes the strong tie off A and alpha."""

    x: np.ndarray
    y: np.ndarray
    log_loss: np.ndarray


_LEAST, _MOST = 1e-3, 3.0
"""Exponents are sought between."""


def fit(runs: Runs, draws: int = 200, seed: int = 0) -> Fit:
    """Fits the five constants: Huber loss on log L, minimised by L-BFGS from the best places of a grid.

    The loss is a sum over runs in units of delta^2: averaged, as Hoffmann et al. had it, it is so small that L-BFGS stops
    before it is done (Besiroglu et al. 2024, arXiv:2404.10102). Raises TooLittleError for fewer than six runs.
    """
    if len(runs) < LEAST_RUNS:
        raise TooLittleError(
            f"the parametric law has five constants and needs at least {LEAST_RUNS} runs; there {_are(len(runs))}"
        )
    means = float(np.log(runs.n).mean()), float(np.log(runs.d).mean())
    data = _Centred(np.log(runs.n) - means[0], np.log(runs.d) - means[1], np.log(runs.loss))
    best = min((_descend(data, start) for start in _starts(data)), key=lambda result: result.fun)
    residuals = data.log_loss - _log_law(best.x, data)[0]
    generator = np.random.default_rng(seed)
    refits = [_descend(_drawn_runs(data, generator), best.x).x for _ in range(draws)]
    constants = np.array([_constants(theta, means) for theta in refits]).reshape(-1, 5)
    law = Law(*map(float, _constants(best.x, means)))
    intervals = {}
    for name, column in zip(Law._fields, constants.T, strict=True):
        low, high = np.quantile(column, [0.025, 0.975])
        intervals[name] = (float(low), float(high))
    return Fit(
        law,
        intervals,
        constants,
        tuple(_doubts(best, data, law, intervals, runs)),
        float(np.median(np.abs(residuals))),
        runs.operations,
        (float(runs.n.min()), float(runs.n.max())),
        (float(runs.d.min()), float(runs.d.max())),
    )


def _drawn_runs(data: _Centred, generator: np.random.Generator) -> _Centred:
    """As many runs, drawn with replacement: residuals drawn over fixed runs give intervals that hold the truth in 85 to 90 %
    of trials, these in 95 to 100 %. Fewer than five different ones say nothing of five constants and are drawn again."""
    while True:
        which = generator.integers(0, len(data.x), len(data.x))
        if len(np.unique(which)) >= LEAST_RUNS - 1:
            return _Centred(data.x[which], data.y[which], data.log_loss[which])


def _are(n: int) -> str:
    return "is 1" if n == 1 else f"are {n}"


def _constants(theta: np.ndarray, means: tuple[float, float]) -> tuple[float, ...]:
    a, b, e, alpha, beta = theta
    return math.exp(e), math.exp(a + alpha * means[0]), math.exp(b + beta * means[1]), alpha, beta


def _log_law(theta: np.ndarray, data: _Centred) -> tuple[np.ndarray, np.ndarray]:
    """log L (n,) of constants (log A', log B', log E, alpha, beta), and its gradient (5, n)."""
    a, b, e, alpha, beta = theta
    terms = np.stack([a - alpha * data.x, b - beta * data.y, np.full_like(data.x, e)])
    most = terms.max(0)
    shares = np.exp(terms - most)
    total = shares.sum(0)
    shares /= total
    return most + np.log(total), np.stack([*shares, -data.x * shares[0], -data.y * shares[1]])


def _cost(theta: np.ndarray, data: _Centred) -> tuple[float, np.ndarray]:
    value, gradient = _log_law(theta, data)
    r = (value - data.log_loss) / DELTA
    inside = np.abs(r) <= 1
    cost = np.where(inside, r * r / 2, np.abs(r) - 0.5).sum()
    # Not a product of matrices: threads that wait for each other cost more than this sum.
    return float(cost), (gradient * (np.clip(r, -1, 1) / DELTA)).sum(1)


def _descend(data: _Centred, start: np.ndarray) -> optimize.OptimizeResult:
    # Terms may vanish, down to a millionth of a nat, but not run off to where nothing changes any more.
    free = (math.log(1e-6), 5.0)
    return optimize.minimize(
        _cost,
        start,
        (data,),
        method="L-BFGS-B",
        jac=True,
        bounds=(free, free, free, (_LEAST, _MOST), (_LEAST, _MOST)),
        options={"maxiter": STEPS, "maxfun": 2 * STEPS, "ftol": 1e-13, "gtol": 1e-5},
    )


def _starts(data: _Centred, best: int = 8) -> list[np.ndarray]:
    """The best places of a grid of exponents, with the three other constants that suit them by least squares."""
    loss = np.exp(data.log_loss)
    found: list[tuple[float, int, np.ndarray]] = []
    for alpha in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5):
        for beta in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5):
            columns = np.stack([np.exp(-alpha * data.x), np.exp(-beta * data.y), np.ones_like(loss)], 1)
            a, b, e = np.maximum(optimize.nnls(columns / loss[:, None], np.ones_like(loss))[0], 1e-3 * loss.mean())
            theta = np.array([math.log(a), math.log(b), math.log(e), alpha, beta])
            found.append((_cost(theta, data)[0], len(found), theta))
    return [theta for _, _, theta in sorted(found)[:best]]


def _doubts(
    best: optimize.OptimizeResult, data: _Centred, law: Law, intervals: dict[str, Interval], runs: Runs
) -> list[str]:
    said = []
    slope = np.abs(_cost(best.x, data)[1])
    inside = (best.x[3:] > _LEAST * 1.01) & (best.x[3:] < _MOST * 0.99)
    # L-BFGS may end with "abnormal" where the cost is flat to the last digit; a slope there is what counts.
    if not best.success and slope.max() > 0.01 * max(1.0, best.fun):
        said.append(f"the fit did not converge ({str(best.message).lower()}): do not trust these constants")
    for what, values in (("parameters", data.x), ("tokens", data.y)):
        different = 1 + int((np.diff(np.sort(values)) > 0.01).sum())
        if different < 3:
            said.append(f"not identified: the runs have {different} different numbers of {what}; three are the least")
    a, b, _, alpha, beta = best.x
    most = np.exp([a - alpha * data.x.min(), b - beta * data.y.min()])
    shares = most / np.exp(data.log_loss.max())
    for name, letter, share, free in zip(("parameters", "tokens"), "AB", shares, inside, strict=True):
        if share < 1e-3 or not free:
            said.append(f"not identified: {letter}; the loss of these runs does not fall with {name} as the law has it")
    _, gradient = _log_law(best.x, data)
    scale = np.linalg.norm(gradient, axis=1)
    if (scale > 0).all() and not said:
        values = np.linalg.svd(gradient / scale[:, None], compute_uv=False)
        if values[-1] < 1e-6 * values[0]:
            said.append("not identified: other constants fit these runs as well; vary parameters and tokens more")
    for name in ("alpha", "beta"):
        low, high = intervals[name]
        if high - low > getattr(law, name):
            said.append(
                f"weakly identified: {name} may be anything from {low:.2g} to {high:.2g}; add runs, or longer ones"
            )
    low, _ = intervals["E"]
    if low < 0.05 * law.loss(runs.n.max(), runs.d.max()):
        said.append("weakly identified: E may be next to nothing; without longer runs a floor cannot be told")
    return said
