#!/usr/bin/env bash
# The tour, on a laptop: train a masked autoencoder, look at its reconstructions, classify digits with it.
#     bash demo/run.sh
#     bash demo/run.sh --model mae_swin_nano_32     # another nano model; default: mae_vit_nano_patch4
# The second part of the tour, demo/segment.sh, does the same for segmentation.
#     bash demo/run.sh --seg
# The third part, demo/detect.sh, does it for detection.
#     bash demo/run.sh --det
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }
digits=demo/data/digits
few=demo/data/digits100
epochs=40
model=mae_vit_nano_patch4
case ${1:-} in
    --model) model=${2:?--model needs a name} ;;
    --seg | --det | '') ;;
    *) echo "demo/run.sh takes --model NAME, --seg [SEEDS] or --det [SEEDS], not $1" >&2 && exit 2 ;;
esac
classifier=${model#*_}
out=demo/output/$model
masks=()
case $model in mae_swin_* | mae_pvt_*) masks=(--mask_regular --vis_mask_ratio .25) ;; esac
weights=$out/pretrain/checkpoint-$((epochs - 1)).pd
export PYTHONWARNINGS=ignore

step "1 of 7: environment .venv (made once; the download takes minutes)"
needed=(requirements.txt)
if [ "${1:-}" = --det ]; then needed+=(requirements/det.txt); fi
bash requirements/install.sh .venv "${needed[@]}"
source .venv/bin/activate
for part in seg=demo/segment.sh det=demo/detect.sh; do
    if [ "${1:-}" = "--${part%%=*}" ]; then
        shift
        source "${part#*=}"
        exit
    fi
done

step "2 of 7: 1797 scanned digits as an image folder, $digits (made once)"
if [ -d "$digits" ]; then echo "already there"; else python demo/make_digits.py --out "$digits"; fi
rm -rf "$out"

step "3 of 7: pre-train $model on them, without labels (a ViT: about 3 minutes on 2 cores; each line ends with the time left)"
python -m paddle.distributed.launch --log_level ERROR --log_dir "$out/log" main_pretrain.py \
    --data_path "$digits" --model "$model" "${masks[@]}" --input_size 32 --in_chans 1 --hflip 0 --batch_size 128 \
    --epochs $epochs --warmup_epochs 4 --blr 4e-3 --num_workers 2 --output_dir "$out/pretrain" --log_dir "$out/pretrain"

step "4 of 7: look at its reconstructions of digits that it has never seen (seconds)"
python demo/visualize.py --img_path "$digits/val" --resume "$weights" --out "$out/reconstruction.png"
echo "The error of the autoencoder should be well below both baselines:"
python demo/score.py --resume "$weights" --data_path "$digits"

# train PROGRAM NAME FLAGS...: train a classifier of digits, with its log and weights in the folder NAME
train() {
    python "$1" --model "$classifier" --input_size 32 --in_chans 1 --nb_classes 10 --hflip 0 --scale .6 1 \
        --num_workers 0 --print_freq 100 --output_dir "$out/$2" --log_dir "$out/$2" "${@:3}"
}

step "5 of 7: fine-tune with ten labels of each digit: from random weights, then from the pre-trained ones (1 minute)"
recipe=(--aa none --reprob 0 --batch_size 20 --epochs 30 --warmup_epochs 3 --save_every 30)
train main_finetune.py scratch100 --data_path "$few" "${recipe[@]}" --lr 2e-3 --layer_decay 1
train main_finetune.py finetune100 --data_path "$few" "${recipe[@]}" --lr 3e-3 --layer_decay .65 --finetune "$weights"

step "6 of 7: fine-tune with all labels; a linear classifier on the frozen features, and other judges of them (2 minutes)"
train main_finetune.py finetune --data_path "$digits" --aa none --reprob 0 --batch_size 64 --epochs 8 --warmup_epochs 1 \
    --lr 3e-3 --layer_decay .65 --finetune "$weights"
train main_linprobe.py linprobe --data_path "$digits" --batch_size 128 --epochs 10 --warmup_epochs 1 --lr 10 \
    --global_pool --finetune "$weights"
echo "The features of the MAE beside those of random weights, accuracy in percent:"
python main_frozen.py --data_path "$digits" --finetune "$weights" --random --blocks 0 --k 20 --C 10 --rates .1 \
    --queries 8 --steps 300 --probe_batch_size 128 --num_workers 0 --output_dir "$out/frozen"

step "7 of 7: use it: evaluate the weights, then classify some held-out digits"
python main_finetune.py --eval --resume "$out/finetune/checkpoint-latest.pd" --data_path "$digits" --model "$classifier" \
    --input_size 32 --in_chans 1 --nb_classes 10 --num_workers 0
for digit in 3 8; do
    picture=$(printf '%s\n' "$digits/val/$digit"/* | head -1)
    echo "-- $picture"
    python main_infer.py --resume "$out/finetune/checkpoint-latest.pd" --img_path "$picture"
done

accuracy() { python -c 'import json, sys; print("%.1f %%" % json.loads(sys.stdin.readlines()[-1])["test_acc1"])' < "$out/$1/log.txt"; }
step "Done"
cat << EOF
held-out accuracy, 355 digits
  100 labels, from random weights       $(accuracy scratch100)
  100 labels, from pre-trained weights  $(accuracy finetune100)
  all labels, from pre-trained weights  $(accuracy finetune)
  all labels, linear probe              $(accuracy linprobe)
pictures   $out/reconstruction.png
weights    $weights and $out/finetune/checkpoint-latest.pd
logs       $out/*/log.txt; curves:  .venv/bin/visualdl --logdir $out
your own   .venv/bin/python demo/visualize.py --img_path PICTURE --resume $weights
           .venv/bin/python main_infer.py --img_path PICTURE --resume $out/finetune/checkpoint-latest.pd
EOF
