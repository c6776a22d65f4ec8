#!/bin/sh
# One word for a Slurm job, as Snakemake asks for it: running, success or failed.
if state=$(squeue --noheader --states=all --format=%T --jobs="$1" 2>&1); then
  case $state in
    COMPLETED) echo success ;;
    PENDING | RUNNING | CONFIGURING | COMPLETING | SUSPENDED | REQUEUED | RESIZING | STOPPED) echo running ;;
    *) echo failed ;;
  esac
else
  case $state in
    *"Invalid job id"*) echo failed ;; # forgotten: it ended long ago
    *) echo running ;;                 # the controller did not answer
  esac
fi
