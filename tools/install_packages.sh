#!/usr/bin/env bash
# Installs the Debian packages that the build needs and that are missing; says which.
# Without root or passwordless sudo it stops with the one line to type.
set -eu
need() { [ -e "$2" ] || missing+=("$1"); }
missing=()
command -v g++ >/dev/null || missing+=(g++)
need libfmt-dev              /usr/include/fmt/format.h
need libcli11-dev            /usr/include/CLI/CLI.hpp
need nlohmann-json3-dev      /usr/include/nlohmann/json.hpp
need libutf8proc-dev         /usr/include/utf8proc.h
need libboost-math-dev       /usr/include/boost/math/distributions/students_t.hpp
need libcairo2-dev           /usr/include/cairo/cairo.h
need libzip-dev              /usr/include/zip.h
need liblzma-dev             /usr/include/lzma.h
need zlib1g-dev              /usr/include/zlib.h
need fonts-dejavu-core       /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf
need doctest-dev             /usr/include/doctest/doctest.h
[ "${ONEDNN:-1}" = 0 ] || compgen -G '/usr/include/*/oneapi/dnnl/dnnl.hpp' >/dev/null || need libdnnl-dev /usr/include/oneapi/dnnl/dnnl.hpp
[ ${#missing[@]} -eq 0 ] && exit 0

echo "glia: missing Debian packages: ${missing[*]}"
install="apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" = 0 ]; then sudo=; elif sudo -n true 2>/dev/null; then sudo=sudo; else
  echo "glia: neither root nor passwordless sudo; type:  sudo apt-get update && sudo $install" >&2
  exit 1
fi
command -v apt-get >/dev/null || { echo "glia: no apt-get here; install these by hand: ${missing[*]}" >&2; exit 1; }
echo "glia: installing them: $sudo $install"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
$sudo $install >/dev/null
