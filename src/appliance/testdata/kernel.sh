#!/bin/sh
# kernel.sh DIR: Debian's cloud kernel with its modules, and a static busybox,
# unpacked in DIR. Neither is installed on this machine.
set -eu
cd "$1"
apt-cache show linux-image-cloud-amd64 busybox-static >/dev/null 2>&1 || apt-get update -q
package=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" {print $2; exit}')
apt-get download -q "$package" busybox-static
for deb in *.deb; do
  dpkg-deb -x "$deb" .
  rm "$deb"
done
mv boot/vmlinuz-* vmlinuz
bin/busybox depmod -b . "$(basename lib/modules/*)"
