#!/usr/bin/env bash
# Installs the Debian packages that the build needs and that are missing; says which.
# Without root or passwordless sudo it stops with what to type. PACKAGES: prefixes beside /usr that are looked at too.
set -eu
there() { local p; for p in ${PACKAGES:-} /usr; do if compgen -G "$p/$1" >/dev/null; then return 0; fi; done; return 1; }
need() { there "$2" || missing+=("$1"); }
missing=()
command -v g++ >/dev/null || missing+=(g++)
need libfmt-dev              include/fmt/format.h
need libcli11-dev            include/CLI/CLI.hpp
need nlohmann-json3-dev      include/nlohmann/json.hpp
need libutf8proc-dev         include/utf8proc.h
need libboost-math-dev       include/boost/math/distributions/students_t.hpp
need libcairo2-dev           include/cairo/cairo.h
need libfontconfig-dev       include/fontconfig/fontconfig.h
need libzip-dev              include/zip.h
need liblzma-dev             include/lzma.h
need zlib1g-dev              include/zlib.h
there "fonts/DejaVu*" || need fonts-dejavu-core share/fonts/truetype/dejavu/DejaVuSans.ttf
need doctest-dev             include/doctest/doctest.h
[ "${ONEDNN:-1}" = 0 ] || there 'include/*/oneapi/dnnl/dnnl.hpp' || need libdnnl-dev include/oneapi/dnnl/dnnl.hpp
# For several processes on one run: taken where it is asked for (MPI=1), and where it is there already.
[ "${MPI:-0}" = 0 ] || { need libopenmpi-dev 'lib/*/openmpi/include/mpi.h'; command -v mpirun >/dev/null || missing+=(openmpi-bin); }
[ ${#missing[@]} -eq 0 ] && exit 0

echo "glia: missing Debian packages: ${missing[*]}"
install="apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" = 0 ]; then sudo=; elif sudo -n true 2>/dev/null; then sudo=sudo; else
  prefix=${PACKAGES:-}
  prefix=${prefix%% *}
  if [ "${prefix%/usr}" = "$prefix" ]; then
    echo "glia: neither root nor passwordless sudo; type:  sudo apt-get update && sudo $install" >&2
    echo "glia: or let them be unpacked in a folder of your own:  make PACKAGES=\$HOME/glia-packages/usr" >&2
    exit 1
  fi
  # A package holds usr/…; nothing of it has to be configured.
  names=$(apt-get -s install --no-install-recommends "${missing[@]}" | awk '/^Inst/ { print $2 }')
  echo "glia: unpacking in $prefix:" $names
  mkdir -p "$prefix/../archives" && cd "$prefix/../archives"
  apt-get download -qq $names
  for archive in *.deb; do dpkg -x "$archive" "${prefix%/usr}"; done
  # A library that the machine has without its headers was not downloaded: its link points to nothing in the prefix.
  find "$prefix/lib" -xtype l | while read -r link; do
    library=$(compgen -G "/usr/lib*/*-linux-gnu/$(basename "$(readlink "$link")")" | head -n 1)
    [ -z "$library" ] || ln -sfn "$library" "$link"
  done
  exit 0
fi
command -v apt-get >/dev/null || { echo "glia: no apt-get here; install these by hand: ${missing[*]}" >&2; exit 1; }
echo "glia: installing them: $sudo $install"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
$sudo $install >/dev/null
