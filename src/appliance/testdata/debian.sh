#!/bin/sh
# debian.sh KERNEL DIR: two images of a small Debian, DIR/debian.ext4 with
# sysvinit and systemd, of which the kernel's init= chooses one, and
# DIR/openrc.ext4 with OpenRC. KERNEL is what kernel.sh made.
set -eu
kernel=$1 dir=$2 root=$2/root
export DEBIAN_FRONTEND=noninteractive
release=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
debootstrap --variant=minbase --include=systemd,sysvinit-core,ifupdown,iproute2,kmod "$release" "$root" http://deb.debian.org/debian

# As the machines of users have it: modules that are loaded when they are
# wanted, a network of one card.
version=$(basename "$kernel"/lib/modules/*)
mkdir -p "$root/lib/modules/$version"
(cd "$kernel/lib/modules/$version" && cp -a --parents modules.builtin modules.builtin.modinfo modules.order kernel/fs/fuse "$root/lib/modules/$version")
chroot "$root" depmod "$version"
cat >"$root/etc/network/interfaces" <<'END'
auto lo eth0
iface lo inet loopback
iface eth0 inet static
    address 10.0.2.15/24
    gateway 10.0.2.2
END
echo guest >"$root/etc/hostname"

image() {
  rm -rf "$root"/var/cache/apt/archives/*.deb
  mke2fs -q -t ext4 -O ^has_journal -d "$root" "$dir/$1.ext4" 700M
}
image debian
chroot "$root" apt-get -q -y --no-install-recommends install openrc # goes in sysv-rc's place
# Each of Debian's services costs an emulated machine seconds under it.
for service in brightness cgroups checkfs.sh hwclock.sh mount-configfs mountall-bootclean.sh mountnfs.sh mountnfs-bootclean.sh urandom; do
  chroot "$root" rc-update del $service sysinit
done
image openrc
rm -rf "$root"
