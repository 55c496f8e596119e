#!/bin/sh
# The steps of the Dockerfile, one an argument; also by hand:
#
#   sh docker/install.sh torch ENV && sh docker/install.sh package ENV SOURCE
#
# TORCH: what pip is asked for; TORCH_INDEX: the index it comes from, where that is not pip's own; EXTRAS: of the package.
set -eu

case "$1" in
system) # Python with venv, where the base has none
  if ! python3 -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    apt-get update
    apt-get install -y --no-install-recommends python3 python3-venv ca-certificates
    rm -rf /var/lib/apt/lists/*
  fi
  ;;
torch) # an environment at $2 with torch alone: the large layer, which changes seldom
  python3 -m venv "$2"
  "$2/bin/python" -m pip install --no-cache-dir --no-compile ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "${TORCH:-torch}"
  ;;
package) # the package of the folder $3 into the environment at $2
  "$2/bin/python" -m pip install --no-cache-dir --no-compile "$3[${EXTRAS:-studio}]"
  "$2/bin/cogvideox" --version
  ;;
user) # who runs it, and the folders that are theirs
  useradd --create-home --uid 10001 cogvideox
  mkdir -p /data /models
  chown cogvideox /data /models
  ;;
*)
  echo "install.sh: $1: not a step; choose system, torch, package or user" >&2
  exit 2
  ;;
esac
