#!/bin/bash
# Train on machines of a Slurm cluster. The words after this file are a program and its flags:
#     sbatch demo/slurm.sh main_pretrain.py --data_path DATA --output_dir SHARED_FOLDER ...
# Flags of sbatch come before this file and win over the lines below. Two minutes before the time limit all ranks save, and
# the job goes back into the queue; it goes on from its newest checkpoint. Submit it from the clone, with Python's environment
# activated; all machines must see both.
#SBATCH --job-name=mae
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -u

# The first machine by its name, and a port that no other job on it is likely to have
MASTER=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1):$((20000 + SLURM_JOB_ID % 10000))
export MASTER

# One launcher on each machine; it gives each GPU a process. exec: Slurm's signal has to reach it and not end a shell
srun bash -c 'exec python -m util.launch --nnodes "$SLURM_NNODES" --master "$MASTER" --rank "$SLURM_NODEID" "$@"' \
    launch "$@" --resume auto
code=$?

# 75: a signal stopped a rank, which saved. 15 and 143: it stopped the launcher
case $code in
    75 | 15 | 143) scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit "$code"
