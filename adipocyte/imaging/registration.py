"""Measure from the fields of a plate how fluorescence lies against brightfield.

The two look different, so their images cannot be compared directly. Instead, a linear regression
predicts the stains from features of the planes. The features have rotation-symmetric kernels, which
cannot shift anything. The stains are then moved to where they fit the prediction best: weights w_k
and displacements u(p) = shift + (scale - 1) p together minimise the sum of
|stain(x + u) - sum_k w_k feature_k(x)|^2.

The fit only needs products: features times features, and features times stains at every lag of a
few pixels. They are computed once for each tile, so only one field is in memory at a time. The
standard errors come from the scatter of the tiles (the sandwich of Huber 1967, "The behavior of
maximum likelihood estimates under nonstandard conditions"). They do not include errors that all
tiles share, such as planes that drift against each other. Therefore two halves of the fields are
fitted too, and the error is at least half of their difference.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import product
from math import isqrt

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from adipocyte.imaging.alignment import IDENTITY, Alignment

# Planes (Z, Y, X) and the stains by name, (Y, X) each.
Field = tuple[NDArray[np.uint16], Mapping[str, NDArray[np.uint16]]]

TILE_PX = 100
REACH_PX = 10  # the largest lag
RIM_PX = 8  # around the lags, because the filters need it
TILES_PER_SITE = 256
# At one magnification. A tile of seven planes and three stains takes 0.24 MB, so all of them take
# at most a gigabyte.
MOST_TILES = 4096
TILES_PER_SIDE = 10

SIGMAS_PX = (1, 2, 4, 8)
SPREADS_PX = (2, 5)
FINE_PX, COARSE_PX = 1.0, 3.0  # edges lie between these scales, and edges show a position
BRIGHT_PERCENTILE = 99.5
RIDGE = 1e-4
N_STEPS = 8

FEWEST_TILES = 8
LEAST_CORRELATION = 0.2
RIVAL_PX = 4.0
SIGNIFICANT = 3.0  # standard errors
LARGEST_ERROR_PX = 0.5
SMALLEST_SHIFT_PX = 0.25


@dataclass(frozen=True)
class Registration:
    """The result for one site: `measured` is the estimate, `alignment` is what to apply.

    `alignment` is the identity if the evidence is weak; `verdict` says why. `error_px` is the
    standard error of the measured shift (see `_fit_with_halves`), None if there is no measurement.
    `correlation` is that of the best stain with its prediction.
    """

    alignment: Alignment
    measured: Alignment
    n_fields: int
    n_tiles: int
    error_px: float | None
    correlation: float
    verdict: str


@dataclass(frozen=True)
class _Tile:
    """Products of one tile: K features, S stains, L lags a side."""

    site: int
    half: int  # 0 or 1
    position_px: NDArray[np.float64]  # (2,), of its middle, from the field's centre
    gram: NDArray[np.float64]  # (K, K) feature by feature
    cross: NDArray[np.float32]  # (S, K, L, L) stain by feature, at every lag
    energy: NDArray[np.float64]  # (S,) stain by itself


@dataclass(frozen=True)
class _Fit:
    """The least-squares solution for several sites of one magnification, and its errors."""

    shifts_px: dict[int, NDArray[np.float64]]  # site -> (2,)
    scale: float
    errors_px: dict[int, float]  # site -> the larger one of y and x
    correlations: dict[int, float]
    prominences: dict[int, float]  # site -> standard errors from its peak to the next one
    largest_px: float  # the largest displacement of a tile


def register(fields: Mapping[int, Sequence[Callable[[], Field]]]) -> dict[int, Registration]:
    """Measure the alignment of every site (fov) of one magnification.

    Each site has its own shift; all share one scale. fields: for each site, functions that load a
    field: planes (Z, Y, X) and targets (Y, X) in counts, the same targets everywhere. Each function
    is called once, and one field is in memory at a time. A large field gives up to a hundred tiles;
    if there are many fields, each gives a few.

    A site gets the identity if it has fewer than 8 tiles of 100 x 100 pixels (tiles leave out the
    outer 18 pixels of a field), if the stains do not follow brightfield, if its standard error is
    more than half a pixel, or if no displacement stands out. All sites get it if they show no
    displacement together: within 3 standard errors, or less than a quarter of a pixel everywhere.
    The same fields give the same result.
    """
    tiles_per_site = min(TILES_PER_SITE, MOST_TILES // max(len(fields), 1))
    tiles: list[_Tile] = []
    for site, loaders in fields.items():
        tiles += _in_two_halves(list(_site_tiles(site, loaders, tiles_per_site)))
    counts = {site: sum(tile.site == site for tile in tiles) for site in fields}
    rough = _fit_with_halves([tile for tile in tiles if counts[tile.site] >= FEWEST_TILES])
    doubts = {site: _doubt(site, counts[site], rough) for site in fields}
    fit = rough
    if any(doubts.values()):
        fit = _fit_with_halves([tile for tile in tiles if not doubts[tile.site]])
    is_moved = _is_moved(fit)
    registrations = {}
    for site, loaders in fields.items():
        measured = _measured(site, rough if doubts[site] else fit)
        registrations[site] = Registration(
            alignment=measured if is_moved and not doubts[site] else IDENTITY,
            measured=measured,
            n_fields=len(loaders),
            n_tiles=counts[site],
            error_px=round(rough.errors_px[site], 3) if site in rough.errors_px else None,
            correlation=round(rough.correlations.get(site, 0.0), 3),
            verdict=_verdict(doubts[site], is_moved),
        )
    return registrations


def _doubt(site: int, n_tiles: int, fit: _Fit) -> str:
    """Why a site's displacement is not reliable; "" if it is."""
    if n_tiles < FEWEST_TILES:
        return (
            f"too little to see: {n_tiles} tiles of {TILE_PX} x {TILE_PX} pixels, at least "
            f"{FEWEST_TILES} are needed"
        )
    correlation, error_px = fit.correlations[site], fit.errors_px[site]
    if not correlation >= LEAST_CORRELATION:
        return (
            f"the stains do not follow brightfield: r = {correlation:.2f}, at least "
            f"{LEAST_CORRELATION} is needed"
        )
    if not error_px <= LARGEST_ERROR_PX:
        return (
            f"its fields are too few or disagree: a standard error of {error_px:.2f} px, at most "
            f"{LARGEST_ERROR_PX} is needed"
        )
    if not fit.prominences[site] >= SIGNIFICANT:
        return (
            f"no displacement stands out: {fit.prominences[site]:.1f} standard errors above "
            f"others, {SIGNIFICANT:g} are needed"
        )
    return ""


