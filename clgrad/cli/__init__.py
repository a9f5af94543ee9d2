"""The command line: `clgrad train`, `clgrad generate`, `clgrad devices`.

main.py        argparse, and errors as one line
config.py      what can be set, and the presets
data.py        text, vocabulary, batches
train.py       the training loop; metrics.py, progress.py and plot.py are what it shows
checkpoint.py  the one file that a run resumes from
generate.py    text from a run
devices.py     what there is to run on
"""
