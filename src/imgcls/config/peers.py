"""The words of other libraries for our keys, values and commands, each with what to type here.

From timm, Ultralytics, fastai, Keras, Lightning (and its CLI and Hydra template) and Hugging Face. All of it is data; a
new word is one more in a line.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

from imgcls.text import brief, show

PREFIXES = (
    *("trainer", "data", "datamodule", "dataset", "model", "net", "module", "optim", "optimizer", "train", "training"),
    *("hparams", "hyp", "args", "cfg", "config", "callbacks", "lr_scheduler", "scheduler", "augment", "aug"),
    *("transform", "transforms", "init_args", "loader", "dataloader"),
)  # the first part of a dotted key: trainer.max_epochs is max_epochs

# what is typed here, with the value behind it: the peers' words
KEYS = {
    "epochs=": "epoch_count max_epochs num_epochs n_epochs num_train_epochs nb_epochs total_epochs n_epoch",
    "batch_size=": "bs batch batchsize b per_device_train_batch_size train_batch_size global_batch_size",
    "accumulate=": "accumulate_grad_batches gradient_accumulation_steps grad_accum grad_accum_steps nbs",
    "optimizer.lr=": "lr lr0 learning_rate base_lr max_lr lr_max blr eta init_lr initial_lr",
    "optimizer.weight_decay=": "weight_decay wd decay l2",
    "optimizer=": "optimizer_name opt optim opt_func optimizer_type optimizer_class",
    "optimizer=sgd optimizer.momentum=": "momentum mom",
    "scheduler=": "sched lr_scheduler lr_schedule lr_scheduler_type schedule scheduler_name lrs",
    "scheduler.warmup_epochs=": "warmup warmup_epochs lr_warmup_epochs warmup_steps num_warmup_steps warmup_ratio",
    "scheduler.final_factor=": "lrf min_lr lr_min eta_min",
    "loss=": "criterion loss_fn loss_func loss_function objective",
    "loss.label_smoothing=": "label_smoothing smoothing ls label_smoothing_factor",
    "clip_grad=": "gradient_clip_val max_grad_norm grad_clip clip clipnorm clip_norm global_clipnorm",
    "ema=": "model_ema ema_decay model_ema_decay use_ema moving_average",
    "layer_decay=": "llrd layerwise_decay layer_wise_lr_decay",
    "patience=": "early_stopping early_stopping_patience earlystopping es_patience early_stop early_stopping_rounds",
    "dataset.positive=": "pos_label positive_class positive_label pos_class",
    "monitor=": "metric metric_for_best_model eval_metric best_metric checkpoint_metric",
    "seed=": "seed_everything random_seed manual_seed rng_seed random_state",
    "device=": "accelerator gpu_id cuda_device gpu use_gpu no_cuda",
    "precision=": "dtype mixed_precision amp_dtype autocast",
    "compile=": "torchcompile torch_compile torchscript jit_compile jit",
    "workers=": "num_workers n_workers dataloader_num_workers nw j worker_count num_proc",
    "loader=": "cache cache_images ram_cache in_memory",
    "sampler=": "weighted_sampler oversample balanced balance",
    "class_weights=": "class_weight cls_weights loss_weights pos_weight",
    "tensorboard=": "tb tensorboard_logger use_tensorboard log_tensorboard",
    "checkpoint_every=": "save_period save_steps checkpoint_interval save_every every_n_train_steps save_freq",
    "run_dir=": "project output_dir out_dir outdir save_dir log_dir logdir default_root_dir experiment_dir run_name "
    "exp_name model_dir work_dir workdir results_dir name",
    "checkpoint=": "weights ckpt ckpt_path model_path load_from load_weights pretrained_path",
    "resume=": "resume_from resume_from_checkpoint initial_checkpoint ckpt ckpt_path load_from continue_from continue",
    "input=": "source images image files inputs img",
    "output=": "save_to out output_file save_path results_file outfile",
    "topk=": "top_k k top num_predictions",
    "tta=": "test_time_augmentation use_tta",
    "model=": "arch architecture backbone model_name net network encoder a",
    "model.pretrained=": "pretrained weights use_pretrained imagenet pretrained_weights pretrained_cfg",
    "model.freeze=": "freeze freeze_backbone freeze_layers frozen freeze_encoder",
    "model.dropout=": "drop dropout drop_rate dropout_rate dropout_prob",
    "dataset=": "data data_path data_dir datadir data_root dataset_name train_dir traindir folder image_dir images_dir "
    "dataset_dir dataset_path train_path image_folder imagefolder csv csv_file train_csv",
    "dataset.root=": "root root_dir download_root",
    "dataset.image_size=": "imgsz img_size imgsize image_size input_size size resize resolution crop_size img_dim "
    "target_size input_shape height width image_dim",
    "dataset.channels=": "channels in_chans in_channels num_channels n_channels input_channels color_mode",
    "dataset.val_fraction=": "val_split validation_split valid_pct val_ratio val_pct val_size val_frac",
    "dataset.test_fraction=": "test_split test_size test_ratio test_pct test_frac",
    "dataset.split_seed=": "split_random_state",
    "dataset.folds=": "n_splits n_folds num_folds kfold k_fold cv cross_validation",
    "dataset.group=": "groups group_column group_col",
    "dataset.limit=": "limit_train_batches max_train_samples subset max_samples num_samples fraction sample_limit",
    "dataset.test_limit=": "limit_test_batches max_eval_samples max_test_samples",
    "dataset.classes=": "class_names labels label_names",
    "augment=": "augmentation augmentations aug transforms data_augmentation augmenter aa auto_augment",
    "augment=standard augment.degrees=": "rotate rotation degrees rotation_range max_rotate random_rotation",
    "augment=standard augment.shift=": "translate width_shift_range height_shift_range translation",
    "augment=standard augment.scale=": "zoom zoom_range max_zoom scale",
    "augment=standard augment.flip=": "fliplr hflip horizontal_flip random_flip flip_prob mirror do_flip flip",
    "augment=standard augment.brightness=": "hsv_v max_lighting brightness_range brightness",
    "augment=standard augment.saturation=": "hsv_s saturation",
    "augment=standard augment.contrast=": "contrast",
    "augment=standard augment.erasing=": "reprob random_erasing random_erase erasing",
    "augment=standard augment.mixup=": "mixup mixup_alpha mixup_prob",
    "augment=standard augment.cutmix=": "cutmix cutmix_alpha",
}

ONE_GPU_EACH = "one process a GPU: torchrun --nproc-per-node=2 -m imgcls train ..."
NOTES = {
    "precision=bf16 is mixed precision, and precision=auto chooses it on a GPU": "amp use_amp bf16 mixed",
    "type precision=fp16": "fp16 half use_fp16 native_amp",
    "leave it out: the data set says how many there are": "num_classes n_classes nc n_out num_labels classes_count",
    "for Weights & Biases: wandb sync --sync-tensorboard RUN/tensorboard; tensorboard=true is the default": (
        "logger logging loggers log wandb wandb_project use_wandb log_wandb report_to mlflow tracking_uri"
    ),
    ONE_GPU_EACH: "gpus num_gpus n_gpus ngpus devices nproc_per_node world_size num_nodes strategy num_processes",
    "type device=cuda, or leave it out: device=auto is the default": "trainer use_cuda cuda tpu",
    "checkpoints are always saved; checkpoint_every=200 or 30s saves more often": "save save_checkpoint",
    "run folders are never overwritten; run_dir=NAME names a new one": "exist_ok overwrite overwrite_output_dir",
    "validation is after every epoch": "check_val_every_n_epoch eval_interval eval_every val_interval",
    "progress and messages go to stderr; --json leaves only the result on stdout": "verbose log_level quiet",
    "steps are counted in epochs here; type epochs=N": "max_steps num_steps total_steps iterations max_iter steps",
}

COMMANDS = {
    "imgcls train": "fit finetune fine_tune fine-tune learn training",
    "imgcls evaluate RUN": "val validate validation eval test score evaluation testing",
    "imgcls predict RUN INPUT": "infer inference classify detect prediction predictions label",
    "imgcls train resume=RUN": "resume continue",
    "imgcls train -m optimizer.lr=0.1,0.01": "sweep tune search hpo multirun grid optimize",
    "imgcls compare RUN RUN": "diff versus vs",
    "imgcls reproduce RUN": "rerun repeat replicate",
    "imgcls data PATH": "inspect check stats dataset info describe verify analyze",
    "the trained torch module is imgcls.load(RUN).module in Python": "export convert onnx torchscript save",
    "tensorboard --logdir outputs": "tensorboard plot show visualize",
}

# (key, pattern of a value, what to type)
VALUES = (
    ("device", r"(\d+)", r"device=cuda:\1"),
    ("device", r"gpu:?(\d+)", r"device=cuda:\1"),
    ("device", r"\[\s*(\d+)\s*\]", r"device=cuda:\1"),
    ("device", r"gpu|nvidia|\[auto\]|-1|true", "device=cuda"),
    ("device", r"tpu|rocm|xpu", "device=auto"),
    ("device", r"[\[\d].*,.*|cuda:\d+(,.*)+|ddp|all", f"device=cuda with {ONE_GPU_EACH}"),
    ("precision", r"(bf16)-(mixed|true)|bfloat16", "precision=bf16"),
    ("precision", r"16(-mixed|-true)?|half|float16|amp|mixed", "precision=fp16"),
    ("precision", r"(32|64)(-true)?|full|float32", "precision=fp32"),
    ("monitor", r"(val_|valid_|eval_)?(auroc|roc_auc)|(valid_|eval_)?auc", "monitor=val_auc"),
    ("monitor", r"(val_|valid_|eval_)?(macro_f1|f1_macro|f1_score)|(valid_|eval_)?f1", "monitor=val_f1"),
    ("monitor", r"(val_|valid_)?(bal_acc|balanced_acc)|(valid_)?balanced_accuracy", "monitor=val_balanced_accuracy"),
    ("monitor", r"(val_|valid_|eval_)?(acc|acc1|top1)|(valid_|eval_)?accuracy", "monitor=val_accuracy"),
    ("monitor", r"(valid_|eval_)?loss", "monitor=val_loss"),
)


def _reversed(table: Mapping[str, str]) -> dict[str, list[str]]:
    """{word: what to type here, all of it}"""
    found: dict[str, list[str]] = {}
    for here, words in table.items():
        for word in words.split():
            found.setdefault(word, []).append(here)
    return found


def key_hint(key: str, value: Any = ..., known: Container[str] | None = None) -> str:
    """What to type for a peer's key with that value: 'type dataset.image_size=224'; '' if it is no peer's.

    known: the first parts of the keys that the command has, None for all.
    """
    word = key.lower().replace("-", "_")
    outer, _, inner = word.partition(".")
    last = inner.rpartition(".")[2] if outer in PREFIXES else ""
    keys, notes = _reversed(KEYS), _reversed(NOTES)
    for name in filter(None, (word, last)):
        for here in keys.get(name, ()):
            target = here.split()[-1].rstrip("=")
            if target != key and (known is None or target.partition(".")[0] in known):
                return value_hint(target, value) or f"type {here}{_typed(value)}"
        if name in notes and (known is None or "epochs" in known):
            return notes[name][0]
    return ""


def value_hint(key: str, value: Any) -> str:
    """What to type for a peer's value of one of our keys, '' if it is none."""
    for name, pattern, here in VALUES:
        if name == key and (match := re.fullmatch(pattern, _typed(value).lower())):
            return f"type {match.expand(here)}"
    return ""


def command_hint(word: str) -> str:
    """What to type for a peer's command, '' if it is none."""
    found = _reversed(COMMANDS).get(word.lower())
    if not found:
        return ""
    return f"type {found[0]}" if found[0].startswith(("imgcls ", "tensorboard")) else found[0]


def _typed(value: Any) -> str:
    if value is ... or isinstance(value, Mapping):
        return "..."
    return brief(value) if isinstance(value, str) else show(value)
