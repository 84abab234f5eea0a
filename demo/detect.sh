# The third part of the tour, started by run.sh: pre-train on scenes without labels, then train two detectors.
#     bash demo/run.sh --det           # three seeds: 0, 1 and 2
#     bash demo/run.sh --det 1         # seed 0 alone
seeds=${1:-3}
if ! [[ $seeds =~ ^[1-9][0-9]*$ ]]; then
    echo "demo/run.sh: --det takes a number of seeds from 1, not $seeds" >&2
    exit 2
fi
scenes=demo/data/detection
out=demo/output/det
gfl=det/configs/gfl_um_mae/gfl_um_mae_swin_nano_digits.yml
mask_rcnn=det/configs/mask_rcnn_mae/mask_rcnn_mae_nano_digits.yml

step "2 of 7: scenes, scanned digits of many sizes on photographs with boxes and masks, $scenes (made once)"
if [ -d "$scenes" ]; then echo "already there"; else python demo/make_detection.py --out "$scenes"; fi
rm -rf "$out"
mkdir -p "$out"

# pretrain NAME MODEL EPOCHS FLAGS...: pre-train on the scenes without labels; the weights are $out/NAME/checkpoint-*.pd
pretrain() {
    python -m paddle.distributed.launch --log_level ERROR --log_dir "$out/log" main_pretrain.py \
        --data_path "$scenes/unlabelled" --model "$2" --epochs "$3" --batch_size 16 --norm_pix_loss --hflip 0 \
        --warmup_epochs 3 --num_workers 1 --print_freq 100 --output_dir "$out/$1" --log_dir "$out/$1" "${@:4}"
}

# train NAME CONFIG SEED [KEY=VALUE]: train a detector on 60 labelled scenes; NAME receives what it finds in 100 others
train() {
    local folder
    folder=$out/$1/$(basename "$2" .yml)
    python det/train.py -c "$2" --seed "$3" -o save_dir="$out/$1" "${@:4}"
    python det/eval.py -c "$2" -o weights="$folder/model_final.pdparams" --output_eval "$out/$1"
}

# compare NAME CONFIG KEY WEIGHTS: train from random and from pre-trained weights, and print the AP of both
compare() {
    local random=() pretrained=()
    for ((seed = 0; seed < seeds; seed++)); do
        train "$1/random$seed" "$2" $seed
        train "$1/pretrained$seed" "$2" $seed "$3=$4"
        random+=("$out/$1/random$seed")
        pretrained+=("$out/$1/pretrained$seed")
    done
    python demo/score_detection.py --data_path "$scenes" --random "${random[@]}" --pretrained "${pretrained[@]}" \
        --out "$out/$1.png" | tee "$out/$1.txt"
}

step "3 of 7: pre-train a nano Swin by UM-MAE on scenes without labels (the longest step; each line ends with the time left)"
pretrain um_mae mae_swin_nano_64 100 --batch_size 32 --input_size 64 --mask_regular --vis_mask_ratio .25 --blr 1.6e-2 --scale .2 .6

step "4 of 7: train GFL on 60 labelled scenes, $seeds seed(s): from random weights, then from the pre-trained ones"
compare gfl $gfl MAESwin.pretrained "$out/um_mae/checkpoint-99.pd"

step "5 of 7: pre-train a nano ViT by MAE (minutes)"
pretrain mae mae_vit_nano_patch8 12 --input_size 64 --blr 8e-3 --scale .25 .6

step "6 of 7: train Mask R-CNN, likewise"
compare mask_rcnn $mask_rcnn MAEViT.pretrained "$out/mae/checkpoint-11.pd"

step "7 of 7: use it: find digits in scenes that it has never seen"
model=$out/gfl/pretrained0/$(basename $gfl .yml)/model_final.pdparams
python det/infer.py -c $gfl -o weights="$model" --infer_dir "$scenes/val2017" --output_dir "$out/found" --draw_threshold .3 \
    > "$out/found.txt"

step "Done"
cat << EOT
GFL on 100 held-out scenes, $seeds seed(s)
$(cat "$out/gfl.txt")

Mask R-CNN
$(cat "$out/mask_rcnn.txt")

pictures   $out/gfl.png, $out/mask_rcnn.png; each scene in $out/found
weights    $model
your own   .venv/bin/python det/infer.py -c $gfl -o weights=$model --infer_img PICTURE
EOT
