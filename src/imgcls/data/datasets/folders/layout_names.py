"""What folders of images look like in the wild: names as data. To know one more, add it to its table.

Names are compared in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

# --- passed over wherever they are ------------------------------------------------------------------------------------

# fmt: off
JUNK_FOLDERS = frozenset([  # hidden folders (a leading dot) are passed over without being listed here
    "__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder",  # macOS
    "system volume information", "msocache", "config.msi",  # Windows
    "lost+found",  # Linux
    "@eadir", "@tmp", "@sharebin", "@database", "@download", "#recycle", "#snapshot", "#archive",  # Synology
    "@recycle", "@recently-snapshot", "@transcode", "@qsync", "@__thumb", "@sync",  # QNAP
    "~snapshot", "_recycle", "network recycle bin",  # NetApp, TerraMaster
    "__pycache__", "node_modules", "_vti_cnf", "site-packages",  # tools
    "wandb", "mlruns", "lightning_logs", "tensorboard_logs",  # other trainers
])
JUNK_FILES = frozenset([
    "thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "thumbs.db:encryptable", "desktop.ini", "folder.ini",
    "picasa.ini", "icon\r", "zbthumbnail.info", "pspbrwse.jbf", "synofile_thumb_m.png", "indexervolumeguid",
])
# fmt: on
JUNK_IN_CAPITALS = frozenset(["RECYCLER", "RECYCLED"])  # of Windows; in lower case they may be classes
JUNK_PATTERNS = re.compile(
    "|".join(
        (
            r"\$[a-z]{3,}[a-z.~]*",  # $RECYCLE.BIN, $Extend, $WinREAgent
            r"synophoto_\S+\.(jpg|png)",  # Synology's thumbnails
            r"found\.\d{3}",  # chkdsk
            r"trash-\d+",
        )
    )
)
JUNK_IMAGES = ("syno",)  # what the names of junk begin with that are those of images
JUNK_ENDINGS = (":zone.identifier", ".lrdata")  # Windows files copied to Linux, Lightroom's previews


def is_junk(name: str) -> bool:
    """Whether operating systems, storage devices or tools leave files and folders of this name."""
    if name in JUNK_IN_CAPITALS:
        return True
    name = name.lower()
    if name in JUNK_FOLDERS or name in JUNK_FILES or name.endswith(JUNK_ENDINGS):
        return True
    return name[:1] in "$sft" and JUNK_PATTERNS.fullmatch(name) is not None


# What a folder holds that is a run of imgcls, a sweep, or the results of an evaluation: all names of one of the rows.
RUN_MARKS = (
    {"config.yaml", "checkpoints"},
    {"config.yaml", "split.npz"},
    {"config.yaml", "metrics.jsonl"},
    {"sweep.json"},
    {"report.json", "predictions.npz"},
    {"index.html", "findings.csv"},
)

# --- parts ------------------------------------------------------------------------------------------------------------

PART_WORDS = {
    "train": ("train", "training", "trn", "trainval", "labeled", "labelled"),
    "val": ("val", "valid", "validation", "validate", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst", "holdout"),
}
USUAL_PARTS = {  # that need no word in the header
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
# fmt: off
FILLERS = frozenset([  # words that may accompany that of the part
    "set", "sets", "data", "dataset", "image", "images", "img", "imgs", "picture", "pictures", "pic", "pics", "photo",
    "photos", "split", "folder", "dir", "part", "subset", "jpg", "jpeg", "png", "files", "samples", "batch", "ds",
])
UNLABELED = frozenset([  # beside train/, without labels
    "unlabelled", "unlabeled", "unlabel", "unlabelleddata", "unlabeleddata", "unsup", "unsupervised", "nolabel",
    "pred", "predict", "prediction", "predictions", "segpred", "extra", "submission", "inference", "pool", "unknown",
    "unsorted", "todo", "demo", "other", "misc", "backup", "old", "tmp", "temp",
])
# fmt: on
WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+|[^\W\d_a-zA-Z]+")
ENDINGS = ("dataset", "set", "sets", "data", "images", "imgs", "img", "pics", "photos", "dir", "split")


PART_OF_WORD = {
    word + ending: part for part, words in PART_WORDS.items() for word in words for ending in ("", *ENDINGS)
}


def words_of(name: str) -> list[str]:
    """The words of a folder's name in lower case, without numbers: TrainData2, train-data and train_data are equal."""
    return [word.lower() for word in WORD.findall(name) if not word.isdigit()]


