"""Every row of the list of bad inputs has a test: those of rows 1 to 49 carry its number, the others are named here."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgcls.cli.app import main
from tests.cli.test_bad_inputs import FILES, ROWS
from tests.conftest import SMALL

HERE = Path(__file__).parent
LAST = 105
NOT_APPLICABLE = {101: "TensorBoard is never launched"}
ELSEWHERE = {  # row: file:test
    50: "folder:test_a_folder_that_cannot_be_created_is_a_run_error run_faults:odd_places",
    51: "folder:test_a_folder_that_is_not_empty_is_refused",
    52: "folder:test_a_folder_in_use_is_refused_until_its_process_ends",
    53: "mnist:test_without_a_network_the_message_says_what_to_do",
    54: "image_folder:test_folders_without_class_folders_are_refused",
    55: "image_folder:test_an_empty_class_folder_is_named",
    56: "image_folder:test_hidden_folders_and_other_files_are_ignored_with_a_note",
    57: "image_folder:test_a_class_that_train_does_not_have_is_refused",
    58: "image_folder:test_labels_of_val_match_by_name_if_it_lacks_a_class",
    59: "image_folder:test_a_single_class_causes_a_warning splits:test_too_few_images_are_refused",
    60: "image_folder:test_a_corrupt_image_is_named_in_one_line run_faults:train_on_broken",
    61: "image_folder:test_a_symlink_to_a_parent_folder_is_a_loop "
    "checks:test_symlinks_out_of_the_folder_are_refused_on_request",
    62: "checks:test_files_in_two_splits_cause_a_warning",
    63: "image_folder:test_classes_that_look_alike_cause_a_warning",
    64: "image_folder:test_names_that_are_not_utf8_are_escaped_everywhere",
    65: "download:test_an_interrupted_download_is_resumed",
    66: "mnist:test_a_wrong_checksum_is_an_error_and_leaves_no_file",
    67: "cifar:test_links_special_files_and_bombs_in_an_archive_are_refused",
    68: "mnist:test_a_damaged_file_is_named_with_what_was_expected_and_found "
    "cifar:test_a_batch_that_does_not_fit_is_named_with_what_was_expected",
    69: "rows:test_row_69_a_label_that_no_training_image_has "
    "image_table:test_rows_that_cannot_be_used_are_named_with_their_line",
    70: "resume:test_a_data_set_that_has_changed_is_refused",
    71: "process_pool:test_a_process_that_dies_is_a_one_line_error",
    72: "checkpoints:test_missing_and_unreadable_files_are_a_one_line_error",
    73: "checkpoints:test_no_bit_flip_and_no_truncation_passes "
    "resume:test_a_damaged_last_checkpoint_falls_back_to_the_one_before",
    74: "checkpoints:test_files_that_are_not_imgcls_checkpoints_are_refused faults:hostile_files",
    75: "faults:hostile_files",
    76: "checkpoints:test_a_file_of_a_newer_imgcls_says_so",
    77: "cli:test_resume_refuses_what_changes_the_result bad_inputs:test_evaluate_refuses",
    78: "faults:hostile_files",
    79: "faults:hostile_files",
    80: "faults:hostile_files",
    81: "faults:hostile_files",
    82: "checkpoints:test_weights_only_is_refused_for_resume",
    83: "cli:test_resume_refuses_what_changes_the_result",
    84: "resume:test_resuming_a_finished_run_does_nothing_and_more_epochs_go_on "
    "rows:test_row_84b_other_classes_are_both_listed",
    85: "gpu:test_a_gpus_checkpoint_evaluates_and_predicts_as_on_a_cpu",
    86: "checkpoints:test_a_full_disk_is_a_one_line_error_and_keeps_the_file faults:fill_the_disk",
    87: "decoding:test_a_file_that_is_not_an_image_is_named_in_one_line",
    88: "decoding:test_16_bits_are_scaled_not_saturated decoding:test_pixels_without_a_defined_range_are_refused",
    89: "decoding:test_rgba_is_composited_onto_white decoding:test_a_cmyk_jpeg_keeps_its_color "
    "decoding:test_one_bit_is_black_and_white decoding:test_gray_with_alpha_is_composited_onto_white",
    90: "decoding:test_any_shape_covers_the_wanted_size",
    91: "decoding:test_more_than_64_million_pixels_are_refused_before_they_are_decoded",
    92: "decoding:test_what_is_not_a_regular_file_is_refused_without_waiting",
    93: "decoding:test_a_file_that_is_not_an_image_is_named_in_one_line",
    94: "decoding:test_the_content_matters_not_the_suffix",
    95: "decoding:test_exif_turns_the_image_upright decoding:test_the_first_frame_of_an_animation_is_taken",
    96: "predict:test_what_is_no_image_is_named_and_the_rest_is_done",
    97: "predict:test_file_names_of_any_kind_come_back predict:test_cells_that_a_spreadsheet_would_run_are_quoted",
    98: "cli:test_a_reader_that_goes_away_ends_the_command_quietly",
    99: "decoding:test_color_for_a_gray_model_is_its_luma",
    100: "rows:test_row_100_an_address_is_no_file",
    102: "environment:test_train_evaluate_predict_in_odd_surroundings",
    103: "environment:test_a_clock_that_jumps_back_does_not_make_the_older_checkpoint_the_newer",
    104: "environment:test_train_evaluate_predict_in_odd_surroundings run_faults:same_everywhere",
    105: "process_pool:test_a_process_that_dies_is_a_one_line_error",
}

Capture = pytest.CaptureFixture[str]


def functions(file: str) -> set[str]:
    """The functions that a file of tests defines, those within classes too."""
    path = next(path for name in (f"{file}.py", f"test_{file}.py") for path in HERE.rglob(name))
    return set(re.findall(r"^ *def (\w+)\(", path.read_text(encoding="utf-8"), re.MULTILINE))


def test_every_row_has_a_test_that_exists() -> None:
    numbered = {int(match[1]) for name, *_ in [*ROWS, *FILES] if (match := re.match(r"(\d+)\b", name))}
    numbered |= {int(match[1]) for name in functions("bad_inputs") if (match := re.match(r"test_row_(\d+)_", name))}
    assert sorted(numbered | set(ELSEWHERE) | set(NOT_APPLICABLE)) == list(range(1, LAST + 1))
    for row, places in ELSEWHERE.items():
        for place in places.split():
            file, _, function = place.partition(":")
            assert function in functions(file), (row, place)


def line(capsys: Capture) -> str:
    """The one line that the command said."""
    out, err = capsys.readouterr()
    assert out == ""
    (only,) = err.splitlines()
    return only


def test_row_69_a_label_that_no_training_image_has(capsys: Capture) -> None:
    for name in "ab":
        Image.new("L", (8, 8)).save(f"{name}.png")
    Path("labels.csv").write_text("path,label,split\na.png,cat,train\nb.png,dog,test\n")
    assert main(["train", "dataset=./labels.csv"]) == 3
    assert "labels.csv, line 3: no training row has class 'dog'" in line(capsys)


def test_row_84b_other_classes_are_both_listed(capsys: Capture) -> None:
    for name in ("cat", "dog"):
        Path("photos", name).mkdir(parents=True)
        for i in range(9):
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(Path("photos", name, f"{i}.png"))
    assert main(["train", *SMALL, "model=linear", "run_dir=run"]) == 0
    capsys.readouterr()
    assert main(["evaluate", "run", "dataset=./photos"]) == 3
    said = line(capsys)
    assert "are not the model's: the data set has" in said
    assert "cat, dog" in said
    assert "0, 1, 2" in said


def test_row_84b_classes_in_another_spelling_can_be_renamed(capsys: Capture) -> None:
    for root, names in {"photos": ("cat", "dog"), "hold": ("1_Cat", "dogs")}.items():
        for i, name in enumerate(names * 9):
            Path(root, name).mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
            Image.fromarray(pixels).save(Path(root, name, f"{i}.png"))
    Path("hold.csv").write_text("path,label\nhold/1_Cat/0.png,CAT\nhold/dogs/1.png,dog\n")
    assert main(["train", "dataset=./photos", "epochs=1", "model=linear", "run_dir=run", "plots=false"]) == 0
    capsys.readouterr()
    for dataset, rename in {"./hold": "{1_Cat: cat, dogs: dog}", "./hold.csv": "{CAT: cat}"}.items():
        assert main(["evaluate", "run", f"dataset={dataset}"]) == 3
        assert f"; if they mean the same, add dataset.rename='{rename}'" in line(capsys)
        assert main(["evaluate", "run", f"dataset={dataset}", f"dataset.rename={rename}"]) == 0
        capsys.readouterr()


def test_an_output_that_is_a_file_is_refused_before_the_work(capsys: Capture) -> None:
    assert main(["train", *SMALL, "model=linear", "run_dir=run"]) == 0
    Path("file").touch()
    capsys.readouterr()
    assert main(["evaluate", "run", "output=file"]) == 2
    assert line(capsys) == "imgcls: error: output: file is a file; name a folder"


@pytest.mark.parametrize("name", ["https://example.org/cat.png", "photos.zip/cat.png"])
def test_row_100_an_address_is_no_file(name: str, capsys: Capture) -> None:
    assert main(["train", *SMALL, "model=linear", "run_dir=run"]) == 0
    Path("photos.zip").write_bytes(b"PK\x03\x04")
    capsys.readouterr()
    assert main(["predict", "run", name]) == 3
    assert name in line(capsys)
