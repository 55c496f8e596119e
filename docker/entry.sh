#!/bin/sh
# What the container runs: the studio for everybody who has a key, or any other verb of cogvideox that is given.
#
# COGVIDEOX_HOSTS: names by which it is reached, with spaces between them. The first start makes a key for the user
# "first" and writes it to first-key.txt in the data folder, not into the log.
set -eu
umask 077

case "${1:-}" in
"" | -*) ;;
*) exec cogvideox "$@" ;;
esac

studio="${COGVIDEOX_DATA:-/data}/studio"
key="${COGVIDEOX_DATA:-/data}/first-key.txt"
if [ -z "$(cogvideox keys list --out "$studio")" ]; then
  cogvideox keys create first --out "$studio" >"$key.part"
  mv "$key.part" "$key"
fi
[ ! -e "$key" ] || echo "key of the user first: $key (delete the file when you have it)" >&2

for host in ${COGVIDEOX_HOSTS:-localhost}; do
  set -- --allow-host "$host" "$@"
done
exec cogvideox studio --host 0.0.0.0 --port "${COGVIDEOX_PORT:-8750}" --out "$studio" "$@"
