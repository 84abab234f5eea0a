#!/usr/bin/env bash
# The tests. Arguments of pytest are passed on:  bash tests/run.sh -k mask
#     bash tests/run.sh            the default suite: no PyTorch, each program but det/export.py; 8 minutes on two cores
#     bash tests/run.sh --slow     what is too slow for it: variants, sizes, interruptions
#     bash tests/run.sh --parity   against PyTorch references, in an environment of their own (.venv-parity)
#     bash tests/run.sh --full     what takes long, by hand
#     bash tests/run.sh --faults   what is broken on purpose, a thousand times: a table of counts and failures at its end
#     bash tests/run.sh --gpu      on a machine with GPUs: everything that a CPU cannot show (tests/gpu); installs nothing
#     bash tests/run.sh --bench [CASE|LETTER ...] [--rounds N] [--threads N]   speed and memory against PyTorch
# The first three take two tests at a time, with one thread each (-n 0 takes one, with all threads).
set -euo pipefail
cd "$(dirname "$0")/.."

tests='not slow and not parity and not full and not faults'
workers=(-n 2 --dist loadfile --no-loadscope-reorder)  # a file's fixtures are made once; conftest.py orders files
case ${1:-} in
    --slow) tests='slow and not parity and not full and not faults' && shift ;;
    --parity) tests='parity and not full and not faults' && shift ;;
    --full) tests=full && workers=() && shift ;;
    --bench) tests=bench && shift ;;
    --gpu) tests=gpu && shift ;;
    --faults) tests=faults && workers=() && shift && set -- tests/faults "$@" ;;
esac
if [[ $tests == gpu ]]; then
    python=${PYTHON:-}  # else of the active environment, of the one in README.md, or of the tests
    for one in ${VIRTUAL_ENV:+"$VIRTUAL_ENV/bin/python"} ${CONDA_PREFIX:+"$CONDA_PREFIX/bin/python"} gpu/bin/python .venv/bin/python python3; do
        if [[ -z $python && -n $(type -P "$one") ]]; then python=$one; fi
    done
    PYTHONPATH=tests:tests/benchmarks:$PWD exec "$python" -m gpu.suite "$@"
fi
bash requirements/install.sh .venv requirements.txt requirements/det.txt requirements/test.txt
if [[ $tests =~ ^(parity|full|bench) ]]; then bash requirements/install.sh .venv-parity requirements/parity.txt; fi
source .venv/bin/activate
if [[ $tests == bench ]]; then exec python tests/benchmarks/bench.py "$@"; fi
exec python -m pytest "${workers[@]}" -m "$tests" "$@"
