"""W&B: the numbers, grids and tables of a run folder, once more, where runs are compared.

What the run folder says is what counts. W&B has the same, but for runs that were resumed (below).

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
                                       biological scalars; row k has the same seed in every run.
                                       Near copies of training images (``--around_training``) have
                                       a note in the place of a picture
``images_seen``, ``epoch``             x-axis of every curve and W&B's step; the epoch
=====================================  ===========================================================

A number that was measured differently (other data, split, extractor, number of images) has another
protocol and therefore another key: W&B cannot lay it over its unlikes. A metric that bears the name
of a channel or a scalar has it in letters, digits and ``_``; where that changes it, eight digits of
a hash follow (`names.metric_name`).

A training that is resumed goes back to its checkpoint. `metrics.csv` then loses what was beyond it;
W&B takes nothing back. What is trained again stands there twice at the same ``images_seen`` if it
was recorded offline. Online the first of both stays, because W&B drops steps that it has seen. The
tables of an evaluation before an offline resume are gone from the summary until the next
`make evaluate`; its numbers stay.

Project = experiment, run = run folder, and so they overlay without any setting. `make evaluate`
adds to the run of the training: online it resumes it, offline it writes one more segment.

* ``make sync EXP=…`` sends what was recorded offline, in order, and again what W&B refused; a run
  that is being trained or evaluated waits (`sync`). By hand it is
  ``wandb sync`` in the folder that holds `runs/`; from elsewhere W&B does not find the tables.
* ``make dashboard EXP=…`` builds the comparison: training, fidelity, biology, memorisation,
  utility, previews, from the keys that the runs here have (`dashboard`).
* ``make sweep EXP=… COUNT=…`` searches settings: those of the experiment's `configs/sweep.yaml`, or
  learning rates and batch size (`sweep`).

What leaves this machine: the configuration without paths, addresses and secrets
(`common.privacy`), tags as typed, versions of packages, numbers, grids, pictures and class names of
samples; of a sweep its file and the command of a trial. What does not: host, user, paths, code,
git remote, real images, pictures of samples that were drawn around these.
"""
