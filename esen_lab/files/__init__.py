"""What every file of this package goes through: bounded readers, schemas, and the one writer."""

from __future__ import annotations

from esen_lab.files.folders import write_folder
from esen_lab.files.model_files import PICKLE_SUFFIXES, check_no_stand_in, is_model_file
from esen_lab.files.reading import as_path, decode_json, fixed_path, names_beside, read_bytes, read_head, read_token
from esen_lab.files.schemas import MOST_SUBMODELS, Name, Seconds, Text, Units, converted
from esen_lab.files.writing import Kind, check_free, write_file

__all__ = [
    "MOST_SUBMODELS",
    "PICKLE_SUFFIXES",
    "Kind",
    "Name",
    "Seconds",
    "Text",
    "Units",
    "as_path",
    "check_free",
    "check_no_stand_in",
    "converted",
    "decode_json",
    "fixed_path",
    "is_model_file",
    "names_beside",
    "read_bytes",
    "read_head",
    "read_token",
    "write_file",
    "write_folder",
]
