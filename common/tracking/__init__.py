"""W&B: the numbers, grids and tables of a run folder, once more, where runs are compared.

Nothing is there that is not in the run folder, and what the folder says is what counts.

=====================================  ===========================================================
key                                    what
=====================================  ===========================================================
``train/<name>``, ``val/<name>``       every number of `metrics.csv`
``preview``                            the grid on fixed seeds, as in `previews/`
``eval/<metric>/<protocol>``           every number of `records.jsonl`; ``<protocol>`` is the first
                                       eight digits of its protocol hash
``eval/<metric>_low/<protocol>``       lower and upper end of its 95 % interval
``eval/<metric>_high/<protocol>``
``eval/records``                       table of `records.jsonl` with all fields, refusals included
``eval/samples``                       table of the first 100 samples: picture, seed, label and
                                       biological scalars; row k has the same seed in every run
``images_seen``, ``epoch``             x-axis of every curve and W&B's step; the epoch
=====================================  ===========================================================

A number that was measured differently (other data, split, extractor, number of images) has another
protocol and therefore another key: W&B cannot lay it over its unlikes.

Project = experiment, run = run folder, and so they overlay without any setting. `make evaluate`
adds to the run of the training: online it resumes it, offline it writes one more segment.

* ``make sync EXP=…`` sends what was recorded offline, in order (`sync`). By hand it is
  ``wandb sync`` in the folder that holds `runs/`; from elsewhere W&B does not find the tables.
* ``make dashboard EXP=…`` builds the comparison: training, fidelity, biology, memorisation,
  utility, previews, from the keys that the runs here have (`dashboard`).
* ``make sweep EXP=… COUNT=…`` searches settings: those of the experiment's `configs/sweep.yaml`, or
  learning rates and batch size (`sweep`).

What leaves this machine: the configuration without paths, addresses and secrets
(`common.privacy`), tags as typed, versions of packages, numbers, grids, pictures and class names of
samples; of a sweep its file and the command of a trial. What does not: host, user, paths, code,
git remote, real images.
"""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
