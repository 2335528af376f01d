#!/usr/bin/env bash
# Fifteen minutes of one GPU: whether captured steps agree, where the time goes, how fast the steps
# are, and CIFAR-10 in a minute. At most nine minutes; a JSON line for every result as it comes.
#
#     bench/gpu.sh                # on a GPU; without one it rehearses
#     REHEARSE=1 bench/gpu.sh     # the whole way with little, on the CPU: two or three minutes
#
# Options are those of bench/gpu.py. PYTHON names the interpreter [.venv's, or python3]. The images
# are CIFAR-10's binary version where MOBILETTE_DATA has it, else the JPEG copy: $CIFAR_ZIP, or
# cifar10-jpeg.zip in shared/data, here or beside. Without images, all but the trainings is done.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi

data=none
if [[ -n "${MOBILETTE_DATA:-}" ]] && compgen -G "$MOBILETTE_DATA/cifar-10-b*" >/dev/null; then
    data=cifar10
else
    for place in "${CIFAR_ZIP:-}" {.,..}/shared/data/cifar10-jpeg.zip cifar10-jpeg.zip; do
        if [[ -f "$place" ]]; then
            data=$place
            break
        fi
    done
fi

export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}"
exec "$PYTHON" bench/gpu.py "$data" ${REHEARSE:+--rehearse} "$@"
