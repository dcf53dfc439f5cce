"""Measuring how fluorescence lies against brightfield, from the fields of a plate.

The two look different, so no picture of one can be laid over the other. Instead the stains are predicted from the planes by a linear
regression on features with rotation-symmetric kernels, which cannot shift anything, and moved to where they fit the prediction best:
weights w_k and displacements u(p) = shift + (scale - 1) p together minimise the sum of |stain(x + u) - sum_k w_k feature_k(x)|^2.

The fit needs products only: of the features with each other, and with the stain at every lag of a few pixels. They are taken from each
tile of a field once, so a field is read once and forgotten. The standard errors come from the scatter of the tiles (the sandwich of Huber
1967, "The behavior of maximum likelihood estimates under nonstandard conditions"). They know nothing of what all tiles share, such as
planes that drift against each other; so the fields are also fitted in two halves, which have to agree.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isqrt

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from adipocyte.imaging.alignment import IDENTITY, Alignment

Field = tuple[
    NDArray[np.uint16], Mapping[str, NDArray[np.uint16]]
]  # planes (Z, Y, X) and the stains by name, (Y, X) each

TILE_PX = 100
REACH_PX = 10  # the largest lag that is looked at
RIM_PX = 8  # room for the filters, beyond the lags
TILES_PER_SITE = 256
MOST_TILES = 4096  # a tile of seven planes and three stains takes 0.24 MB: a gigabyte for a magnification of any number of sites
TILES_PER_SIDE = 10

SIGMAS_PX = (1, 2, 4, 8)
SPREADS_PX = (2, 5)
FINE_PX, COARSE_PX = 1.0, 3.0  # edges lie between these scales, and edges tell a position
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
    """What the fields of one site say: `measured` is the estimate as it is, `alignment` what to use, the identity on weak evidence."""

    alignment: Alignment
    measured: Alignment
    n_fields: int
    n_tiles: int
    error_px: (
        float | None
    )  # standard error of the measured shift, see `_fit_with_halves`; None where nothing could be measured
    correlation: float  # of the best stain with its prediction
    verdict: str  # why `alignment` is what it is, in words


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
    """The least-squares solution for several sites of one magnification, and how sure it is."""

    shifts_px: dict[int, NDArray[np.float64]]  # site -> (2,)
    scale: float
    errors_px: dict[int, float]  # site -> the larger one of y and x
    correlations: dict[int, float]
    prominences: dict[int, float]  # site -> by how many standard errors its peak overtops any other
    largest_px: float  # displacement of any tile


def register(fields: Mapping[int, Sequence[Callable[[], Field]]]) -> dict[int, Registration]:
    """Measure the alignment of every site (fov) of one magnification; each has a shift of its own, the scale is common.

    fields: for each site, functions that load a field: planes (Z, Y, X) and targets (Y, X) in counts, the same targets everywhere. Each is
    called once, and one field is held at a time. Of a large field up to a hundred tiles are looked at, of many fields a few tiles each.

    A site keeps the identity when it has fewer than 8 tiles of 100 x 100 pixels (the outer 18 pixels of a field are no tile's), when
    the stains do not follow brightfield, when its standard error is over half a pixel, or when no displacement stands out. All sites
    keep it when together they tell of no displacement: within 3 standard errors, or under a quarter of a pixel everywhere. The same
    fields give the same answer.
    """
    tiles_per_site = min(TILES_PER_SITE, MOST_TILES // max(len(fields), 1))
    tiles = [
        tile
        for site, loaders in fields.items()
        for tile in _site_tiles(site, loaders, tiles_per_site)
    ]
    counts = {site: sum(tile.site == site for tile in tiles) for site in fields}
    rough = _fit_with_halves([tile for tile in tiles if counts[tile.site] >= FEWEST_TILES])
    doubts = {site: _doubt(site, counts[site], rough) for site in fields}
    fit = (
        _fit_with_halves([tile for tile in tiles if not doubts[tile.site]])
        if any(doubts.values())
        else rough
    )
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
    """Why a site's fields cannot be believed; empty when they can."""
    if n_tiles < FEWEST_TILES:
        return f"too little to see: {n_tiles} tiles of {TILE_PX} x {TILE_PX} pixels, at least {FEWEST_TILES} are needed"
    if not fit.correlations[site] >= LEAST_CORRELATION:
        return f"the stains do not follow brightfield: r = {fit.correlations[site]:.2f}, at least {LEAST_CORRELATION} is needed"
    if not fit.errors_px[site] <= LARGEST_ERROR_PX:
        return f"its fields are too few or disagree: a standard error of {fit.errors_px[site]:.2f} px, at most {LARGEST_ERROR_PX} is needed"
    if not fit.prominences[site] >= SIGNIFICANT:
        return f"no displacement stands out: {fit.prominences[site]:.1f} standard errors above others, {SIGNIFICANT:g} are needed"
    return ""


def _is_moved(fit: _Fit) -> bool:
    """Whether the sites together tell of a displacement that is sure, and worth a resampling."""
    if not fit.shifts_px:
        return False
    in_errors = [fit.shifts_px[site] / fit.errors_px[site] for site in fit.shifts_px]
    is_sure = np.sqrt(np.mean(np.square(in_errors))) > SIGNIFICANT or fit.scale != 1.0
    return bool(is_sure and fit.largest_px > SMALLEST_SHIFT_PX)


def _measured(site: int, fit: _Fit) -> Alignment:
    """Rounded far below what can be measured, so that the last bits of a machine's arithmetic do not show."""
    dy_px, dx_px = fit.shifts_px.get(site, (0.0, 0.0))
    return Alignment(round(float(dy_px), 3), round(float(dx_px), 3), round(fit.scale, 6))


def _verdict(doubt: str, is_moved: bool) -> str:
    if doubt:
        return f"left as it is, {doubt}"
    return "aligned" if is_moved else "left as it is, the sites together tell of no displacement"


# --- from fields to products


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
            yield _tile(
                site,
                half,
                position_px,
                planes[:, *window],
                [image[window] for image in targets.values()],
            )


def _corners(shape_px: tuple[int, int], per_side: int) -> Iterator[tuple[int, int]]:
    """Upper left corners of tiles spread evenly over a field; none where it is too small."""
    rim_px = REACH_PX + RIM_PX
    ns = [min((size - 2 * rim_px) // TILE_PX, per_side) for size in shape_px]
    if min(ns) < 1:
        return
    ys, xs = (
        np.rint(rim_px + (np.arange(n) + 0.5) * (size - 2 * rim_px) / n - TILE_PX / 2).astype(int)
        for n, size in zip(ns, shape_px, strict=True)
    )
    yield from ((y, x) for y in ys.tolist() for x in xs.tolist())


def _tile(
    site: int,
    half: int,
    position_px: NDArray[np.float64],
    planes: NDArray[np.uint16],
    stains: list[NDArray[np.uint16]],
) -> _Tile:
    """Products of a tile from its planes, (Z, Y, X), and stains, (Y, X) each, all with room for lags and filters around it."""
    rim_px, n_lags, side_px = REACH_PX + RIM_PX, 2 * REACH_PX + 1, TILE_PX + 2 * REACH_PX
    maps = _features(planes)[:, rim_px:-rim_px, rim_px:-rim_px]
    maps = maps - maps.mean(axis=(1, 2), keepdims=True)
    rows = maps.reshape(len(maps), -1)
    bands = np.stack([_edges(stain)[RIM_PX:-RIM_PX, RIM_PX:-RIM_PX] for stain in stains])

    # Correlation theorem: the circle's wrap touches lags beyond REACH_PX only.
    conjugate = np.conj(fft.rfft2(maps, (side_px, side_px)))
    cross = np.stack(
        [
            fft.irfft2(fft.rfft2(band) * conjugate, (side_px, side_px))[:, :n_lags, :n_lags]
            for band in bands
        ]
    )
    energy = bands[:, REACH_PX:-REACH_PX, REACH_PX:-REACH_PX].astype(np.float64) ** 2
    return _Tile(
        site,
        half,
        position_px,
        (rows @ rows.T).astype(np.float64),
        cross.astype(np.float32),
        energy.sum(axis=(1, 2)),
    )


def _features(planes: NDArray[np.uint16]) -> NDArray[np.float32]:
    """What a lens-like droplet may show, (K, Y, X): brightness at several scales and its local spread, in every plane; edges only."""
    stack = planes.astype(np.float32)
    stack = stack / np.maximum(stack.mean(axis=(1, 2), keepdims=True), 1) - 1
    maps = [_blur(stack, sigma_px) for sigma_px in SIGMAS_PX]
    for sigma_px in SPREADS_PX:
        variance = _blur(stack**2, sigma_px) - _blur(stack, sigma_px) ** 2
        maps.append(np.sqrt(np.maximum(variance, 0)))
    features = np.concatenate(maps)
    return features - _blur(features, COARSE_PX)


def _edges(stain: NDArray[np.uint16]) -> NDArray[np.float32]:
    """A stain, (Y, X), between the fine and the coarse scale, so that broad glow, which tells no position, outweighs nothing."""
    fine = _blur(
        np.minimum(stain, np.percentile(stain, BRIGHT_PERCENTILE)).astype(np.float32), FINE_PX
    )
    return fine - _blur(fine, COARSE_PX)


def _blur(image: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    return ndimage.gaussian_filter(image, sigma_px, truncate=3, axes=(-2, -1))


# --- from products to displacements


def _fit_with_halves(tiles: list[_Tile]) -> _Fit:
    """The fit of all tiles; its errors are at least half of what two halves, fitted apart with weights of their own, differ by."""
    fit, *halves = (
        _fit(part)
        for part in (tiles, *([tile for tile in tiles if tile.half == half] for half in (0, 1)))
    )
    shared = halves[0].shifts_px.keys() & halves[1].shifts_px.keys()
    apart_px = {
        site: np.abs(halves[0].shifts_px[site] - halves[1].shifts_px[site]).max() / 2
        for site in shared
    }
    return replace(
        fit,
        errors_px={
            site: max(error_px, float(apart_px[site])) for site, error_px in fit.errors_px.items()
        },
    )


def _fit(tiles: list[_Tile]) -> _Fit:
    """Solve for weights and displacements by turns: the weights by ridge regression, the displacements by a step of Newton's."""
    sites = sorted({tile.site for tile in tiles})
    if not tiles:
        return _Fit({}, 1.0, {}, {}, {}, 0.0)
    columns = np.array([sites.index(tile.site) for tile in tiles])
    designs = np.stack(
        [
            _design(column, tile.position_px, len(sites))
            for column, tile in zip(columns, tiles, strict=True)
        ]
    )
    unknowns = np.concatenate(
        [*(_likeliest_lag([tile for tile in tiles if tile.site == site]) for site in sites), [0.0]]
    )
    for _ in range(N_STEPS):
        agreement, correlations = _agreement(tiles, columns, designs @ unknowns)
        step, covariance = _newton(agreement, designs, designs @ unknowns)
        unknowns += np.clip(step, -1, 1)
        unknowns[:-1] = np.clip(unknowns[:-1], -REACH_PX, REACH_PX)

    errors = np.sqrt(np.diag(covariance))
    if abs(unknowns[-1]) <= SIGNIFICANT * errors[-1]:
        unknowns[-1] = (
            0.0  # tiles lie evenly around the centre, so the shifts hardly depend on the scale
        )
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
    """(2, 2 n_sites + 1): a tile's displacement is this times the unknowns, every site's shift and the scale less 1."""
    design = np.zeros((2, 2 * n_sites + 1))
    design[:, 2 * column : 2 * column + 2] = np.eye(2)
    design[:, -1] = position_px
    return design


def _likeliest_lag(tiles: list[_Tile]) -> NDArray[np.float64]:
    """The whole-pixel shift, (2,), at which the regression explains most of a site's stains, each lag having weights of its own."""
    gram, cross, energy = (
        sum(part)
        for part in zip(*((tile.gram, tile.cross, tile.energy) for tile in tiles), strict=True)
    )
    explained = np.zeros(cross.shape[-2:])
    for stain_cross, stain_energy in zip(cross, energy, strict=True):
        share = np.sum(stain_cross * _weights(gram, stain_cross), axis=0) / max(stain_energy, 1e-9)
        explained -= np.log(np.maximum(1 - share, 1e-9))
    return (
        np.array(np.unravel_index(explained.argmax(), explained.shape), dtype=np.float64) - REACH_PX
    )


def _weights(gram: NDArray[np.float64], cross: NDArray) -> NDArray[np.float64]:
    """Ridge regression: weights in the shape of *cross*, (K, ...), the features being taken at unit energy."""
    size = np.sqrt(np.diag(gram)) + 1e-9
    ridge = gram / np.outer(size, size) + RIDGE * np.eye(len(gram))
    flat = cross.reshape(len(gram), -1) / size[:, None]
    return (np.linalg.solve(ridge, flat) / size[:, None]).reshape(cross.shape)


def _agreement(
    tiles: list[_Tile], columns: NDArray[np.int64], lags: NDArray[np.float64]
) -> tuple[NDArray[np.float64], list[float]]:
    """How well each tile's stains fit their predictions at every lag, (N, L, L), and the correlation of each site's best stain.

    The weights are those of the displacements *lags*, (N, 2), in pixels. Stains are weighed by what the prediction leaves unexplained.
    """
    gram = sum(tile.gram for tile in tiles)
    cross = sum(_parabola(tile.cross, lag)[0] for tile, lag in zip(tiles, lags, strict=True))
    agreement, correlations = 0.0, []
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
    return agreement, np.max(correlations, axis=0).tolist()


def _newton(
    agreement: NDArray[np.float64], designs: NDArray[np.float64], lags: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A step of the unknowns, (U,), towards the greatest total agreement, and their covariance, (U, U), from the scatter of the tiles."""
    _, slopes, curvatures = zip(
        *(_parabola(surface, lag) for surface, lag in zip(agreement, lags, strict=True)),
        strict=True,
    )
    scores = np.einsum("ni,niu->nu", np.stack(slopes), designs)
    inverse = np.linalg.pinv(
        np.einsum("niu,nij,njv->uv", designs, np.stack(curvatures), designs), hermitian=True
    )
    return -inverse @ scores.sum(axis=0), inverse @ (scores.T @ scores) @ inverse


def _prominence(agreement: NDArray[np.float64], lags: NDArray[np.float64]) -> float:
    """By how many standard errors, over tiles, a site's displacement beats the best one at least RIVAL_PX away."""
    grid = np.arange(-REACH_PX, REACH_PX + 1)
    dy_px, dx_px = lags.mean(axis=0)
    is_far = np.hypot(grid[:, None] - dy_px, grid[None, :] - dx_px) >= RIVAL_PX
    rival = np.unravel_index(
        np.where(is_far, agreement.sum(axis=0), -np.inf).argmax(), is_far.shape
    )
    lead = (
        np.array([_parabola(surface, lag)[0] for surface, lag in zip(agreement, lags, strict=True)])
        - agreement[:, *rival]
    )
    return float(lead.mean() / max(lead.std(ddof=1) / np.sqrt(len(lead)), 1e-9))


_STEPS_Y, _STEPS_X = (steps.ravel() for steps in np.meshgrid([-1, 0, 1], [-1, 0, 1], indexing="ij"))
_PARABOLA = np.linalg.pinv(
    np.stack(
        [np.ones(9), _STEPS_Y, _STEPS_X, _STEPS_Y**2 / 2, _STEPS_X**2 / 2, _STEPS_Y * _STEPS_X],
        axis=1,
    )
)


def _parabola(surface: NDArray, lag: NDArray[np.float64]) -> tuple[NDArray, NDArray, NDArray]:
    """Value, slope (..., 2) and curvature (..., 2, 2) of surfaces over lags, (..., L, L), at a *lag* between whole pixels.

    Of the parabola through the nine pixels around it, in the sense of least squares.
    """
    middle = np.clip(np.rint(lag).astype(int), 1 - REACH_PX, REACH_PX - 1)
    (y, x), off = middle + REACH_PX, lag - middle
    nine = surface[..., y - 1 : y + 2, x - 1 : x + 2].astype(np.float64)
    value, slope_y, slope_x, bend_y, bend_x, twist = np.moveaxis(
        nine.reshape(*nine.shape[:-2], 9) @ _PARABOLA.T, -1, 0
    )
    curvature = np.stack(
        [np.stack([bend_y, twist], axis=-1), np.stack([twist, bend_x], axis=-1)], axis=-2
    )
    slope = np.stack([slope_y, slope_x], axis=-1)
    return value + slope @ off + 0.5 * (curvature @ off) @ off, slope + curvature @ off, curvature
