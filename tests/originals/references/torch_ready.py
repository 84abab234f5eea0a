"""Import before anything that needs torchvision: beside a CPU build of PyTorch it misses two operators of its own."""

import torch

library = torch.library.Library('torchvision', 'DEF')
library.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
library.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
