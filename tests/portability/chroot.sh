#!/usr/bin/env bash
# Builds and tests this checkout on a bare Debian or Ubuntu, in a chroot that debootstrap makes (as root):
#   tests/portability/chroot.sh bookworm | trixie | jammy | noble [make arguments; default: CUDA=0 test]
# The chroot stays in build/chroot/SUITE, so that a second run only compiles.
set -euo pipefail
cd "$(dirname "$0")/../.."
suite=${1:?usage: tests/portability/chroot.sh SUITE [make arguments]}
shift
[ "$(id -u)" = 0 ] || { echo "chroot.sh: wants root (debootstrap, chroot)" >&2; exit 1; }
command -v debootstrap >/dev/null || { echo "chroot.sh: type:  apt-get install debootstrap" >&2; exit 1; }
root=${CHROOT:-$PWD/build/chroot}/$suite
case $suite in
  jammy | noble) mirror=${MIRROR:-http://archive.ubuntu.com/ubuntu} components=main,universe ;;
  *) mirror=${MIRROR:-http://deb.debian.org/debian} components=main ;;
esac
if [ ! -e "$root/usr/bin/apt-get" ]; then
  mkdir -p "$root"
  debootstrap --variant=minbase --components=$components "$suite" "$root" "$mirror" >"$root.log" 2>&1 ||
    { echo "chroot.sh: debootstrap of $suite failed: $(tail -n 1 "$root.log")" >&2; exit 1; }
fi
cp /etc/resolv.conf "$root/etc/resolv.conf"
# What a person starts from: git and make; the rest is for `make` to install.
chroot "$root" sh -c 'command -v git >/dev/null && command -v make >/dev/null ||
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends git make >/dev/null; }'
mkdir -p "$root/glia"
# What an earlier checkout had and this one has not would be compiled too.
find "$root/glia" -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
git ls-files -co --exclude-standard -z | tar --null -T - -cf - | tar -xf - -C "$root/glia"
mkdir -p "$root/dev/pts"  # for the tests of what a terminal shows
mountpoint -q "$root/proc" || mount -t proc proc "$root/proc"
mountpoint -q "$root/dev/pts" || mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
[ -L "$root/dev/ptmx" ] || ln -sf pts/ptmx "$root/dev/ptmx"
trap 'umount "$root/dev/pts" "$root/proc"' EXIT
[ $# -gt 0 ] || set -- CUDA=0 test
chroot "$root" sh -c 'cd /glia && git init -q . 2>/dev/null; g++ --version 2>/dev/null | head -n 1; exec make "$@"' make "$@"
