#!/usr/bin/env bash
# Make a virtual environment that holds the given requirement files and this project:
#     bash requirements/install.sh .venv requirements.txt [FILE...]
# Does again only what changed since the last time. The packages of NAME.nodeps.txt, beside a file NAME.txt, are installed
# after it and without their dependencies, because they ask for versions that cannot be installed together.
set -euo pipefail
cd "$(dirname "$0")/.."
env=$1
shift

suits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }
for python in "${PYTHON:-python3}" python3.12 python3.11 python3.10; do
    if suits "$python"; then break; fi
done
if ! suits "$python"; then
    echo "Paddle needs Python 3.10, 3.11 or 3.12; none was found. Set PYTHON to one." >&2
    exit 1
fi

[ -x "$env/bin/python" ] || "$python" -m venv "$env"
for file in "$@"; do
    done=$env/$(basename "$file").installed
    alone=${file%.txt}.nodeps.txt
    if [ ! -f "$alone" ]; then alone=/dev/null; fi
    stamp=$("$env/bin/python" --version; cat "$file" "$alone")
    if [ "$(cat "$done" 2>/dev/null)" != "$stamp" ]; then
        echo "Installing $file into $env; this may take some minutes ..."
        "$env/bin/pip" install --quiet --disable-pip-version-check -r "$file"
        if [ -s "$alone" ]; then
            "$env/bin/pip" install --quiet --disable-pip-version-check --no-deps -r "$alone"
        fi
        echo "$stamp" > "$done"
    fi
done
if ! cmp --silent pyproject.toml "$env/pyproject.installed"; then
    "$env/bin/pip" install --quiet --disable-pip-version-check --no-deps --editable .
    cp pyproject.toml "$env/pyproject.installed"
fi

# OpenCV leans on two libraries of the system, which pip cannot install
if "$env/bin/pip" show opencv-python > /dev/null 2>&1 && ! message=$("$env/bin/python" -c 'import cv2' 2>&1); then
    case $message in
        *libGL*) package=libgl1 ;;
        *libgthread* | *libglib*) package=libglib2.0-0 ;;
        *) package="" ;;
    esac
    echo "OpenCV cannot be imported: $(tail -n 1 <<< "$message")" >&2
    if [ -n "$package" ]; then echo "On Debian or Ubuntu:  sudo apt-get install $package" >&2; fi
    exit 1
fi
