"""The commands that tests/neutral.py runs in both trees."""

# 20 steps on 100 digits
TRAIN = (
    '--data_path {digits}100 --input_size 32 --in_chans 1 --hflip 0 --batch_size 20 --epochs 4 '
    "--warmup_epochs 1 --num_workers 0 --seed 0 --log_dir '' --output_dir {out} "
)
PRETRAIN = 'main_pretrain.py --lr 2e-3 ' + TRAIN + '--model '
FINETUNE = 'main_finetune.py --nb_classes 10 --drop_path .1 --mixup .8 --cutmix 1 ' + TRAIN
UNIFORM = ' --mask_regular --vis_mask_ratio .25'
CLASSIFIER = ' --resume {finetuned}/checkpoint-latest.pd '
PICTURES = ' --json --num_workers 0 --img_path {digits}/val/3'
SCENES = (
    ' --config seg/configs/upernet_mae/upernet_mae_scenes.yml --opts model.dropout_ratio=.1 '
    'train_dataset.dataset_root={scenes} val_dataset.dataset_root={scenes}'
)
SEGMENT = (
    'seg/train.py --iters 20 --batch_size 8 --log_iters 1 --seed 0 --num_workers 0 --save_dir {out}'
    + SCENES
)
SEGMENTOR = ' --model_path {segmentor}/iter_20/model.pdparams'
SCENE = ' --image_path {scenes}/images/validation/scene_000.jpg'

# Folders that cases share, made once by BASE. {name} in a command is such a folder, {out} in these
SHARED = {
    'digits': 'demo/make_digits.py --out {out}',
    'scenes': 'demo/make_scenes.py --out {out}',
    'pretrained': PRETRAIN + 'mae_vit_nano_patch4',
    'finetuned': FINETUNE + '--lr 3e-3 --finetune {pretrained}/checkpoint-3.pd '
    '--model vit_nano_patch4',
    'segmentor': SEGMENT,
}
# The commands of each case, which write into {out}
CASES = {
    'pretrain-vit': [PRETRAIN + 'mae_vit_nano_patch4 --norm_pix_loss'],
    'pretrain-swin': [PRETRAIN + 'mae_swin_nano_32' + UNIFORM],
    'pretrain-pvt': [PRETRAIN + 'mae_pvt_nano_32' + UNIFORM],
    'simmim-swin': [PRETRAIN + 'simmim_swin_nano_32'],
    'finetune': [
        FINETUNE + '--lr 3e-3 --ema_decay .9 --model vit_nano_patch4 '
        '--finetune {pretrained}/checkpoint-3.pd'
    ],
    'finetune-swin': [FINETUNE + '--lr 3e-3 --clip_grad 1 --model swin_nano_32'],
    'linprobe': [
        'main_linprobe.py --nb_classes 10 --lr 1 --cls_token --model vit_nano_patch4 '
        '--finetune {pretrained}/checkpoint-3.pd ' + TRAIN
    ],
    'eval': [
        'main_finetune.py --eval --model vit_nano_patch4 --input_size 32 --in_chans 1 '
        '--nb_classes 10 --num_workers 0 --data_path {digits}' + CLASSIFIER
    ],
    'infer': ['main_infer.py' + CLASSIFIER + PICTURES],
    'export': [
        'main_export.py --out {out}' + CLASSIFIER,
        'main_infer.py --engine inference --resume {out}' + PICTURES,
    ],
    'seg': [SEGMENT + ' --do_eval'],
    'seg-use': [
        'seg/val.py' + SEGMENTOR + SCENES,
        'seg/predict.py --save_dir {out}/predicted' + SEGMENTOR + SCENE + SCENES,
        'seg/export.py --save_dir {out}/exported' + SEGMENTOR + SCENES,
    ],
    'tour': ['demo/run.sh'],
}
OUT_OF_ITS_OWN = {'tour': 'demo/output'}
SLOW = {'tour'}
