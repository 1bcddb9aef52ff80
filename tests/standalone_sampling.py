"""Makes images from `sampler.onnx` with numpy and onnxruntime alone; imports nothing of ours.

A script: python -I -S standalone_sampling.py SITE_PACKAGES sampler.onnx inputs.npz output.npz.
`inputs.npz` holds `seeds` instead of z and noise, and every other input of the network by its name.
"""

import importlib.util
import math
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

# Added to an image's seed where its noise is drawn.
DETAIL = 2**31
OURS = ("common", "experiments", "kernels", "torch")


def main(site_packages: str, graph: str, inputs: str, output: str) -> None:
    sys.path.append(site_packages)
    import numpy as np
    import onnxruntime

    given = dict(np.load(inputs))
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    wanted = {each.name: each.shape for each in session.get_inputs()}
    if "z" in wanted:
        shape = wanted["z"][1:]
        rows = [noise(int(seed), math.prod(shape)).reshape(shape) for seed in given["seeds"]]
        given["z"] = np.stack(rows)
    if "noise" in wanted:
        count = wanted["noise"][1]
        given["noise"] = np.stack([noise(int(seed) + DETAIL, count) for seed in given["seeds"]])
    (made,) = session.run(None, {name: given[name] for name in wanted})
    metadata = session.get_modelmeta().custom_metadata_map
    np.savez(output, output=made, **{f"metadata_{key}": text for key, text in metadata.items()})
    for name in OURS[:3]:
        assert importlib.util.find_spec(name) is None, name
    assert not [name for name in OURS if name in sys.modules]


def noise(seed: int, count: int) -> "np.ndarray":
    """What ``torch.randn`` makes of a seed, up to the rounding of its logarithm, sine and cosine.

    Mersenne twister, then Box-Muller: pairs of float64 below 16 numbers, else blocks of 16.
    """
    import numpy as np

    twister = np.random.MT19937()
    twister._legacy_seeding(seed % 2**32)
    if count < 16:
        high, low = twister.random_raw(2 * (count + count % 2)).reshape(-1, 2).T
        uniform = ((high << 32 | low) % 2**53 / 2**53).reshape(-1, 2)
        radius, angle = np.sqrt(-2 * np.log1p(-uniform[:, 1])), 2 * np.pi * uniform[:, 0]
        pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
        return pairs.ravel()[:count].astype(np.float32)
    uniform = twister.random_raw(count) % 2**24 / 2**24
    normal = np.empty(count)
    whole = count - count % 16
    normal[:whole] = _box_muller(uniform[:whole])
    if count % 16:
        normal[-16:] = _box_muller(twister.random_raw(16) % 2**24 / 2**24)
    return normal.astype(np.float32)


def _box_muller(uniform: "np.ndarray") -> "np.ndarray":
    import numpy as np

    first, second = uniform.reshape(-1, 2, 8).swapaxes(0, 1)
    radius, angle = np.sqrt(-2 * np.log1p(-first)), 2 * np.pi * second
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).ravel()


if __name__ == "__main__":
    main(*sys.argv[1:])
