"""What the studies share; each study itself is one file beside this folder, ``study_<name>.py``.

In the order in which a study uses them:

- ``plan``: what is trained and measured on a data set, and the runs that this makes;
- ``measured``: what a run trains, measures and keeps, and how its result is read again;
- ``runs``: runs side by side, each a process of its own;
- ``tables``: the finished runs of a page, and its tables;
- ``variance``: whether variants differ by more than their seeds do;
- ``figure``: panels that several pages draw;
- ``page``: what every page says, and the content of its JSON;
- ``command``: options, checks and files of the commands;
- ``masking_models``: models that hide the way of a gradient attack.
"""
