#!/bin/sh
# Builds the sandbox image without a registry: debootstrap + docker import. Needs root (debootstrap makes devices).
#   docker/make_image.sh [IMAGE]          default arpo-sandbox:latest; honours DOCKER_HOST
#   ARPO_IMAGE_PACKAGES="python3-minimal python3-numpy python3-sympy"   what goes in
#   ARPO_DEBIAN_MIRROR=http://deb.debian.org/debian   ARPO_DEBIAN_SUITE=bookworm
set -eu
image=${1:-arpo-sandbox:latest}
suite=${ARPO_DEBIAN_SUITE:-bookworm}
packages=${ARPO_IMAGE_PACKAGES:-python3 python3-numpy python3-sympy}
command -v debootstrap >/dev/null || { echo "make_image: debootstrap is missing; apt-get install debootstrap" >&2; exit 1; }
command -v docker >/dev/null || { echo "make_image: the docker command is missing; apt-get install docker.io" >&2; exit 1; }
[ "$(id -u)" = 0 ] || { echo "make_image: needs root" >&2; exit 1; }
dir=$(mktemp -d "${TMPDIR:-/tmp}/arpo-image.XXXXXX")
trap 'rm -rf "$dir"' EXIT
include=$(echo "$packages" | tr ' ' ',')
debootstrap --variant=minbase --include="$include" "$suite" "$dir" ${ARPO_DEBIAN_MIRROR:-} >"$dir.log" 2>&1 || {
  echo "make_image: debootstrap failed:" >&2; tail -5 "$dir.log" >&2; rm -f "$dir.log"; exit 1; }
rm -f "$dir.log"
rm -rf "$dir"/var/cache/apt/* "$dir"/var/lib/apt/lists/* "$dir"/usr/share/doc "$dir"/usr/share/man "$dir"/usr/share/locale
# Every session finds its own directory under this one name (see arpo_env/sandbox/inside/places.py).
ln -s /proc/self/fd/250 "$dir/home/agent"
tar -C "$dir" -c . | docker import --change 'CMD ["python3"]' --change 'USER 65534:65534' - "$image" >/dev/null
echo "$image"
