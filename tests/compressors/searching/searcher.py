"""Runs one search as a program that can be killed: `python searcher.py REQUEST.json RESULT.json`."""

from __future__ import annotations

import sys
from pathlib import Path

import compressors
from compressors.search_contract import SearchRequest

if __name__ == "__main__":
    request = SearchRequest.model_validate_json(Path(sys.argv[1]).read_bytes())
    Path(sys.argv[2]).write_text(compressors.search(request).model_dump_json())
