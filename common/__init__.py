"""What two experiments need; knows no experiment by name.

Importing this package makes ``torchvision`` importable beside a torch its compiled extension was
not built for, so it must be imported before Lightning, torchmetrics or torch-fidelity.
"""

import os
from pathlib import Path

from common import torchvision_import

# Importing albumentations otherwise asks the package index for a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
torchvision_import.install()

# Where runs, data and the experiments are looked for unless a command says otherwise.
PROJECT = Path(__file__).resolve().parents[1]
