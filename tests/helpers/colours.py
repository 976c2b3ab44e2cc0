"""Colours as colour-blind people see them, their distances and contrasts."""

from itertools import combinations

import numpy as np

# of linear RGB, severity 1.0 (Machado, Oliveira and Fernandes 2009)
SIGHTS = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def rgb(colour):
    """`#rrggbb` as shares, shape `(3,)`."""
    return np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)]) / 255


def linear(shares):
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """The ratio of WCAG 2.2, 1 to 21, of two colours `#rrggbb`."""
    dark, light = sorted(float(np.dot(linear(rgb(colour)), (0.2126, 0.7152, 0.0722))) for colour in (one, other))
    return (light + 0.05) / (dark + 0.05)


def oklab(colour, sight):
    """Place of a colour in Oklab (Ottosson 2020), as this sight has it."""
    seen = np.clip(np.array(SIGHTS[sight]) @ linear(rgb(colour)), 0, 1)
    cones = [[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566]]
    cones.append([0.0883024619, 0.2817188376, 0.6299787005])
    lab = [[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099]]
    lab.append([0.0259040371, 0.7827717662, -0.8086757660])
    return np.array(lab) @ np.cbrt(np.array(cones) @ seen)


def closest(colours, sight):
    """The least distance in Oklab of two of the colours; black is 1 from white."""
    places = [oklab(colour, sight) for colour in colours]
    return min(float(np.linalg.norm(one - other)) for one, other in combinations(places, 2))
