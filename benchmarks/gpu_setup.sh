#!/usr/bin/env bash
# Prepares a machine that has a GPU, Python 3.11 to 3.13 and torch (2.11 or newer), but perhaps no network: installs what
# torch usually comes without, from wheels brought along, beside the torch that is there. Source it:
#
#     . benchmarks/gpu_setup.sh WHEELS [DATA] && python3 benchmarks/gpu.py
#
# WHEELS: a folder with the wheels of hydra-core, omegaconf and antlr4-python3-runtime, made where there is a network:
#     pip download --no-deps -d WHEELS hydra-core "omegaconf<2.4" && pip wheel --no-deps -w WHEELS antlr4-python3-runtime==4.9.3
# torchvision, rich, tensorboard, pillow, PyYAML, scikit-learn, pytest and pytest-xdist must be there already.
# DATA: a folder with MNIST's four .gz files and parts of CIFAR-10 made by benchmarks/pack_cifar.py; both are optional.
site=$(mktemp -d)
python3 -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$1"/*.whl || return 1
PYTHONPATH="$PWD/src:$PWD:$site"
export PYTHONPATH
if [[ -n ${2:-} ]]; then
  IMGCLS_DATA=${IMGCLS_DATA:-$(mktemp -d)}
  export IMGCLS_DATA
  mkdir -p "$IMGCLS_DATA/MNIST/raw"
  for gz in "$2"/*ubyte.gz; do
    gunzip -c "$gz" > "$IMGCLS_DATA/MNIST/raw/$(basename "$gz" .gz)"
  done
  if compgen -G "$2/cifar10-*.npz" > /dev/null; then
    python3 benchmarks/pack_cifar.py --unpack "$2" "$IMGCLS_DATA" || return 1
  fi
fi