def _is_moved(fit: _Fit) -> bool:
    """Whether the sites together show a displacement that is significant, and large enough."""
    if not fit.shifts_px:
        return False
    in_errors = [fit.shifts_px[site] / fit.errors_px[site] for site in fit.shifts_px]
    is_sure = np.sqrt(np.mean(np.square(in_errors))) > SIGNIFICANT or fit.scale != 1.0
    return bool(is_sure and fit.largest_px > SMALLEST_SHIFT_PX)


def _measured(site: int, fit: _Fit) -> Alignment:
    """A site's alignment, rounded far below its error to hide differences between machines."""
    dy_px, dx_px = fit.shifts_px.get(site, (0.0, 0.0))
    return Alignment(round(float(dy_px), 3), round(float(dx_px), 3), round(fit.scale, 6))


def _verdict(doubt: str, is_moved: bool) -> str:
    if doubt:
        return f"left as it is, {doubt}"
    return "aligned" if is_moved else "left as it is, the sites together tell of no displacement"


# --- from fields to products


def _sum(arrays: Iterable[NDArray]) -> NDArray:
    """Add arrays one by one, because a stack of all tiles' products would take a gigabyte more."""
    return reduce(np.add, arrays)


def _site_tiles(site: int, loaders: Sequence[Callable[[], Field]], most: int) -> Iterator[_Tile]:
    per_side = min(max(isqrt(most // max(len(loaders), 1)), 1), TILES_PER_SIDE)
    for number, load in enumerate(loaders):
        planes, targets = load()
        shape_px = planes.shape[1:]
        rim_px = REACH_PX + RIM_PX
        for tile_number, (y, x) in enumerate(_corners(shape_px, per_side)):
            half = (number if len(loaders) > 1 else tile_number) % 2
            window = np.s_[y - rim_px : y + TILE_PX + rim_px, x - rim_px : x + TILE_PX + rim_px]
            position_px = np.array([y, x]) + (TILE_PX - 1) / 2 - (np.array(shape_px) - 1) / 2
            stains = [image[window] for image in targets.values()]
            yield _tile(site, half, position_px, planes[:, *window], stains)


def _in_two_halves(tiles: list[_Tile]) -> list[_Tile]:
    """A site's tiles, parted by turns where the fields of one half are all too small for a tile."""
    if len({tile.half for tile in tiles}) != 1:
        return tiles
    return [replace(tile, half=number % 2) for number, tile in enumerate(tiles)]


def _corners(shape_px: tuple[int, int], per_side: int) -> Iterator[tuple[int, int]]:
    """Upper left corners of tiles, spread evenly over a field; none if it is too small."""
    rim_px = REACH_PX + RIM_PX
    ns = [min((size - 2 * rim_px) // TILE_PX, per_side) for size in shape_px]
    if min(ns) < 1:
        return
    ys, xs = (
        np.rint(rim_px + (np.arange(n) + 0.5) * (size - 2 * rim_px) / n - TILE_PX / 2).astype(int)
        for n, size in zip(ns, shape_px, strict=True)
    )
    yield from product(ys.tolist(), xs.tolist())


def _tile(
    site: int,
    half: int,
    position_px: NDArray[np.float64],
    planes: NDArray[np.uint16],
    stains: list[NDArray[np.uint16]],
) -> _Tile:
    """Products of a tile.

    planes: (Z, Y, X), and stains: (Y, X) each, both with a rim for lags and filters around the
    tile.
    """
    rim_px, n_lags, side_px = REACH_PX + RIM_PX, 2 * REACH_PX + 1, TILE_PX + 2 * REACH_PX
    maps = _features(planes)[:, rim_px:-rim_px, rim_px:-rim_px]
    maps = maps - maps.mean(axis=(1, 2), keepdims=True)
    rows = maps.reshape(len(maps), -1)
    bands = np.stack([_edges(stain)[RIM_PX:-RIM_PX, RIM_PX:-RIM_PX] for stain in stains])

    # Correlation theorem: only lags beyond REACH_PX wrap around.
    conjugate = np.conj(fft.rfft2(maps, (side_px, side_px)))
    products = (fft.irfft2(fft.rfft2(band) * conjugate, (side_px, side_px)) for band in bands)
    cross = np.stack([lags[:, :n_lags, :n_lags] for lags in products])
    energy = bands[:, REACH_PX:-REACH_PX, REACH_PX:-REACH_PX].astype(np.float64) ** 2
    return _Tile(
        site,
        half,
        position_px,
        gram=(rows @ rows.T).astype(np.float64),
        cross=cross.astype(np.float32),
        energy=energy.sum(axis=(1, 2)),
    )


def _features(planes: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Edges of what a lens-like droplet may show in every plane, (K, Y, X).

    These are brightness at several scales and its local spread.
    """
    stack = planes.astype(np.float32)
    stack = stack / np.maximum(stack.mean(axis=(1, 2), keepdims=True), 1) - 1
    maps = [_blur(stack, sigma_px) for sigma_px in SIGMAS_PX]
    for sigma_px in SPREADS_PX:
        variance = _blur(stack**2, sigma_px) - _blur(stack, sigma_px) ** 2
        maps.append(np.sqrt(np.maximum(variance, 0)))
    features = np.concatenate(maps)
    return features - _blur(features, COARSE_PX)


def _edges(stain: NDArray[np.uint16]) -> NDArray[np.float32]:
    """A stain, (Y, X), between the fine and the coarse scale.

    Broad glow is removed, because it shows no position.
    """
    clipped = np.minimum(stain, np.percentile(stain, BRIGHT_PERCENTILE))
    fine = _blur(clipped.astype(np.float32), FINE_PX)
    return fine - _blur(fine, COARSE_PX)


def _blur(image: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    return ndimage.gaussian_filter(image, sigma_px, truncate=3, axes=(-2, -1))


# --- from products to displacements


def _fit_with_halves(tiles: list[_Tile]) -> _Fit:
    """The fit of all tiles, with errors of at least half the difference between two halves.

    The halves are fitted separately, each with its own weights.
    """
    fit = _fit(tiles)
    first, second = (_fit([tile for tile in tiles if tile.half == half]) for half in (0, 1))
    errors_px = {}
    for site, error_px in fit.errors_px.items():
        apart_px = np.abs(first.shifts_px[site] - second.shifts_px[site]).max() / 2
        errors_px[site] = max(error_px, float(apart_px))
    return replace(fit, errors_px=errors_px)


def _fit(tiles: list[_Tile]) -> _Fit:
    """Solve for weights and displacements in turn.

    The weights are found by ridge regression, the displacements by a step of Newton's method.
    """
    if not tiles:
        return _Fit({}, 1.0, {}, {}, {}, 0.0)
    sites = sorted({tile.site for tile in tiles})
    columns = np.array([sites.index(tile.site) for tile in tiles])
    designs = np.stack(
        [
            _design(column, tile.position_px, len(sites))
            for column, tile in zip(columns, tiles, strict=True)
        ]
    )
    shifts = [_likeliest_lag([tile for tile in tiles if tile.site == site]) for site in sites]
    unknowns = np.concatenate([*shifts, [0.0]])
    for _ in range(N_STEPS):
        agreement, correlations = _agreement(tiles, columns, designs @ unknowns)
        step, covariance = _newton(agreement, designs, designs @ unknowns)
        unknowns += np.clip(step, -1, 1)
        unknowns[:-1] = np.clip(unknowns[:-1], -REACH_PX, REACH_PX)

    errors = np.sqrt(np.diag(covariance))
    if abs(unknowns[-1]) <= SIGNIFICANT * errors[-1]:
        # The shifts stay, because they hardly depend on the scale: tiles lie evenly around the
        # field's centre.
        unknowns[-1] = 0.0
    lags = designs @ unknowns
    prominences = [
        _prominence(agreement[columns == i], lags[columns == i]) for i in range(len(sites))
    ]
    return _Fit(
        shifts_px=dict(zip(sites, unknowns[:-1].reshape(-1, 2), strict=True)),
        scale=1.0 + float(unknowns[-1]),
        errors_px=dict(zip(sites, errors[:-1].reshape(-1, 2).max(axis=1).tolist(), strict=True)),
        correlations=dict(zip(sites, correlations, strict=True)),
        prominences=dict(zip(sites, prominences, strict=True)),
        largest_px=float(np.hypot(*lags.T).max()),
    )


def _design(column: int, position_px: NDArray[np.float64], n_sites: int) -> NDArray[np.float64]:
    """The matrix, (2, 2 n_sites + 1), that turns the unknowns into a tile's displacement.

    The unknowns are every site's shift, and the scale minus 1.
    """
    design = np.zeros((2, 2 * n_sites + 1))
    design[:, 2 * column : 2 * column + 2] = np.eye(2)
    design[:, -1] = position_px
    return design


def _likeliest_lag(tiles: list[_Tile]) -> NDArray[np.float64]:
    """The whole-pixel shift, (2,), at which the regression explains most of a site's stains.

    Each lag has its own weights.
    """
    gram = _sum(tile.gram for tile in tiles)
    cross = _sum(tile.cross for tile in tiles)
    energy = _sum(tile.energy for tile in tiles)
    explained = np.zeros(cross.shape[-2:])
    for stain_cross, stain_energy in zip(cross, energy, strict=True):
        share = np.sum(stain_cross * _weights(gram, stain_cross), axis=0) / max(stain_energy, 1e-9)
        explained -= np.log(np.maximum(1 - share, 1e-9))
    lag = np.unravel_index(explained.argmax(), explained.shape)
    return np.array(lag, dtype=np.float64) - REACH_PX


def _weights(gram: NDArray[np.float64], cross: NDArray) -> NDArray[np.float64]:
    """Weights of the ridge regression, in the shape of *cross*, (K, ...).

    The ridge acts on features of unit energy.
    """
    size = np.sqrt(np.diag(gram)) + 1e-9
    ridge = gram / np.outer(size, size) + RIDGE * np.eye(len(gram))
    flat = cross.reshape(len(gram), -1) / size[:, None]
    return (np.linalg.solve(ridge, flat) / size[:, None]).reshape(cross.shape)


def _agreement(
    tiles: list[_Tile], columns: NDArray[np.int64], lags: NDArray[np.float64]
) -> tuple[NDArray[np.float64], list[float]]:
    """How well each tile's stains fit their predictions at every lag, and each site's correlation.

    The agreement is (N, L, L); the correlation is that of the site's best stain. lags: (N, 2), the
    displacements in pixels for which the weights are computed. Each stain is weighted by what its
    prediction does not explain.
    """
    gram = _sum(tile.gram for tile in tiles)
    cross = _sum(_parabola(tile.cross, lag)[0] for tile, lag in zip(tiles, lags, strict=True))
    agreement, correlations = np.zeros((len(tiles), *tiles[0].cross.shape[-2:])), []
    for stain, stain_cross in enumerate(cross):
        weights = _weights(gram, stain_cross)
        surfaces = np.stack([np.tensordot(weights, tile.cross[stain], axes=1) for tile in tiles])
        hits = np.array(
            [_parabola(surface, lag)[0] for surface, lag in zip(surfaces, lags, strict=True)]
        )
        predicted = np.array([weights @ tile.gram @ weights for tile in tiles])
        energy = np.array([tile.energy[stain] for tile in tiles])
        agreement = agreement + surfaces / max(np.mean(energy - 2 * hits + predicted), 1e-9)
        hits, predicted, energy = (
            np.bincount(columns, values) for values in (hits, predicted, energy)
        )
        correlations.append(hits / np.sqrt(np.maximum(predicted * energy, 1e-9)))
    return agreement, np.stack(correlations).max(axis=0).tolist()


def _newton(
    agreement: NDArray[np.float64], designs: NDArray[np.float64], lags: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A step of the unknowns, (U,), towards the greatest agreement, and their covariance, (U, U).

    The covariance comes from the scatter of the tiles.
    """
    parabolas = [_parabola(surface, lag) for surface, lag in zip(agreement, lags, strict=True)]
    slopes = np.stack([slope for _, slope, _ in parabolas])
    curvatures = np.stack([curvature for _, _, curvature in parabolas])
    scores = np.einsum("ni,niu->nu", slopes, designs)
    hessian = np.einsum("niu,nij,njv->uv", designs, curvatures, designs)
    inverse = np.linalg.pinv(hessian, hermitian=True)
    return -inverse @ scores.sum(axis=0), inverse @ (scores.T @ scores) @ inverse


def _prominence(agreement: NDArray[np.float64], lags: NDArray[np.float64]) -> float:
    """How far a site's displacement is above its best rival, in standard errors over the tiles.

    A rival is at least RIVAL_PX away.
    """
    grid = np.arange(-REACH_PX, REACH_PX + 1)
    dy_px, dx_px = lags.mean(axis=0)
    is_far = np.hypot(grid[:, None] - dy_px, grid[None, :] - dx_px) >= RIVAL_PX
    rivals = np.where(is_far, agreement.sum(axis=0), -np.inf)
    rival = np.unravel_index(rivals.argmax(), rivals.shape)
    peaks = [_parabola(surface, lag)[0] for surface, lag in zip(agreement, lags, strict=True)]
    lead = np.array(peaks) - agreement[:, *rival]
    return float(lead.mean() / max(lead.std(ddof=1) / np.sqrt(len(lead)), 1e-9))


_STEPS_Y, _STEPS_X = (steps.ravel() for steps in np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"))
_PARABOLA = np.linalg.pinv(
    np.stack(
        [np.ones(9), _STEPS_Y, _STEPS_X, _STEPS_Y**2 / 2, _STEPS_X**2 / 2, _STEPS_Y * _STEPS_X],
        axis=1,
    )
)


def _parabola(surface: NDArray, lag: NDArray[np.float64]) -> tuple[NDArray, NDArray, NDArray]:
    """Value, slope (..., 2) and curvature (..., 2, 2) of surfaces over lags, (..., L, L).

    They are those, at a *lag* between whole pixels, of the parabola that fits the nine pixels
    around it with the least squares.
    """
    middle = np.clip(np.rint(lag).astype(int), 1 - REACH_PX, REACH_PX - 1)
    (y, x), off = middle + REACH_PX, lag - middle
    nine = surface[..., y - 1 : y + 2, x - 1 : x + 2].astype(np.float64)
    terms = nine.reshape(*nine.shape[:-2], 9) @ _PARABOLA.T
    value, slope_y, slope_x, bend_y, bend_x, twist = np.moveaxis(terms, -1, 0)
    slope = np.stack([slope_y, slope_x], axis=-1)
    rows = [np.stack([bend_y, twist], axis=-1), np.stack([twist, bend_x], axis=-1)]
    curvature = np.stack(rows, axis=-2)
    return value + slope @ off + 0.5 * (curvature @ off) @ off, slope + curvature @ off, curvature
