#!/usr/bin/env bash
# The tests. Arguments of pytest are passed on:  bash tests/run.sh -k mask
#     bash tests/run.sh            the default suite: no PyTorch, some minutes
#     bash tests/run.sh --parity   against PyTorch references, in an environment of their own (.venv-parity)
#     bash tests/run.sh --full     what takes long, by hand
set -euo pipefail
cd "$(dirname "$0")/.."

tests='not parity and not full'
case ${1:-} in
    --parity) tests='parity and not full' && shift ;;
    --full) tests=full && shift ;;
esac
bash requirements/install.sh .venv requirements.txt requirements/test.txt
if [[ $tests != not* ]]; then bash requirements/install.sh .venv-parity requirements/parity.txt; fi
source .venv/bin/activate
exec python -m pytest -m "$tests" "$@"
