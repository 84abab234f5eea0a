#!/usr/bin/env bash
# Make the files of demo/weights anew, from data that packages carry. About an hour on two cores.
#     bash demo/weights.sh                       # all of them, to demo/output/weights
#     bash demo/weights.sh photographs           # or some of: digits, swin, photographs, scenes, segmentor, detector
# They are trained by one process, so that the same processor gives the same weights. demo/weights/README.md is the record.
set -euo pipefail
cd "$(dirname "$0")/.."

out=demo/output/weights
if [ $# = 0 ]; then set -- digits swin photographs scenes segmentor detector; fi
for name in "$@"; do
    case $name in
        digits | swin | photographs | scenes | segmentor | detector) ;;
        *) echo "demo/weights.sh takes digits, swin, photographs, scenes, segmentor or detector, not $name" >&2 && exit 2 ;;
    esac
done
bash requirements/install.sh .venv requirements.txt requirements/{weights,det}.txt
source .venv/bin/activate
export PYTHONWARNINGS=ignore
mkdir -p $out

# made NAME: the data set NAME, made once
made() { [ -d "demo/data/$1" ] || python "demo/make_$1.py" --out "demo/data/$1"; }

# keep CHECKPOINT NAME: drop the state of training, and print the hash
keep() {
    python -m util.convert "$1" "$out/$2" --licence "as the project's code (LICENSE)"
    sha256sum "$out/$2"
}

digits() {
    local data=demo/data/digits
    made digits
    python main_pretrain.py --data_path $data --model mae_vit_nano_patch4 --input_size 32 --in_chans 1 --hflip 0 \
        --batch_size 128 --epochs 40 --warmup_epochs 4 --blr 8e-3 --num_workers 0 --save_every 40 --device cpu \
        --output_dir $out/digits --log_dir ''
    keep $out/digits/checkpoint-39.pd mae_vit_nano_patch4_digits.pd
    python demo/score.py --resume $out/mae_vit_nano_patch4_digits.pd --data_path $data --device cpu

    python main_finetune.py --data_path $data --model vit_nano_patch4 --input_size 32 --in_chans 1 --nb_classes 10 --hflip 0 \
        --scale .6 1 --aa none --reprob 0 --batch_size 64 --epochs 8 --warmup_epochs 1 --lr 3e-3 --layer_decay .65 \
        --num_workers 0 --device cpu --finetune $out/digits/checkpoint-39.pd --output_dir $out/finetune --log_dir ''
    keep $out/finetune/checkpoint-latest.pd digits.pd
    python main_finetune.py --eval --resume $out/digits.pd --data_path $data --model vit_nano_patch4 --input_size 32 \
        --in_chans 1 --nb_classes 10 --num_workers 0 --device cpu
}

photographs() {
    local data=demo/data/photographs
    made photographs
    python main_pretrain.py --data_path $data --model mae_vit_nano_patch8 --input_size 64 --batch_size 64 \
        --epochs 14 --warmup_epochs 1 --blr 1.2e-2 --scale .5 1 --num_workers 0 --save_every 14 --device cpu \
        --output_dir $out/photographs --log_dir ''
    keep $out/photographs/checkpoint-13.pd mae_vit_nano_patch8_photographs.pd
    for held_out in $data/val demo/photographs; do
        python demo/score_photographs.py --resume $out/mae_vit_nano_patch8_photographs.pd --data_path $held_out \
            --out $out/photographs.png --device cpu
    done
}

scenes() {
    made detection
    python main_pretrain.py --data_path demo/data/detection/unlabelled --model mae_swin_nano_64 --input_size 64 \
        --norm_pix_loss --mask_regular --vis_mask_ratio .25 --batch_size 32 --epochs 100 --warmup_epochs 3 \
        --blr 1.6e-2 --scale .2 .6 --hflip 0 --num_workers 0 --device cpu --output_dir $out/scenes --log_dir ''
    keep $out/scenes/checkpoint-99.pd mae_swin_nano_64_scenes.pd
}

swin() {
    local data=demo/data/digits
    made digits
    python main_pretrain.py --data_path $data --model mae_swin_nano_32 --input_size 32 --in_chans 1 --hflip 0 \
        --mask_regular --vis_mask_ratio .25 --batch_size 128 --epochs 40 --warmup_epochs 4 --blr 8e-3 --num_workers 0 \
        --save_every 40 --device cpu --output_dir $out/swin --log_dir ''
    keep $out/swin/checkpoint-39.pd mae_swin_nano_32_digits.pd
    python demo/score.py --resume $out/mae_swin_nano_32_digits.pd --data_path $data --device cpu
}

segmentor() {
    local data=demo/data/scenes config=seg/configs/upernet_mae/upernet_mae_scenes.yml
    made scenes
    python main_pretrain.py --data_path $data --model mae_vit_nano_patch4 --input_size 32 --batch_size 128 --epochs 30 \
        --warmup_epochs 3 --blr 1.2e-2 --mask_ratio .5 --scale .7 1 --hflip 0 --num_workers 0 --save_every 30 --device cpu \
        --output_dir $out/segmentor/pretrain --log_dir ''
    python seg/train.py --config $config --do_eval --save_interval 100000 --log_iters 50 --device cpu \
        --save_dir $out/segmentor --opts model.backbone.pretrained=$out/segmentor/pretrain/checkpoint-29.pd
    keep $out/segmentor/best_model/model.pdparams segmentor.pd
    python seg/predict.py --config $config --model_path $out/segmentor.pd --image_path $data/images/validation \
        --save_dir $out/segmentor/predicted --device cpu
    python demo/score_scenes.py --data_path $data --predictions $out/segmentor/predicted/pseudo_color_prediction
}

detector() {
    local config=det/configs/gfl_um_mae/gfl_um_mae_swin_nano_digits.yml
    made detection
    python det/train.py -c $config --device cpu \
        -o worker_num=0 save_dir=$out/detector MAESwin.pretrained=demo/weights/mae_swin_nano_64_scenes.pd
    keep $out/detector/gfl_um_mae_swin_nano_digits/checkpoint-23.pd detector.pd
    python det/eval.py -c $config --device cpu -o worker_num=0 weights=$out/detector.pd
}

for name in "$@"; do
    printf '\n== %s\n' "$name"
    "$name"
done
