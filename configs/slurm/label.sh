#!/bin/bash
# Labelling as an array without Ray: each task has a list and a folder of its own.
#   split --numeric-suffixes --suffix-length=2 --number=l/16 --additional-suffix=.txt calls.txt lists/
#   sbatch configs/slurm/label.sh
#SBATCH --array=0-15
#SBATCH --cpus-per-task=8
#SBATCH --mem=16G
#SBATCH --time=12:00:00
#SBATCH --requeue
set -euo pipefail
part=$(printf '%02d' "$SLURM_ARRAY_TASK_ID")
ser-hf label "lists/$part.txt" --output "labels/$part" --threads "$SLURM_CPUS_PER_TASK"