@lru_cache(maxsize=1 << 16)
def part_of(name: str) -> str | None:
    """train, val or test if the folder's name says nothing else (Train, trainset, test1, val_images), or None."""
    words = words_of(name)
    found = [part for word in words if (part := PART_OF_WORD.get(word))]
    others = [word for word in words if word not in PART_OF_WORD and word not in FILLERS]
    return found[0] if len(found) == 1 and not others else None


def part_word_in(name: str) -> str | None:
    """train, val or test if one word of the name means it, whatever else it says (seg_train), or None."""
    found = [PART_OF_WORD[word] for word in words_of(name) if word in PART_OF_WORD]
    return found[0] if len(found) == 1 else None


@lru_cache(maxsize=1 << 16)
def without_part(name: str) -> str:
    """The name's words without those of a part, joined: masks for train_masks and masks2017."""
    return "".join(word for word in words_of(name) if word not in ("tr", "ts") and word not in PART_OF_WORD)


# --- folders of other tasks, of annotations and of copies -------------------------------------------------------------

# fmt: off
IMAGE_FOLDERS = frozenset([
    "images", "image", "imgs", "img", "jpegimages", "pictures", "picture", "photos", "photo", "frames", "rgb",
    "inputs", "input", "pics", "pngimages", "leftimgbit", "jpgs", "jpg", "x", "imagesdata", "rawimages", "originals",
])
TARGET_FOLDERS = {
    "image segmentation": (
        "masks", "mask", "segmentation", "segmentations", "segmentationclass", "segmentationobject", "segmented",
        "segmentationmasks", "groundtruth", "groundtruths", "gt", "gtfine", "gtcoarse", "trimaps", "segmaps", "seg",
        "annotationmasks", "labelmaps", "labelids", "alpha", "mattes", "contours", "superpixels",
    ),
    "object detection or segmentation": (
        "labels", "label", "annotations", "annotation", "annots", "annot", "ann", "anns", "bboxes", "bbox", "boxes",
        "xmls", "xml", "json", "jsons", "yolo", "yololabels", "targets", "target", "polygons", "labelstxt", "txt",
    ),
    "depth estimation": ("depth", "depths", "depthmaps", "disparity", "disparities"),
    "keypoint detection": ("keypoints", "landmarks", "joints", "poses", "heatmaps"),
    "optical flow or surface estimation": ("flow", "normals"),
    "crowd counting": ("density", "densitymaps"),
    "saliency or edge detection": ("saliency", "saliencymaps", "edges", "edgemaps"),
    "image captioning": ("captions", "caption", "texts", "text"),
}
PAIRS = {  # two folders of images, the one to be made from the other
    ("hr", "lr"): "super-resolution", ("highres", "lowres"): "super-resolution", ("gt", "lq"): "image restoration",
    ("noisy", "clean"): "denoising", ("blur", "sharp"): "deblurring", ("traina", "trainb"): "image translation",
    ("low", "high"): "low-light enhancement", ("rain", "norain"): "deraining",
    ("content", "style"): "style transfer",
}
SIDECARS = {
    ".txt": "object detection (YOLO)", ".xml": "object detection (Pascal VOC)", ".json": "annotated regions (LabelMe)",
}
COCO = re.compile(r"(_annotations\.coco|instances_.*|.*annotations.*|coco.*|.*_coco|via_.*)\.json")
SUPPORT = frozenset([  # not a class if there are no images in it
    *(name for names in TARGET_FOLDERS.values() for name in names),
    "meta", "metadata", "docs", "doc", "documentation", "scripts", "script", "src", "code", "notebooks", "notebook",
    "lists", "list", "splits", "imagesets", "imdb", "devkit", "attributes", "parts", "logs", "log", "info", "misc",
    "readme", "license", "models", "weights", "checkpoints", "config", "configs", "evaluation", "tools", "utils",
    "tables", "csv", "csvs", "features", "outputs", "multirun", "runs", "results",
])
COPIES = frozenset([  # the same images in another form
    "color", "colour", "rgb", "grayscale", "greyscale", "gray", "grey", "segmented", "raw", "original", "originals",
    "processed", "preprocessed", "augmented", "aug", "cropped", "crops", "resized", "small", "large", "thumb", "clean",
    "cleaned", "noisy", "enhanced", "normalized", "thumbnails", "images", "masks", "without_background", "x", "px",
])
ORIGINALS = frozenset(["original", "originals", "raw", "full", "fullsize", "large", "hires", "highres"])  # of thumbs
# fmt: on
COPY_OF = re.compile(r"copy of (?P<a>.+)|(?P<b>.+?)(?: - copy(?: \(\d+\))?|[ _]copy(?: ?\d+)?| \(\d+\))")  # of a class
NOT_TABLES = re.compile(r"(sample_?submission|submission|sample|gender_submission)\.\w+")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
ARCHIVES = (
    *(".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst"),
    *(".7z", ".rar", ".gz", ".bz2", ".xz", ".zst"),
)
CLASS_IN_NAME = re.compile(r"(.*[^\W\d_])[._\- ]*\(?\d+\)?\.\w+")  # cat.10.png, Abyssinian_12.jpg, dog (3).jpg


