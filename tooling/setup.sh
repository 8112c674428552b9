#!/usr/bin/env bash
# Make this checkout ready: Debian packages, .venv, .venv-tflite. Quick when nothing has changed; safe to interrupt and
# to run twice at the same time.
#
#   tooling/setup.sh            everything that the tests, the benchmarks and the demo need
#   tooling/setup.sh --python   only the Python environments (enough for `make check`)
#   tooling/setup.sh --demo     what the demo needs: a third of the packages; the rest comes when something else asks
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
LOG=$PWD/.setup.log
# command -> Debian package that brings it
DEBIAN_COMMANDS=(mosquitto:mosquitto ip:iproute2)
TESTS_DEBIAN_COMMANDS=(strace:strace faketime:faketime)

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# Run a command with its output in the log; when it fails, show the end of the log and say where the rest is.
logged() {
  printf '\n$ %s\n' "$*" >>"$LOG"
  if ! "$@" >>"$LOG" 2>&1 </dev/null; then
    tail -n 15 "$LOG" >&2
    fail "that failed: $*. The full output is in $LOG"
  fi
}

# Debian keeps daemons in /usr/sbin, which is not on the PATH of an ordinary user.
has_command() { PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null 2>&1; }

apt_install() {
  local packages=("$@") as_root=()
  command -v apt-get >/dev/null 2>&1 || fail "these are missing: ${packages[*]}. There is no apt-get here to install them with: install them, then try again."
  if [ "$(id -u)" -ne 0 ]; then
    # Without a terminal sudo cannot ask for a password: then only take it if it does not have to.
    if command -v sudo >/dev/null 2>&1 && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
      as_root=(sudo)
      sudo -v || fail "sudo was refused. Ask an administrator to run: apt-get install ${packages[*]}"
    else
      fail "Debian packages are missing, and installing them takes root. Run as root: apt-get install ${packages[*]}"
    fi
  fi
  say "installing Debian packages: ${packages[*]}"
  local options=(-y --no-install-recommends -o DPkg::Lock::Timeout=120)
  # A new machine has no package lists yet, an old one has stale ones.
  # 9>&-: a daemon that a package starts must not inherit the lock.
  logged "${as_root[@]}" apt-get update 9>&-
  logged "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install "${options[@]}" "${packages[@]}" 9>&-
}

install_debian_packages() {
  local missing=() pair
  for pair in "$@"; do
    has_command "${pair%%:*}" || missing+=("${pair#*:}")
  done
  [ ${#missing[@]} -eq 0 ] || apt_install "${missing[@]}"
}

# `python3.11` may be a shim that fails, so it is asked to run and not only looked for.
find_python() {
  local candidate
  for candidate in python3.11 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  fail "Shoal needs Python 3.11 or newer, and neither python3.11 nor python3 is one. On Debian 12 or newer: apt-get install python3 python3-venv"
}

require_venv_module() {
  "$1" -c 'import ensurepip, venv' >/dev/null 2>&1 && return
  apt_install "$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
}

# What an environment was made of: the locks, the package's metadata, and this script.
fingerprint() { cat pyproject.toml tooling/setup.sh requirements/build.txt "$@" | sha256sum | cut -d' ' -f1; }

# Whether FOLDER holds what LOCK [BARE_LOCK] says.
is_made() {
  local venv=$1 stamp=$1/.stamp; shift
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$PWD"$'\n'"$(fingerprint "$@")" ] && "$venv/bin/python" -c ''
}

# make_venv FOLDER PYTHON LOCK [BARE_LOCK]
# The stamp is written last. While pip is at work a second file says so: pip takes a package of which only half the
# files are there for installed, so an environment that was left like that is made anew.
make_venv() {
  local venv=$1 python=$2 lock=$3 bare=${4:-}
  local stamp=$venv/.stamp busy=$venv.under-way
  if is_made "$venv" "$lock" ${bare:+"$bare"}; then return; fi

  # The scripts in an environment name its folder: one that was moved is made anew.
  if [ -f "$stamp" ] && [ "$(head -n 1 "$stamp")" != "$PWD" ]; then : >"$busy"; fi
  if [ -f "$busy" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    require_venv_module "$python"
    : >"$busy"
    logged "$python" -m venv --clear "$venv"
  fi
  : >"$busy"
  rm -f "$stamp"
  say "$venv: installing $(grep -c == "$lock") packages; ${LOG##*/} has the details"
  # --no-compile: most modules of the large packages are never imported, and Python compiles those that are.
  logged "$venv/bin/python" -m pip install --no-compile -r requirements/build.txt -r "$lock"
  [ -z "$bare" ] || logged "$venv/bin/python" -m pip install --no-compile --no-build-isolation --no-deps -r "$bare"
  logged "$venv/bin/python" -m pip install --no-deps --no-build-isolation --editable .
  printf '%s\n%s' "$PWD" "$(fingerprint "$lock" ${bare:+"$bare"})" >"$stamp"
  rm -f "$busy"
}

make_tflite_venv() {
  # tflite-runtime 2.14 is the last one and has wheels up to CPython 3.11.
  if "$1" -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then
    make_venv .venv-tflite "$1" requirements/agent-tflite.txt
  else
    say "no .venv-tflite: tflite-runtime has no wheel for $("$1" --version). Install python3.11 to get it."
  fi
}

main() {
  # Two makes at once would both write into .venv.
  exec 9>.setup.lock
  flock -n 9 || { say "another set-up is under way: waiting for it"; flock 9; }
  : >"$LOG"
  case ${1:-} in
    --python) ;;
    --demo) install_debian_packages "${DEBIAN_COMMANDS[@]}" ;;
    *) install_debian_packages "${DEBIAN_COMMANDS[@]}" "${TESTS_DEBIAN_COMMANDS[@]}" ;;
  esac
  local python lock=requirements/dev.txt
  python=$(find_python)
  # An environment that holds everything holds what the demo needs.
  if [ "${1:-}" = --demo ] && ! is_made .venv "$lock" requirements/data.txt; then lock=requirements/demo.txt; fi
  make_venv .venv "$python" "$lock" requirements/data.txt
  make_tflite_venv "$python"
}

main "$@"
