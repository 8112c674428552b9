#!/usr/bin/env bash
# Make an environment with Rockchip's rknn-toolkit2, for `compressors.npu.rockchip`; where its wheel can't be installed, say
# why and end with 3. Nothing else needs it, so `make setup` does not make it.
#
#   tooling/rknn.sh [FOLDER]    without FOLDER: .venv-rknn in this checkout
set -euo pipefail
start=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case ${1:-} in
  '') folder=$PWD/.venv-rknn ;;
  /*) folder=$1 ;;
  *) folder=$start/$1 ;;
esac
log=$folder.log
locks=(requirements/rknn.txt requirements/rknn-toolkit.txt)
CANT=3

say() { printf 'rknn: %s\n' "$*" >&2; }
cant() { say "$*"; exit "$CANT"; }

# Rockchip publishes wheels for glibc alone, of two processors and of CPython 3.6 to 3.12.
case "$(uname -s) $(uname -m)" in
  'Linux x86_64' | 'Linux aarch64') ;;
  *) cant "skipped: rknn-toolkit2 has wheels for Linux on x86_64 and aarch64, and this is $(uname -s) on $(uname -m)" ;;
esac
getconf GNU_LIBC_VERSION >/dev/null 2>&1 || cant "skipped: rknn-toolkit2 wants glibc, and this system has another C library"
python=
for candidate in python3.11 python3; do
  if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info[:2] != (3, 11))' >/dev/null 2>&1; then
    python=$candidate
    break
  fi
done
[ -n "$python" ] || cant "skipped: the locks are for CPython 3.11 with its venv module, and there is none here (on Debian 12: apt-get install python3-venv)"

stamp=$folder/.rknn-stamp # is there, empty, while pip is at work: only what this script made is ever made anew
made_of=$(cat "${locks[@]}" tooling/rknn.sh | sha256sum | cut -d' ' -f1)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$folder $made_of" ]; then
  say "$folder is ready: its Python is $folder/bin/python"
  exit
fi
if [ -e "$folder" ] && [ ! -f "$stamp" ]; then
  say "$folder is there, and this script did not make it: name another folder, or remove it"
  exit 1
fi
say "$folder: installing $(cat "${locks[@]}" | grep -c ==) packages; $log has the details"
: >"$log"
install() { "$folder/bin/python" -m pip install --disable-pip-version-check --no-compile "$@" >>"$log" 2>&1 </dev/null; }
# The toolkit asks for an older torch than it needs, so it comes without its dependencies, which the other lock holds.
"$python" -m venv --clear "$folder" >>"$log" 2>&1 \
  && : >"$stamp" && install -r "${locks[0]}" && install --no-deps -r "${locks[1]}" \
  || { tail -n 5 "$log" >&2; cant "skipped: its packages can't be installed here. The full output is in $log"; }
"$folder/bin/python" -I -c 'from rknn.api import RKNN' >>"$log" 2>&1 \
  || cant "skipped: rknn-toolkit2 was installed and does not load: $(tail -n 1 "$log")"
printf '%s %s' "$folder" "$made_of" >"$stamp"
say "$folder is ready: its Python is $folder/bin/python"