# --- folders of pictures that are hardly ever a class -----------------------------------------------------------------

# fmt: off
REDUCED, RESULTS, ASIDE = "reduced copies", "results", "set aside"
NO_CLASSES = {  # passed over with a word, beside class folders and below them
    REDUCED: frozenset(["thumbnails", "thumbnail", "previews", "preview"]),
    RESULTS: frozenset([
        "results", "result", "checkpoints", "checkpoint", "ckpt", "ckpts", "visualizations", "visualization",
        "visualisations", "visualisation", "viz", "vis", "gradcam", "tensorboard", "tblogs", "tflogs", "logdir",
        "confusionmatrices", "confusionmatrix", "debug", "predictions", "preds", "cache", "caches", "tmp",
        "temp", "savedmodels", "savedmodel", "mlflow",
    ]),
    ASIDE: frozenset([
        "tocheck", "todelete", "toremove", "tosort", "toreview", "tolabel", "torelabel", "tofix", "recheck", "todo",
        "unsorted", "unlabeled", "unlabelled", "deleted", "removed", "discarded", "excluded", "ignored", "ignore",
        "quarantine", "duplicates", "duplicate", "dupes", "dups", "backup", "backups", "bak", "donotuse", "notused",
        "unused",
    ]),
}
MAY_BE_CLASSES = {  # beside class folders these may be classes too; the contents decide, else it is asked or said
    REDUCED: frozenset(["thumbs"]),
    RESULTS: frozenset([
        "plots", "figures", "charts", "graphs", "curves", "runs", "logs", "experiments", "outputs", "heatmaps",
    ]),
    ASIDE: frozenset([
        "rejected", "rejects", "reject", "trash", "garbage", "rubbish", "bin", "junk", "unsure", "uncertain", "unclear",
        "doubtful", "ambiguous", "questionable", "bad", "blurry", "corrupt", "corrupted", "broken", "skip", "skipped",
    ]),
}
DOCUMENT_CLASSES = frozenset([  # beside these, plots and figures are classes
    "photos", "photo", "photographs", "photograph", "maps", "map", "tables", "table", "diagrams", "diagram", "drawings",
    "drawing", "equations", "equation", "formulas", "formula", "formulae", "screenshots", "screenshot", "text", "texts",
    "sketches", "sketch", "paintings", "painting", "illustrations", "illustration", "documents", "document", "letters",
    "letter", "forms", "form", "invoices", "invoice", "receipts", "receipt", "algorithms", "algorithm", "natural",
    "images", "image", "pictures", "picture", "scans", "flowcharts", "flowchart", "logos", "logo", "schematics",
    "schematic", "infographics", "infographic", "cartoons", "cartoon", "memes", "meme", "headers", "header", "reports",
])
NO_WORDS = FILLERS | {  # say no more
    "my", "the", "all", "loss", "accuracy", "eval", "model", "final", "learning", "zz", "zzz", "xx", "xxx",
}
PLOT_WORDS = frozenset([  # in the names of the pictures that a training leaves
    "loss", "losses", "accuracy", "acc", "curve", "curves", "confusion", "matrix", "roc", "auc", "precision", "recall",
    "lr", "epoch", "epochs", "batch", "metrics", "history", "gradcam", "tsne", "umap", "histogram", "learning",
    "results", "prediction", "predictions", "pred", "step", "iter", "plot", "figure", "fig",
])
RESULT_FILES = re.compile(  # beside the pictures that a training leaves
    r"events\.out\.tfevents.*|.*\.(pt|pth|ckpt|safetensors|h5|hdf5|keras|onnx|pkl|joblib|npy|npz|log)"
    r"|(args|hparams|config|opt|metrics|results|history)\.(yaml|yml|json|csv)"
)
# fmt: on


