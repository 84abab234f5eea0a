# The second part of the tour, started by run.sh: pre-train on pictures without labels, then train a segmentor.
#     bash demo/run.sh --seg           # one seed
#     bash demo/run.sh --seg 3         # seeds 0, 1 and 2: mean and spread of the comparison
seeds=${1:-1}
if ! [[ $seeds =~ ^[1-9][0-9]*$ ]]; then
    echo "demo/run.sh: --seg takes a number of seeds from 1, not $seeds" >&2
    exit 2
fi
scenes=demo/data/scenes
out=demo/output/seg
config=seg/configs/upernet_mae/upernet_mae_scenes.yml
epochs=30
weights=$out/pretrain/checkpoint-$((epochs - 1)).pd
model=$out/mae0/best_model/model.pdparams

step "2 of 7: scenes, scanned digits on photographs with a class for each pixel, $scenes (made once)"
if [ -d "$scenes" ]; then echo "already there"; else python demo/make_scenes.py --out "$scenes"; fi
rm -rf "$out"
mkdir -p "$out"

step "3 of 7: pre-train a nano MAE on scenes without labels (about 3 minutes on 2 cores; each line ends with the time left)"
python -m paddle.distributed.launch --log_level ERROR --log_dir "$out/log" main_pretrain.py \
    --data_path "$scenes" --model mae_vit_nano_patch4 --input_size 32 --batch_size 64 --epochs $epochs --warmup_epochs 3 \
    --blr 1.2e-2 --mask_ratio .5 --scale .7 1 --hflip 0 --num_workers 2 \
    --output_dir "$out/pretrain" --log_dir "$out/pretrain"
python demo/visualize.py --mask_ratio .5 --img_path "$scenes/images/validation" --resume "$weights" \
    --out "$out/reconstruction.png"

# train NAME SEED [KEY=VALUE]: train a segmentor and evaluate it, with its log and weights in the folder NAME
train() {
    python seg/train.py --config $config --seed "$2" --do_eval --save_interval 100000 --log_iters 50 --num_workers 1 \
        --save_dir "$out/$1" ${3:+--opts "$3"} 2> "$out/$1.err" | tee "$out/$1.log" \
        | grep --line-buffered -o -e 'iter: .* | ETA.*' -e 'aAcc: .* mAcc: [0-9.]*' || { cat "$out/$1.err" >&2; return 1; }
}

step "4 of 7: train a segmentor on 40 labelled scenes: from random weights, then from the pre-trained ones (minutes)"
for ((seed = 0; seed < seeds; seed++)); do
    train "scratch$seed" $seed
    train "mae$seed" $seed "model.backbone.pretrained=$weights"
done

# quiet COMMAND...: run it and show only the lines of its output that matter here
quiet() {
    "$@" 2> "$out/err" | grep -o -e 'aAcc: .* mAcc: [0-9.]*' -e 'run by paddle.*' -e 'results go to .*' \
        || { cat "$out/err" >&2; return 1; }
}

step "5 of 7: validate it with a sliding window, at one scale, then at several with mirrored pictures (half a minute)"
quiet python seg/val.py --config $config --model_path "$model"
quiet python seg/val.py --config $config --model_path "$model" --aug_eval --scales .75 1 1.25 --flip_horizontal

step "6 of 7: predict the classes of scenes that it has never seen, and score them independently"
quiet python seg/predict.py --config $config --model_path "$model" --image_path "$scenes/images/validation" \
    --save_dir "$out/predicted"
echo "The mean IoU of the segmentor should be well above the baseline:"
python demo/score_scenes.py --data_path "$scenes" --predictions "$out/predicted/pseudo_color_prediction" \
    --out "$out/scenes.png"

step "7 of 7: export it, and run the exported model without the code of the model"
quiet python seg/export.py --config $config --model_path "$model" --save_dir "$out/exported"
quiet python seg/predict.py --engine inference --model_path "$out/exported" --image_path "$scenes/images/validation" \
    --save_dir "$out/exported/predicted"
python demo/score_scenes.py --data_path "$scenes" --predictions "$out/exported/predicted/pseudo_color_prediction"

# figures NAME: mean and standard deviation of the last mIoU of the trainings NAME0, NAME1 ...
figures() {
    cat "$out/$1"[0-9]*.log | python -c 'import re, statistics, sys
found = [float(miou) for miou in re.findall("mIoU: (\S+) mAcc", sys.stdin.read())]
print(f"{statistics.mean(found):.3f}", f"+- {statistics.stdev(found):.3f}" if len(found) > 1 else "")'
}
step "Done"
cat << EOF
mIoU of held-out scenes, $seeds seed(s)
  from random weights       $(figures scratch)
  from pre-trained weights  $(figures mae)
pictures   $out/scenes.png; each scene in $out/predicted/added_prediction
weights    $model
exported   $out/exported
your own   .venv/bin/python seg/predict.py --engine inference --model_path $out/exported --image_path PICTURE
EOF
