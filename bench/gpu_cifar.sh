#!/usr/bin/env bash
# CIFAR-10 on one GPU, in under ten minutes: bench/gpu_cifar.py on the images that are at hand.
#
#     bench/gpu_cifar.sh                                          # on a GPU
#     bench/gpu_cifar.sh --device cpu --epochs 1 --images 500   # tries the whole way without one
#
# PYTHON names the interpreter [.venv's, or python3]. The images are CIFAR-10's binary version
# where MOBILETTE_DATA has it, else the JPEG copy: $CIFAR_ZIP, or cifar10-jpeg.zip in shared/data.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ -z "${PYTHON:-}" ]]; then
    PYTHON=python3
    if [[ -x .venv/bin/python ]]; then PYTHON=.venv/bin/python; fi
fi

find_images() {
    local place
    if [[ -n "${MOBILETTE_DATA:-}" ]] && compgen -G "$MOBILETTE_DATA/cifar-10-b*" >/dev/null; then
        echo cifar10
        return
    fi
    for place in "${CIFAR_ZIP:-}" {.,..}/shared/data/cifar10-jpeg.zip cifar10-jpeg.zip; do
        if [[ -f "$place" ]]; then
            echo "$place"
            return
        fi
    done
    echo "no images: set CIFAR_ZIP to cifar10-jpeg.zip, or MOBILETTE_DATA" >&2
    return 1
}

data=$(find_images)
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}"
exec "$PYTHON" bench/gpu_cifar.py "$data" "$@"
