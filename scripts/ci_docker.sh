#!/bin/sh
# Gives CI a real Docker engine of its own, on a private socket, with the sandbox image in it.
#   eval "$(scripts/ci_docker.sh start)"    prints `export DOCKER_HOST=unix://...`, everything else goes to stderr
#   scripts/ci_docker.sh stop
# Where the kernel or the rights forbid it: prints why, prints the marker ARPO_DOCKER_SKIPPED=<reason> and exits 0,
# so that the docker tests skip by name instead of failing.
set -eu
here=$(cd "$(dirname "$0")/.." && pwd)
state=${ARPO_DOCKER_STATE:-/var/tmp/arpo-ci-docker}
socket=$state/docker.sock
image=${ARPO_SANDBOX_IMAGE:-arpo-sandbox:latest}

skip() { echo "ci_docker: no engine here: $*" >&2; echo "export ARPO_DOCKER_SKIPPED='$(echo "$*" | tr -d "'")'"; exit 0; }

start() {
  [ "$(id -u)" = 0 ] || skip "starting dockerd needs root"
  missing=
  command -v dockerd >/dev/null || missing="$missing docker.io"
  command -v debootstrap >/dev/null || missing="$missing debootstrap"
  if [ -n "$missing" ]; then
    # shellcheck disable=SC2086
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing; } >&2 \
      || skip "apt-get install$missing failed"
  fi
  mkdir -p "$state"
  chmod 700 "$state"
  if ! docker -H "unix://$socket" version >/dev/null 2>&1; then
    setsid dockerd -H "unix://$socket" --data-root "$state/data" --exec-root "$state/exec" \
      --pidfile "$state/dockerd.pid" --iptables=false --ip6tables=false --bridge=none >"$state/dockerd.log" 2>&1 &
    i=0
    until docker -H "unix://$socket" version >/dev/null 2>&1; do
      i=$((i + 1))
      [ $i -lt 60 ] || skip "dockerd did not come up: $(tail -1 "$state/dockerd.log")"
      sleep 1
    done
  fi
  DOCKER_HOST=unix://$socket
  export DOCKER_HOST
  docker image inspect "$image" >/dev/null 2>&1 || "$here/docker/make_image.sh" "$image" >&2 || skip "the image could not be made"
  docker run --rm --network none "$image" python3 -c 'print("engine works")' >&2 || skip "a container cannot run"
  echo "export DOCKER_HOST=$DOCKER_HOST"
}

stop() {
  [ -f "$state/dockerd.pid" ] && kill "$(cat "$state/dockerd.pid")" 2>/dev/null || true
  i=0
  while [ -f "$state/dockerd.pid" ] && [ $i -lt 20 ]; do i=$((i + 1)); sleep 0.5; done
}

case ${1:-start} in
  start) start ;;
  stop) stop ;;
  *) echo "usage: ci_docker.sh start|stop" >&2; exit 2 ;;
esac
