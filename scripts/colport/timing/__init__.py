"""Latency of one model on one provider: PyTorch and every variant, compared in one run.

Several inference sessions in one process spin against each other, and a machine's speed drifts
within minutes. So each contender has a process of its own, only one of them works at a time, and
they take turns in short blocks over several rounds. No sample is thrown away.

:func:`colport.timing.runner.measure` starts a worker (``python -m colport.timing.worker.worker``)
for each; nothing is imported here, so that it starts with nothing but what it needs.
"""
