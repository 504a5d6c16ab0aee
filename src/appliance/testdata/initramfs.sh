#!/bin/sh
# The first program in the guest. What is in /lay is laid over the guest's root;
# the kernel's command line says what kind of guest this is:
#
#   guest=busybox|sysvinit|openrc|systemd   busybox stays here, others are on the disk
#   laid=1                                  that was done when the disk ran before
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /root /sbin /etc /usr/bin /usr/sbin /var/log
/bin/busybox --install -s /bin 2>/dev/null
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
# fuse is left to whoever wants it.
modprobe -a virtio_pci virtio_blk virtio_net

lay() {
  : "${guest:?}"
  cp -a /lay/. "$1"
  case $guest in
  sysvinit) for d in ays_cache aysfs; do chroot "$1" update-rc.d $d defaults; done ;;
  openrc) for d in ays_cache aysfs; do chroot "$1" rc-update add $d default; done ;;
  systemd) chroot "$1" systemctl enable ays_cache aysfs agent ;;
  esac
  case $guest in
  sysvinit | openrc) echo 'S1:2345:respawn:/usr/sbin/agent' >>"$1/etc/inittab" ;;
  esac
}

init=/sbin/init
case $guest in
busybox)
  lay /
  exec /bin/init
  ;;
systemd) init=/lib/systemd/systemd ;;
esac
mount -t ext4 /dev/vda /root
[ -n "${laid:-}" ] || lay /root
for d in dev proc sys; do
  mount --move /$d /root/$d
done
exec switch_root /root $init