# fmt: off
MADE = (  # words in the names of pictures that are made of others
    "masks?|maskcrop|seg|segmentation|gt|ground_?truth|labels?|annotation|annotated|overlay|heatmap|gradcam|contour|"
    "trimap|depth|depthcrop|superpixels|thumb|thumbnail|tn|small|preview"
)
_FIRST = "(?=[" + "".join(sorted({word[0] for word in MADE.split("|")})) + "])"  # quick to see that none begins here
MADE_WORD = re.compile(rf"[_\-. ]{_FIRST}(?:{MADE})|^{_FIRST}(?:{MADE})[_\-]", re.IGNORECASE | re.MULTILINE)
COMPANION = re.compile(  # 'benign (1)_mask.png' of 'benign (1).png', thumb_3.jpg of 3.jpg, a_depth.png of a_rgb.png
    rf"(?P<of>.+)[_\-. ](?:{MADE})(?:_?\d+)?|(?:{MADE})[_\-](?P<from>.+)", re.IGNORECASE,
)
PLAIN = "rgb|crop|img|image|colou?r|photo|orig|original|raw|input"  # words in the names of the others
PHOTO_OF_LABEL = re.compile(r".*labels?[_\d]*\.jpe?g", re.IGNORECASE)  # of a bottle, say: no label is kept as JPEG
PLAIN_WORD = re.compile(rf"^(?:{PLAIN})[_\-]|[_\-. ](?:{PLAIN})$", re.IGNORECASE)
MASK_WORDS = frozenset(["mask", "masks", "groundtruth", "groundtruths", "gt", "segmentation", "segmentations"])
UNNAMED = frozenset([  # folders that have no name of their own yet
    "newfolder", "untitledfolder", "neuerordner", "nouveaudossier", "nuevacarpeta", "nuovacartella", "novapasta",
])
BACKGROUNDS = frozenset(["backgroundgoogle", "backgroundnoise", "clutter"])  # of published data sets; often left out
SELDOM_CLASSES = frozenset([  # read as classes, with a note that names them
    "old", "wip", "draft", "drafts", "inbox", "export", "exports", "asset", "assets", "doc", "docs", "src", "misc",
    "static", "screenshots", "archive", "archives", "downloads", "download", "favorites", "new", "media",
])
# fmt: on


@lru_cache(maxsize=1 << 16)
def without_fillers(name: str) -> str:
    """The name's words that say something, joined: results for _results2, my-results and test_results."""
    found = words_of(name)
    return "".join(word for word in found if word not in NO_WORDS and word not in PART_OF_WORD) or "".join(found)


def kind_in(name: str, table: Mapping[str, frozenset[str]]) -> str | None:
    """What folders of this name hold by NO_CLASSES or MAY_BE_CLASSES; None if they are in neither."""
    plain = without_fillers(name)
    return next((kind for kind, names in table.items() if plain in names), None)


def task_of_target(name: str) -> str | None:
    """The task that a folder of this name belongs to, beside a folder of images; None if it may be a class."""
    plain = without_part(name)
    return next((task for task, names in TARGET_FOLDERS.items() if plain in names), None)


def is_image_folder(name: str) -> bool:
    """Whether the name says no more than that there are images in it."""
    return without_part(name) in IMAGE_FOLDERS


def archive_suffix(name: str) -> str:
    """The suffix if the name is that of an archive, else empty."""
    return next((suffix for suffix in ARCHIVES if name.lower().endswith(suffix)), "")
