#!/usr/bin/env bash
# The tour: from nothing to a trained masked autoencoder and its pictures, on a laptop.
#     bash demo/run.sh
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }
digits=demo/data/digits
out=demo/output/pretrain
epochs=40

step "1 of 4: environment .venv (made once; the download takes some minutes)"
bash requirements/install.sh .venv requirements.txt
source .venv/bin/activate

step "2 of 4: 1797 scanned digits as an image folder, $digits (made once)"
if [ -d "$digits" ]; then echo "already there"; else python demo/make_digits.py --out "$digits"; fi

step "3 of 4: pre-train a nano MAE on them (about 3 minutes on 2 cores; each line ends in the time left)"
rm -rf "$out"
PYTHONWARNINGS=ignore python -m paddle.distributed.launch --log_level ERROR --log_dir "$out/log" main_pretrain.py \
    --data_path "$digits" --model mae_vit_nano_patch4 --input_size 32 --in_chans 1 --batch_size 128 \
    --epochs $epochs --warmup_epochs 4 --blr 4e-3 --num_workers 2 --output_dir "$out" --log_dir "$out"
weights=$out/checkpoint-$((epochs - 1)).pd

step "4 of 4: look at what it learned, on digits it has never seen (seconds)"
python demo/visualize.py --img_path "$digits/val" --resume "$weights" --out demo/output/reconstruction.png
echo "The autoencoder should be well below both baselines:"
python demo/score.py --resume "$weights" --data_path "$digits"

step "Done"
cat << EOF
pictures   demo/output/reconstruction.png
weights    $weights
losses     $out/log.txt; curves:  .venv/bin/visualdl --logdir $out
your own   .venv/bin/python demo/visualize.py --img_path PICTURE --resume $weights
EOF
