"""The command line: `clgrad train`, `clgrad generate`, `clgrad devices`.

main.py        argparse, and errors as one line
config.py      what can be set, and the presets
train.py       the training loop; metrics.py, progress.py and plot.py are what it shows
task.py        what a task is; lm.py, translate.py, classify.py and mlm.py are the tasks, tasks.py their names
data.py        a text and its batches; corpora.py pairs and labelled texts, batches.py theirs; bleu.py scores
checkpoint.py  the one file that a run resumes from
generate.py    what a model makes of a prompt: that of a run, of a folder of Hugging Face's, of a GGUF file
devices.py     what there is to run on
"""
